"""Originals as received, by their SHA-256, written once and verified on every read."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from indexer.errors import BlobDamaged, BlobMissing, StorageError
from indexer.files import (
    TEMP_SUFFIX,
    fsync_folder,
    make_folder,
    storage_errors,
    write_atomic,
)

_SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of ``data``, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def short_name(filename: str | None) -> str | None:
    """A sender's file name as it is kept: at most 500 characters that any database can hold."""
    if not filename:
        return None
    printable = filename.encode("utf-8", "replace").decode().replace("\0", "")
    return printable[:500] or None


class BlobStore(Protocol):
    """Where originals live. All methods are safe to call from several threads and processes."""

    def put(self, data: bytes) -> str:
        """Store ``data`` and return its SHA-256; lasting when this returns.

        Raises :class:`StorageFull` and :class:`StorageDenied`; nothing half-written stays.
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

    def sweep(self, older_than_s: float = 3600) -> int:
        """Remove what interrupted writes left behind; returns how many files."""
        ...

    def free_bytes(self) -> int | None:
        """Space left, where that can be said."""
        ...


class LocalBlobStore:
    """A :class:`BlobStore` in a folder: ``ab/cd/abcd...`` (two levels of 256 folders each)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_folder(root)

    def put(self, data: bytes) -> str:
        sha256 = sha256_hex(data)
        path = self._path(sha256)
        with storage_errors(str(self.root)):
            if self._is_whole(path, sha256, len(data)):
                return sha256
        self._make_fan(path.parent)
        write_atomic(path, [data], mode=0o400)
        return sha256

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

    def sweep(self, older_than_s: float = 3600) -> int:
        limit = time.time() - older_than_s
        removed = 0
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

    def _make_fan(self, folder: Path) -> None:
        # The entry of a new folder must last as well, or the file in it is lost with it.
        if folder.is_dir():
            return
        for path in (folder.parent, folder):
            make_folder(path)
            with storage_errors(str(path)):
                fsync_folder(path.parent)

    @staticmethod
    def _is_whole(path: Path, sha256: str, size: int) -> bool:
        """Whether the very bytes are there already; a damaged file is written anew."""
        try:
            if os.stat(path).st_size != size:
                return False
            return sha256_hex(path.read_bytes()) == sha256
        except FileNotFoundError:
            return False
