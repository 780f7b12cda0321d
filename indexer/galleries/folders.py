"""Where the segments of a gallery lie, and what has to go from there."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from indexer.files import file_lock, storage_errors, try_lock
from indexer.vectors import segment as files


def folder_of(index_dir: Path, name: str, contract_id: str) -> Path:
    """Where the segments of a gallery under a contract are."""
    return index_dir / f"{name}-{contract_id}"


def lock_of(folder: Path) -> Path:
    """The lock under which the files in such a folder are changed."""
    return folder.with_name(f".{folder.name}.lock")


def in_use(folder: Path) -> IO[bytes]:
    """Say that a process follows the log for this folder, until the returned file is closed."""
    path = folder.with_name(f".{folder.name}.use")
    with storage_errors(str(path)):
        file = path.open("a+b")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def remove_unused(index_dir: Path) -> None:
    """Remove the segments that no process uses, such as those of other contracts: they may hold
    a face that was deleted, and nobody follows their log. Who opens them makes them anew from the
    catalog. Raises the StorageError tree.
    """
    for folder in _folders(index_dir):
        held = try_lock(folder.with_name(f".{folder.name}.use"))
        if held is not None:
            with held, file_lock(lock_of(folder)):
                files.sweep(folder, set())


def remove_segments(index_dir: Path) -> list[str]:
    """Remove all segments, of every gallery and contract; returns their names.

    Raises the StorageError tree.
    """
    removed: list[str] = []
    for folder in _folders(index_dir):
        with file_lock(lock_of(folder)):
            removed += sorted(files.sweep(folder, set()))
    return removed


def remove_broken(index_dir: Path) -> None:
    """Remove what writers left that were killed, under any contract, and the index files of
    earlier versions: they hold vectors as well. Raises the StorageError tree.
    """
    for path in index_dir.glob("*.index*"):
        with storage_errors(str(path)):
            path.unlink(missing_ok=True)
    for folder in _folders(index_dir):
        # A living writer holds the lock; once we have it, what it left is nobody's.
        held = try_lock(lock_of(folder))
        if held is not None:
            with held:
                files.sweep(folder, None)


def _folders(index_dir: Path) -> list[Path]:
    with storage_errors(str(index_dir)):
        return [entry for entry in index_dir.iterdir() if entry.is_dir()]
