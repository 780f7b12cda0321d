"""Where faces of ads are not kept, nobody near an open case is lost to what happens meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from indexer import candidates, cases, jobs, kept_faces, queue, watchlist
from indexer.blobs import sha256_hex
from indexer.catalog.tables import Case, Job
from indexer.errors import BlobMissing
from indexer.jobs import run_pending
from indexer.records import CaseInput, Failure
from indexer.workspace import Workspace, WorkspaceOptions
from models.types import FloatArray
from tests.indexer.conftest import Opens
from tests.indexer.small import face_picture
from tests.indexer.test_transient import (
    add,
    fixed_floor,
    found_ads,
    full_lists,
    new_case,
    stored,
    transient,
)
from tests.indexer.watch import CALIBRATION

__all__ = ["fixed_floor", "transient"]


def given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks off is tried again at once, and once."""
    monkeypatch.setattr(queue, "_PAUSES", {False: (0.01, 0.01), True: (0.01, 0.01)})
    monkeypatch.setattr(queue, "MAX_ATTEMPTS", 2)


def missing(monkeypatch: pytest.MonkeyPatch, ws: Workspace, *pictures: bytes) -> None:
    """The store of originals as if these were not in it."""
    get = type(ws.blobs).get
    gone = {sha256_hex(one) for one in pictures}

    def broken(self: object, sha256: str) -> bytes:
        if sha256 in gone:
            raise BlobMissing(sha256)
        return get(self, sha256)  # type: ignore[arg-type]

    monkeypatch.setattr(type(ws.blobs), "get", broken)


