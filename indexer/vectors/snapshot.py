"""A gallery's vectors in one checksummed file, so that opening does not read the whole catalog.

Layout: 8 bytes magic with the version, the 32-byte SHA-256 of everything after it, the length of
the header (4 bytes, little-endian), the header (JSON), the ids (36 ASCII bytes each), the vectors
(float32, little-endian). The file is only a cache: any doubt about it means that it is rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from indexer.errors import IndexDamaged
from indexer.files import storage_errors, write_atomic
from models.types import FloatArray

_MAGIC = b"HMWDIX01"
_START = len(_MAGIC) + 32
_ID_BYTES = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotHeader:
    """``seq`` is the last entry of the gallery's log that is in; ``seq_face_id`` the face it names,
    by which a log with another history (a restored catalog) is told apart."""

    gallery: str
    contract_id: str
    dimension: int
    count: int
    seq: int
    seq_face_id: str


def write_snapshot(path: Path, header: SnapshotHeader, ids: list[str], vectors: FloatArray) -> None:
    """Replace the file at ``path``, whole or not at all. Raises as ``write_atomic`` does."""
    if not len(ids) == len(vectors) == header.count:
        raise ValueError("the header's count is not that of the rows")
    text = json.dumps(asdict(header), sort_keys=True).encode()
    names = "".join(ids).encode("ascii")
    if len(names) != _ID_BYTES * len(ids):
        raise ValueError(f"an id is not {_ID_BYTES} characters long")
    rows = np.ascontiguousarray(vectors, dtype="<f4").data.cast("B") if ids else b""
    parts = [struct.pack("<I", len(text)), text, names, rows]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    write_atomic(path, [_MAGIC, digest.digest(), *parts])


def read_snapshot(
    path: Path, *, gallery: str, contract_id: str, dimension: int
) -> tuple[SnapshotHeader, list[str], FloatArray] | None:
    """What the file holds, or ``None`` if there is no file.

    Raises :class:`IndexDamaged` for a file that fails its checksum, is cut short, is of another
    version, or belongs to another gallery, contract or dimension.
    """
    with storage_errors(str(path)):
        if not path.exists():
            return None
        size = path.stat().st_size
        if size < _START + 4:
            raise IndexDamaged(f"{path.name} is cut short ({size} bytes).")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _parsed(path.name, view, gallery, contract_id, dimension)


def _parsed(
    name: str, view: mmap.mmap, gallery: str, contract_id: str, dimension: int
) -> tuple[SnapshotHeader, list[str], FloatArray]:
    if view[: len(_MAGIC)] != _MAGIC:
        raise IndexDamaged(f"{name} is no index of this version.")
    with memoryview(view) as whole, whole[_START:] as body:
        if hashlib.sha256(body).digest() != view[len(_MAGIC) : _START]:
            raise IndexDamaged(f"{name} fails its checksum.")
    (length,) = struct.unpack_from("<I", view, _START)
    ids_at = _START + 4 + length
    try:
        header = SnapshotHeader(**json.loads(view[_START + 4 : ids_at]))
    except (ValueError, TypeError) as error:
        raise IndexDamaged(f"{name} has no readable header.") from error
    if (header.gallery, header.contract_id, header.dimension) != (gallery, contract_id, dimension):
        raise IndexDamaged(
            f"{name} is for {header.gallery} under {header.contract_id}, "
            f"not for {gallery} under {contract_id}."
        )
    rows_at = ids_at + _ID_BYTES * header.count
    if len(view) != rows_at + 4 * dimension * header.count:
        raise IndexDamaged(f"{name} has another length than its header says.")
    names = view[ids_at:rows_at].decode("ascii")
    ids = [names[i : i + _ID_BYTES] for i in range(0, len(names), _ID_BYTES)]
    vectors = np.frombuffer(view[rows_at:], dtype="<f4").reshape(header.count, dimension)
    return header, ids, vectors.astype(np.float32, copy=False)
