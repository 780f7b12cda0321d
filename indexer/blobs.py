"""Originals as received, by their SHA-256, written once and verified on every read."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
import weakref
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from indexer.errors import BlobDamaged, BlobMissing, StorageError
from indexer.files import (
    TEMP_SUFFIX,
    fsync_all,
    fsync_folder,
    make_folder,
    storage_errors,
    write_atomic,
)
from indexer.ids import new_id

CHUNK_BYTES = 1 << 20
"""How much of a file is held at a time while it is copied."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ROOMS = "incoming"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV)


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of ``data``, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def short_name(filename: str | None) -> str | None:
    """A sender's file name as it is kept: at most 500 characters that any database can hold."""
    if not filename:
        return None
    printable = filename.encode("utf-8", "replace").decode().replace("\0", "")
    return printable[:500] or None


@dataclass(frozen=True, slots=True)
class Received:
    """A file that came in whole and waits beside the originals; it is nobody's until it is kept.

    Whoever received it discards it in the end, kept or not.
    """

    path: Path
    sha256: str
    size: int

    def read(self) -> bytes:
        """All of it. Raises the StorageError tree."""
        with storage_errors(str(self.path.parent)):
            return self.path.read_bytes()

    def discard(self) -> None:
        """Take the waiting file away; what was kept of it stays."""
        with storage_errors(str(self.path.parent)):
            self.path.unlink(missing_ok=True)


class Receiving:
    """A file on its way in: written once, hashed as it is written."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._hash = hashlib.sha256()
        with storage_errors(str(path.parent)):
            # The handle may write all the same; nobody else may from the first byte on.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            self._file = os.fdopen(handle, "wb")

    def write(self, chunk: bytes | memoryview) -> None:
        """Add bytes. Raises :class:`StorageFull`, :class:`StorageDenied`, :class:`StorageError`."""
        with storage_errors(str(self._path.parent)):
            self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def done(self) -> Received:
        """The file, which is whole now."""
        with storage_errors(str(self._path.parent)):
            self._file.close()
        return Received(self._path, self._hash.hexdigest(), self.size)

    def abort(self) -> None:
        """Take away what came so far."""
        with suppress(OSError):  # what waits in the buffer is not wanted any more
            self._file.close()
        with storage_errors(str(self._path.parent)):
            self._path.unlink(missing_ok=True)


class BlobStore(Protocol):
    """Where originals live. All methods are safe to call from several threads and processes."""

    def put(self, data: bytes) -> str:
        """Store ``data`` and return its SHA-256; lasting when this returns.

        Raises :class:`StorageFull` and :class:`StorageDenied`; nothing half-written stays.
        """
        ...

    def receive(self) -> Receiving:
        """Begin to take in a file on the store's own disk; it is no original until it is kept."""
        ...

    def keep(self, files: Collection[Received], *, evenly: bool = False) -> None:
        """Make originals of received files without copying them; lasting when this returns.

        ``evenly``: do the same whether the bytes are there already or not, so that the time
        it takes does not tell. Raises as :meth:`put` does.
        """
        ...

    def get(self, sha256: str) -> bytes:
        """The bytes, verified. Raises :class:`BlobMissing` and :class:`BlobDamaged`."""
        ...

    def has(self, sha256: str) -> bool:
        """Whether the bytes are there (not verified)."""
        ...

    def delete(self, sha256: str) -> bool:
        """Remove the bytes for good; false if they were not there."""
        ...

    def digests(self, older_than_s: float | None = None) -> Iterator[str]:
        """The SHA-256 of everything stored (at least ``older_than_s`` seconds ago), unordered."""
        ...

    def discard_abandoned(self) -> int:
        """Remove what processes that died were receiving; returns how many files."""
        ...

    def sweep(self, older_than_s: float = 3600) -> int:
        """Remove what interrupted writes left behind; returns how many files."""
        ...

    def free_bytes(self) -> int | None:
        """Space left, where that can be said."""
        ...


