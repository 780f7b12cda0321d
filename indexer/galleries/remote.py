"""A gallery whose vectors are in a Milvus server that all processes and machines share.

The catalog stays the truth. One process at a time brings the collection up to date from the
gallery's log, under a lock that all processes of this catalog know, and notes in the collection
how far it is; a search first sees to it that the collection is as far as the log, and afterwards
that it was the same collection all the while.

A collection that is lost, of another history or cut short is made anew. Each making has an id,
which stands on the gallery's shelf in the catalog before it begins and in the collection's note
when it is done: only where both are one is the collection the gallery. So nobody takes half a
collection for it, whoever died in the middle or went on without the lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from indexer.catalog import Catalog
from indexer.errors import IndexAway, IndexDamaged
from indexer.galleries import log, shelf
from indexer.galleries.turns import Busy, alone
from indexer.generations.rows import live
from indexer.ids import new_id
from indexer.records import GalleryName, Progress
from indexer.vectors.base import Neighbours
from indexer.vectors.milvus import MilvusIndex, Stamp
from indexer.vectors.milvus_client import NotInMemory
from indexer.vectors.milvus_rows import collection_name, collection_prefix
from indexer.vectors.segment import History
from indexer.vectors.tags import EVERYTHING, Filter
from models.types import FloatArray

T = TypeVar("T")
Report = Callable[[Progress], None]

_log = logging.getLogger(__name__)

PLACE = "milvus"
"""Whose shelf it is, in place of an index folder: one for the catalog, whatever the address."""

_MAKING, _MADE = -1, 0
"""Numbers on the shelf, beside the id of the making, which stands where a face would."""

_TRIES = 5
_BLOCK = 2_000
_PATIENCE_S = 5.0
_OPENING_S = 600.0
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the collection was when it was last looked at under the lock."""

    making: str
    version: int
    upto: History


