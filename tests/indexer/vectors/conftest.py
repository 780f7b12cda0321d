"""The back ends that the contract of a vector index is run on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from indexer.vectors.base import VectorIndex
from indexer.vectors.milvus import MilvusIndex
from indexer.vectors.milvus_rows import collection_name
from indexer.vectors.numpy_index import NumpyIndex
from indexer.vectors.segment import scrub
from tests.indexer.vectors.encrypted import KEYS, ROWS
from tests.indexer.vectors.killed import DEAD
from tests.indexer.vectors.sealing import SealingIndex
from tests.indexer.vectors.segments import FIRST, keyring, write
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
    if backend in ("segments", "encrypted-segments"):
        folder = request.getfixturevalue("tmp_path")
        keys = None if backend == "segments" else keyring()
        return lambda dimension: SealingIndex(folder, dimension, keys=keys)
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


@pytest.fixture(scope="session")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the encrypted segment ``one``, two of whose rows are dead; only copied."""
    folder = tmp_path_factory.mktemp("encrypted")
    write(folder, "one", ROWS, keys=KEYS)
    scrub(folder, "one", DEAD[:2], FIRST, KEYS)
    return folder


@pytest.fixture
def sealed_copy(encrypted: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes another copy of that folder each time."""
    made = iter(range(1000))

    def another() -> Path:
        return Path(shutil.copytree(encrypted, tmp_path / f"copy-{next(made)}"))

    return another
