"""Where the segments of a gallery lie, and what has to go from there."""

from __future__ import annotations

from pathlib import Path

from indexer.files import file_lock, storage_errors, try_lock
from indexer.vectors import segment as files


def folder_of(index_dir: Path, name: str, contract_id: str) -> Path:
    """Where the segments of a gallery under a contract are."""
    return index_dir / f"{name}-{contract_id}"


def lock_of(folder: Path) -> Path:
    """The lock under which the files in such a folder are changed."""
    return folder.with_name(f".{folder.name}.lock")


def remove_other_contracts(index_dir: Path, contract_id: str) -> None:
    """Remove the segments of other contracts: they may hold a face that was deleted, and nobody
    here follows their log. Whoever uses them makes them anew from the catalog.

    Raises the StorageError tree.
    """
    for folder in _folders(index_dir):
        if not folder.name.endswith(f"-{contract_id}"):
            with file_lock(lock_of(folder)):
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
