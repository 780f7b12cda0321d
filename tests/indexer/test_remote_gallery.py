"""Galleries in a real Milvus server: followed from the log, whatever happens to the server.

Making a collection takes a server seconds, so most tests have the gallery of ads alone there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from indexer import ads, candidates, cases, forget, health, jobs
from indexer.catalog import open_catalog
from indexer.catalog.engine import sqlite_url
from indexer.errors import CatalogAway, IndexAway
from indexer.files import try_lock
from indexer.galleries import add_faces, remote, remove_faces, shelf
from indexer.galleries.folders import remove_unused
from indexer.galleries.opening import VectorOptions, drop, migrate
from indexer.galleries.remote import RemoteGallery
from indexer.generations import switching
from indexer.records import AdInput, CaseInput, Progress, SearchFilter, Upload
from indexer.vectors.milvus import _STAMP, MilvusIndex, drop_collections
from indexer.vectors.milvus_client import connect
from indexer.vectors.milvus_rows import collection_name, collection_prefix, no_face
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
from tests.tables import lend_tables

PROBE = vector_of(colour(1))[None]
STRANGER = "0a0a0a0a-0a0a-7a0a-8a0a-0a0a0a0a0a0a"
Report = Callable[[Progress], None]


def quiet(_: Progress) -> None:
    """Told how far it is."""


class Remote:
    """Opens the gallery of ads of a workspace in Milvus, as other processes would."""

    def __init__(self, uri: str, stack: ExitStack) -> None:
        self.uri = uri
        self._stack = stack

    def index(self, name: str) -> MilvusIndex:
        return MilvusIndex(self.uri, name, DIMENSION)

    def open(self, ws: Workspace, report: Report = quiet) -> RemoteGallery:
        gallery = RemoteGallery(
            ws.catalog, "ads", CONTRACT, ws.index_dir, self.index, report=report
        )
        self._stack.callback(gallery.close)
        return gallery

    def raw(self, ws: Workspace) -> MilvusIndex:
        """The collection itself, for whoever meddles with it."""
        index = self.index(collection_of(ws))
        self._stack.callback(index.close)
        return index


def collections(uri: str) -> set[str]:
    client = connect(uri, token="", database="", timeout=10)
    try:
        return set(client.list_collections())
    finally:
        client.close()


def collection_of(ws: Workspace) -> str:
    return collection_name(shelf.catalog_id(ws.catalog), "ads", CONTRACT)


@pytest.fixture
def on_server(milvus_server: MilvusServer) -> Iterator[Remote]:
    before = collections(milvus_server.uri)
    with ExitStack() as stack:
        yield Remote(milvus_server.uri, stack)
    for name in collections(milvus_server.uri) - before:
        drop_collections(milvus_server.uri, name)


@pytest.fixture
def opened_remote(
    tmp_path: Path,
    catalog_url: str | None,
    small_analyser: SmallAnalyser,
    lent: None,
    on_server: Remote,
) -> Iterator[Reopen]:
    """Opens the same data folder as often as called, with all vectors in Milvus."""
    options = WorkspaceOptions(vectors=VectorOptions(kind="milvus", milvus_uri=on_server.uri))
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


def found(gallery: RemoteGallery) -> set[str]:
    """The faces that a search finds; each of them once."""
    ids = gallery.search(PROBE, 999)[0].ids
    assert len(ids) == len(set(ids))
    return set(ids)


def found_in_time(gallery: RemoteGallery) -> set[str]:
    """The same of a server that has just come: it says for a while that it is not ready."""
    for _ in range(200):
        try:
            return found(gallery)
        except IndexAway:
            time.sleep(0.1)
    raise AssertionError("it never came back")


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


# --- what may happen to a collection ---------------------------------------------------------


def emptied(index: MilvusIndex) -> None:
    index.delete(index.ids())
    index._delete_rows([_STAMP])


def dropped(index: MilvusIndex) -> None:
    index._client.drop_collection(index._name)


def released(index: MilvusIndex) -> None:
    index._client.release_collection(index._name)


def unreadable(index: MilvusIndex) -> None:
    index.delete(index.ids())
    index._upsert([no_face(_STAMP, DIMENSION, "no stamp")])


def of_another_making(index: MilvusIndex) -> None:
    """As a process leaves it that went on with its own making without the lock."""
    stamp = index.stamp()
    assert stamp is not None
    index.delete(sorted(index.ids())[:3])
    index.set_stamp(replace(stamp, making="another"))


@sqlite_only
def test_a_collection_that_is_lost_comes_back(ws: Workspace, on_server: Remote) -> None:
    ids = set(add_random(ws, 30, 1))
    gallery, other = on_server.open(ws), on_server.open(ws)
    raw = on_server.raw(ws)
    for number, lose in enumerate((emptied, dropped, released, unreadable, of_another_making)):
        assert found(gallery) == found(other) == ids, lose
        making = raw.stamp()
        lose(raw)
        if number % 2:  # with something to be written, and without
            ids |= set(add_random(ws, 2, 100 + number))
        assert found(gallery) == ids, lose
        assert gallery.scores(PROBE, sorted(ids)).shape == (1, len(ids))
        assert gallery.health() is None
        after = raw.stamp()
        assert making is not None and after is not None
        kept = making.making == after.making
        assert kept == (lose is released), "what is only out of memory is not made anew"
    assert found(other) == ids
    expected = gallery.scores(PROBE, sorted(ids))
    emptied(raw)
    assert np.array_equal(gallery.scores(PROBE, sorted(ids)), expected), "no face is gone"
    with pytest.raises(KeyError):
        gallery.scores(PROBE, [STRANGER])


@sqlite_only
def test_what_is_no_member_is_never_an_answer(
    ws: Workspace, on_server: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a writer leaves it that lost its lock and wrote all the same."""
    ids = add_random(ws, 5, 2)
    gallery = on_server.open(ws)
    raw = on_server.raw(ws)
    raw.add([STRANGER], PROBE)
    assert found(gallery) == set(ids)
    assert raw.ids() == set(ids)
    # One that left the gallery, was found all the same, and has come again meanwhile.
    back = ids[0]
    look = gallery._strangers

    def late(face_ids: set[str]) -> set[str]:
        monkeypatch.setattr(gallery, "_strangers", look)
        with ws.catalog.write() as session:
            remove_faces(session, "ads", CONTRACT, [back])
        strangers = look(face_ids)
        with ws.catalog.write() as session:
            add_faces(session, "ads", CONTRACT, [back])
        return strangers

    monkeypatch.setattr(gallery, "_strangers", late)
    assert found(gallery) == set(ids)
    assert raw.ids() == set(ids)