@pytest.mark.parametrize("listed", [500, 0])
def test_what_could_not_be_read_again_is_not_searched_and_read_by_a_retry(
    transient: Workspace, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    import indexer.transient

    ws = transient
    monkeypatch.setattr(indexer.transient, "_LISTED", listed or 1)
    lost = [face_picture(1, 2)] if listed else [face_picture(1, 2), face_picture(1, 3)]
    for number, picture_ in enumerate([*lost, face_picture(7, 2)]):
        add(ws, number, picture_)
    ids = [cases.create_case(ws, CaseInput(case_number=str(n))).case_id for n in range(2)]
    receipts = [cases.add_photo(ws, one, face_picture(1, 1)) for one in ids]
    with monkeypatch.context() as away:
        given_up(away)
        missing(away, ws, *lost)
        run_pending(ws, patient=True)
    for receipt, case_id in zip(receipts, ids, strict=True):
        job = jobs.get_job(ws, receipt.job_id)
        assert (job.state, {one.code for one in job.failures}) == ("failed", {"blob_missing"})
        assert candidates.ranked(ws, case_id).search_state.state == "not_searched"
    read = indexer.transient._read_batch
    again: list[str] = []

    def noted(ws: Workspace, shas: list[str], *, alone: bool) -> tuple[list[str], list[Failure]]:
        again.extend(shas)
        return read(ws, shas, alone=alone)

    monkeypatch.setattr(indexer.transient, "_read_batch", noted)
    for receipt in receipts:
        jobs.retry(ws, receipt.job_id)
    run_pending(ws)
    if listed:
        assert set(again) == {sha256_hex(one) for one in lost}
    for case_id in ids:
        ranked = candidates.ranked(ws, case_id)
        assert ranked.search_state.state == "searched"
        best = ranked.items[: len(lost)]
        assert {item.ad.external_id for item in best} == {str(n) for n in range(len(lost))}


def test_a_store_that_was_away_for_a_moment_is_read_by_the_job_itself(
    transient: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = transient
    add(ws, 1, face_picture(1, 2))
    add(ws, 2, face_picture(7, 2))
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    cases.add_photo(ws, case_id, face_picture(1, 1))
    with monkeypatch.context() as away:
        missing(away, ws, face_picture(1, 2))
        run_pending(ws)
    assert candidates.ranked(ws, case_id).search_state.state == "searching"
    with ws.catalog.write() as session:
        session.execute(update(Job).values(run_after=None))
    run_pending(ws)
    ranked = candidates.ranked(ws, case_id)
    assert ranked.search_state.state == "searched"
    assert ranked.items[0].ad.external_id == "1"


def test_a_picture_that_cannot_be_decoded_hinders_no_search(transient: Workspace) -> None:
    ws = transient
    whole = face_picture(1, 2)
    add(ws, 1, whole[: len(whole) // 2])
    case_id = new_case(ws, face_picture(1, 1))
    assert candidates.ranked(ws, case_id).search_state.state == "searched"


def tidied_beside(opens: Opens) -> Callable[[], None]:
    """Takes away what nobody wants, as another worker would at that moment."""
    other = opens(options=WorkspaceOptions(ad_faces="transient"), calibration=CALIBRATION)()

    def tidy() -> None:
        with other.catalog.write() as session:
            kept_faces.ask_tidy(session, other, kept_faces.ADS)
        run_pending(other, kinds=("tidy_faces",))

    return tidy


@pytest.mark.usefixtures("fixed_floor")
@pytest.mark.parametrize("again", [False, True])
def test_no_face_is_taken_away_while_it_is_compared(
    transient: Workspace, opens: Opens, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    import indexer.reading
    import indexer.transient

    ws = transient
    tidy = tidied_beside(opens)
    module = indexer.transient if again else indexer.reading
    probe = module.probe_cases
    compared: list[int] = []

    def beside(ws: Workspace, vectors: dict[str, FloatArray]) -> int:
        if vectors:
            tidy()
            assert stored(ws)["ads"] == len(vectors)
            compared.append(len(vectors))
        return int(probe(ws, vectors))

    if again:
        add(ws, 1, face_picture(1, 2))
        case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
        cases.add_photo(ws, case_id, face_picture(1, 1))
        full_lists(ws)
        monkeypatch.setattr(module, "probe_cases", beside)
        run_pending(ws)
    else:
        case_id = new_case(ws, face_picture(1, 1))
        full_lists(ws)
        monkeypatch.setattr(module, "probe_cases", beside)
        add(ws, 1, face_picture(1, 2))
    assert compared == [1] and len(found_ads(ws, case_id)) == 1
    # What had to stay is come for again.
    with ws.catalog.write() as session:
        waiting = session.scalars(select(Job).where(Job.state == "queued")).all()
        assert [job.kind for job in waiting] == ["tidy_faces"]
        waiting[0].run_after = None
        session.execute(update(Case).values(status="closed"))
    run_pending(ws)
    assert stored(ws)["ads"] == 0


@pytest.mark.usefixtures("fixed_floor")
def test_an_ad_whose_job_broke_off_before_it_was_compared_is_read_anew(
    transient: Workspace, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    import indexer.reading

    ws = transient
    case_id = new_case(ws, face_picture(1, 1))
    full_lists(ws)

    def broken(*_: object) -> int:
        raise RuntimeError("the process is gone")

    with monkeypatch.context() as breaking:
        breaking.setattr(indexer.reading, "probe_cases", broken)
        add(ws, 1, face_picture(1, 2))
    assert stored(ws)["ads"] == 1
    tidied_beside(opens)()
    assert stored(ws)["ads"] == 0
    with ws.catalog.write() as session:
        session.execute(update(Job).values(run_after=None))
    run_pending(ws)
    assert len(found_ads(ws, case_id)) == 1


@pytest.mark.usefixtures("fixed_floor")
def test_faces_of_a_job_that_was_given_up_do_not_stay(
    transient: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import indexer.reading

    ws = transient
    new_case(ws, face_picture(1, 1))
    full_lists(ws)

    def broken(*_: object) -> int:
        raise RuntimeError("the process is gone")

    with monkeypatch.context() as breaking:
        breaking.setattr(indexer.reading, "probe_cases", broken)
        add(ws, 1, face_picture(1, 2))
    [job] = jobs.list_jobs(ws, state="queued").items
    jobs.drop(ws, job.job_id)
    assert stored(ws)["ads"] == 1
    ws.looked_for_unwanted = -math.inf
    ws.maintain()
    run_pending(ws)
    assert stored(ws)["ads"] == 0


@pytest.mark.usefixtures("fixed_floor")
@pytest.mark.parametrize("own", [False, True])
def test_a_photo_that_comes_while_its_case_is_read_for_has_all_read_again(
    transient: Workspace, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """``own``: its case's reading broke off; otherwise it is done with that of another case."""
    import indexer.transient

    ws = transient
    monkeypatch.setattr(indexer.transient, "_PICTURES", 1)
    # The first that is read shows the person of the photo that comes late.
    target = min((face_picture(5, 2, salt=n) for n in range(8)), key=sha256_hex)
    others = [face_picture(n, 2) for n in range(10, 30)]
    rest = [one for one in others if sha256_hex(one) > sha256_hex(target)][:3]
    assert rest
    for number, picture_ in enumerate([target, *rest]):
        add(ws, number, picture_)
    numbers = ["1"] if own else ["1", "2"]
    ids = [cases.create_case(ws, CaseInput(case_number=number)).case_id for number in numbers]
    for number, case_id in enumerate(ids):
        cases.add_photo(ws, case_id, face_picture(number, 1))
    full_lists(ws)
    run_pending(ws, kinds=("probe_case",))
    read = indexer.transient._read_batch
    passed: list[str] = []

    def late(ws: Workspace, shas: list[str], *, alone: bool) -> tuple[list[str], list[Failure]]:
        if own and len(passed) == 1:
            passed.append("broken")
            raise RuntimeError("the process is gone")
        found = read(ws, shas, alone=alone)
        if sha256_hex(target) in shas and not passed and not own:
            cases.add_photo(ws, case_id, face_picture(5, 1))
            full_lists(ws)
        passed.extend(shas)
        return found

    monkeypatch.setattr(indexer.transient, "_read_batch", late)
    run_pending(ws)
    if own:
        assert passed == [sha256_hex(target), "broken"]
        cases.add_photo(ws, case_id, face_picture(5, 1))
        full_lists(ws)
        with ws.catalog.write() as session:
            session.execute(update(Job).values(run_after=None))
        run_pending(ws)
    ranked = candidates.ranked(ws, case_id)
    assert ranked.search_state.state == "searched"
    assert "0" in {item.ad.external_id for item in ranked.items}


def test_every_case_whose_list_has_room_takes_a_face_in(
    transient: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = transient
    monkeypatch.setattr(watchlist, "_NEIGHBOURS", 3)
    ids = [new_case(ws, face_picture(number, 1), number=str(number)) for number in range(8)]
    for number in range(3):
        add(ws, number, face_picture(40 + number, 2))
    assert [len(found_ads(ws, case_id)) for case_id in ids] == [3] * 8
