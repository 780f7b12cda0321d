"""What is Milvus's own: collections, stamps, limits, changes beside a search, a dying server."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from indexer.errors import ExtraMissing, IndexAway, IndexDamaged, StorageError
from indexer.vectors.milvus import _STAMP, MilvusIndex, Stamp
from indexer.vectors.milvus_client import NotInMemory
from indexer.vectors.milvus_rows import collection_name, no_face, word_key
from indexer.vectors.numpy_index import NumpyIndex
from indexer.vectors.tags import EVERYTHING, Filter, Tag
from tests.indexer.conftest import PROGRAMS
from tests.indexer.vectors.conftest import make_of
from tests.indexer.vectors.test_contract import face, faces, same, unit_rows
from tests.milvus import MilvusAbsent, MilvusServer, running_milvus


@pytest.fixture(params=["milvus-lite", "milvus-server"])
def index(request: pytest.FixtureRequest) -> MilvusIndex:
    """An empty index on a Milvus of each kind."""
    index = make_of(request, request.param)(16)
    assert isinstance(index, MilvusIndex)
    index._delete_rows([_STAMP])
    return index


@pytest.fixture
def uri(index: MilvusIndex, request: pytest.FixtureRequest) -> str:
    """Where that index is."""
    lite = "milvus-lite" in request.node.name
    place: str | MilvusServer = request.getfixturevalue("milvus_lite" if lite else "milvus_server")
    return place if isinstance(place, str) else place.uri


# --- names -----------------------------------------------------------------------------------


def test_collections_have_names_that_milvus_takes() -> None:
    name = collection_name("owner", "ads", "dlib-0123456789abcdef")
    assert name.replace("_", "").isalnum() and len(name) < 255
    assert name != collection_name("owner", "cases", "dlib-0123456789abcdef")
    assert name != collection_name("owner", "ads", "dlib_0123456789abcdef")
    for gallery, contract in (("Ads", "x"), ("ads", ""), ("ads", 'x"'), ("ads", "x" * 129)):
        with pytest.raises(ValueError, match="no collection"):
            collection_name("owner", gallery, contract)


def test_words_are_kept_as_digests_of_one_length() -> None:
    assert word_key("Site") == word_key("sITE") != word_key("Site ")
    assert {len(word_key(word)) for word in ("a", "\ud800", "x" * 100_000)} == {32}
    assert word_key("") == ""


# --- the collection --------------------------------------------------------------------------


def test_what_was_written_is_there_when_opened_again(index: MilvusIndex, uri: str) -> None:
    rows = unit_rows(1, 20)
    assert index.stamp() is None
    index.add(faces(20), rows, [[Tag(site="a")]] * 20)
    index.set_stamp(Stamp(6, face(3), "making"))
    index.set_stamp(Stamp(7, face(4), "making"))
    again = MilvusIndex(uri, index._name, 16)
    assert again.stamp() == Stamp(7, face(4), "making")
    assert again.count() == 20 and again.ids() == set(faces(20))
    assert len(again.search(rows[:1], 50, where=Filter(site="a"))[0]) == 20
    assert again.health() is None
    again.close()


def test_reset_leaves_nothing(index: MilvusIndex) -> None:
    index.add(faces(5), unit_rows(1, 5))
    index.set_stamp(Stamp(1, face(1), "making"))
    index.reset()
    assert index.count() == 0 and index.stamp() is None and index.ids() == set()
    index.add(faces(2), unit_rows(1, 2))
    assert index.search(unit_rows(1, 1), 9)[0].ids[0] == face(0)
    assert index.health() is None


def test_a_collection_of_another_dimension_is_refused(index: MilvusIndex, uri: str) -> None:
    with pytest.raises(IndexDamaged, match="fields") as caught:
        MilvusIndex(uri, index._name, 32)
    assert "Drop that collection" in caught.value.remedy


def test_a_collection_that_is_gone_is_told(index: MilvusIndex) -> None:
    index._client.drop_collection(index._name)
    for ask in (index.count, index.ready, lambda: index.search(unit_rows(1, 1), 3)):
        with pytest.raises(IndexDamaged, match="gone"):
            ask()
    assert "gone" in str(index.health())
    index.reset()
    assert index.health() is None


def test_an_unreadable_stamp_is_told(index: MilvusIndex) -> None:
    index._upsert([no_face(_STAMP, 16, "not a stamp")])
    with pytest.raises(IndexDamaged, match="stamp"):
        index.stamp()


def test_a_collection_out_of_memory_is_told_and_taken_in_again(
    milvus_server: MilvusServer, request: pytest.FixtureRequest
) -> None:
    index = make_of(request, "milvus-server")(16)
    assert isinstance(index, MilvusIndex)
    index.add(faces(3), unit_rows(1, 3))
    index._client.release_collection(index._name)
    for ask in (index.stamp, index.ids, lambda: index.search(unit_rows(1, 1), 3)):
        with pytest.raises(NotInMemory):
            ask()
    index.reopen()
    assert index.ids() == set(faces(3))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ExtraMissing) as caught:
        MilvusIndex("http://127.0.0.1:1", "homeward_x", 16)
    assert "scale" in caught.value.remedy


# --- exactness -------------------------------------------------------------------------------


def test_more_equal_faces_than_a_server_returns(
    index: MilvusIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a server is lowered here, so that few faces are too many for it."""
    rows = unit_rows(2, 900)
    rows[100:500] = rows[0]
    tags = [[Tag(site="a"), Tag(site="b", posted_ms=number)] for number in range(900)]
    # One face has more rows that pass than a server returns.
    tags[5] = [Tag(site="b", posted_ms=number) for number in range(300)]
    reference = NumpyIndex(16)
    for each in (index, reference):
        each.add(faces(900), rows, tags)
    monkeypatch.setattr(index, "_limit", 128)
    for where in (EVERYTHING, Filter(site="b"), Filter(posted_before_ms=700)):
        for k in (1, 50):
            same(index, reference, rows[[0, 5, 600]], k, where=where, excluded=faces(60, 100))
    same(index, reference, rows[:1], 200)


