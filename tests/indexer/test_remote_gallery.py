"""Galleries in a real Milvus server: followed from the log, whatever happens to the server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from indexer import ads, candidates, cases, forget, health, jobs
from indexer.catalog import open_catalog
from indexer.catalog.engine import sqlite_url
from indexer.errors import IndexAway
from indexer.galleries.opening import VectorOptions, migrate
from indexer.galleries.remote import RemoteGallery, connected
from indexer.records import AdInput, CaseInput, Progress, SearchFilter, Upload
from indexer.vectors.milvus import Stamp
from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from tests.indexer.conftest import Reopen
from tests.indexer.gallery_rows import put_faces
from tests.indexer.small import (
    CONTRACT,
    DIMENSION,
    SmallAnalyser,
    colour,
    face_picture,
    vector_of,
)
from tests.milvus import MilvusServer
from tests.postgres import postgresql_only, sqlite_only

PROBE = vector_of(colour(1))[None]


@pytest.fixture
def opened_remote(
    tmp_path: Path,
    catalog_url: str | None,
    small_analyser: SmallAnalyser,
    milvus_server: MilvusServer,
) -> Iterator[Reopen]:
    """Opens the same data folder as often as called, with the vectors in Milvus.

    The collections are those of the test before: their stamp is of another history.
    """
    options = WorkspaceOptions(vectors=VectorOptions(kind="milvus", milvus_uri=milvus_server.uri))
    with ExitStack() as stack:
        yield lambda: stack.enter_context(
            open_workspace(
                tmp_path / "data", small_analyser, catalog_url=catalog_url, options=options
            )
        )


def add_random(ws: Workspace, count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, DIMENSION)).astype(np.float32)
    return put_faces(ws, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def remote(ws: Workspace) -> RemoteGallery:
    assert isinstance(ws.ads, RemoteGallery)
    return ws.ads


@sqlite_only
def test_one_way_through_as_on_one_machine(opened_remote: Reopen) -> None:
    ws, other = opened_remote(), opened_remote()
    for number, region in enumerate(["North", "South", "North"]):
        ad = AdInput(site="a.example", external_id=str(number), region=region)
        ads.receive_ad(ws, ad, [Upload(face_picture(1, number + 5), "p.png")])
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    cases.add_photo(ws, case_id, face_picture(1))
    face_id = cases.get_case(ws, case_id).photos[0].face_id
    jobs.run_pending(ws)
    result = candidates.ranked(other, case_id)
    assert result.gallery_size == 3
    assert [item.score for item in result.items] == sorted(
        (item.score for item in result.items), reverse=True
    )
    assert len(candidates.ranked(other, case_id, 9, SearchFilter(region="NORTH")).items) == 2
    assert health.check(ws).ok and "Milvus" in str(health.check(ws).items)
    ad_id = result.items[0].ad.ad_id
    forget.forget_ad(ws, ad_id)
    assert ad_id not in {item.ad.ad_id for item in candidates.ranked(other, case_id).items}
    assert other.cases.search(PROBE, 5)[0].ids == (face_id,)
    forget.forget_case(ws, case_id)
    assert other.cases.search(PROBE, 5)[0].ids == ()
    assert other.cases.count() == 0
    assert other.ads.health() is None


@sqlite_only
def test_a_collection_that_is_lost_is_made_anew(
    opened_remote: Reopen, milvus_server: MilvusServer, caplog: pytest.LogCaptureFixture
) -> None:
    ws = opened_remote()
    ids = set(add_random(ws, 30, 1))
    assert set(ws.ads.search(PROBE, 99)[0].ids) == ids
    index = connected(milvus_server.uri, "", "ads", CONTRACT, DIMENSION)
    try:
        index.reset()  # as somebody would who empties it by hand
        assert set(ws.ads.search(PROBE, 99)[0].ids) == ids
        index.delete(list(ids)[:3])
        index.set_stamp(Stamp(999_999, "nobody"))
        assert ws.ads.health() is not None
        ws.ads.keep()
        assert set(ws.ads.search(PROBE, 99)[0].ids) == ids
        assert ws.ads.health() is None
    finally:
        index.close()


@sqlite_only
def test_what_is_no_member_is_never_an_answer(
    opened_remote: Reopen, milvus_server: MilvusServer
) -> None:
    """As a writer would leave it that lost its lock and wrote all the same."""
    ws = opened_remote()
    ids = add_random(ws, 5, 2)
    index = connected(milvus_server.uri, "", "ads", CONTRACT, DIMENSION)
    try:
        stranger = "0a0a0a0a-0a0a-7a0a-8a0a-0a0a0a0a0a0a"
        assert len(ws.ads.search(PROBE, 9)[0]) == 5
        index.add([stranger], PROBE)
        assert set(ws.ads.search(PROBE, 9)[0].ids) == set(ids)
        assert stranger not in index.ids()
    finally:
        index.close()


@postgresql_only
def test_nobody_takes_half_a_collection_for_the_gallery(opened_remote: Reopen) -> None:
    ws, other = opened_remote(), opened_remote()
    ids = set(add_random(ws, 40, 3))
    stop = threading.Event()
    wrong: list[object] = []

    def search() -> None:
        try:
            while not stop.is_set():
                found = set(other.ads.search(PROBE, 99)[0].ids)
                if found != ids:
                    wrong.append(found)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            wrong.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    for _ in range(2):
        remote(ws).rebuild()
    stop.set()
    thread.join()
    assert wrong == []


@sqlite_only
def test_away_and_back(
    opened_remote: Reopen, milvus_server: MilvusServer, caplog: pytest.LogCaptureFixture
) -> None:
    ws = opened_remote()
    ids = set(add_random(ws, 10, 4))
    assert set(ws.ads.search(PROBE, 99)[0].ids) == ids
    milvus_server.kill()
    try:
        with pytest.raises(IndexAway) as caught:
            ws.ads.search(PROBE, 9)
        assert caught.value.remedy
        ad = AdInput(site="a.example", external_id="1")
        ads.receive_ad(ws, ad, [Upload(face_picture(1), "p.png")])
        with caplog.at_level(logging.CRITICAL):
            jobs.run_pending(ws)
        assert jobs.waiting(ws) == 1, "the job waits for the server and loses no attempt"
        ids |= set(add_random(ws, 4, 5))
    finally:
        milvus_server.start()
    # It takes connections before it has loaded what it holds; until then it says so.
    for _ in range(200):
        jobs.run_pending(ws)
        if not jobs.waiting(ws):
            break
        time.sleep(0.2)
    found = set(ws.ads.search(PROBE, 99)[0].ids)
    assert ids < found and len(found) == len(ids) + 1
    assert ws.ads.health() is None


def test_moving_from_this_machine_to_milvus(
    tmp_path: Path, small_analyser: SmallAnalyser, milvus_server: MilvusServer
) -> None:
    data = tmp_path / "data"
    with open_workspace(data, small_analyser) as ws:
        ids = add_random(ws, 50, 6)
        expected = ws.ads.search(PROBE, 20)[0]
        options = VectorOptions(kind="milvus", milvus_uri=milvus_server.uri)
        steps: list[Progress] = []
        catalog = open_catalog(sqlite_url(data / "catalog.sqlite3"))
        try:
            moved = migrate(catalog, CONTRACT, DIMENSION, data / "index", options, steps.append)
        finally:
            catalog.close()
        assert [(one.name, one.faces, one.problem) for one in moved] == [
            ("cases", 0, None),
            ("ads", 50, None),
        ]
        assert steps[-1].done == steps[-1].total == 50
        assert set(ws.ads.ids()) == set(ids), "what runs goes on as it was"
    with open_workspace(data, small_analyser, options=WorkspaceOptions(vectors=options)) as ws:
        found = ws.ads.search(PROBE, 20)[0]
        assert found.ids == expected.ids
        assert np.array_equal(found.scores, expected.scores)