@sqlite_only
def test_files_and_collections_that_nobody_follows_are_swept(
    ws: Workspace, on_server: Remote
) -> None:
    add_random(ws, 40, 3)
    ws.ads.save()
    folder = ws.index_dir / f"ads-{CONTRACT}"
    assert list(folder.glob("*.segment*")) or any(folder.iterdir())
    gallery = on_server.open(ws)
    raw = on_server.raw(ws)
    owner = shelf.catalog_id(ws.catalog)
    other_contract = collection_name(owner, "ads", "other")
    switching.begin(ws, "beside", "pack", DIMENSION, actor="tester")
    kept = [
        collection_name(owner, "ads", "beside"),
        collection_name(owner, "cases", "other"),
        collection_name("another catalog", "ads", "other"),
    ]
    schema = raw._client.describe_collection(raw._name)
    assert schema["num_shards"] == 1
    for name in (other_contract, *kept):
        raw._name = name
        raw._create(60)
    assert gallery.scrub()
    there = raw.collections("homeward_")
    assert other_contract not in there
    assert {*kept, collection_of(ws)} <= set(there)
    remove_unused(ws.index_dir)
    assert any(folder.iterdir()), "somebody still searches here"
    ws.ads.close()
    remove_unused(ws.index_dir)
    assert not any(folder.iterdir())


# --- several at once --------------------------------------------------------------------------


