"""The two galleries: *cases* (faces of missing persons) and *ads* (faces in ads).

The catalog says which faces a gallery holds (``gallery_members``) and in which order that changed
(``gallery_log``). A :class:`Gallery` is one process's view of it in memory: it catches up from
the log before it answers, so that an addition or a deletion made by any process counts in all.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog import Catalog
from indexer.catalog.tables import Face, GalleryLog, GalleryMember
from indexer.catalog.types import stacked
from indexer.errors import IndexDamaged
from indexer.files import file_lock, storage_errors
from indexer.records import GalleryName
from indexer.vectors import FaissIndex, Neighbours, VectorIndex
from indexer.vectors.snapshot import SnapshotHeader, read_snapshot, write_snapshot
from models.types import FloatArray

_log = logging.getLogger(__name__)

_LOG_ROWS = 20_000
_SNAPSHOT_AFTER = 2_000
_SNAPSHOT_SHARE = 0.1


def add_faces(
    session: Session, gallery: GalleryName, contract_id: str, face_ids: Collection[str]
) -> list[str]:
    """Put faces into a gallery, in the caller's transaction; returns those that were not in it."""
    present = _members(session, gallery, contract_id, face_ids)
    fresh = [face_id for face_id in dict.fromkeys(face_ids) if face_id not in present]
    if fresh:
        rows = [
            {"gallery": gallery, "contract_id": contract_id, "face_id": face_id}
            for face_id in fresh
        ]
        session.execute(insert(GalleryMember), rows)
        session.execute(insert(GalleryLog), [{**row, "op": "add"} for row in rows])
    return fresh


def remove_faces(
    session: Session, gallery: GalleryName, contract_id: str, face_ids: Collection[str]
) -> list[str]:
    """Take faces out of a gallery, in the caller's transaction; returns those that were in it."""
    present = _members(session, gallery, contract_id, face_ids)
    gone = [face_id for face_id in dict.fromkeys(face_ids) if face_id in present]
    for some in chunks(gone):
        session.execute(
            delete(GalleryMember).where(
                GalleryMember.gallery == gallery,
                GalleryMember.contract_id == contract_id,
                GalleryMember.face_id.in_(some),
            )
        )
    if gone:
        session.execute(
            insert(GalleryLog),
            [
                {"gallery": gallery, "contract_id": contract_id, "face_id": face_id, "op": "remove"}
                for face_id in gone
            ],
        )
    return gone


def drop_idle_vectors(session: Session, face_ids: Iterable[str]) -> int:
    """Erase the vectors of those faces that are in no gallery; returns how many were erased."""
    erased = 0
    for some in chunks(face_ids):
        idle = list(
            session.scalars(
                select(Face.face_id).where(
                    Face.face_id.in_(some),
                    Face.vector.is_not(None),
                    ~select(GalleryMember.face_id)
                    .where(GalleryMember.face_id == Face.face_id)
                    .exists(),
                )
            )
        )
        session.execute(update(Face).where(Face.face_id.in_(idle)).values(vector=None))
        erased += len(idle)
    return erased


def _members(
    session: Session, gallery: str, contract_id: str, face_ids: Collection[str]
) -> set[str]:
    found: set[str] = set()
    for some in chunks(face_ids):
        found.update(
            session.scalars(
                select(GalleryMember.face_id).where(
                    GalleryMember.gallery == gallery,
                    GalleryMember.contract_id == contract_id,
                    GalleryMember.face_id.in_(some),
                )
            )
        )
    return found


