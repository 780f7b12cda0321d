"""Each search is on record once, with its purpose (PRACTICE 1 and 9)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from indexer import candidates, cases, jobs, listing, reveals, searches
from indexer.acting import Acting, begin
from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.tables import Search
from indexer.errors import CandidateNotFound, CaseClosed, PurposeRequired
from indexer.times import utc_now
from indexer.workspace import Workspace
from tests.indexer.small import face_picture
from tests.indexer.watch import open_case, show


def by(actor: str):  # type: ignore[no-untyped-def]
    return begin(Acting("api", "user", actor, purpose=None))


def rows(ws: Workspace) -> list[Search]:
    with ws.catalog.read() as session:
        return list(session.scalars(select(Search).order_by(Search.search_id)))


def acts(ws: Workspace, action: str) -> list[AuditRecord]:
    with ws.catalog.read() as session:
        return list(
            session.scalars(
                select(AuditRecord).where(AuditRecord.action == action).order_by(AuditRecord.seq)
            )
        )


def test_a_list_is_recorded_once_a_minute_as_long_as_it_stays_the_same(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = open_case(ws, 1)
    show(ws, "a", face_picture(1))
    with by("one"):
        for _ in range(3):
            found = listing.listed(ws, case_id)
    (row,) = rows(ws)
    assert (row.kind, row.actor, row.purpose, row.k) == ("list", "one", searches.USUAL, 20)
    assert row.candidate_ids == [item.candidate_id for item in found.items]
    assert (row.gallery_size, row.contract_id) == (1, ws.contract_id)
    (act,) = acts(ws, "search.list")
    assert (act.case_id, act.subject_id, act.purpose) == (case_id, row.search_id, searches.USUAL)
    assert act.details["gallery_size"] == 1 and act.details["candidates"] == 1
    with by("one"):
        # Another question: another purpose, length or note, and somebody else.
        listing.listed(ws, case_id, purpose="verify_sighting")
        listing.listed(ws, case_id, 5)
        listing.listed(ws, case_id, purpose_note="Called from the airport")
    with by("two"):
        listing.listed(ws, case_id)
    assert len(rows(ws)) == 5
    # Another answer.
    show(ws, "b", face_picture(2))
    with by("one"):
        listing.listed(ws, case_id)
    assert len(rows(ws)) == 6
    later = utc_now() + searches.REPEAT + timedelta(seconds=1)
    monkeypatch.setattr(listing, "utc_now", lambda: later)
    with by("one"):
        listing.listed(ws, case_id)
    assert len(rows(ws)) == 7


def test_many_who_ask_at_once_write_it_down_once(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    show(ws, "a", face_picture(1))
    listing.listed(ws, case_id)
    with by("one"), ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(copy_context().run, listing.listed, ws, case_id, 7) for _ in range(16)]
        answers = {tuple(i.candidate_id for i in one.result().items) for one in asked}
    assert len(answers) == 1
    assert [row.k for row in rows(ws)] == [20, 7]


@pytest.mark.practice(1)
def test_without_a_purpose_that_of_the_case_holds(ws: Workspace) -> None:
    case_id = open_case(ws, 1, default_purpose="identify_victim")
    show(ws, "a", face_picture(1))
    listing.listed(ws, case_id)
    jobs.run_pending(ws)
    assert [row.purpose for row in rows(ws)] == ["identify_victim"]
    watched = acts(ws, "search.watch")
    assert {(act.case_id, act.purpose) for act in watched} == {(case_id, "identify_victim")}
    # By the job of the photo, and by the ad that came in.
    assert {act.subject_kind for act in watched} == {"job", "case"}
    with pytest.raises(PurposeRequired):
        listing.listed(ws, case_id, purpose="curiosity")


def test_a_photo_search_is_recorded_each_time(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    show(ws, "a", face_picture(1))
    for _ in range(2):
        candidates.search_photo(ws, case_id, face_picture(1), purpose="verify_sighting")
    assert [row.kind for row in rows(ws)] == ["photo", "photo"]
    assert [act.details["candidates"] for act in acts(ws, "search.photo")] == [1, 1]


@pytest.mark.practice(1)
def test_a_case_that_ended_is_searched_by_nobody(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    show(ws, "a", face_picture(1))
    (one,) = listing.listed(ws, case_id).items
    cases.update_case(ws, case_id, {"status": "found"})
    before = len(rows(ws)), _count(ws)
    with pytest.raises(CaseClosed):
        listing.listed(ws, case_id)
    with pytest.raises(CaseClosed):
        candidates.search_photo(ws, case_id, face_picture(1), purpose="verify_sighting")
    with pytest.raises(CaseClosed):
        reveals.reveal(ws, case_id, one.candidate_id, "check_face")
    assert (len(rows(ws)), _count(ws)) == before


def test_a_reveal_is_on_record_before_the_picture(ws: Workspace) -> None:
    case_id, other = open_case(ws, 1), open_case(ws, 2)
    show(ws, "a", face_picture(1))
    (one,) = listing.listed(ws, case_id).items
    with by("one"):
        reveals.reveal(ws, case_id, one.candidate_id, "other_people")
    with pytest.raises(CandidateNotFound):
        reveals.reveal(ws, other, one.candidate_id, "other_people")
    with pytest.raises(ValueError, match="no such reason"):
        reveals.reveal(ws, case_id, one.candidate_id, "curiosity")
    (act,) = acts(ws, "picture.reveal")
    assert (act.actor, act.case_id, act.purpose) == ("one", case_id, searches.USUAL)
    assert act.details["reason"] == "other_people"
    assert act.details["sha256"] == one.image_sha256


def _count(ws: Workspace) -> int:
    with ws.catalog.read() as session:
        return session.scalar(select(func.count()).select_from(AuditRecord)) or 0