class RemoteGallery:
    """A :class:`~indexer.galleries.base.Gallery` in a collection of Milvus.

    ``connect`` takes the name of the collection and gives the index, made if it is not there. A
    server that is away does not keep the gallery from being opened: searches raise
    :class:`IndexAway` until it is back.
    """

    def __init__(
        self,
        catalog: Catalog,
        name: GalleryName,
        contract_id: str,
        index_dir: Path,
        connect: Callable[[str], MilvusIndex],
        *,
        report: Report = lambda _: None,
    ) -> None:
        self.name: GalleryName = name
        self.contract_id = contract_id
        self._catalog = catalog
        self._owner = shelf.catalog_id(catalog)
        self._collection = collection_name(self._owner, name, contract_id)
        self._connect = connect
        self._index_dir = index_dir
        self._report = report
        self._place = shelf.Place(PLACE, name, contract_id)
        self._lock = threading.RLock()
        self._index: MilvusIndex | None = None
        # After an error the server may hold nothing of the collection in memory.
        self._shaky = False
        self._seen: _Seen | None = None
        # What was written last, where it is not known whether the lock was ours all the while.
        self._unsure: set[str] = set()
        self._counted: tuple[int, int] | None = None
        try:
            self._catch_up(_OPENING_S)
        except IndexAway as away:
            _log.warning("the %s gallery waits for Milvus: %s", name, away.detail)

    # --- answers ------------------------------------------------------------------------------

    def count(self) -> int:
        # The catalog knows, whether the server is there or not; counted where something changed.
        with self._catalog.read() as session:
            seq = log.last_entry(session, self.name, self.contract_id).seq
            if self._counted is None or self._counted[0] != seq:
                self._counted = seq, log.count_members(session, self.name, self.contract_id)
            return self._counted[1]

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        where: Filter = EVERYTHING,
        excluded: Collection[str] = (),
        fresh: bool = True,
    ) -> list[Neighbours]:
        while True:
            found = self._settled(
                lambda index: index.search(probes, k, where=where, excluded=excluded), fresh=fresh
            )
            if not self._remove_strangers({face_id for one in found for face_id in one.ids}):
                return found
            fresh = True

    def scores(self, probes: FloatArray, face_ids: Sequence[str]) -> FloatArray:
        return self._settled(lambda index: index.scores(probes, face_ids), fresh=False)

    def ids(self) -> set[str]:
        return self._settled(lambda index: index.ids(), fresh=True)

    def health(self) -> str | None:
        try:
            index = self._index
            broken = "it was not reached since the start" if index is None else index.health()
            if broken is not None:
                return broken
            held = self.ids()
        except (IndexAway, IndexDamaged) as error:
            return error.detail
        with self._catalog.read() as session:
            expected = log.members(session, self.name, self.contract_id)
        return log.difference(expected, held, "the collection")

    def about(self) -> str:
        return (
            f"collection {self._collection} in Milvus, whose files keep what was deleted until it "
            "compacts them"
        )

    def _settled(self, work: Callable[[MilvusIndex], T], *, fresh: bool) -> T:
        """Do ``work`` on the whole collection: again, where it was made anew meanwhile."""
        for _ in range(_TRIES):
            if fresh:
                self.catch_up()
            seen, index = self._seen, self._index
            if seen is not None and index is not None:
                try:
                    found = work(index)
                    if self._stands(index, seen):
                        return found
                except KeyError:
                    if self._stands(index, seen):
                        raise
                except (IndexDamaged, NotInMemory) as lost:
                    _log.warning("the collection of the %s gallery: %s", self.name, lost.detail)
                    self._shaky = True
                except IndexAway:
                    self._shaky = True
                    # While it is made anew it cannot be asked, and that passes.
                    if not self._moved(seen):
                        self._doubt()
                        raise
            self._doubt()
            fresh = True
        raise IndexAway("its collection is made anew again and again")

    def _stands(self, index: MilvusIndex, seen: _Seen) -> bool:
        """Whether the collection was whole all the while: not made anew, and not lost."""
        if self._moved(seen):
            return False
        for strong in (False, True):
            stamp = index.stamp(strong=strong)
            if stamp is not None and stamp.making == seen.making and stamp.seq >= seen.upto.seq:
                return True
        return False

    def _moved(self, seen: _Seen) -> bool:
        with self._catalog.read() as session:
            return shelf.version(session, self._place) != seen.version

    def _doubt(self) -> None:
        """Look at the collection's own note before it is trusted again."""
        self._seen = None

    def _remove_strangers(self, face_ids: set[str]) -> bool:
        """Take out what is no member; whether anything was found that is none.

        A writer that lost its lock with its connection to the catalog may have added a face after
        another removed it.
        """
        if not self._strangers(face_ids):
            return False

        def take_out(still_held: Callable[[], None]) -> None:
            # Looked at again with everything applied: one may have become a member since.
            self._follow(still_held)
            strangers = self._strangers(face_ids)
            if strangers:
                self._unsure |= strangers
                self._redo(self._opened(), still_held)

        self._written(take_out, _PATIENCE_S)
        return True

    def _strangers(self, face_ids: set[str]) -> set[str]:
        with self._catalog.read() as session:
            return log.strangers(session, self.name, self.contract_id, face_ids)

    # --- keeping up ---------------------------------------------------------------------------

    def catch_up(self) -> int:
        return self._catch_up(_PATIENCE_S)

    def _catch_up(self, wait_s: float) -> int:
        with self._turn(wait_s):
            with self._catalog.read() as session:
                newest = log.last_entry(session, self.name, self.contract_id)
                version = shelf.version(session, self._place)
            seen = self._seen
            if seen is not None and version == seen.version and seen.upto.seq >= newest.seq:
                return 0
            return self._written(self._follow, wait_s)

    def _written(self, work: Callable[[Callable[[], None]], T], wait_s: float) -> T:
        """Do what writes to the collection, alone: once more where it was lost meanwhile.

        Raises :class:`IndexAway`, and :class:`IndexDamaged` for a collection that is not ours.
        """
        path = self._index_dir / f".{self.name}-{self.contract_id}.sync.lock"
        lock = f"{self._owner}/{PLACE}/{self.name}/{self.contract_id}"
        with self._turn(wait_s), alone(self._catalog, path, lock, wait_s) as still_held:
            for again in (True, False):
                try:
                    return work(still_held)
                except (IndexAway, IndexDamaged) as error:
                    self._shaky = True
                    self._doubt()
                    if not again or not isinstance(error, IndexDamaged | NotInMemory):
                        raise
            raise AssertionError

    def _follow(self, still_held: Callable[[], None]) -> int:
        """Bring the collection up to the log, or make it anew; the lock is held."""
        index = self._opened()
        with self._catalog.read() as session:
            found = shelf.published(session, self._place)
        upto = None
        if found is not None and found.upto.seq == _MADE:
            upto = self._stamped(index, found.upto.seq_face_id)
        if found is None or upto is None:
            found, upto = self._make_anew(index, still_held)
        elif self._unsure:
            self._redo(index, still_held)
        making, applied = found.upto.seq_face_id, 0
        while True:
            with self._catalog.read() as session:
                step = log.changes(session, self.name, self.contract_id, upto.seq)
            if step is None:
                break
            self._unsure.update(step.removed, step.added)
            self._redo(index, still_held)
            upto = step.upto
            index.set_stamp(Stamp(upto.seq, upto.seq_face_id, making))
            applied += step.entries
        self._seen = _Seen(making, found.version, upto)
        return applied

    def _redo(self, index: MilvusIndex, still_held: Callable[[], None]) -> None:
        """Have those of the faces that are members in the collection, and no others of them.

        Whoever lost the lock in the middle may have undone what another did since; so it does
        these faces again once it has the lock.
        """
        with self._catalog.read() as session:
            gone = log.strangers(session, self.name, self.contract_id, self._unsure)
            present = list(log.faces(session, self.name, self.contract_id, self._unsure))
        still_held()
        index.delete(gone)
        for some in present:
            index.add(some.ids, some.vectors, some.tags)
        still_held()
        self._unsure = set()

    def _opened(self) -> MilvusIndex:
        if self._index is None:
            self._index = self._connect(self._collection)
            self._shaky = True
        if self._shaky:
            self._index.reopen()
            self._shaky = False
        return self._index

    def _stamped(self, index: MilvusIndex, making: str) -> History | None:
        """How far the collection is, by its own note; ``None`` where that is of no use."""
        try:
            stamp = index.stamp()
        except IndexDamaged as damage:
            _log.warning("the collection of the %s gallery: %s", self.name, damage.detail)
            return None
        if stamp is None or stamp.making != making:
            return None
        history = History(stamp.seq, stamp.face_id)
        with self._catalog.read() as session:
            return history if log.knows(session, self.name, self.contract_id, history) else None

    def _make_anew(
        self, index: MilvusIndex, still_held: Callable[[], None]
    ) -> tuple[shelf.Shelf, History]:
        _log.info("the collection of the %s gallery is made from the catalog", self.name)
        making = History(_MAKING, new_id())
        # First of all: whoever searches it now does so again afterwards.
        with self._catalog.write() as session:
            shelf.publish(session, self._place, upto=making, gone=(), added=())
            upto = log.last_entry(session, self.name, self.contract_id)
            total = log.count_members(session, self.name, self.contract_id)
        if self._used(index):
            index.reset()
        self._unsure = set()
        done, stage = 0, f"gallery of {self.name}"
        self._report(Progress(stage=stage, done=done, total=total))
        for some in log.all_faces(self._catalog, self.name, self.contract_id, _BLOCK):
            still_held()
            index.add(some.ids, some.vectors, some.tags)
            done += len(some.ids)
            self._report(Progress(stage=stage, done=done, total=total))
        still_held()
        index.set_stamp(Stamp(upto.seq, upto.seq_face_id, making.seq_face_id))
        made = History(_MADE, making.seq_face_id)
        with self._catalog.write() as session:
            found = shelf.published(session, self._place)
            if found is None or found.upto != making:
                raise IndexAway("another process has begun to make its collection anew")
            version = shelf.publish(session, self._place, upto=made, gone=(), added=())
        return shelf.Shelf({}, made, version), upto

    def _used(self, index: MilvusIndex) -> bool:
        """Whether anything is in the collection, which takes seconds to make."""
        try:
            return index.stamp() is not None or index.count() > 0
        except IndexDamaged:
            return True

    @contextmanager
    def _turn(self, wait_s: float) -> Generator[None]:
        """Be the one thread of this process at it. Raises :class:`IndexAway` after ``wait_s``."""
        if not self._lock.acquire(timeout=wait_s):
            raise Busy("its collection is being brought up to date")
        try:
            yield
        finally:
            self._lock.release()

    def rebuild(self) -> None:
        def work(still_held: Callable[[], None]) -> None:
            self._make_anew(self._opened(), still_held)
            self._follow(still_held)

        self._written(work, _OPENING_S)

    def save(self) -> None:
        """Nothing to do: the server keeps what it acknowledged."""

    def keep(self) -> None:
        # Whatever happened to the server since: its own note says how far it is. Where another is
        # at it, that one looks.
        with suppress(Busy):
            self._written(self._follow, _LOOK_S)

    def reseal(self) -> None:
        """Nothing to do: what the server holds is not encrypted by us."""

    def scrub(self) -> bool:
        # Collections of contracts that are no generation's go: nobody follows their log. So do
        # segments that were here before, with all that nobody uses (``folders.remove_unused``).
        try:
            self.catch_up()
            index = self._index
            if index is None:
                return False
            with self._catalog.read() as session:
                followed = {one.contract_id for one in live(session)} | {self.contract_id}
            kept = {collection_name(self._owner, self.name, one) for one in followed}
            for name in index.collections(f"{collection_prefix(self._owner)}{self.name}_"):
                if name not in kept:
                    index.drop(name)
        except IndexAway as away:
            _log.warning("deletions in the %s gallery wait: %s", self.name, away.detail)
            self._shaky = True
            return False
        return True

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