def test_scores_that_are_not_float32_are_not_believed(
    index: MilvusIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the server computed with less: then its order proves nothing."""
    index.add(faces(50), unit_rows(3, 50))
    monkeypatch.setattr(index, "_error", -1.0)
    with pytest.raises(IndexAway, match="not exact"):
        index.search(unit_rows(4, 1), 5)


def test_a_search_sees_a_replaced_face_whole(index: MilvusIndex) -> None:
    """Beside the searches faces go from one state to another and back, in vector and in tags."""
    rows = unit_rows(5, 60)
    states = (
        (rows[:20], [[Tag(site="old", posted_ms=1), Tag(site="both")]] * 20),
        (rows[20:40], [[Tag(site="new"), Tag(site="both"), Tag(site="more")]] * 20),
    )
    index.add(faces(20), *states[0])
    index.add(faces(20, 20), rows[40:])
    probe = rows[59:60]
    right = []
    for number in range(2):
        reference = NumpyIndex(16)
        reference.add(faces(20), *states[number])
        scores = reference.scores(probe, faces(20))[0]
        right.append({face(i): float(scores[i]) for i in range(20)})
    stop = threading.Event()

    def change() -> int:
        turns = 0
        while not stop.is_set():
            turns += 1
            index.add(faces(20), *states[turns % 2])
        return turns

    answered = 0
    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        try:
            for _ in range(8):
                for site, allowed in (("old", right[:1]), ("new", right[1:]), ("both", right)):
                    with suppress(IndexAway):  # told, after several tries, that it changes too fast
                        (found,) = index.search(probe, 99, where=Filter(site=site))
                        answer = dict(zip(found.ids, found.scores.tolist(), strict=True))
                        assert answer in allowed or (site != "both" and not answer), site
                        answered += 1
                with suppress(IndexAway):
                    assert set(index.search(probe, 99)[0].ids) == set(faces(40))
                    answered += 1
        finally:
            stop.set()
        assert changing.result() > 1
    assert answered >= 8


# --- a server that is away -------------------------------------------------------------------


def test_no_server_is_told_without_the_secret() -> None:
    uri = "http://somebody:very-secret@127.0.0.1:1"
    with pytest.raises(IndexAway) as caught:
        MilvusIndex(uri, "homeward_1_ads_x", 16, token="other-secret", timeout=1.0)
    told = f"{caught.value!r} {caught.value} {caught.value.remedy}"
    assert "secret" not in told and "somebody" not in told
    assert caught.value.code == "index_away" and "Milvus" in caught.value.remedy
    with pytest.raises(StorageError, match="address") as strange:
        MilvusIndex("nothing://very-secret", "homeward_1_ads_x", 16)
    assert "secret" not in str(strange.value)


def test_without_the_extra_the_error_names_it() -> None:
    code = (
        "import sys\n"
        "import indexer.vectors.milvus as milvus\n"
        "assert 'pymilvus' not in sys.modules\n"
        "sys.modules['pymilvus'] = None\n"
        "try:\n"
        "    milvus.MilvusIndex('http://127.0.0.1:1', 'homeward_1_ads_x', 16)\n"
        "except milvus.StorageError as error:\n"
        "    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'scale'" in told.stdout


def test_a_killed_server_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    rows = unit_rows(6, 3000)
    tags = [[Tag(site=f"s{number % 5}"), Tag(posted_ms=number)] for number in range(3000)]
    reference = NumpyIndex(16)
    try:
        with running_milvus(tmp_path, PROGRAMS) as server:
            name = collection_name("owner", "ads", "killed")
            index = MilvusIndex(server.uri, name, 16, timeout=2.0)
            reference.add(faces(2000), rows[:2000], tags[:2000])
            index.add(faces(2000), rows[:2000], tags[:2000])
            index._client.flush(name)  # some rows in sealed segments, some in the log alone
            for each in (index, reference):
                each.add(faces(1500, 1500), rows[:1500], tags[1500:])
                each.delete(faces(300, 1400))
            index.set_stamp(Stamp(42, face(1), "making"))
            server.kill()
            for ask in (
                index.count,
                index.ready,
                index.stamp,
                lambda: index.search(rows[:1], 5),
                lambda: index.add(faces(1), rows[:1]),
                lambda: index.delete(faces(1)),
            ):
                with pytest.raises(IndexAway):
                    ask()
            assert "does not answer" in str(index.health())
            server.start()
            # Before it is ready it may refuse, but what it answers is whole.
            _patiently(lambda: same(index, reference, rows[:2], 2000))
            _patiently(index.ready)
            assert index.stamp() == Stamp(42, face(1), "making")
            assert index.count() == reference.count()
            assert index.ids() == reference.ids()
            for where in (EVERYTHING, Filter(site="s3"), Filter(posted_from_ms=1600)):
                same(index, reference, rows[:3], 40, where=where)
            index.close()
    except MilvusAbsent as absent:
        pytest.skip(str(absent))


def _patiently(ask: Callable[[], None]) -> None:
    for _ in range(300):
        try:
            return ask()
        except IndexAway:
            time.sleep(0.2)
    raise AssertionError("the server does not answer a minute after its start")
