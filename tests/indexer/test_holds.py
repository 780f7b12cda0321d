"""Legal holds (PRACTICE 11): what is held is not deleted and does not age."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from indexer import cases, forget, holds, judgements, listing, retention
from indexer.acting import Acting, begin
from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.tables import Ad, Candidate, Case
from indexer.errors import HoldNotFound, LegalHold, LifterIsSetter
from indexer.times import utc_now
from indexer.workspace import Workspace, WorkspaceOptions
from tests.indexer.conftest import Opens
from tests.indexer.small import face_picture
from tests.indexer.watch import open_case, show


def by(actor: str, agency: str | None = None):  # type: ignore[no-untyped-def]
    return begin(Acting("api", "user", actor, agency))


@pytest.mark.practice(11)
def test_a_held_case_is_not_deleted_until_the_hold_is_lifted(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    photo_id = cases.get_case(ws, case_id).photos[0].photo_id
    with by("supervisor-1"):
        made = holds.set_hold(ws, "case", case_id, "court_order", note="Order 12 about Jane Roe")
        again = holds.set_hold(ws, "case", case_id, "litigation")
    assert again == made
    with pytest.raises(LegalHold):
        forget.forget_case(ws, case_id)
    with pytest.raises(LegalHold):
        forget.forget_photo(ws, case_id, photo_id)
    with by("supervisor-2"):
        lifted = holds.lift_hold(ws, "case", case_id)
        with pytest.raises(HoldNotFound):
            holds.lift_hold(ws, "case", case_id)
    assert (lifted.set_by, lifted.lifted_by) == ("supervisor-1", "supervisor-2")
    forget.forget_case(ws, case_id)
    (kept,) = holds.list_holds(ws, lifted=True).items
    assert (kept.hold_id, kept.reason, kept.note) == (made.hold_id, "court_order", None)
    with ws.catalog.read() as session:
        acts = session.scalars(
            select(AuditRecord).where(AuditRecord.action.like("hold.%")).order_by(AuditRecord.seq)
        ).all()
    assert [(act.action, act.actor) for act in acts] == [
        ("hold.set", "supervisor-1"),
        ("hold.lift", "supervisor-2"),
    ]
    assert "Roe" not in str([act.details for act in acts])


def test_a_held_case_that_ends_is_withdrawn_and_keeps_what_was_reviewed(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    show(ws, "a", face_picture(1))
    show(ws, "b", face_picture(1, 1))
    judged, _ = (item.candidate_id for item in listing.listed(ws, case_id).items)
    judgements.judge(ws, judged, "supports_same", "Same mark.", actor="reviewer")
    holds.set_hold(ws, "case", case_id, "exported_evidence")
    cases.update_case(ws, case_id, {"status": "found"})
    with ws.catalog.read() as session:
        left = session.scalars(
            select(Candidate.candidate_id).where(Candidate.case_id == case_id)
        ).all()
    assert left == [judged]
    assert ws.cases.count() == 0
    with pytest.raises(LegalHold):
        forget.forget_case(ws, case_id)


def test_a_held_ad_neither_goes_nor_ages(ws: Workspace) -> None:
    ad_id = show(ws, "a", face_picture(1)).ad_id
    other = show(ws, "b", face_picture(2)).ad_id
    holds.set_hold(ws, "ad", ad_id, "internal_inquiry")
    with pytest.raises(LegalHold):
        forget.forget_ad(ws, ad_id)
    with ws.catalog.write() as session:
        session.execute(update(Ad).values(last_received_at=utc_now() - timedelta(days=100)))
    gone = [one.subject_id for batch in retention.forget_older(ws, 30) for one in batch]
    assert gone == [other]


def test_each_agency_has_its_own_hold_on_an_ad(ws: Workspace) -> None:
    ad_id = show(ws, "a", face_picture(1)).ad_id
    with by("a-1", "north"):
        holds.set_hold(ws, "ad", ad_id, "litigation")
    with by("b-1", "south"):
        with pytest.raises(HoldNotFound):
            holds.lift_hold(ws, "ad", ad_id)
        holds.set_hold(ws, "ad", ad_id, "court_order")
        holds.lift_hold(ws, "ad", ad_id)
    with pytest.raises(LegalHold):
        forget.forget_ad(ws, ad_id)
    assert [one.agency for one in holds.list_holds(ws).items] == ["north"]
    assert not holds.list_holds(ws, agency="south").items
    with by("root"):
        holds.lift_hold(ws, "ad", ad_id)
    forget.forget_ad(ws, ad_id)


def test_where_approvals_are_required_another_lifts(opens: Opens) -> None:
    ws = opens(options=WorkspaceOptions(approval_required=True))()
    case_id = open_case(ws, 1)
    with by("supervisor-1"):
        holds.set_hold(ws, "case", case_id, "litigation")
        with pytest.raises(LifterIsSetter):
            holds.lift_hold(ws, "case", case_id)
    assert cases.get_case(ws, case_id).legal_hold
    with by("supervisor-2"):
        holds.lift_hold(ws, "case", case_id)
    assert not cases.get_case(ws, case_id).legal_hold


def test_a_flag_from_before_holds_had_rows_can_be_lifted(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    with ws.catalog.write() as session:
        session.get_one(Case, case_id).legal_hold = True
    with by("supervisor-1"):
        assert holds.lift_hold(ws, "case", case_id).set_by == "system"
    with ws.catalog.read() as session:
        acts = session.scalars(
            select(AuditRecord.action).where(AuditRecord.subject_id == case_id)
        ).all()
    # As many set as lifted.
    assert [act for act in acts if act.startswith("hold.")] == ["hold.set", "hold.lift"]
    forget.forget_case(ws, case_id)
