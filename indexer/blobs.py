"""Originals as received, by their SHA-256, written once and verified on every read."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
import time
import weakref
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from indexer.blob_names import (
    digest_of,
    digest_of_chunks,
    is_a_name,
    name_of,
    plain_name,
    require_whole,
)
from indexer.errors import BlobMissing, SealBroken, StorageError
from indexer.files import (
    TEMP_SUFFIX,
    fsync_all,
    fsync_folder,
    make_folder,
    storage_errors,
    write_atomic,
)
from indexer.ids import new_id
from indexer.sealing.files import HEAD_BYTES, FileSealer, open_file, sealed_size
from indexer.sealing.keyring import Keyring

CHUNK_BYTES = 1 << 20
"""How much of a file is held at a time while it is copied."""

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
    keyring: Keyring | None = None

    def read(self) -> bytes:
        """All of it. Raises the StorageError tree."""
        with storage_errors(str(self.path.parent)):
            data = self.path.read_bytes()
        return data if self.keyring is None else open_file(self.keyring, data)

    def discard(self) -> None:
        """Take the waiting file away; what was kept of it stays."""
        with storage_errors(str(self.path.parent)):
            self.path.unlink(missing_ok=True)


class Receiving:
    """A file on its way in: written once, hashed as it is written, sealed where there is a keyring:
    nothing of it is on the disk in any other form."""

    def __init__(self, path: Path, keyring: Keyring | None = None) -> None:
        self.size = 0
        self._keyring = keyring
        self._sealer = None if keyring is None else FileSealer(keyring)
        self._path = path
        self._hash = hashlib.sha256()
        with storage_errors(str(path.parent)):
            # The handle may write all the same; nobody else may from the first byte on.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            self._file = os.fdopen(handle, "wb")

    def write(self, chunk: bytes | memoryview) -> None:
        """Add bytes. Raises :class:`StorageFull`, :class:`StorageDenied`, :class:`StorageError`."""
        with storage_errors(str(self._path.parent)):
            self._file.write(chunk if self._sealer is None else self._sealer.add(chunk))
        self._hash.update(chunk)
        self.size += len(chunk)

    def done(self) -> Received:
        """The file, which is whole now."""
        with storage_errors(str(self._path.parent)):
            if self._sealer is not None:
                self._file.write(self._sealer.end())
            self._file.close()
        return Received(self._path, self._hash.hexdigest(), self.size, self._keyring)

    def abort(self) -> None:
        """Take away what came so far."""
        with suppress(OSError):  # what waits in the buffer is not wanted any more
            self._file.close()
        with storage_errors(str(self._path.parent)):
            self._path.unlink(missing_ok=True)


class BlobStore(Protocol):
    """Where originals live. All methods are safe to call from several threads and processes."""

    def seal_with(self, keyring: Keyring) -> None:
        """From now on what is stored is sealed, under a name that tells nothing."""
        ...

    def outdated(self, sha256: str) -> bool:
        """Whether the bytes lie there plain, or sealed by another key than the newest."""
        ...

    def drop_plain(self, sha256: str) -> None:
        """Remove the plain bytes, where the sealed ones are there."""
        ...

    def get_sealed(self, sha256: str) -> tuple[str, bytes]:
        """The name under which the bytes lie, and the sealed bytes, verified.

        Raises as :meth:`get`.
        """
        ...

    def put_sealed(self, name: str, data: bytes) -> None:
        """Store what :meth:`get_sealed` gave, whatever key it is sealed with."""
        ...

    def discard(self, name: str) -> None:
        """Remove what has this very name, plain or sealed."""
        ...

    def is_empty(self) -> bool:
        """Whether no original is there, plain or sealed, by whatever key."""
        ...

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
        self._keyring: Keyring | None = None
        self._room: Path | None = None
        self._room_lock = threading.Lock()
        make_folder(root)

    def seal_with(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def outdated(self, sha256: str) -> bool:
        if self._keyring is None:
            return False
        if self._fan(plain_name(sha256)).exists():
            return True
        with storage_errors(str(self.root)), suppress(FileNotFoundError):
            with self._path(sha256).open("rb") as file:
                head = file.read(HEAD_BYTES)
            return not self._keyring.is_current(head)
        return False

    def drop_plain(self, sha256: str) -> None:
        path = self._fan(plain_name(sha256))
        if self._keyring is not None and self._path(sha256).is_file():
            with storage_errors(str(path)):
                path.unlink(missing_ok=True)

    def get_sealed(self, sha256: str) -> tuple[str, bytes]:
        assert self._keyring is not None
        name = name_of(sha256, self._keyring)
        data = self._read(self._fan(name), sha256)
        require_whole(sha256, data, self._keyring)
        return name, data

    def put_sealed(self, name: str, data: bytes) -> None:
        path = self._fan(name)
        self._make_fan(path.parent)
        write_atomic(path, [data], mode=0o400)
        fsync_all({path.parent.parent, self.root})

    def discard(self, name: str) -> None:
        with storage_errors(str(self.root)):
            self._fan(name).unlink(missing_ok=True)

    def is_empty(self) -> bool:
        with storage_errors(str(self.root)):
            return not any(is_a_name(path.name) for path in self.root.glob("??/??/*"))

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
        return Receiving(self._own_room() / f"{new_id()}{TEMP_SUFFIX}", self._keyring)

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
        first, *others = self._places(sha256)
        # Between two looks it may have been sealed: the first place is looked at again.
        for path in (first, *others) if others else ():
            with suppress(BlobMissing):
                return require_whole(sha256, self._read(path, sha256), self._keyring)
        return require_whole(sha256, self._read(first, sha256), self._keyring)

    def has(self, sha256: str) -> bool:
        with storage_errors(str(self.root)):
            return any(path.is_file() for path in self._places(sha256))

    def delete(self, sha256: str) -> bool:
        there = False
        for path in {self._path(sha256), self._fan(plain_name(sha256))}:
            with storage_errors(str(path)):
                try:
                    path.unlink()
                except FileNotFoundError:
                    continue
                fsync_folder(path.parent)
            there = True
        return there

    def digests(self, older_than_s: float | None = None) -> Iterator[str]:
        limit = None if older_than_s is None else time.time() - older_than_s
        with storage_errors(str(self.root)):
            for path in self.root.glob("??/??/*"):
                sha256 = digest_of(path.name, self._keyring)
                if sha256 is None or (sha256 == path.name and self._is_sealed_too(sha256)):
                    continue
                try:
                    if limit is not None and path.stat().st_mtime > limit:
                        continue
                except FileNotFoundError:
                    continue
                yield sha256

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
        return self._fan(name_of(sha256, self._keyring))

    def _fan(self, name: str) -> Path:
        return self.root / name[:2] / name[2:4] / name

    def _places(self, sha256: str) -> list[Path]:
        """Where the bytes may lie; plain only as long as they are being sealed."""
        places = [self._path(sha256)]
        if self._keyring is not None and self._keyring.accepts_plain:
            places.append(self._fan(plain_name(sha256)))
        return places

    def _is_sealed_too(self, sha256: str) -> bool:
        return self._keyring is not None and self._path(sha256).exists()

    def _read(self, path: Path, sha256: str) -> bytes:
        try:
            with storage_errors(f"the original {sha256}"):
                return path.read_bytes()
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise BlobMissing(sha256) from error
            raise

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
        expected = file.size if self._keyring is None else sealed_size(file.size)
        try:
            with self._path(file.sha256).open("rb") as held:
                if os.fstat(held.fileno()).st_size != expected:
                    return False
                chunks = iter(lambda: held.read(CHUNK_BYTES), b"")
                return digest_of_chunks(chunks, self._keyring) == file.sha256
        except (FileNotFoundError, SealBroken):
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
