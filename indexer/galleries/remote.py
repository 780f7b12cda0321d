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
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from indexer.catalog import Catalog
from indexer.errors import CatalogBusy, IndexAway, IndexDamaged
from indexer.files import try_lock
from indexer.galleries import log, shelf
from indexer.ids import new_id
from indexer.records import GalleryName, Progress
from indexer.vectors.base import Neighbours
from indexer.vectors.milvus import MilvusIndex, Stamp
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
        self._upto: History | None = None
        self._version = 0
        self._making = ""
        self._counted: tuple[int, int] | None = None
        try:
            self._catch_up(_OPENING_S)
        except IndexAway as away:
            _log.warning("the %s gallery waits for Milvus: %s", name, away.detail)

    # --- answers ------------------------------------------------------------------------------

    def count(self) -> int:
        # The catalog knows, and counts only where something has changed.
        self.catch_up()
        upto, counted = self._upto, self._counted
        if upto is None or counted is None or counted[0] != upto.seq:
            with self._catalog.read() as session:
                number = log.last_entry(session, self.name, self.contract_id).seq
                counted = number, log.count_members(session, self.name, self.contract_id)
            self._counted = counted
        return counted[1]

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
        if held == expected:
            return None
        return (
            f"{len(expected - held)} faces are missing in the collection, "
            f"{len(held - expected)} extra"
        )

    def about(self) -> str:
        return (
            f"collection {self._collection} in Milvus, whose files keep what was deleted until it "
            "compacts them"
        )

    def _settled(self, work: Callable[[MilvusIndex], T], *, fresh: bool) -> T:
        """Do ``work`` on the whole collection: again, where it was made anew meanwhile."""
        for _ in range(_TRIES):
            making, version = self._making, self._version
            try:
                if fresh:
                    self.catch_up()
                making, version, upto = self._making, self._version, self._upto
                if upto is not None and self._index is not None:
                    found = work(self._index)
                    if self._stands(self._index, making, version, upto):
                        return found
            except IndexDamaged as damage:
                _log.warning("the collection of the %s gallery: %s", self.name, damage.detail)
                self._shaky = True
            except IndexAway:
                self._shaky = True
                # While it is made anew it cannot be asked, and that passes.
                if not self._moved(version):
                    self._doubt()
                    raise
            self._doubt()
            fresh = True
        raise IndexAway("its collection is made anew again and again")

    def _stands(self, index: MilvusIndex, making: str, version: int, upto: History) -> bool:
        """Whether the collection was whole all the while: not made anew, and not lost."""
        if self._moved(version):
            return False
        for strong in (False, True):
            stamp = index.stamp(strong=strong)
            if stamp is not None and stamp.making == making and stamp.seq >= upto.seq:
                return True
        return False

    def _moved(self, version: int) -> bool:
        with self._catalog.read() as session:
            return shelf.version(session, self._place) != version

    def _doubt(self) -> None:
        """Look at the collection's own note before it is trusted again."""
        self._upto = None

    def _remove_strangers(self, face_ids: set[str]) -> bool:
        """Take out what is no member; whether anything was found that is none.

        A writer that lost its lock with its connection to the catalog may have added a face after
        another removed it.
        """
        if not self._strangers(face_ids):
            return False
        with self._turn(_PATIENCE_S), self._alone(_PATIENCE_S) as still_held:
            # Looked at again with everything applied: one may have become a member since.
            self._follow(still_held)
            if self._index is not None:
                self._index.delete(self._strangers(face_ids))
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
            if self._upto is not None and version == self._version and self._upto.seq >= newest.seq:
                return 0
            try:
                with self._alone(wait_s) as still_held:
                    return self._follow(still_held)
            except (IndexAway, IndexDamaged):
                self._shaky = True
                raise
            finally:
                if self._shaky:
                    self._doubt()

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
        applied = 0
        while True:
            with self._catalog.read() as session:
                step = log.changes(session, self.name, self.contract_id, upto.seq)
                if step is None:
                    break
                added = list(log.faces(session, self.name, self.contract_id, step.added))
            still_held()
            index.delete(step.removed)
            for some in added:
                index.add(some.ids, some.vectors, some.tags)
            still_held()
            upto = step.upto
            index.set_stamp(Stamp(upto.seq, upto.seq_face_id, found.upto.seq_face_id))
            applied += step.entries
        self._upto, self._version, self._making = upto, found.version, found.upto.seq_face_id
        return applied

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
        index.reset()
        done, after = 0, ""
        while True:
            self._report(Progress(stage=f"gallery of {self.name}", done=done, total=total))
            # What changes meanwhile is in the log after ``upto``, and applied from there.
            with self._catalog.read() as session:
                some = log.faces_after(session, self.name, self.contract_id, after, _BLOCK)
            if some is None:
                break
            still_held()
            index.add(some.ids, some.vectors, some.tags)
            done, after = done + len(some.ids), some.ids[-1]
        still_held()
        index.set_stamp(Stamp(upto.seq, upto.seq_face_id, making.seq_face_id))
        made = History(_MADE, making.seq_face_id)
        with self._catalog.write() as session:
            found = shelf.published(session, self._place)
            if found is None or found.upto != making:
                raise IndexAway("another process has begun to make its collection anew")
            version = shelf.publish(session, self._place, upto=made, gone=(), added=())
        return shelf.Shelf({}, made, version), upto

    @contextmanager
    def _turn(self, wait_s: float) -> Generator[None]:
        """Be the one thread of this process at it. Raises :class:`IndexAway` after ``wait_s``."""
        if not self._lock.acquire(timeout=wait_s):
            raise IndexAway("its collection is being brought up to date")
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _alone(self, wait_s: float) -> Generator[Callable[[], None]]:
        """Be the one that may write to the collection, among all processes of this catalog.

        Yields what raises where that has ended. Raises :class:`IndexAway` after ``wait_s``.
        """
        away = IndexAway("another process is bringing its collection up to date")
        if self._catalog.is_sqlite:
            path = self._index_dir / f".{self.name}-{self.contract_id}.sync.lock"
            until = time.monotonic() + wait_s
            while (held := try_lock(path)) is None:
                if time.monotonic() >= until:
                    raise away
                time.sleep(_LOOK_S)
            with held:
                yield lambda: None
            return
        name = f"{self._owner}/{PLACE}/{self.name}/{self.contract_id}"
        entered = False
        try:
            with self._catalog.named_lock(name, wait_s) as still_held:
                entered = True
                yield still_held
        except CatalogBusy:
            if entered:
                raise
            raise away from None

    def rebuild(self) -> None:
        with self._turn(_OPENING_S), self._alone(_OPENING_S) as still_held:
            self._doubt()
            self._make_anew(self._opened(), still_held)
            self._follow(still_held)

    def save(self) -> None:
        """Nothing to do: the server keeps what it acknowledged."""

    def keep(self) -> None:
        # Whatever happened to the server since: its own note says how far it is.
        self._doubt()
        self._catch_up(_LOOK_S)

    def scrub(self) -> bool:
        self.catch_up()
        # Collections of other contracts, whose log nobody follows; segments here go likewise.
        index = self._index
        if index is not None:
            for name in index.collections(f"{collection_prefix(self._owner)}{self.name}_"):
                if name != self._collection:
                    index.drop(name)
        return True

    def close(self) -> None:
        if self._index is not None:
            self._index.close()


def drop(catalog: Catalog, contract_id: str, connect: Callable[[str], MilvusIndex]) -> list[str]:
    """Drop every collection of this catalog from the server; returns their names.

    Raises :class:`IndexAway`.
    """
    owner = shelf.catalog_id(catalog)
    index = connect(collection_name(owner, "ads", contract_id))
    try:
        names = index.collections(collection_prefix(owner))
        for name in names:
            index.drop(name)
    finally:
        index.close()
    return names
