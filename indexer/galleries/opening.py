"""Which back end a gallery runs on: the one place that knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from indexer.catalog import Catalog
from indexer.galleries.base import Gallery
from indexer.galleries.folders import remove_segments
from indexer.galleries.local import LocalGallery
from indexer.galleries.shelf import catalog_id
from indexer.records import GalleryName, Progress
from indexer.vectors.scan import CpuScanner
from indexer.vectors.scanner import Scanner
from indexer.vectors.segment import Segment

if TYPE_CHECKING:
    from indexer.vectors.milvus import MilvusIndex

Vectors = Literal["local", "gpu", "milvus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOptions:
    """Where vectors are searched. ``threads`` scan at the same time.

    ``milvus_uri`` and ``milvus_token`` are of the server, where ``kind`` is ``milvus``.
    """

    kind: Vectors = "local"
    threads: int = 1
    milvus_uri: str = field(default="", repr=False)
    milvus_token: str = field(default="", repr=False)


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
        from indexer.galleries.remote import RemoteGallery

        return RemoteGallery(
            catalog, name, contract_id, index_dir, _connects(options, dimension), report=report
        )
    return LocalGallery(
        catalog, name, contract_id, dimension, index_dir, scanner(options.kind, options.threads)
    )


def _connects(options: VectorOptions, dimension: int) -> Callable[[str], MilvusIndex]:
    from indexer.vectors.milvus import MilvusIndex

    return lambda name: MilvusIndex(options.milvus_uri, name, dimension, token=options.milvus_token)


def drop(catalog: Catalog, index_dir: Path, options: VectorOptions) -> list[str]:
    """Remove what a back end holds of this catalog, under every contract; returns what it was.

    Raises the StorageError tree. Nothing may be using it: whoever does makes it anew.
    """
    if options.kind == "milvus":
        from indexer.vectors.milvus import drop_collections
        from indexer.vectors.milvus_rows import collection_prefix

        prefix = collection_prefix(catalog_id(catalog))
        return drop_collections(options.milvus_uri, prefix, token=options.milvus_token)
    return remove_segments(index_dir)


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
