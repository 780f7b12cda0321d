"""The back ends that the contract of a vector index is run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from indexer.vectors.base import VectorIndex
from indexer.vectors.milvus import MilvusIndex
from indexer.vectors.milvus_rows import collection_name
from indexer.vectors.numpy_index import NumpyIndex
from tests.indexer.vectors.sealing import SealingIndex
from tests.milvus import MilvusServer

Make = Callable[[int], VectorIndex]
"""Makes an empty index of a dimension. It may be the one made before, emptied."""


@pytest.fixture(scope="session")
def make_on_server(milvus_server: MilvusServer) -> Iterator[Make]:
    with _collections(milvus_server.uri) as make:
        yield make


@pytest.fixture(scope="session")
def make_on_lite(milvus_lite: str) -> Iterator[Make]:
    with _collections(milvus_lite) as make:
        yield make


def make_of(request: pytest.FixtureRequest, backend: str) -> Make:
    """What makes an index of this back end."""
    if backend == "numpy":
        return NumpyIndex
    if backend == "segments":
        folder = request.getfixturevalue("tmp_path")
        return lambda dimension: SealingIndex(folder, dimension)
    make: Make = request.getfixturevalue(
        {"milvus-lite": "make_on_lite", "milvus-server": "make_on_server"}[backend]
    )
    return make


@contextmanager
def _collections(uri: str) -> Iterator[Make]:
    """Indexes in collections that are kept: a server takes seconds to make one."""
    kept: dict[int, MilvusIndex] = {}
    yield partial(_emptied, uri, kept)
    for index in kept.values():
        index.close()


def _emptied(uri: str, kept: dict[int, MilvusIndex], dimension: int) -> MilvusIndex:
    if dimension not in kept:
        kept[dimension] = MilvusIndex(
            uri, collection_name("owner", "ads", f"d{dimension}"), dimension
        )
    index = kept[dimension]
    index.delete(index.ids())
    return index
