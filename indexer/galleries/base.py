"""What the rest of the indexer needs of a gallery, whatever holds its vectors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from indexer.records import GalleryName
from indexer.vectors.base import Neighbours
from indexer.vectors.tags import EVERYTHING, Filter
from models.types import FloatArray


class Gallery(Protocol):
    """One process's way to a gallery under one contract; safe to use from several threads.

    Every answer is of what the catalog held when it was asked for, or later.
    """

    name: GalleryName
    contract_id: str

    def count(self) -> int:
        """Faces in the gallery now."""
        ...

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        where: Filter = EVERYTHING,
        excluded: Collection[str] = (),
        fresh: bool = True,
    ) -> list[Neighbours]:
        """The exact ``k`` nearest faces of each probe (float32, (n, dimension)).

        ``fresh=False`` skips catching up: for the second step of one answer.
        """
        ...

    def scores(self, probes: FloatArray, face_ids: Sequence[str]) -> FloatArray:
        """Exact scores of shape (probes, faces), without catching up.

        Raises ``KeyError`` for a face that is not in the gallery.
        """
        ...

    def ids(self) -> set[str]:
        """The faces in the gallery now."""
        ...

    def health(self) -> str | None:
        """What is wrong, or ``None`` if the index agrees with the catalog."""
        ...

    def about(self) -> str:
        """Where the vectors are, in words for an operator."""
        ...

    def catch_up(self) -> int:
        """Apply what the log has since the last call; returns how many entries."""
        ...

    def rebuild(self) -> None:
        """Throw the index away and make it anew from the catalog."""
        ...

    def save(self) -> None:
        """Put everything into files where there are any, so that opening is quick."""
        ...

    def keep(self) -> None:
        """What is to be done every few seconds: catch up, save what is due, tidy up."""
        ...

    def reseal(self) -> None:
        """Have every file of this folder encrypted by the key that is used now, where there is
        one; searches and changes go on meanwhile. Broken off, it is gone on with by calling it
        again, and piece by piece by :meth:`keep`."""
        ...

    def scrub(self) -> bool:
        """Leave no vector of a deleted face in any file; false where that has to be tried again,
        because another is at the files."""
        ...

    def close(self) -> None:
        """Save what is due and let go of everything. Raises the StorageError tree."""
        ...
