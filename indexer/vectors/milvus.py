"""Exhaustive search in Milvus, for galleries that outgrow one machine, made exact here.

Milvus scans every vector in float32 (index ``FLAT``, metric ``IP``) and gives a shortlist with the
vectors; those are scored again in float64, and the shortlist is widened until no row outside of
it can belong to the answer: Milvus's last score plus the largest float32 error is below the k-th
exact score. A server gives :data:`LIMIT` rows at most; where that is not enough (thousands of
equal vectors), the faces are split by id and each part is searched by itself.

Every read is *Strong*: it waits until all writes that were acknowledged before are in it, by
whatever process, so that a deletion counts at once. That costs one time tick of the server (200
ms by default, its setting ``proxy.timeTickInterval``); a weaker level is faster and can miss rows.

The collection has one shard, because writes of one request take effect together only within one:
a face is replaced, its rows old and new, at one moment. Agency is a plain field and no partition
key: a face may be shown under several agencies and its rows must stay together, most searches
name none and would have to look into every partition, and a scan passes over rows of others
quickly.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from indexer.errors import IndexAway, IndexDamaged, StorageError
from indexer.ids import is_id, new_id
from indexer.vectors import milvus_rows as rows_of
from indexer.vectors.base import (
    NO_NEIGHBOURS,
    Neighbours,
    checked,
    checked_probes,
    checked_tags,
    exact_scores,
    float_error,
    score_table,
)
from indexer.vectors.milvus_client import ChangedMeanwhile, calling, connect, pymilvus
from indexer.vectors.milvus_search import Search, Shortlist
from indexer.vectors.tags import EVERYTHING, Filter, Tag
from models.types import FloatArray

LIMIT: Final = 16_384
"""Rows that a server returns for one probe at most."""

_FACES_AT_ONCE = 1000
_IDS_AT_ONCE = 50_000
# A server takes and sends messages of up to 64 MiB by default.
_MESSAGE_BYTES = 24 * 2**20
_ROW_OVERHEAD = 400  # bytes of a row besides its vector
_TRIES = 5
_MAKING_SECONDS = 120.0  # making a collection and reading it into memory
_STAMP = "stamp"


@dataclass(frozen=True, slots=True)
class Stamp:
    """How far the collection has been brought: the entry of the gallery's log, and its face.

    ``making``: which filling of the collection this goes on from.
    """

    seq: int
    face_id: str
    making: str


class MilvusIndex:
    """A :class:`~indexer.vectors.base.VectorIndex` in one collection of a Milvus server.

    ``uri`` is the server's address (or a file ``.db`` for the embedded milvus-lite), ``name`` the
    collection (see :func:`~indexer.vectors.milvus_rows.collection_name`), made if it is not
    there; ``timeout``: seconds for each call. Searches by several threads and processes are fine;
    writes want one process at a time, which the owner sees to.

    Every method raises :class:`~indexer.errors.IndexAway` for a server that does not answer, and
    :class:`~indexer.errors.IndexDamaged` for a collection that is gone or is another.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        dimension: int,
        *,
        token: str = "",
        database: str = "",
        timeout: float = 10.0,
    ) -> None:
        self._name = name
        self._dimension = dimension
        self._timeout = timeout
        self._error = float_error(dimension)
        self._row_bytes = 4 * dimension + _ROW_OVERHEAD
        self._limit = min(LIMIT, _MESSAGE_BYTES // self._row_bytes)
        self._client = connect(uri, token=token, database=database, timeout=timeout)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    # --- the collection -----------------------------------------------------------------------

    def _open(self) -> None:
        """Make the collection or check the one that is there, and have it in memory.

        Each step is taken where it is missing, so that one cut short is finished by the next.
        """
        limit = max(self._timeout, _MAKING_SECONDS)
        with calling(self._timeout):
            missing = not self._client.has_collection(self._name, timeout=self._timeout)
        with calling(limit):
            if missing:
                self._create(limit)
            if not self._client.list_indexes(self._name, timeout=self._timeout):
                self._client.create_index(self._name, self._index(), timeout=limit)
            self._check()
            self._client.load_collection(self._name, timeout=limit)

    def _create(self, limit: float) -> None:
        module = pymilvus()
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        for name, (kind, parameters) in rows_of.fields(self._dimension).items():
            schema.add_field(name, module.DataType[kind], is_primary=name == "key", **parameters)
        self._client.create_collection(
            self._name,
            schema=schema,
            num_shards=1,
            consistency_level="Strong",
            timeout=limit,
        )

    def _index(self) -> Any:
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="IP", index_name="vector")
        return index

    def _check(self) -> None:
        there = self._client.describe_collection(self._name, timeout=self._timeout)
        index = self._client.describe_index(self._name, "vector", timeout=self._timeout) or {}
        found = {
            field["name"]: (field["type"].name, dict(field["params"])) for field in there["fields"]
        }
        for ours, theirs, what in (
            (rows_of.fields(self._dimension), found, "fields"),
            (("FLAT", "IP"), (index.get("index_type"), index.get("metric_type")), "index"),
            (1, there["num_shards"], "number of shards"),
        ):
            if ours != theirs:
                raise IndexDamaged(
                    f"The collection {self._name} in Milvus is not as it has to be: its {what} "
                    "differ from what this version of Homeward makes for this face pack.",
                    remedy="Drop that collection in Milvus; it is filled again from the catalog.",
                )

    def ready(self) -> None:
        """Prove that a row written now is read back, and so all that was acknowledged before.

        Raises :class:`IndexAway` if not. After a start of the server a collection may be there
        long before its rows are.
        """
        nonce = new_id()
        row_key = f"ready/{nonce}"
        with calling(self._timeout):
            self._check()
            self._client.load_collection(self._name, timeout=self._timeout)
        self._upsert([rows_of.no_face(row_key, self._dimension, nonce)])
        seen = [row["note"] for row in self._query(rows_of.keyed([row_key]), ["note"])]
        self._delete_rows([row_key])
        if seen != [nonce]:
            raise IndexAway("a row that it acknowledged is not there when read back")

    def health(self) -> str | None:
        try:
            self.ready()
        except StorageError as error:
            return str(error)
        return None

    def reset(self) -> None:
        """Empty the collection, the stamp with it.

        It is dropped and made again. A search in between raises, or finds no face and no stamp:
        whoever searches beside it has to look at the stamp.
        """
        with calling(self._timeout):
            self._client.drop_collection(self._name, timeout=self._timeout)
        self._open()

    def reopen(self) -> None:
        """Have the collection there and in memory, whatever was done to it; then :meth:`ready`."""
        self._open()
        self.ready()

    def collections(self, prefix: str) -> list[str]:
        """The names of all collections of the server that begin so."""
        with calling(self._timeout):
            names = self._client.list_collections(timeout=self._timeout)
        return sorted(name for name in names if name.startswith(prefix))

    def drop(self, name: str) -> None:
        """Drop a collection, this one or another, with all that is in it."""
        with calling(self._timeout):
            self._client.drop_collection(name, timeout=self._timeout)

    def close(self) -> None:
        self._client.close()

    @property
    def dimension(self) -> int:
        return self._dimension

    # --- the stamp ----------------------------------------------------------------------------

    def stamp(self, *, strong: bool = True) -> Stamp | None:
        """What :meth:`set_stamp` wrote last; ``None`` in a new collection.

        ``strong=False`` is quick, and may give an earlier one.
        """
        rows = self._query(rows_of.keyed([_STAMP]), ["note"], strong=strong)
        notes = [row["note"] for row in rows]
        if not notes:
            return None
        try:
            said = json.loads(notes[0])
            return Stamp(int(said["seq"]), str(said["face_id"]), str(said["making"]))
        except (ValueError, KeyError, TypeError):
            raise IndexDamaged(
                f"The stamp of the collection {self._name} in Milvus cannot be read.",
                remedy="It is filled again from the catalog.",
            ) from None

    def set_stamp(self, stamp: Stamp) -> None:
        """Note how far the collection has been brought, for all processes and later starts."""
        note = json.dumps(asdict(stamp))
        self._upsert([rows_of.no_face(_STAMP, self._dimension, note)])

    # --- writing ------------------------------------------------------------------------------

    def add(
        self,
        ids: Sequence[str],
        vectors: FloatArray,
        tags: Sequence[Sequence[Tag]] | None = None,
    ) -> None:
        """As the protocol says; each face changes at one moment, many faces one after the other."""
        vectors = checked(ids, vectors, self._dimension)
        some = checked_tags(ids, tags)
        faces = [
            rows_of.face_rows(face_id, vector, own)
            for face_id, vector, own in zip(ids, vectors, some, strict=True)
        ]
        for batch in self._batches(faces):
            known = self._row_counts([face[0]["face_id"] for face in batch])
            rows: list[rows_of.Row] = []
            surplus: list[str] = []
            for face in batch:
                face_id = face[0]["face_id"]
                more = [
                    rows_of.key(face_id, ordinal)
                    for ordinal in range(len(face), known.get(face_id, 0))
                ]
                # Rows that the face has no more are overwritten in the very request that brings
                # the new ones, and taken out afterwards; until then the face answers for them.
                for row in face:
                    row["rows"] += len(more)
                rows += face
                rows += [rows_of.no_face(row_key, self._dimension) for row_key in more]
                surplus += more
            self._upsert(rows)
            self._delete_rows(surplus)

    def delete(self, ids: Collection[str]) -> int:
        gone = 0
        wanted = sorted(face_id for face_id in set(ids) if is_id(face_id))
        for start in range(0, len(wanted), _FACES_AT_ONCE):
            known = self._row_counts(wanted[start : start + _FACES_AT_ONCE])
            self._delete_rows(
                rows_of.key(face_id, ordinal)
                for face_id, count in known.items()
                for ordinal in range(count)
            )
            gone += len(known)
        return gone

    def _batches(self, faces: list[list[rows_of.Row]]) -> Iterator[list[list[rows_of.Row]]]:
        """Faces in parts that fit into one request each; the rows of a face stay together."""
        most = max(1, _MESSAGE_BYTES // 3 // self._row_bytes)
        batch: list[list[rows_of.Row]] = []
        rows = 0
        for face in faces:
            if batch and (rows + len(face) > most or len(batch) == _FACES_AT_ONCE):
                yield batch
                batch, rows = [], 0
            batch.append(face)
            rows += len(face)
        if batch:
            yield batch

    def _row_counts(self, ids: Sequence[str]) -> dict[str, int]:
        """How many rows each of these faces has or may have, for those that are there."""
        found = self._query(rows_of.keyed(map(rows_of.key, ids)), ["face_id", "rows"])
        return {row["face_id"]: row["rows"] for row in found}

    def _upsert(self, rows: list[rows_of.Row]) -> None:
        with calling(self._timeout):
            self._client.upsert(self._name, rows, timeout=self._timeout)

    def _delete_rows(self, keys: Iterable[str]) -> None:
        if wanted := list(keys):
            with calling(self._timeout):
                self._client.delete(self._name, filter=rows_of.keyed(wanted), timeout=self._timeout)

    # --- reading ------------------------------------------------------------------------------

    def count(self) -> int:
        (row,) = self._query(rows_of.ALL_FACES, ["count(*)"])
        return int(row["count(*)"])

    def ids(self) -> set[str]:
        """As the protocol says, read in parts: not one moment's if faces are added meanwhile."""
        parts = 1 + self.count() // _IDS_AT_ONCE
        edges = [rows_of.BUCKETS * part // parts for part in range(parts + 1)]
        found: set[str] = set()
        for first, end in pairwise(edges):
            terms = f"{rows_of.ALL_FACES} and bucket >= {first} and bucket < {end}"
            found.update(row["face_id"] for row in self._query(terms, ["face_id"]))
        return found

    def scores(self, probes: FloatArray, ids: Sequence[str]) -> FloatArray:
        probes = checked_probes(probes, self._dimension)
        if strange := [face_id for face_id in ids if not is_id(face_id)]:
            raise KeyError(strange[0])
        vectors: dict[str, FloatArray] = {}
        for start in range(0, len(ids), _FACES_AT_ONCE):
            keys = map(rows_of.key, ids[start : start + _FACES_AT_ONCE])
            for row in self._query(rows_of.keyed(keys), ["face_id", "vector"]):
                vectors[row["face_id"]] = np.array(row["vector"], np.float32)
        matrix = np.empty((len(ids), self._dimension), np.float32)
        for i, face_id in enumerate(ids):
            matrix[i] = vectors[face_id]
        return score_table(probes, matrix)

    def _query(self, terms: str, names: list[str], *, strong: bool = True) -> list[dict[str, Any]]:
        with calling(self._timeout):
            found = self._client.query(
                self._name,
                filter=terms,
                output_fields=names,
                consistency_level="Strong" if strong else "Eventually",
                timeout=self._timeout,
            )
        return list(found)

    # --- searching ----------------------------------------------------------------------------

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        where: Filter = EVERYTHING,
        excluded: Collection[str] = (),
    ) -> list[Neighbours]:
        probes = checked_probes(probes, self._dimension)
        terms = rows_of.expression(where)
        if k <= 0 or terms is None or not len(probes):
            return [NO_NEIGHBOURS] * len(probes)
        search = Search(self._shortlists, self._error, self._limit, k, terms, frozenset(excluded))
        for _ in range(_TRIES):
            try:
                return search.run(probes)
            except ChangedMeanwhile:
                continue
        raise IndexAway("rows change faster than they can be read, or its scores are not exact")

    def _shortlists(self, probes: FloatArray, fetch: int, terms: str) -> list[Shortlist]:
        """For each probe the ``fetch`` rows nearest to it, vectors included, scored exactly."""
        out: list[Shortlist] = []
        at_once = max(1, _MESSAGE_BYTES // (fetch * self._row_bytes))
        for start in range(0, len(probes), at_once):
            some = probes[start : start + at_once]
            with calling(self._timeout):
                answers = self._client.search(
                    self._name,
                    data=list(some),
                    limit=fetch,
                    filter=terms,
                    anns_field="vector",
                    search_params={"metric_type": "IP"},
                    output_fields=["face_id", "vector"],
                    consistency_level="Strong",
                    timeout=self._timeout,
                )
            out += [
                self._shortlist(probe, answer, fetch)
                for probe, answer in zip(some, answers, strict=True)
            ]
        return out

    def _shortlist(self, probe: FloatArray, answer: Any, fetch: int) -> Shortlist:
        ids: dict[str, int] = {}
        vectors: list[Any] = []
        theirs: list[float] = []
        last = np.inf
        for row in answer:
            last = min(last, row["distance"])
            entity = row["entity"]
            if entity["face_id"] not in ids:
                ids[entity["face_id"]] = len(ids)
                vectors.append(entity["vector"])
                theirs.append(row["distance"])
        if not ids:
            return Shortlist((), np.empty(0, np.float32), None)
        exact = exact_scores(probe, np.array(vectors, np.float32))
        # The server reads vectors after it has scored them. A score that is not the vector's
        # tells that the face was replaced in between, or that the server computes with less than
        # float32, on which the bound below rests.
        if np.any(np.abs(exact - np.array(theirs, np.float64)) > self._error):
            raise ChangedMeanwhile
        return Shortlist(tuple(ids), exact, last if len(answer) >= fetch else None)


def drop_collections(
    uri: str, prefix: str, *, token: str = "", database: str = "", timeout: float = 10.0
) -> list[str]:
    """Drop all collections of a server whose names begin so; returns their names.

    Raises :class:`~indexer.errors.IndexAway` for a server that does not answer.
    """
    client = connect(uri, token=token, database=database, timeout=timeout)
    try:
        with calling(timeout):
            names = client.list_collections(timeout=timeout)
            gone = sorted(name for name in names if name.startswith(prefix))
            for name in gone:
                client.drop_collection(name, timeout=timeout)
    finally:
        client.close()
    return gone
