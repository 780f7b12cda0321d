"""A gallery whose vectors are in a Milvus server that all processes and machines share.

The catalog stays the truth. One process at a time brings the collection up to date from the
gallery's log, under a lock that all of them know, and notes in the collection how far it is; a
search first sees to it that the collection is as far as the log. A collection that is lost, that
is of another history, or that fell behind in an outage is brought up to date or made anew; that
this is going on stands in the catalog, so that nobody takes half a collection for the gallery.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from indexer.catalog import Catalog
from indexer.errors import IndexAway, IndexDamaged
from indexer.files import file_lock
from indexer.galleries import log, shelf
from indexer.records import GalleryName, Progress
from indexer.vectors.base import Neighbours
from indexer.vectors.milvus import MilvusIndex, Stamp
from indexer.vectors.milvus_rows import collection_name
from indexer.vectors.segment import History
from indexer.vectors.tags import EVERYTHING, Filter
from models.types import FloatArray

T = TypeVar("T")
Report = Callable[[Progress], None]

_log = logging.getLogger(__name__)

_TRIES = 5
_BLOCK = 2_000
_UNFINISHED = History(-1, "")
"""On the shelf of a collection that is being made."""
_SERVERS = uuid.UUID("b8e5c1de-3b63-5a0c-9a55-0d3b1f6b7a11")


def connected(
    uri: str, token: str, name: GalleryName, contract_id: str, dimension: int
) -> MilvusIndex:
    """The collection of a gallery. Raises :class:`IndexAway`, :class:`IndexDamaged`."""
    return MilvusIndex(uri, collection_name(name, contract_id), dimension, token=token)


class RemoteGallery:
    """A :class:`~indexer.galleries.base.Gallery` in a collection of Milvus."""

    def __init__(
        self,
        catalog: Catalog,
        name: GalleryName,
        contract_id: str,
        dimension: int,
        index_dir: Path,
        index: MilvusIndex,
        *,
        report: Report = lambda _: None,
    ) -> None:
        self._report = report
        self.name: GalleryName = name
        self.contract_id = contract_id
        self._catalog = catalog
        self._dimension = dimension
        self._index = index
        # The shelf of the collection, in whatever folder a process has its own files.
        self._place = shelf.Place(str(uuid.uuid5(_SERVERS, index.uri)), name, contract_id)
        self._lock_path = index_dir / f".{name}-{contract_id}.sync.lock"
        self._lock = threading.RLock()
        self._upto: History | None = None
        self._version = 0
        index.ready()
        self.catch_up()

    # --- answers ------------------------------------------------------------------------------

    def count(self) -> int:
        # The catalog knows without asking the server.
        self.catch_up()
        with self._catalog.read() as session:
            return log.count_members(session, self.name, self.contract_id)

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
                lambda: self._index.search(probes, k, where=where, excluded=excluded), fresh=fresh
            )
            if not self._remove_strangers({face_id for one in found for face_id in one.ids}):
                return found
            fresh = True

    def scores(self, probes: FloatArray, face_ids: Sequence[str]) -> FloatArray:
        return self._settled(lambda: self._index.scores(probes, face_ids), fresh=False)

    def ids(self) -> set[str]:
        return self._settled(self._index.ids, fresh=True)

    def health(self) -> str | None:
        try:
            broken = self._index.health()
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

    def _remove_strangers(self, face_ids: set[str]) -> bool:
        """Take out what is no member; whether anything was found that has not left just now.

        A writer that lost its lock with its connection to the catalog may have added a face after
        another removed it.
        """
        with self._catalog.read() as session:
            newest = log.last_entry(session, self.name, self.contract_id)
            strangers = log.strangers(session, self.name, self.contract_id, face_ids)
        if not strangers:
            return False
        with self._lock:
            if self._upto is None or self._upto.seq < newest.seq:
                return True
            with self._alone():
                self._index.delete(strangers)
        return True

    def about(self) -> str:
        return f"collection {collection_name(self.name, self.contract_id)} in Milvus"

    def _settled(self, work: Callable[[], T], *, fresh: bool) -> T:
        """Do ``work`` on the whole collection: again, where it was made anew meanwhile."""
        for _ in range(_TRIES):
            try:
                if fresh:
                    self.catch_up()
                version, upto = self._version, self._upto
                found = work()
                if upto is not None and self._stands(version, upto):
                    return found
            except IndexDamaged as damage:
                _log.warning("the collection of the %s gallery: %s", self.name, damage.detail)
            except IndexAway:
                # While it is made anew it cannot be asked, and that passes.
                if not self._moved(self._version):
                    self._doubt()
                    raise
            self._doubt()
            fresh = True
        raise IndexAway("The collection is being made anew again and again.")

    def _stands(self, version: int, upto: History) -> bool:
        """Whether the collection was whole all the while: not made anew, and not lost."""
        if self._moved(version):
            return False
        for strong in (False, True):
            stamp = self._index.stamp(strong=strong)
            if stamp is not None and stamp.seq >= upto.seq:
                return True
        return False

    def _moved(self, version: int) -> bool:
        with self._catalog.read() as session:
            return shelf.version(session, self._place) != version

    def _doubt(self) -> None:
        """Look at the collection's own note before it is trusted again."""
        with self._lock:
            self._upto = None

    # --- keeping up ---------------------------------------------------------------------------

    def catch_up(self) -> int:
        with self._lock:
            with self._catalog.read() as session:
                newest = log.last_entry(session, self.name, self.contract_id)
                version = shelf.version(session, self._place)
            if self._upto is not None and version == self._version and self._upto.seq >= newest.seq:
                return 0
            try:
                with self._alone():
                    return self._follow()
            except BaseException:
                self._doubt()
                raise

    def _follow(self) -> int:
        with self._catalog.read() as session:
            found = shelf.published(session, self._place)
        upto = self._stamped()
        if found is None or found.upto == _UNFINISHED or upto is None:
            self._make_anew()
            return 0
        applied = 0
        while True:
            with self._catalog.read() as session:
                step = log.changes(session, self.name, self.contract_id, upto.seq)
                if step is None:
                    break
                added = list(log.faces(session, self.name, self.contract_id, step.added))
            self._index.delete(step.removed)
            for some in added:
                self._index.add(some.ids, some.vectors, some.tags)
            upto = step.upto
            self._index.set_stamp(Stamp(upto.seq, upto.seq_face_id))
            applied += step.entries
        self._upto, self._version = upto, found.version
        return applied

    def _stamped(self) -> History | None:
        """How far the collection is, by its own note; ``None`` where that is of no use."""
        stamp = self._index.stamp()
        if stamp is None:
            return None
        history = History(stamp.seq, stamp.face_id)
        with self._catalog.read() as session:
            return history if log.knows(session, self.name, self.contract_id, history) else None

    def _make_anew(self) -> None:
        _log.info("the collection of the %s gallery is made from the catalog", self.name)
        # First of all: whoever searches it now does so again afterwards.
        with self._catalog.write() as session:
            shelf.publish(session, self._place, upto=_UNFINISHED, gone=(), added=())
        self._index.reset()
        with self._catalog.read() as session:
            upto = log.last_entry(session, self.name, self.contract_id)
            done, total = 0, log.count_members(session, self.name, self.contract_id)
            for some in log.all_faces(session, self.name, self.contract_id, _BLOCK):
                self._report(Progress(stage=f"gallery of {self.name}", done=done, total=total))
                self._index.add(some.ids, some.vectors, some.tags)
                done += len(some.ids)
        self._report(Progress(stage=f"gallery of {self.name}", done=done, total=total))
        self._index.set_stamp(Stamp(upto.seq, upto.seq_face_id))
        with self._catalog.write() as session:
            version = shelf.publish(session, self._place, upto=upto, gone=(), added=())
        self._upto, self._version = upto, version

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Be the one that may write to the collection, among all processes of this catalog."""
        if self._catalog.is_sqlite:
            with file_lock(self._lock_path):
                yield
        else:
            with self._catalog.named_lock(f"{self._place.store_id}/{self._place.gallery}"):
                yield

    def rebuild(self) -> None:
        with self._lock, self._alone():
            self._make_anew()

    def save(self) -> None:
        """Nothing to do: the server keeps what it acknowledged."""

    def keep(self) -> None:
        # Whatever happened to the server since: its own note says how far it is.
        self._doubt()
        self.catch_up()

    def scrub(self) -> bool:
        # The server drops what was deleted when it compacts; the documents say by when.
        self.catch_up()
        return True

    def close(self) -> None:
        self._index.close()