def lose_locks(ws: Workspace) -> None:
    """End every connection that holds a lock by name, as a broken network would."""
    with ws.catalog.read() as session:
        gone = session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                "AND granted AND pid <> pg_backend_pid() AND database = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        ).all()
    assert len(gone) == 1


@postgresql_only
def test_who_loses_the_lock_in_the_middle_spoils_nothing(
    ws: Workspace, on_server: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_BLOCK", 10)
    ids = set(add_random(ws, 40, 4))
    other = on_server.open(ws)
    steps: list[int] = []

    def half_way(step: Progress) -> None:
        steps.append(step.done)
        if step.done == 20:
            lose_locks(ws)
            assert found(other) == ids

    loser = on_server.open(ws, half_way)
    assert steps == []
    with pytest.raises(CatalogAway):
        loser.rebuild()
    assert steps == [0, 10, 20]
    assert found(other) == found(loser) == ids

    # A face that the loser takes out has come again since; it does that face again.
    back = min(ids)
    index = loser._index
    assert index is not None
    delete = index.delete

    def too_late(face_ids: set[str]) -> int:
        monkeypatch.setattr(index, "delete", delete)
        assert face_ids == {back}
        lose_locks(ws)
        with ws.catalog.write() as session:
            add_faces(session, "ads", CONTRACT, [back])
        assert found(other) == ids
        return delete(face_ids)

    monkeypatch.setattr(index, "delete", too_late)
    with ws.catalog.write() as session:
        remove_faces(session, "ads", CONTRACT, [back])
    with pytest.raises(CatalogAway):
        loser.catch_up()
    loser.keep()
    assert found(other) == found(loser) == ids


def nobody_takes_half(gallery: RemoteGallery, other: RemoteGallery, ids: set[str]) -> None:
    """One makes the collection anew while another searches it."""
    stop = threading.Event()
    answers: list[object] = []

    def search() -> None:
        while not stop.is_set():
            try:
                answers.append(found(other))
            except IndexAway:
                pass  # it takes too long: no answer is no wrong one
            except BaseException as error:  # noqa: BLE001 - shown by the test
                answers.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    while not answers and thread.is_alive():
        time.sleep(0.01)
    gallery.rebuild()
    stop.set()
    thread.join()
    assert answers and all(answer == ids for answer in answers), answers


@sqlite_only
def test_several_at_once_wait_for_each_other_and_not_without_end(
    ws: Workspace, on_server: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = set(add_random(ws, 20, 5))
    with ThreadPoolExecutor(3) as pool:
        galleries = list(pool.map(lambda _: on_server.open(ws), range(3)))
        assert list(pool.map(found, galleries)) == [ids] * 3
    nobody_takes_half(galleries[0], galleries[1], ids)
    assert [found(gallery) for gallery in galleries] == [ids] * 3
    stamp = on_server.raw(ws).stamp()
    assert stamp is not None and {g._seen.making for g in galleries if g._seen} == {stamp.making}
    held = try_lock(ws.index_dir / f".ads-{CONTRACT}.sync.lock")
    assert held is not None
    monkeypatch.setattr(remote, "_PATIENCE_S", 0.05)
    with held:
        assert found(galleries[0]) == ids, "what is up to date needs no lock"
        ids |= set(add_random(ws, 1, 6))
        with pytest.raises(IndexAway, match="another process"):
            galleries[0].search(PROBE, 9)
        with pytest.raises(IndexAway, match="another process"):
            galleries[1].ids()
        galleries[0].keep()
        assert galleries[0].count() == 21
    with galleries[1]._lock, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(galleries[1].search, PROBE, 9)
        with pytest.raises(IndexAway, match="brought up to date"):
            waiting.result()
    assert [found(gallery) for gallery in galleries] == [ids] * 3


@sqlite_only
def test_catalogs_that_share_a_server_never_meet(
    ws: Workspace, on_server: Remote, tmp_path: Path, small_analyser: SmallAnalyser
) -> None:
    ids = set(add_random(ws, 20, 7))
    gallery = on_server.open(ws)
    assert found(gallery) == ids
    lend_tables(tmp_path / "second")
    with open_workspace(tmp_path / "second", small_analyser) as second:
        neighbour = on_server.open(second)
        assert found(neighbour) == set()
        assert found(gallery) == ids
        others = set(add_random(second, 10, 8))
        assert found(neighbour) == others
        neighbour.scrub()
        assert found(gallery) == ids
        # A copy of a catalog is another catalog, and has what it shares with the first anew.
        with second.catalog.write() as session:
            shelf.forget_shelves(session)
        before, owner = neighbour._collection, shelf.catalog_id(second.catalog)
        copy = on_server.open(second)
        with second.catalog.write() as session:
            remove_faces(session, "ads", CONTRACT, sorted(others)[:4])
        assert found(copy) == set(sorted(others)[4:])
        assert on_server.index(before).ids() == others
        options = VectorOptions(kind="milvus", milvus_uri=on_server.uri)
        assert drop(second.catalog, second.index_dir, options) == [copy._collection]
        assert copy._collection.startswith(collection_prefix(owner))
        assert on_server.index(before).ids() == others
    assert found(gallery) == ids and gallery.health() is None


# --- a server that is away --------------------------------------------------------------------


@sqlite_only
def test_away_and_back(
    opened_remote: Reopen, milvus_server: MilvusServer, caplog: pytest.LogCaptureFixture
) -> None:
    ws = opened_remote()
    assert isinstance(ws.ads, RemoteGallery)
    ids = set(add_random(ws, 10, 4))
    assert found(ws.ads) == ids
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
        with caplog.at_level(logging.CRITICAL):
            late = opened_remote()
        assert isinstance(late.ads, RemoteGallery)
        with pytest.raises(IndexAway):
            late.ads.search(PROBE, 9)
        assert late.ads.count() >= 14
        assert "not reached" in str(late.ads.health())
        assert not ws.ads.scrub() and not late.ads.scrub(), "what was deleted waits as well"
    finally:
        milvus_server.start()
    assert ids <= found_in_time(late.ads)
    for _ in range(200):
        jobs.run_pending(ws)
        if not jobs.waiting(ws):
            break
        time.sleep(0.1)
    answer = found_in_time(ws.ads)
    assert ids < answer and len(answer) == len(ids) + 1
    assert found(late.ads) == answer
    assert ws.ads.health() is None and late.ads.health() is None


def test_moving_from_this_machine_to_milvus_and_away_from_there(
    tmp_path: Path, small_analyser: SmallAnalyser, on_server: Remote
) -> None:
    data = tmp_path / "data"
    lend_tables(data)
    options = VectorOptions(kind="milvus", milvus_uri=on_server.uri)
    catalog = open_catalog(sqlite_url(data / "catalog.sqlite3"))
    try:
        with open_workspace(data, small_analyser) as ws:
            ids = add_random(ws, 50, 6)
            expected = ws.ads.search(PROBE, 20)[0]
            steps: list[Progress] = []
            moved = migrate(catalog, CONTRACT, DIMENSION, data / "index", options, steps.append)
            assert [(one.name, one.faces, one.problem) for one in moved] == [
                ("cases", 0, None),
                ("ads", 50, None),
            ]
            assert steps[-1].done == steps[-1].total == 50
            ws.ads.save()
            assert ws.ads.ids() == set(ids), "what runs goes on as it was"
        with open_workspace(data, small_analyser, options=WorkspaceOptions(vectors=options)) as ws:
            answer = ws.ads.search(PROBE, 20)[0]
            assert answer.ids == expected.ids
            assert np.array_equal(answer.scores, expected.scores)
        local = VectorOptions()
        back = migrate(catalog, CONTRACT, DIMENSION, data / "index", local)
        assert [(one.faces, one.problem) for one in back] == [(0, None), (50, None)]
        assert len(drop(catalog, data / "index", options)) == 2
        assert drop(catalog, data / "index", options) == []
        assert drop(catalog, data / "index", local)
        assert drop(catalog, data / "index", local) == []
    finally:
        catalog.close()
