"""Which back end a gallery runs on: the one place that knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from indexer.catalog import Catalog
from indexer.galleries.base import Gallery
from indexer.galleries.local import LocalGallery
from indexer.records import GalleryName, Progress
from indexer.vectors.scan import CpuScanner
from indexer.vectors.scanner import Scanner
from indexer.vectors.segment import Segment

Vectors = Literal["local", "gpu", "milvus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOptions:
    """Where vectors are searched. ``threads`` scan at the same time.

    ``milvus_uri`` and ``milvus_token`` are of the server, where ``kind`` is ``milvus``.
    """

    kind: Vectors = "local"
    threads: int = 1
    milvus_uri: str = ""
    milvus_token: str = ""


LOCAL = VectorOptions()
"""Segments on this machine, searched by one thread."""


def open_gallery(
    catalog: Catalog,
    name: GalleryName,
    contract_id: str,
    dimension: int,
    index_dir: Path,
    options: VectorOptions,
    *,
    report: Callable[[Progress], None] = lambda _: None,
) -> Gallery:
    """Open a gallery on the back end that is asked for, and bring it up to date. ``report`` is
    told how far that is where it takes long.

    Raises the StorageError tree, and ``ProviderUnavailable`` for a GPU that is not there: nothing
    else takes its place in silence.
    """
    if options.kind == "milvus":
        from indexer.galleries.remote import RemoteGallery, connected

        index = connected(options.milvus_uri, options.milvus_token, name, contract_id, dimension)
        return RemoteGallery(catalog, name, contract_id, dimension, index_dir, index, report=report)
    return LocalGallery(
        catalog, name, contract_id, dimension, index_dir, scanner(options.kind, options.threads)
    )


@dataclass(frozen=True, slots=True)
class Migrated:
    """A gallery on a back end: how many ``faces``, where, and what is wrong (``None``: nothing)."""

    name: GalleryName
    faces: int
    where: str
    problem: str | None


def migrate(
    catalog: Catalog,
    contract_id: str,
    dimension: int,
    index_dir: Path,
    options: VectorOptions,
    report: Callable[[Progress], None] = lambda _: None,
) -> list[Migrated]:
    """Fill both galleries of a back end from the catalog and compare them with it.

    Whatever runs goes on with its own back end meanwhile; one that is full already is only brought
    up to date. Raises as :func:`open_gallery`.
    """
    moved = []
    names: tuple[GalleryName, ...] = ("cases", "ads")
    for name in names:
        gallery = open_gallery(
            catalog, name, contract_id, dimension, index_dir, options, report=report
        )
        try:
            gallery.save()
            moved.append(Migrated(name, gallery.count(), gallery.about(), gallery.health()))
        finally:
            gallery.close()
    return moved


def scanner(kind: Literal["local", "gpu"], threads: int) -> Callable[[Segment], Scanner]:
    """What makes the scanner of a segment. Raises ``ProviderUnavailable``."""
    if kind == "gpu":
        from indexer.vectors import gpu

        devices = gpu.require_gpu()
        return lambda segment: gpu.GpuScanner(
            segment.matrix(),
            devices=devices,
            elsewhere=CpuScanner(segment.codes, threads=threads),
        )
    return lambda segment: CpuScanner(segment.codes, threads=threads)
