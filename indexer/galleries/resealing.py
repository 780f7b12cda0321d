"""Vectors on the disk of this machine, brought under the key that is used now."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from indexer.galleries.base import Gallery
from indexer.galleries.folders import remove_broken, remove_unused


def reseal(galleries: Iterable[Gallery], index_dir: Path) -> None:
    """Encrypt anew what the galleries have in files, and remove what no process uses.

    Searches, changes and deletions go on meanwhile, in all processes. Killed anywhere, nothing is
    lost, and calling it again does the rest. Another machine on the same catalog has files of its
    own, which its own upkeep brings up to date, a segment at a time; one that it has not reached
    when its key is retired is made anew from the catalog. Raises the StorageError tree.
    """
    for gallery in galleries:
        gallery.reseal()
    remove_broken(index_dir)
    remove_unused(index_dir)
