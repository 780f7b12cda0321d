"""A gallery on this machine: segments on disk, shared by its processes, and fresh rows in memory.

The catalog is the truth; the segments are what has been written down of it up to one entry of the
log, and each process replays the rest. Any process may seal its fresh rows into a segment, merge
segments and publish the result; a lock on a file lets one at a time do so. Searches need no lock:
they work on a state that is replaced as a whole.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from sqlalchemy.orm import Session

from indexer.catalog import Catalog
from indexer.errors import IndexDamaged, StorageError
from indexer.files import file_lock, make_folder, try_lock
from indexer.galleries import log, shelf
from indexer.galleries.folders import folder_of, lock_of
from indexer.galleries.merging import Sizes, due
from indexer.ids import new_id
from indexer.records import GalleryName
from indexer.vectors import segment as files
from indexer.vectors.base import Neighbours
from indexer.vectors.scanner import Scanner
from indexer.vectors.segment import History, Segment
from indexer.vectors.segmented import Part, SegmentedIndex, State, part_of
from indexer.vectors.tags import EVERYTHING, Filter
from models.types import FloatArray

T = TypeVar("T")

_log = logging.getLogger(__name__)

_TRIES = 5


class LocalGallery:
    """A :class:`~indexer.galleries.base.Gallery` of segments in ``folder``."""

    def __init__(
        self,
        catalog: Catalog,
        name: GalleryName,
        contract_id: str,
        dimension: int,
        folder: Path,
        scan: Callable[[Segment], Scanner],
        *,
        sizes: Sizes | None = None,
    ) -> None:
        self.name: GalleryName = name
        self.contract_id = contract_id
        self._catalog = catalog
        self._dimension = dimension
        self._scan = scan
        self._sizes = sizes or Sizes()
        self._folder = folder_of(folder, name, contract_id)
        self._file_lock = lock_of(self._folder)
        make_folder(self._folder)
        self._place = shelf.Place(shelf.store_id(folder), name, contract_id)
        # Guards what follows the log; never taken before the lock of the files is.
        self._lock = threading.RLock()
        self._index = SegmentedIndex(dimension, scan)
        self._upto = log.BEGINNING
        self._version = 0
        self._unsaved = 0
        self._open()

    # --- answers ------------------------------------------------------------------------------

    def count(self) -> int:
        self.catch_up()
        return self._index.count()

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        where: Filter = EVERYTHING,
        excluded: Collection[str] = (),
        fresh: bool = True,
    ) -> list[Neighbours]:
        if fresh:
            self.catch_up()
        return self._mended(lambda index: index.search(probes, k, where=where, excluded=excluded))

    def scores(self, probes: FloatArray, face_ids: Sequence[str]) -> FloatArray:
        return self._mended(lambda index: index.scores(probes, face_ids))

    def ids(self) -> set[str]:
        self.catch_up()
        return self._index.ids()

    def health(self) -> str | None:
        with self._lock:
            with self._catalog.read() as session:
                expected = log.members(session, self.name, self.contract_id)
                self._follow(session)
            broken = self._index.health()
            held = self._index.ids()
        if broken is not None or held == expected:
            return broken
        return (
            f"{len(expected - held)} faces are missing in the index, {len(held - expected)} extra"
        )

    def about(self) -> str:
        state = self._index.state
        rows = sum(part.segment.count for part in state.parts)
        dead = sum(part.dead for part in state.parts)
        size = sum(part.segment.disk_bytes for part in state.parts)
        return (
            f"{len(state.parts)} segments with {rows:,} rows ({dead:,} dead, "
            f"{size / 1e6:,.0f} MB), {state.fresh.count - state.fresh.dead:,} fresh"
        )

    # --- keeping up ---------------------------------------------------------------------------

    def catch_up(self) -> int:
        with self._lock, self._catalog.read() as session:
            return self._follow(session)

    def _follow(self, session: Session) -> int:
        applied = 0
        while step := log.changes(session, self.name, self.contract_id, self._upto.seq):
            found = list(log.faces(session, self.name, self.contract_id, step.added))
            self._index.change(
                step.removed,
                [face_id for some in found for face_id in some.ids],
                np.concatenate(
                    [np.empty((0, self._dimension), np.float32), *(some.vectors for some in found)]
                ),
                [tags for some in found for tags in some.tags],
            )
            self._upto = step.upto
            self._unsaved += step.entries
            applied += step.entries
        return applied

    def keep(self) -> None:
        self._mended(lambda _: self._keep())

    def _keep(self) -> None:
        self.catch_up()
        with self._alone(wait=False) as mine:
            if mine:
                self._adopt()
                if self._unsaved >= self._sizes.seal:
                    self._seal()
                # Deleted faces leave the files of each folder by its own processes.
                self._scrub(*self._now())
                self._merge_due()
                self._sweep()

    def close(self) -> None:
        """Let go of the files; fresh rows are saved if opening would take long without."""
        try:
            if self._unsaved >= self._sizes.seal:
                with self._alone(wait=False) as mine:
                    if mine:
                        self._seal()
        finally:
            self._index.close()

    # --- opening ------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            if not self._load():
                with self._alone():
                    if not self._load():
                        self._rebuild()
        except IndexDamaged as damage:
            self._rebuild_after(damage, self._version)
        self.catch_up()

    def _load(self) -> bool:
        """Open what is published; whether any segment is. Raises :class:`IndexDamaged`."""
        for attempt in range(_TRIES):
            with self._catalog.read() as session:
                found = shelf.published(session, self._place)
                known = found is None or self._knows(session, found.upto)
            if found is None or not found.segments:
                self._version = 0 if found is None else found.version
                return False
            self._version = found.version
            if not known:
                raise IndexDamaged("The segments belong to another history of the catalog.")
            try:
                segments = [self._segment(name) for name in found.segments]
            except IndexDamaged:
                # Perhaps another process has merged them away meanwhile.
                with self._catalog.read() as session:
                    moved = shelf.version(session, self._place) != found.version
                if moved and attempt + 1 < _TRIES:
                    continue
                raise
            self._require_history(segments)
            parts = [part_of(one, self._scan) for one in segments]
            with self._lock:
                self._index = SegmentedIndex(self._dimension, self._scan, parts)
                self._upto, self._unsaved = found.upto, 0
            return True
        return False

    def _segment(self, name: str) -> Segment:
        return files.open_segment(
            self._folder,
            name,
            gallery=self.name,
            contract_id=self.contract_id,
            dimension=self._dimension,
        )

    def _knows(self, session: Session, history: History) -> bool:
        return log.knows(session, self.name, self.contract_id, history)

    def _require_history(self, segments: Sequence[Segment]) -> None:
        with self._catalog.read() as session:
            for one in segments:
                if not self._knows(session, one.history):
                    raise IndexDamaged(
                        f"Segment {one.name} belongs to another history of the catalog."
                    )

    def _adopt(self) -> None:
        """Take over what another process has published since."""
        with self._catalog.read() as session:
            found = shelf.published(session, self._place)
        if found is None or found.version == self._version:
            return
        if not found.segments:
            self._rebuild()
            return
        own = {part.segment.name: part for part in self._index.state.parts}
        opened = {name: self._segment(name) for name in found.segments if name not in own}
        self._require_history(list(opened.values()))
        with self._lock, self._catalog.read() as session:
            own = {part.segment.name: part for part in self._index.state.parts}
            parts = []
            for name in found.segments:
                if name in own:
                    own[name].segment.refresh()
                    parts.append(own[name].without(own[name].segment.dead))
                else:
                    parts.append(part_of(opened[name], self._scan))
            self._index = SegmentedIndex(self._dimension, self._scan, parts)
            self._upto, self._version, self._unsaved = found.upto, found.version, 0
            self._follow(session)

    # --- writing files ------------------------------------------------------------------------

    @contextmanager
    def _alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Be the one thread of all processes that may change the files, and what this process
        has open of them; yields whether it is."""
        if wait:
            with file_lock(self._file_lock):
                yield True
            return
        held = try_lock(self._file_lock)
        try:
            yield held is not None
        finally:
            if held is not None:
                held.close()

    def save(self) -> None:
        def work(_: SegmentedIndex) -> None:
            with self._alone():
                self._seal()

        self._mended(work)

    def _seal(self) -> None:
        """Make a segment of the fresh rows, take the dead out of the others, and publish."""
        seen, upto = self._now()
        self._scrub(seen, upto)
        if not seen.fresh.count:
            return
        added = []
        live = np.flatnonzero(seen.fresh.live)
        if len(live):
            ids, tags = seen.fresh.named(live)
            rows = files.from_arrays(ids, seen.fresh.vectors(live), tags)
            added.append(self._written(rows, upto))
        self._publish(seen, (), added, upto=upto)

    def scrub(self) -> bool:
        def work(_: SegmentedIndex) -> bool:
            # Whoever merges holds the lock for as long as that takes; a deletion is not to wait.
            with self._alone(wait=False) as mine:
                if mine:
                    self._scrub(*self._now())
                    self._sweep()
            return mine

        return self._mended(work)

    def _sweep(self) -> None:
        """Remove files that are nobody's: what a writer left that was killed holds vectors too."""
        files.sweep(self._folder, {part.segment.name for part in self._index.state.parts})

    def _now(self) -> tuple[State, History]:
        """The published segments with all that has happened since; the files are ours."""
        self._adopt()
        with self._lock:
            self.catch_up()
            return self._index.state, self._upto

    def _scrub(self, seen: State, upto: History) -> None:
        for part in seen.parts:
            if part.dead == len(part.segment.dead):
                continue
            dead = np.setdiff1d(np.flatnonzero(~part.live), part.segment.dead)
            if len(dead):
                files.scrub(self._folder, part.segment.name, dead, upto)
                part.segment.refresh()

    def _written(self, rows: files.SegmentSource, upto: History) -> Segment:
        name = new_id()
        files.write_segment(
            self._folder,
            name,
            rows,
            gallery=self.name,
            contract_id=self.contract_id,
            dimension=self._dimension,
            history=upto,
        )
        return self._segment(name)

    def _publish(
        self,
        seen: State,
        gone: Sequence[Part],
        added: Sequence[Segment],
        *,
        upto: History | None,
    ) -> None:
        names = [part.segment.name for part in gone]
        try:
            with self._catalog.write() as session:
                version = shelf.publish(
                    session,
                    self._place,
                    upto=upto,
                    gone=names,
                    added=[(one.name, one.count) for one in added],
                )
        except BaseException:
            for one in added:
                with suppress(StorageError):
                    files.remove_segment(self._folder, one.name)
            raise
        with self._lock:
            self._index.swap(seen, names, added, sealed=upto is not None)
            self._version = version
            if upto is not None:
                self._unsaved = self._index.state.fresh.count
        for name in names:
            files.remove_segment(self._folder, name)

    def _merge_due(self) -> None:
        """Merge segments of about one size, and write anew those that are full of dead rows."""
        while True:
            seen, upto = self._now()
            gone = due(seen.parts, self._sizes)
            if not gone:
                return
            alive = [(part.segment, np.flatnonzero(part.live)) for part in gone if part.alive]
            added = [self._written(files.merged(alive), upto)] if alive else []
            self._publish(seen, gone, added, upto=None)

    # --- making anew --------------------------------------------------------------------------

    def rebuild(self) -> None:
        with self._alone():
            self._rebuild()

    def _rebuild(self) -> None:
        with self._catalog.read() as session:
            upto = log.last_entry(session, self.name, self.contract_id)
            small = log.count_members(session, self.name, self.contract_id) < self._sizes.seal
            old = shelf.published(session, self._place)
            try:
                added = [] if small else self._made(session, upto)
            except StorageError as error:
                # Memory is dearer than disk, but a search that works comes first.
                _log.warning(
                    "segments of the %s gallery could not be written; it stays in memory: %s",
                    self.name,
                    error.detail,
                )
                small, added = True, []
            index = SegmentedIndex(
                self._dimension, self._scan, [part_of(one, self._scan) for one in added]
            )
            if small:
                for some in log.all_faces(session, self.name, self.contract_id, self._sizes.block):
                    index.add(some.ids, some.vectors, some.tags)
        version = 0 if old is None else old.version
        if added or (old is not None and old.segments):
            with self._catalog.write() as session:
                version = shelf.publish(
                    session,
                    self._place,
                    upto=upto,
                    gone=[] if old is None else old.segments,
                    added=[(one.name, one.count) for one in added],
                )
        files.sweep(self._folder, {one.name for one in added})
        with self._lock:
            self._index, self._upto, self._version = index, upto, version
            self._unsaved = index.state.fresh.count

    def _made(self, session: Session, upto: History) -> list[Segment]:
        """Segments of everything that the catalog holds; none where one cannot be written."""
        added: list[Segment] = []
        try:
            for some in log.all_faces(session, self.name, self.contract_id, self._sizes.block):
                rows = files.from_arrays(some.ids, some.vectors, some.tags)
                added.append(self._written(rows, upto))
        except BaseException:
            for one in added:
                with suppress(StorageError):
                    files.remove_segment(self._folder, one.name)
            raise
        return added

    def _rebuild_after(self, damage: IndexDamaged, version: int) -> None:
        """Make the index anew, unless another process has done so since ``version``."""
        with self._alone():
            with self._catalog.read() as session:
                moved = shelf.version(session, self._place) != version
            if moved:
                with suppress(IndexDamaged):
                    if self._load():
                        return
            _log.warning(
                "the index of the %s gallery is rebuilt from the catalog: %s",
                self.name,
                damage.detail,
            )
            self._rebuild()
        self.catch_up()

    def _mended(self, work: Callable[[SegmentedIndex], T]) -> T:
        """Do ``work``; where a file turns out to be damaged, make it anew and do it again."""
        for _ in range(_TRIES):
            version = self._version
            try:
                return work(self._index)
            except IndexDamaged as damage:
                self._rebuild_after(damage, version)
        return work(self._index)
