"""The files of one gallery in one index folder: opened, written, scrubbed and swept.

Only who holds the lock of the folder (:meth:`SegmentFolder.alone`) changes anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from indexer.catalog import Catalog
from indexer.errors import IndexDamaged, StorageFull
from indexer.files import file_lock, make_folder, try_lock
from indexer.galleries import log, shelf
from indexer.galleries.folders import folder_of, in_use, lock_of
from indexer.ids import new_id
from indexer.vectors import segment as files
from indexer.vectors.segment import History, Segment, SegmentSource

# Ids, tags, digests and heads, beside codes and vectors: bytes a row at the most, about.
_BYTES_A_ROW = 100
_LEAST_FREE = 50_000_000


class SegmentFolder:
    """Where the segments of a gallery under a contract lie; ``place`` is its shelf's.

    Until it is closed nobody takes the folder for one that is not used any more.
    """

    def __init__(
        self, catalog: Catalog, index_dir: Path, gallery: str, contract_id: str, dimension: int
    ) -> None:
        self._catalog = catalog
        self._path = folder_of(index_dir, gallery, contract_id)
        self._lock_path = lock_of(self._path)
        self._dimension = dimension
        make_folder(self._path)
        self.place = shelf.Place(shelf.store_id(index_dir), gallery, contract_id)
        self._use = in_use(self._path)

    def close(self) -> None:
        self._use.close()

    @contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Be the one thread of all processes that may change the files, and what this process
        has open of them; yields whether it is."""
        if wait:
            with file_lock(self._lock_path):
                yield True
            return
        held = try_lock(self._lock_path)
        try:
            yield held is not None
        finally:
            if held is not None:
                held.close()

    # --- what is published --------------------------------------------------------------------

    def shelf(self, session: Session) -> shelf.Shelf | None:
        """What is published, or ``None``."""
        return shelf.published(session, self.place)

    def version(self) -> int:
        """The version that is published now, 0 for none."""
        with self._catalog.read() as session:
            return shelf.version(session, self.place)

    def knows(self, session: Session, history: History) -> bool:
        """Whether the gallery's log has this entry."""
        return log.knows(session, self.place.gallery, self.place.contract_id, history)

    def opened(self, name: str, dead: int) -> Segment:
        """A published segment, which has so many dead rows at least. Raises IndexDamaged."""
        found = self._open(name)
        if len(found.dead) < dead:
            raise IndexDamaged(f"Segment {name} is an old copy: it lacks deletions.")
        return found

    def require_history(self, segments: Sequence[Segment]) -> None:
        """Raises :class:`IndexDamaged` for one that was changed after another catalog."""
        with self._catalog.read() as session:
            for one in segments:
                if not self.knows(session, one.history):
                    raise IndexDamaged(
                        f"Segment {one.name} belongs to another history of the catalog."
                    )

    def _open(self, name: str) -> Segment:
        return files.open_segment(
            self._path,
            name,
            gallery=self.place.gallery,
            contract_id=self.place.contract_id,
            dimension=self._dimension,
            keys=self._catalog.keyring,
        )

    # --- changes ------------------------------------------------------------------------------

    def written(self, rows: SegmentSource, upto: History) -> Segment:
        """A new segment, which nobody knows of before it is published.

        Raises :class:`StorageFull` before anything is written where there is no room for it.
        """
        free = shutil.disk_usage(self._path).free
        if free < rows.count * (_BYTES_A_ROW + 5 * self._dimension) + _LEAST_FREE:
            # Rather than fill the disk to its end, and with it the catalog's.
            raise StorageFull(str(self._path))
        name = new_id()
        files.write_segment(
            self._path,
            name,
            rows,
            gallery=self.place.gallery,
            contract_id=self.place.contract_id,
            dimension=self._dimension,
            history=upto,
            keys=self._catalog.keyring,
        )
        return self._open(name)

    def scrub(self, segment: Segment, dead: NDArray[np.int64], upto: History) -> None:
        """Blank rows that died, and let the catalog know how many there are now."""
        files.scrub(self._path, segment.name, dead, upto, self._catalog.keyring)
        segment.refresh()
        with self._catalog.write() as session:
            shelf.note_dead(session, segment.name, len(segment.dead))

    def remove(self, name: str) -> None:
        """Remove the files of a segment; who has it open may go on reading."""
        files.remove_segment(self._path, name)

    def sweep(self) -> None:
        """Remove files that are nobody's: what a writer left that was killed holds vectors too."""
        with self._catalog.read() as session:
            found = self.shelf(session)
        files.sweep(self._path, set() if found is None else set(found.segments))