class Gallery:
    """One process's view of a gallery under one contract; safe to use from several threads."""

    def __init__(
        self,
        catalog: Catalog,
        name: GalleryName,
        contract_id: str,
        dimension: int,
        folder: Path,
        *,
        threads: int = 1,
    ) -> None:
        self.name: GalleryName = name
        self.contract_id = contract_id
        self._catalog = catalog
        self._dimension = dimension
        self._threads = threads
        self._path = folder / f"{name}-{contract_id}.index"
        self._file_lock = folder / f".{name}-{contract_id}.lock"
        self._lock = threading.RLock()
        self._index: VectorIndex = FaissIndex(dimension, threads=threads)
        self._seq = 0
        self._unsaved = 0
        self._open()

    # --- answers ------------------------------------------------------------------------------

    def count(self) -> int:
        """Faces in the gallery now."""
        with self._lock:
            self.catch_up()
            return self._index.count()

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        allowed: Collection[str] | None = None,
        excluded: Collection[str] = (),
        fresh: bool = True,
    ) -> list[Neighbours]:
        """The exact ``k`` nearest faces of each probe (float32, (n, dimension)).

        ``fresh=False`` skips catching up: for the second step of one answer.
        """
        with self._lock:
            if fresh:
                self.catch_up()
            return self._index.search(probes, k, allowed=allowed, excluded=excluded)

    def scores(self, probes: FloatArray, face_ids: Sequence[str]) -> FloatArray:
        """Exact scores of shape (probes, faces), without catching up.

        Raises ``KeyError`` for a face that is not in the view.
        """
        with self._lock:
            return self._index.scores(probes, face_ids)

    def ids(self) -> set[str]:
        """The faces in the gallery now."""
        with self._lock:
            self.catch_up()
            return set(self._index.dump()[0])

    def health(self) -> str | None:
        """What is wrong with the view, or ``None`` if it agrees with the catalog."""
        with self._lock:
            broken = self._index.health()
            if broken is not None:
                return broken
            with self._catalog.read() as session:
                expected = set(
                    session.scalars(
                        select(GalleryMember.face_id).where(
                            GalleryMember.gallery == self.name,
                            GalleryMember.contract_id == self.contract_id,
                        )
                    )
                )
                self._follow(session)
            held = set(self._index.dump()[0])
        if held == expected:
            return None
        return (
            f"{len(expected - held)} faces are missing in the index, {len(held - expected)} extra"
        )

    # --- keeping up ---------------------------------------------------------------------------

    def catch_up(self) -> int:
        """Apply what the log has since the last call; returns how many entries."""
        with self._lock, self._catalog.read() as session:
            return self._follow(session)

    def rebuild(self) -> None:
        """Throw the view away and read it from the catalog."""
        with self._lock, self._catalog.read() as session:
            index = FaissIndex(self._dimension, threads=self._threads)
            seq = self._last_seq(session)
            rows = session.execute(
                select(Face.face_id, Face.vector)
                .join(GalleryMember, GalleryMember.face_id == Face.face_id)
                .where(
                    GalleryMember.gallery == self.name,
                    GalleryMember.contract_id == self.contract_id,
                    Face.vector.is_not(None),
                )
                .execution_options(yield_per=4096)
            )
            for part in rows.partitions():
                index.add([row[0] for row in part], stacked(row[1] for row in part))
            self._index, self._seq = index, seq
            self._unsaved = index.count()

    def _follow(self, session: Session) -> int:
        applied = 0
        while True:
            entries = session.execute(
                select(GalleryLog.seq, GalleryLog.face_id, GalleryLog.op)
                .where(
                    GalleryLog.gallery == self.name,
                    GalleryLog.contract_id == self.contract_id,
                    GalleryLog.seq > self._seq,
                )
                .order_by(GalleryLog.seq)
                .limit(_LOG_ROWS)
            ).all()
            if not entries:
                return applied
            last = {face_id: op for _, face_id, op in entries}
            self._index.delete([face_id for face_id, op in last.items() if op == "remove"])
            for some in chunks(face_id for face_id, op in last.items() if op == "add"):
                rows = session.execute(
                    select(Face.face_id, Face.vector).where(
                        Face.face_id.in_(some), Face.vector.is_not(None)
                    )
                ).all()
                if rows:
                    self._index.add([row[0] for row in rows], stacked(row[1] for row in rows))
            self._seq = entries[-1][0]
            self._unsaved += len(entries)
            applied += len(entries)

    def _last_seq(self, session: Session) -> int:
        return (
            session.scalar(
                select(func.max(GalleryLog.seq)).where(
                    GalleryLog.gallery == self.name, GalleryLog.contract_id == self.contract_id
                )
            )
            or 0
        )

    # --- the snapshot -------------------------------------------------------------------------

    def _open(self) -> None:
        with self._lock:
            try:
                self._load()
            except IndexDamaged as damage:
                _log.warning(
                    "the index of the %s gallery is rebuilt from the catalog: %s",
                    self.name,
                    damage.detail,
                )
                self.rebuild()
            self.catch_up()

    def _load(self) -> None:
        stored = read_snapshot(
            self._path,
            gallery=self.name,
            contract_id=self.contract_id,
            dimension=self._dimension,
        )
        if stored is None:
            self.rebuild()
            return
        header, ids, vectors = stored
        with self._catalog.read() as session:
            face_id = session.scalar(
                select(GalleryLog.face_id).where(
                    GalleryLog.seq == header.seq,
                    GalleryLog.gallery == self.name,
                    GalleryLog.contract_id == self.contract_id,
                )
            )
        if header.seq and face_id != header.seq_face_id:
            raise IndexDamaged(f"{self._path.name} belongs to another history of the catalog.")
        index = FaissIndex(self._dimension, threads=self._threads)
        try:
            index.add(ids, vectors)
        except ValueError as error:
            raise IndexDamaged(
                f"{self._path.name} holds a vector that is none: {error}."
            ) from error
        self._index, self._seq, self._unsaved = index, header.seq, 0

    def save_if_due(self) -> bool:
        """Write the snapshot if enough has changed since the last to make opening slow."""
        with self._lock:
            due = self._unsaved > max(_SNAPSHOT_AFTER, _SNAPSHOT_SHARE * self._index.count())
        if due:
            self.save()
        return due

    def save(self) -> None:
        """Write the snapshot: what the catalog holds now, never what it no longer holds."""
        # The file lock orders this against discard(): a deletion that is committed is either
        # caught up here before writing, or its discard comes after this write.
        with file_lock(self._file_lock), self._lock:
            with self._catalog.read() as session:
                self._follow(session)
                face_id = session.scalar(
                    select(GalleryLog.face_id).where(GalleryLog.seq == self._seq)
                )
            ids, vectors = self._index.dump()
            header = SnapshotHeader(
                gallery=self.name,
                contract_id=self.contract_id,
                dimension=self._dimension,
                count=len(ids),
                seq=self._seq,
                seq_face_id=face_id or "",
            )
            write_snapshot(self._path, header, ids, vectors)
            self._unsaved = 0

    def discard_snapshot(self) -> None:
        """Remove the file, because it holds a vector that was deleted; it is written anew later."""
        with file_lock(self._file_lock), self._lock, storage_errors(str(self._path)):
            self._path.unlink(missing_ok=True)
            self._unsaved = max(self._unsaved, self._index.count())
