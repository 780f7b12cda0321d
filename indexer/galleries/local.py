"""A gallery on this machine: segments on disk, shared by its processes, and fresh rows in memory.

The catalog is the truth; the segments are what has been written down of it up to one entry of the
log, and each process replays the rest. Any process may seal its fresh rows into a segment, merge
segments and publish the result; a lock on a file lets one at a time do so. Searches need no lock:
they work on a state that is replaced as a whole.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from sqlalchemy.orm import Session

from indexer.catalog import Catalog
from indexer.errors import IndexDamaged, StorageError, StorageFull
from indexer.galleries import log, shelf
from indexer.galleries.merging import Sizes, due, outdated
from indexer.galleries.segments import SegmentFolder
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
_REST_S = 60.0
"""How long nothing large is written after the disk was full."""


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
        self._files = SegmentFolder(catalog, folder, name, contract_id, dimension)
        # Guards what follows the log; never taken before the lock of the files is.
        self._lock = threading.RLock()
        self._index = SegmentedIndex(dimension, scan)
        self._upto = log.BEGINNING
        self._version = 0
        self._unsaved = 0
        self._rest_until = 0.0
        try:
            self._open()
        except BaseException:
            self._files.close()
            raise

    # --- answers ------------------------------------------------------------------------------

    def count(self) -> int:
        return self._current().count()

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        where: Filter = EVERYTHING,
        excluded: Collection[str] = (),
        fresh: bool = True,
    ) -> list[Neighbours]:
        return self._answered(
            lambda index: index.search(probes, k, where=where, excluded=excluded), fresh=fresh
        )

    def scores(self, probes: FloatArray, face_ids: Sequence[str]) -> FloatArray:
        return self._answered(lambda index: index.scores(probes, face_ids), fresh=False)

    def ids(self) -> set[str]:
        return self._current().ids()

    def _current(self) -> SegmentedIndex:
        """The index with everything that was committed before."""
        with self._lock:
            self.catch_up()
            return self._index

    def _answered(self, ask: Callable[[SegmentedIndex], T], *, fresh: bool) -> T:
        """What ``ask`` finds; where a file turns out to be damaged, after that was mended."""

        def asked() -> T:
            return ask(self._current() if fresh else self._index)

        return self._mended(asked)

    def health(self) -> str | None:
        with self._lock, self._catalog.read() as session:
            expected = log.members(session, self.name, self.contract_id)
            self._follow(session)
            index = self._index
            state = index.state
        broken, held = index.health(), index.ids()
        if index.state is not state:
            return self.health()
        return broken or log.difference(expected, held, "the index")

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
        self._upto, applied = self._followed(session, self._index, self._upto)
        self._unsaved += applied
        return applied

    def _followed(
        self, session: Session, index: SegmentedIndex, upto: History
    ) -> tuple[History, int]:
        """Apply to ``index`` what the log has after ``upto``; where that ends, and how many
        entries."""
        applied = 0
        while step := log.changes(session, self.name, self.contract_id, upto.seq):
            found = list(log.faces(session, self.name, self.contract_id, step.added))
            index.change(
                step.removed,
                [face_id for some in found for face_id in some.ids],
                np.concatenate(
                    [np.empty((0, self._dimension), np.float32), *(some.vectors for some in found)]
                ),
                [tags for some in found for tags in some.tags],
            )
            upto = step.upto
            applied += step.entries
        return upto, applied

    def _install(
        self, index: SegmentedIndex, upto: History, version: int, unsaved: int = 0
    ) -> None:
        """Answer from ``index``, once it has all that came after ``upto``."""
        with self._lock, self._catalog.read() as session:
            upto, applied = self._followed(session, index, upto)
            self._index, self._upto, self._version = index, upto, version
            self._unsaved = unsaved + applied

    def keep(self) -> None:
        self._mended(self._keep)

    def _keep(self) -> None:
        self.catch_up()
        with self._files.alone(wait=False) as mine:
            if not mine:
                return
            self._adopt()
            # Deleted faces leave the files of each folder by its own processes.
            self._scrub(*self._now())
            self._files.sweep()
            if time.monotonic() < self._rest_until:
                return
            try:
                if self._unsaved >= self._sizes.seal:
                    self._seal()
                self._merge_due()
            except StorageFull:
                self._rest_until = time.monotonic() + _REST_S
                raise

    def close(self) -> None:
        """Let go of the files; fresh rows are saved if opening would take long without."""
        try:
            if self._unsaved >= self._sizes.seal:
                with self._files.alone(wait=False) as mine:
                    if mine:
                        self._seal()
        finally:
            self._index.close()
            self._files.close()

    # --- opening ------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            if not self._load():
                with self._files.alone():
                    if not self._load():
                        self._rebuild()
        except IndexDamaged as damage:
            self._rebuild_after(damage, self._version)

    def _load(self) -> bool:
        """Open what is published; whether any segment is. Raises :class:`IndexDamaged`."""
        for attempt in range(_TRIES):
            with self._catalog.read() as session:
                found = self._files.shelf(session)
                known = found is None or self._files.knows(session, found.upto)
            if found is None or not found.segments:
                self._version = 0 if found is None else found.version
                return False
            self._version = found.version
            if not known:
                raise IndexDamaged("The segments belong to another history of the catalog.")
            try:
                segments = [self._files.opened(name, dead) for name, dead in found.segments.items()]
            except IndexDamaged:
                # Perhaps another process has merged them away meanwhile.
                moved = self._files.version() != found.version
                if moved and attempt + 1 < _TRIES:
                    continue
                raise
            self._files.require_history(segments)
            parts = [part_of(one, self._scan) for one in segments]
            index = SegmentedIndex(self._dimension, self._scan, parts)
            self._install(index, found.upto, found.version)
            return True
        return False

    def _adopt(self) -> None:
        """Take over what another process has published since."""
        with self._catalog.read() as session:
            found = self._files.shelf(session)
        if found is None or found.version == self._version:
            return
        if not found.segments:
            self._rebuild()
            return
        own = {part.segment.name: part for part in self._index.state.parts}
        opened = {
            name: self._files.opened(name, dead)
            for name, dead in found.segments.items()
            if name not in own
        }
        self._files.require_history(list(opened.values()))
        with self._lock:
            own = {part.segment.name: part for part in self._index.state.parts}
            parts = []
            for name in found.segments:
                if name in own:
                    own[name].segment.refresh()
                    parts.append(own[name].without(own[name].segment.dead))
                else:
                    parts.append(part_of(opened[name], self._scan))
            index = SegmentedIndex(self._dimension, self._scan, parts)
            self._install(index, found.upto, found.version)

    # --- writing files ------------------------------------------------------------------------

    def save(self) -> None:
        def work() -> None:
            with self._files.alone():
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
            added.append(self._files.written(rows, upto))
        self._publish(seen, (), added, upto=upto)

    def scrub(self) -> bool:
        def work() -> bool:
            # Whoever merges holds the lock for as long as that takes; a deletion is not to wait.
            with self._files.alone(wait=False) as mine:
                if mine:
                    self._scrub(*self._now())
                    self._files.sweep()
            return mine

        return self._mended(work)

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
                self._files.scrub(part.segment, dead, upto)

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
                    self._files.place,
                    upto=upto,
                    gone=names,
                    added=[(one.name, one.count) for one in added],
                )
        except BaseException:
            # The answer may be lost of what was done all the same; then it is adopted like
            # another's, and else swept away.
            self._version = -1
            raise
        with self._lock:
            self._index.swap(seen, names, added, sealed=upto is not None)
            self._version = version
            if upto is not None:
                self._unsaved = self._index.state.fresh.count
        for name in names:
            self._files.remove(name)

    def _merge_due(self) -> bool:
        """Merge segments of about one size, and write anew those that are full of dead rows, or
        one that is encrypted by another key than it is to be; whether there were any."""
        seen, upto = self._now()
        gone = due(seen.parts, self._sizes) or outdated(seen.parts, self._catalog.keyring)[:1]
        if gone:
            alive = [(part.segment, np.flatnonzero(part.live)) for part in gone if part.alive]
            added = [self._files.written(files.merged(alive), upto)] if alive else []
            self._publish(seen, gone, added, upto=None)
        return bool(gone)

    def reseal(self) -> None:
        def work() -> bool:
            # One at a time, so that a deletion gets its turn at the files in between.
            with self._files.alone():
                return self._merge_due()

        while self._mended(work):
            pass

    # --- making anew --------------------------------------------------------------------------

    def rebuild(self) -> None:
        with self._files.alone():
            self._rebuild()

    def _rebuild(self) -> None:
        with self._catalog.read() as session:
            upto = log.last_entry(session, self.name, self.contract_id)
            small = log.count_members(session, self.name, self.contract_id) < self._sizes.seal
            old = self._files.shelf(session)
        try:
            added = [] if small else self._made(upto)
        except StorageError as error:
            # Memory is dearer than disk, but a search that works comes first.
            _log.warning(
                "segments of the %s gallery could not be written; it stays in memory: %s",
                self.name,
                error.detail,
            )
            small, added = True, []
            self._rest_until = time.monotonic() + _REST_S
        parts = [part_of(one, self._scan) for one in added]
        index = SegmentedIndex(self._dimension, self._scan, parts)
        if small:
            for some in log.all_faces(
                self._catalog, self.name, self.contract_id, self._sizes.block
            ):
                index.add(some.ids, some.vectors, some.tags)
        version = 0 if old is None else old.version
        if added or (old is not None and old.segments):
            with self._catalog.write() as session:
                version = shelf.publish(
                    session,
                    self._files.place,
                    upto=upto,
                    gone=[] if old is None else list(old.segments),
                    added=[(one.name, one.count) for one in added],
                )
        self._files.sweep()
        self._install(index, upto, version, index.state.fresh.count)

    def _made(self, upto: History) -> list[Segment]:
        """Segments of everything that the catalog holds; none where one cannot be written."""
        added: list[Segment] = []
        try:
            for some in log.all_faces(
                self._catalog, self.name, self.contract_id, self._sizes.block
            ):
                rows = files.from_arrays(some.ids, some.vectors, some.tags)
                added.append(self._files.written(rows, upto))
        except BaseException:
            for one in added:
                with suppress(StorageError):
                    self._files.remove(one.name)
            raise
        return added

    def _rebuild_after(self, damage: IndexDamaged, version: int) -> None:
        """Make the index anew, unless another process has done so since ``version``."""
        with self._files.alone():
            moved = self._files.version() != version
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

    def _mended(self, work: Callable[[], T]) -> T:
        """Do ``work``; where a file turns out to be damaged, make it anew and do it again."""
        for _ in range(_TRIES):
            version = self._version
            try:
                return work()
            except IndexDamaged as damage:
                self._rebuild_after(damage, version)
        return work()
