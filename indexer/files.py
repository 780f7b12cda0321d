"""Small file work that must not go wrong: atomic replacement, locks, errors with a remedy."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Collection, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from indexer.errors import StorageDenied, StorageError, StorageFull
from indexer.ids import new_id

TEMP_SUFFIX = ".part"
_SYNCS_AT_ONCE = 8


@contextmanager
def storage_errors(where: str) -> Generator[None]:
    """Turn a full disk and a missing permission into our own errors; others pass."""
    try:
        yield
    except OSError as error:
        raise translated(error, where) from error


def translated(error: OSError, where: str) -> StorageError:
    """The error of ours that says what ``error`` means for ``where``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(where)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageDenied(where)
    return StorageError(
        f"{where} could not be read or written: {error.strerror or error}.",
        remedy="Check the disk and the data folder, then try again.",
    )


def make_folder(path: Path) -> None:
    """Make ``path`` and its parents; only this account may look inside what is made."""
    with storage_errors(str(path)):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)


def fsync_folder(path: Path) -> None:
    """Make a rename or a removal in ``path`` last through a power cut."""
    _fsync(path)


def fsync_all(paths: Collection[Path]) -> None:
    """Make files and the entries of folders last, several at a time.

    A journal takes what waits for it in one go, so that many cost little more than one.
    """
    if len(paths) < 2:
        for path in paths:
            _fsync(path)
        return
    with ThreadPoolExecutor(min(len(paths), _SYNCS_AT_ONCE), thread_name_prefix="fsync") as pool:
        for _ in pool.map(_fsync, paths):
            pass


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, chunks: Iterable[bytes | memoryview], *, mode: int = 0o600) -> None:
    """Write ``path`` so that it is there whole or not at all, whatever happens in between.

    Temporary file in the same folder, fsync, rename, fsync of the folder. Raises
    :class:`StorageFull`, :class:`StorageDenied` or :class:`StorageError`; the temporary file is
    taken away again.
    """
    temporary = path.with_name(f".{path.name}.{new_id()}{TEMP_SUFFIX}")
    with storage_errors(str(path)):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


@contextmanager
def file_lock(path: Path) -> Generator[None]:
    """Hold an exclusive lock on ``path`` between processes; the kernel frees it if we die."""
    with storage_errors(str(path)):
        file = open(path, "a+b")  # noqa: SIM115 - closed below, after the caller's block
    try:
        with storage_errors(str(path)):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        file.close()


def try_lock(path: Path) -> IO[bytes] | None:
    """Take the lock on ``path`` without waiting: the open file, or ``None`` if another has it."""
    with storage_errors(str(path)):
        file = open(path, "a+b")  # noqa: SIM115 - the caller keeps it open as long as the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
