"""Writing a segment: whole or not at all, in bounded memory, with a digest for every piece."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.files import TEMP_SUFFIX, fsync_folder, storage_errors, write_atomic
from indexer.ids import new_id
from indexer.sealing.keyring import Keyring
from indexer.vectors.quantise import encode, fitted, quantiser, widest
from indexer.vectors.segment_head import (
    Head,
    History,
    data_path,
    file_bytes,
    head_path,
    layout,
    next_path,
)
from indexer.vectors.segment_ids import ID_BYTES, IdArray, sortable
from indexer.vectors.segment_sections import SectionWriter, writers
from indexer.vectors.segment_source import SegmentSource
from models.types import FloatArray

_LENGTH_TOLERANCE = 2e-3
"""Twice what the door of the index allows, so that another order of summation refuses nothing
that it let through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo:
    """``count`` rows, ``dead`` of them deleted; ``disk_bytes`` in all files together."""

    name: str
    count: int
    dead: int
    history: History
    disk_bytes: int


def write_segment(
    folder: Path,
    name: str,
    source: SegmentSource,
    *,
    gallery: str,
    contract_id: str,
    dimension: int,
    history: History,
    keys: Keyring | None = None,
) -> SegmentInfo:
    """Write the rows of ``source`` as segment ``name``; it is there whole or not at all. A name is
    used once: who holds a segment that was removed must not meet another in its place. Where there
    are ``keys`` it is encrypted, and nothing of it touches the disk before it is.

    A process that is killed may leave files that no head vouches for; ``sweep`` takes them away.
    Raises ``ValueError`` for a name that is taken or none, for no rows, and for rows that are out
    of order, of another shape or not L2-normalised; :class:`StorageFull` and its kin for the disk.
    """
    data, head_at = data_path(folder, name), head_path(folder, name)
    if source.count < 1 or source.columns.count != source.count:
        raise ValueError("a segment has at least one row, and columns for each")
    temporary = data.with_name(f".{data.name}.{new_id()}{TEMP_SUFFIX}")
    with storage_errors(str(data)):
        if head_at.exists() or next_path(folder, name).exists():
            raise ValueError(f"there is a segment {name} already")
        try:
            head = _write_data(
                temporary, name, source, gallery, contract_id, dimension, history, keys
            )
            os.replace(temporary, data)
            fsync_folder(folder)
            write_atomic(head_at, head.packed(keys))
        except BaseException:
            for path in (temporary, head_at, data):
                with suppress(OSError):
                    path.unlink()
            raise
        return info(folder, head)


def info(folder: Path, head: Head) -> SegmentInfo:
    """What is to be known about a segment that is not open."""
    return SegmentInfo(
        name=head.name,
        count=head.count,
        dead=len(head.dead),
        history=head.history,
        disk_bytes=head.data_bytes + head_path(folder, head.name).stat().st_size,
    )


def off_length(rows: FloatArray) -> NDArray[np.bool_]:
    """Which of ``rows``, (n, dimension), are not of unit length: bool (n,)."""
    with np.errstate(all="ignore"):  # torn or damaged bytes may be any number
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        near: NDArray[np.bool_] = np.abs(lengths - 1.0) <= _LENGTH_TOLERANCE
    return ~near


def _write_data(
    path: Path,
    name: str,
    source: SegmentSource,
    gallery: str,
    contract_id: str,
    dimension: int,
    history: History,
    keys: Keyring | None,
) -> Head:
    columns = source.columns.arrays()
    sections = layout(source.count, dimension, columns)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(handle, file_bytes(sections, sealed=keys is not None))
        into = writers(handle, name, sections, keys)
        # What only shows as the rows go by: their mean, and each component's extremes, from which
        # the widest difference from the mean follows without another pass.
        extremes = np.zeros((2, dimension), np.float32)
        extremes[0], extremes[1] = np.inf, -np.inf
        rows_written = _written(source, dimension, into["ids"], into["vectors"], extremes)
        centre = fitted(rows_written, dimension)
        by = quantiser(centre, widest([extremes], centre))
        residual = reach = 0.0
        digests = {"vectors": into["vectors"].finished()}
        for block in into["vectors"].blocks():
            codes, block_residual, block_reach = encode(block, by)
            residual, reach = max(residual, block_residual), max(reach, block_reach)
            into["codes"].write(codes)
        for column, values in columns.items():
            into[column].write(values.astype(into[column].section.dtype, copy=False))
        digests |= {one: into[one].finished() for one in into if one != "vectors"}
        os.fsync(handle)
    finally:
        os.close(handle)
    return Head(
        name=name,
        gallery=gallery,
        contract_id=contract_id,
        dimension=dimension,
        count=source.count,
        scale=by.scale,
        residual=residual,
        reach=reach,
        words=source.columns.words,
        sections=sections,
        history=history,
        centre=centre,
        digests=digests,
        dead=np.zeros(0, np.int64),
        keys=tuple(sorted(set().union(*(writer.keys for writer in into.values())))),
    )


def _written(
    source: SegmentSource,
    dimension: int,
    ids_to: SectionWriter,
    vectors_to: SectionWriter,
    extremes: FloatArray,
) -> Iterator[FloatArray]:
    """The vectors of the source, block by block, each written and measured."""
    count, last = 0, np.zeros((0, ID_BYTES), np.uint8)
    for ids, vectors in source.blocks():
        if ids.shape != (len(vectors), ID_BYTES) or vectors.shape != (len(ids), dimension):
            raise ValueError(f"a block has shapes {ids.shape} and {vectors.shape}")
        if np.any(off_length(vectors)):
            raise ValueError("a vector is not L2-normalised")
        _check_ascending(np.concatenate([last, ids]))
        count, last = count + len(ids), ids[-1:] if len(ids) else last
        if count > source.count:
            break
        ids_to.write(ids)
        vectors_to.write(vectors.astype("<f4", copy=False))
        np.minimum(extremes[0], vectors.min(axis=0, initial=np.inf), out=extremes[0])
        np.maximum(extremes[1], vectors.max(axis=0, initial=-np.inf), out=extremes[1])
        yield vectors
    if count != source.count:
        raise ValueError(f"the source has other than the {source.count} rows it speaks of")


def _check_ascending(ids: IdArray) -> None:
    keys = sortable(ids)
    if not np.all(keys[1:] > keys[:-1]):
        raise ValueError("the ids are not in ascending order, or one is there twice")
