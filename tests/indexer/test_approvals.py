"""Approvals: nothing is searched before a second person agreed, and no longer than agreed.

PRACTICE 1 (purpose, open cases only) and 27 (approver is not the requester; an emergency start is
ratified within 48 hours or suspended).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from indexer import (
    alerting,
    approval_ends,
    approvals,
    candidates,
    cases,
    jobs,
    listing,
    reveals,
    searchable,
    watchlist,
)
from indexer.acting import Acting, begin
from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.tables import ApiKey, Case
from indexer.errors import (
    ApprovalRequired,
    ApprovalStateInvalid,
    ApproverIsRequester,
    CaseClosed,
    PurposeRequired,
)
from indexer.ids import new_id
from indexer.times import utc_now
from indexer.workspace import Workspace, WorkspaceOptions
from tests.indexer.conftest import Opens
from tests.indexer.small import face_picture
from tests.indexer.watch import CALIBRATION, alerts_of, open_case, show

LOOK = "locate_missing_person"
ASKER, OTHER = "investigator-1", "supervisor-1"


@pytest.fixture
def ws(opens: Opens) -> Workspace:
    """New cases wait for an approval."""
    return opens(
        calibration=CALIBRATION,
        options=WorkspaceOptions(alert_budget=100, approval_required=True, approval_days=30),
    )()


def by(actor: str):  # type: ignore[no-untyped-def]
    return begin(Acting("api", "user", actor))


def ask(ws: Workspace, case_id: str, *, emergency: bool = False) -> str:
    with by(ASKER):
        return approvals.ask(ws, case_id, LOOK, emergency=emergency).approval_id


def approve(ws: Workspace, approval_id: str, days: int | None = None) -> approvals.ApprovalRecord:
    with by(OTHER):
        return approvals.decide(ws, approval_id, "approve", valid_days=days)


def later(monkeypatch: pytest.MonkeyPatch, **by_how_much: float) -> None:
    """The clock of the catalog goes on; nobody does any upkeep."""
    moment = utc_now() + timedelta(**by_how_much)
    for module in (searchable, approvals, approval_ends, watchlist, alerting):
        monkeypatch.setattr(module, "clock", lambda _session: moment)


def row_of(ws: Workspace, case_id: str) -> Case:
    with ws.catalog.read() as session:
        return session.get_one(Case, case_id)


def acts(ws: Workspace, case_id: str) -> list[tuple[str, str | None]]:
    with ws.catalog.read() as session:
        rows = session.scalars(
            select(AuditRecord)
            .where(AuditRecord.case_id == case_id, AuditRecord.action.like("approval.%"))
            .order_by(AuditRecord.seq)
        )
        return [
            (row.action, row.details.get("decision") or row.details.get("reason")) for row in rows
        ]


def is_refused(ws: Workspace, case_id: str) -> bool:
    """Every door by which a case is searched is closed, or every one is open."""
    doors: list[Callable[[], object]] = [
        lambda: listing.listed(ws, case_id),
        lambda: candidates.search_photo(ws, case_id, face_picture(1), purpose=LOOK),
        lambda: watchlist.probe_ads(ws, case_id),
    ]
    refused = []
    for door in doors:
        try:
            door()
            refused.append(False)
        except ApprovalRequired:
            refused.append(True)
    assert len(set(refused)) == 1, refused
    return refused[0]


def test_a_new_case_waits_and_its_photos_are_enrolled_meanwhile(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    show(ws, "a", face_picture(1))
    assert is_refused(ws, case_id)
    assert alerts_of(ws) == []
    assert cases.get_case(ws, case_id).photos[0].enrolled
    assert cases.get_case(ws, case_id).suspended


def test_an_approval_finds_what_came_in_meanwhile(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    show(ws, "a", face_picture(1))
    made = approve(ws, ask(ws, case_id))
    assert made.state == "approved" and made.decided_by == OTHER
    jobs.run_pending(ws)
    assert [alert.case_id for alert in alerts_of(ws)] == [case_id]
    assert not is_refused(ws, case_id)
    show(ws, "b", face_picture(1, 1))
    assert len(alerts_of(ws)) == 2


def test_whoever_asked_cannot_decide(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    approval_id = ask(ws, case_id)
    key, sibling = new_id(), new_id()
    with ws.catalog.write() as session:
        for one in (key, sibling):
            session.add(
                ApiKey(
                    key_id=one,
                    name="a key",
                    prefix="hw_",
                    sha256=one.replace("-", "") * 2,
                    scopes=[],
                    created_by=ASKER,
                    created_at=utc_now(),
                )
            )
    for actor in (ASKER, key):
        with by(actor), pytest.raises(ApproverIsRequester):
            approvals.decide(ws, approval_id, "approve")
    approve(ws, approval_id)
    # The other way round, and two keys of one maker.
    second = open_case(ws, 2)
    with by(key):
        asked = approvals.ask(ws, second, LOOK).approval_id
    for actor in (ASKER, sibling):
        with by(actor), pytest.raises(ApproverIsRequester):
            approvals.decide(ws, asked, "approve")
    assert is_refused(ws, second)


def test_an_approval_ends_at_its_hour_without_any_upkeep(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = open_case(ws, 1)
    approve(ws, ask(ws, case_id), days=3)
    later(monkeypatch, days=2.9)
    assert not is_refused(ws, case_id)
    later(monkeypatch, days=3.1)
    assert is_refused(ws, case_id)
    show(ws, "a", face_picture(1))
    assert alerts_of(ws) == []
    approvals.keep(ws)
    assert row_of(ws, case_id).suspended
    assert acts(ws, case_id)[-1] == ("approval.lapse", "expired")


def test_an_emergency_begins_at_once_and_ends_unless_ratified(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = open_case(ws, 1)
    show(ws, "a", face_picture(1))
    approval_id = ask(ws, case_id, emergency=True)
    jobs.run_pending(ws)
    assert len(alerts_of(ws)) == 1 and not is_refused(ws, case_id)
    later(monkeypatch, hours=47.9)
    assert not is_refused(ws, case_id)
    later(monkeypatch, hours=48.1)
    assert is_refused(ws, case_id)
    with by(OTHER), pytest.raises(ApprovalStateInvalid):
        approvals.decide(ws, approval_id, "approve")
    approvals.keep(ws)
    assert acts(ws, case_id)[-1] == ("approval.lapse", "not_ratified")
    # No chain of emergencies: the next search waits for a decision.
    with by(ASKER), pytest.raises(ApprovalStateInvalid, match="not ratified"):
        approvals.ask(ws, case_id, LOOK, emergency=True)
    approve(ws, ask(ws, case_id))
    assert not is_refused(ws, case_id)


def test_an_emergency_that_is_ratified_goes_on(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = open_case(ws, 1)
    approve(ws, ask(ws, case_id, emergency=True))
    later(monkeypatch, days=20)
    approvals.keep(ws)
    assert not is_refused(ws, case_id)


def test_an_emergency_that_is_refused_ends_now(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    approval_id = ask(ws, case_id, emergency=True)
    with by(OTHER):
        approvals.decide(ws, approval_id, "refuse")
    assert is_refused(ws, case_id)


def test_an_approval_in_force_can_be_withdrawn_and_a_renewal_refused_takes_nothing(
    ws: Workspace,
) -> None:
    case_id = open_case(ws, 1)
    first = ask(ws, case_id)
    approve(ws, first)
    second = ask(ws, case_id)
    with by(ASKER), pytest.raises(ApprovalStateInvalid, match="already"):
        approvals.ask(ws, case_id, LOOK)
    with by(OTHER):
        approvals.decide(ws, second, "refuse")
    assert not is_refused(ws, case_id)
    with by(OTHER):
        approvals.decide(ws, first, "refuse")
    assert is_refused(ws, case_id)


def test_what_was_approved_ends_with_the_case(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    approve(ws, ask(ws, case_id))
    cases.update_case(ws, case_id, {"status": "found"})
    with pytest.raises(CaseClosed):
        listing.listed(ws, case_id)
    with pytest.raises(CaseClosed):
        reveals.reveal(ws, case_id, new_id(), "check_face")
    assert acts(ws, case_id)[-1] == ("approval.lapse", "case_ended")
    cases.update_case(ws, case_id, {"status": "open"})
    jobs.run_pending(ws)
    assert is_refused(ws, case_id)
    # What ended with the case was no emergency that nobody ratified.
    ask(ws, case_id, emergency=True)
    assert not is_refused(ws, case_id)


def test_cases_from_before_go_on_for_a_grace(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    free = opens(calibration=CALIBRATION)()
    case_id = open_case(free, 1)
    assert not is_refused(free, case_id)
    with by(ASKER), pytest.raises(ApprovalStateInvalid, match="without an approval"):
        approvals.ask(free, case_id, LOOK)
    ws = opens(calibration=CALIBRATION, options=WorkspaceOptions(approval_required=True))()
    until = row_of(ws, case_id).search_until
    assert until is not None
    assert abs(until - utc_now() - approvals.GRACE) < timedelta(minutes=5)
    assert acts(ws, case_id) == [("approval.grace", None)]
    # A process without the setting takes nothing back.
    opens(calibration=CALIBRATION)()
    later(monkeypatch, days=13)
    assert not is_refused(ws, case_id)
    later(monkeypatch, days=15)
    assert is_refused(ws, case_id)
    assert not approvals.list_approvals(ws, case_id=case_id).items
    approve(ws, ask(ws, case_id))
    assert not is_refused(ws, case_id)


def test_no_chain_of_emergencies_by_closing_the_case(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = open_case(ws, 1)
    ask(ws, case_id, emergency=True)
    later(monkeypatch, hours=47)
    cases.update_case(ws, case_id, {"status": "closed"})
    cases.update_case(ws, case_id, {"status": "open"})
    with by(ASKER), pytest.raises(ApprovalStateInvalid, match="not ratified"):
        approvals.ask(ws, case_id, LOOK, emergency=True)
    assert is_refused(ws, case_id)
    approve(ws, ask(ws, case_id))
    assert not is_refused(ws, case_id)


def test_the_grace_ends_nothing_where_approvals_are_not_asked_for(opens: Opens) -> None:
    options = WorkspaceOptions(approval_required=True)
    ws = opens(calibration=CALIBRATION, options=options)()
    fresh, approved = open_case(ws, 1), open_case(ws, 2)
    approve(ws, ask(ws, approved))
    with ws.catalog.write() as session:
        session.get_one(Case, fresh).suspended = False  # as if from before
    approvals.keep(ws)
    assert row_of(ws, fresh).search_until is not None
    off = opens(calibration=CALIBRATION)()
    with off.catalog.write() as session:
        session.get_one(Case, fresh).search_until = utc_now() - timedelta(seconds=1)
    approvals.keep(off)
    row = row_of(off, fresh)
    assert (row.suspended, row.search_until) == (False, None)
    assert not is_refused(off, fresh)
    assert row_of(off, approved).search_until is not None
    assert acts(off, fresh) == [("approval.grace", None), ("approval.grace", None)]


def test_what_ends_soon_or_has_ended_is_listed(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, approved = open_case(ws, 1), open_case(ws, 2)
    approve(ws, ask(ws, approved))

    def now() -> tuple[list[tuple[str, bool]], tuple[int, int, int]]:
        with ws.catalog.read() as session:
            counted = approval_ends.counts(session)
        listed = approval_ends.ending(ws)
        return [(one.case_id, one.search_until is not None) for one in listed], counted

    assert now() == ([(waiting, False)], (1, 0, 0))
    later(monkeypatch, days=ws.options.approval_days - 6)
    assert now() == ([(waiting, False), (approved, True)], (1, 0, 1))
    assert approval_ends.ending(ws, agency="another") == ()
    later(monkeypatch, days=ws.options.approval_days + 1)
    assert now() == ([(waiting, False), (approved, False)], (2, 1, 0))
    approvals.keep(ws)
    assert sorted(now()[0]) == sorted([(waiting, False), (approved, False)])
    assert now()[1] == (2, 1, 0)
    ask(ws, approved)
    assert now()[1] == (2, 0, 0)


def test_a_suspended_case_in_front_hides_nobody_behind(ws: Workspace) -> None:
    """Two cases of one person: the one that may be searched is told of the ad."""
    waiting, approved = open_case(ws, 1), open_case(ws, 1, 91)
    approve(ws, ask(ws, approved))
    jobs.run_pending(ws)
    show(ws, "a", face_picture(1))
    assert [alert.case_id for alert in alerts_of(ws)] == [approved]
    assert is_refused(ws, waiting)


def test_every_act_is_in_the_chain_in_its_own_transaction(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    approval_id = ask(ws, case_id)
    with by(OTHER):
        approvals.decide(ws, approval_id, "refuse", note="Jane Roe was found, they say.")
    with ws.catalog.read() as session:
        rows = session.scalars(
            select(AuditRecord).where(AuditRecord.action.like("approval.%"))
        ).all()
    assert [(row.action, row.actor) for row in rows] == [
        ("approval.ask", ASKER),
        ("approval.decide", OTHER),
    ]
    assert {row.case_id for row in rows} == {case_id}
    assert "Roe" not in str([row.details for row in rows])


@pytest.mark.practice(1)
def test_a_purpose_has_to_be_of_the_list(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    with by(ASKER), pytest.raises(PurposeRequired):
        approvals.ask(ws, case_id, "curiosity")


def test_the_clock_is_that_of_the_catalog(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose own clock is behind does not lengthen anything where a server keeps time."""
    case_id = open_case(ws, 1)
    approve(ws, ask(ws, case_id))
    with ws.catalog.write() as session:
        session.execute(update(Case).values(search_until=utc_now() - timedelta(seconds=5)))
    if ws.catalog.engine.dialect.name == "postgresql":
        monkeypatch.setattr(searchable, "utc_now", lambda: datetime(2020, 1, 1, tzinfo=UTC))
    assert is_refused(ws, case_id)