class LocalBlobStore:
    """A :class:`BlobStore` in a folder: ``ab/cd/abcd...`` (two levels of 256 folders each).

    What comes in waits in ``incoming/``, in a folder of this process that is locked as long as
    the process lives: a folder whose lock is free is nobody's.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._room: Path | None = None
        self._room_lock = threading.Lock()
        make_folder(root)

    def put(self, data: bytes) -> str:
        receiving = self.receive()
        try:
            receiving.write(data)
            received = receiving.done()
            self.keep([received])
        finally:
            receiving.abort()
        return received.sha256

    def receive(self) -> Receiving:
        return Receiving(self._own_room() / f"{new_id()}{TEMP_SUFFIX}")

    def keep(self, files: Collection[Received], *, evenly: bool = False) -> None:
        with storage_errors(str(self.root)):
            new = {
                file.sha256: file for file in files if evenly or not self._is_whole(file)
            }.values()
            fsync_all([file.path for file in new])
            changed: set[Path] = set()
            for file in new:
                path = self._path(file.sha256)
                changed |= self._make_fan(path.parent)
                _link(file.path, path)
                changed.add(path.parent)
            fsync_all(changed)

    def get(self, sha256: str) -> bytes:
        try:
            with storage_errors(f"the original {sha256}"):
                data = self._path(sha256).read_bytes()
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise BlobMissing(sha256) from error
            raise
        if sha256_hex(data) != sha256:
            raise BlobDamaged(sha256)
        return data

    def has(self, sha256: str) -> bool:
        with storage_errors(str(self.root)):
            return self._path(sha256).is_file()

    def delete(self, sha256: str) -> bool:
        path = self._path(sha256)
        with storage_errors(str(path)):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            fsync_folder(path.parent)
        return True

    def digests(self, older_than_s: float | None = None) -> Iterator[str]:
        limit = None if older_than_s is None else time.time() - older_than_s
        with storage_errors(str(self.root)):
            for path in self.root.glob("??/??/*"):
                if not _SHA256.fullmatch(path.name):
                    continue
                try:
                    if limit is not None and path.stat().st_mtime > limit:
                        continue
                except FileNotFoundError:
                    continue
                yield path.name

    def discard_abandoned(self) -> int:
        removed = 0
        with storage_errors(str(self.root)):
            for room in self.root.glob(f"{_ROOMS}/*"):
                handle = _lock_folder(room)
                if handle is None:
                    continue
                try:
                    removed += sum(1 for path in room.iterdir() if path.suffix == TEMP_SUFFIX)
                    shutil.rmtree(room, ignore_errors=True)
                finally:
                    os.close(handle)
        return removed

    def sweep(self, older_than_s: float = 3600) -> int:
        limit = time.time() - older_than_s
        removed = self.discard_abandoned()
        with storage_errors(str(self.root)):
            for path in self.root.glob(f"??/??/.*{TEMP_SUFFIX}"):
                try:
                    if path.stat().st_mtime <= limit:
                        path.unlink()
                        removed += 1
                except FileNotFoundError:
                    continue
        return removed

    def free_bytes(self) -> int | None:
        with storage_errors(str(self.root)):
            return shutil.disk_usage(self.root).free

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise BlobMissing(sha256[:80])
        return self.root / sha256[:2] / sha256[2:4] / sha256

    def _own_room(self) -> Path:
        """The folder in which this process receives; made when it is first needed."""
        with self._room_lock:
            while self._room is None or not self._room.is_dir():
                room = self.root / _ROOMS / new_id()
                make_folder(room)
                with storage_errors(str(room)):
                    handle = _lock_folder(room)
                # Between the two, another process may have taken it for abandoned.
                if handle is not None and room.is_dir():
                    self._room = room
                    weakref.finalize(self, _leave_room, handle, room)
                elif handle is not None:
                    os.close(handle)
            return self._room

    def _make_fan(self, folder: Path) -> set[Path]:
        """Make the folder of an original; returns the folders whose entries changed by it."""
        if folder.is_dir():
            return set()
        # The entry of a new folder must last as well, or the file in it is lost with it.
        changed = {folder.parent}
        if not folder.parent.is_dir():
            changed.add(self.root)
        make_folder(folder)
        return changed

    def _is_whole(self, file: Received) -> bool:
        """Whether the very bytes are there already; a damaged file is written anew."""
        try:
            with self._path(file.sha256).open("rb") as held:
                if os.fstat(held.fileno()).st_size != file.size:
                    return False
                return hashlib.file_digest(held, "sha256").hexdigest() == file.sha256
        except FileNotFoundError:
            return False


def _link(source: Path, path: Path) -> None:
    """Give the file ``source`` the name ``path`` as well, in place of what has that name now."""
    try:
        os.link(source, path)
    except FileExistsError:
        other = path.with_name(f".{path.name}.{new_id()}{TEMP_SUFFIX}")
        os.link(source, other)
        os.replace(other, path)
        # Renaming one name of a file to another name of it does nothing.
        other.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system on which a file has one name only.
        with source.open("rb") as file:
            write_atomic(path, iter(lambda: file.read(CHUNK_BYTES), b""), mode=0o400)


def _lock_folder(folder: Path) -> int | None:
    """Lock a folder as long as the returned handle is open; ``None`` if another has the lock."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _leave_room(handle: int, room: Path) -> None:
    with suppress(OSError):
        room.rmdir()
    os.close(handle)
