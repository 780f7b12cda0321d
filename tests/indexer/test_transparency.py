"""The yearly report (PRACTICE 16 and 28): from the audit log, the same figures as from the rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from indexer import approvals, candidates, cases, forget, holds, judgements, listing, reveals
from indexer.acting import Acting, begin
from indexer.audit import chain
from indexer.audit.chain import record
from indexer.catalog.tables import Search
from indexer.records import CaseInput
from indexer.times import utc_now
from indexer.transparency import counting
from indexer.transparency.counting import count
from indexer.transparency.report import YearNotOver, make_report
from indexer.workspace import Workspace
from tests.indexer.small import face_picture
from tests.indexer.watch import open_case, show

NOW = utc_now()


def year_of(ws: Workspace, year: int = NOW.year) -> counting.Year:
    with ws.catalog.read() as session:
        return count(session, year)


def table(found: counting.Year, name: str) -> tuple[int, dict[str, dict[str, int]]]:
    one = next(one for one in found.tables if one.name == name)
    return one.total, {
        by: {cell: n for cell, n in cells.items() if n} for by, cells in one.divisions.items()
    }


def test_what_was_done_is_counted_from_the_log_and_agrees_with_the_rows(watched: Workspace) -> None:
    ws = watched
    first = open_case(ws, 1, agency="north")
    second = open_case(ws, 2, default_purpose="identify_victim")
    show(ws, "a", face_picture(1))
    with begin(Acting("api", "user", "one", "north")):
        for _ in range(2):
            (found,) = listing.listed(ws, first).items
        listing.listed(ws, second)
        candidates.search_photo(ws, first, face_picture(1), purpose="verify_sighting")
        reveals.reveal(ws, first, found.candidate_id, "check_face")
        judgements.judge(ws, found.candidate_id, "inconclusive", "Too small.", actor="one")
        holds.set_hold(ws, "case", second, "litigation")
    cases.update_case(ws, first, {"status": "found"})
    counted = year_of(ws)
    assert table(counted, "cases_opened") == (2, {"agency": {"north": 1, "": 1}})
    assert table(counted, "cases_ended") == (1, {"outcome": {"found": 1}, "agency": {"north": 1}})
    total, by = table(counted, "searches")
    assert total == 3
    assert by["purpose"] == {
        "locate_missing_person": 1,
        "identify_victim": 1,
        "verify_sighting": 1,
    }
    assert by["kind"] == {"search.list": 2, "search.photo": 1}
    assert by["agency"] == {"north": 2, "": 1}
    assert by["contract"] == {ws.contract_id: 3}
    assert counted.gallery == (1, 1, 1)
    assert table(counted, "reveals") == (1, {"reason": {"check_face": 1}})
    assert table(counted, "judgements") == (1, {"conclusion": {"inconclusive": 1}})
    assert table(counted, "alerts")[0] == 1
    assert table(counted, "holds_set")[0] == 1
    assert {one.name: one.state for one in counted.reconciled} == dict.fromkeys(
        [one.name for one in counting.TABLES if one.rows is not None], "agrees"
    )
    assert [one.audit for one in counted.reconciled if one.name == "searches"] == [3]
    # What is deleted leaves fewer rows, and the log says why.
    forget.forget_case(ws, first)
    after = year_of(ws)
    states = {one.name: one.state for one in after.reconciled}
    assert (states["cases_opened"], states["judgements"], states["alerts"]) == ("purged",) * 3
    assert states["searches"] == states["forgotten"] == "agrees"
    assert table(after, "forgotten") == (1, {"kind": {"case.forget": 1}})
    assert table(after, "cases_opened") == table(counted, "cases_opened")


def test_a_row_that_nobody_recorded_is_told(ws: Workspace) -> None:
    with ws.catalog.write() as session:
        session.add(
            Search(
                search_id="0" * 36,
                at=utc_now(),
                actor="somebody",
                case_id="0" * 36,
                purpose="training",
                gallery_size=1,
                contract_id=ws.contract_id,
                k=1,
                candidate_ids=[],
            )
        )
    states = {one.name: one.state for one in year_of(ws).reconciled}
    assert states["searches"] == "differs" and states["alerts"] == "agrees"


def test_approvals_are_counted(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with ws.catalog.write() as session:
        for emergency in (True, False, False):
            record(session, "approval.ask", details={"emergency": emergency})
        record(session, "approval.decide", details={"decision": "refuse"})
        record(session, "approval.lapse", details={"reason": "not_ratified"})
    counted = year_of(ws)
    assert table(counted, "approvals_asked") == (3, {"kind": {"ordinary": 2, "emergency": 1}})
    assert table(counted, "approvals_decided") == (1, {"decision": {"refuse": 1}})
    assert table(counted, "approvals_lapsed") == (1, {"reason": {"not_ratified": 1}})
    assert timedelta(hours=48) == approvals.RATIFY


def test_refusals_are_counted_by_their_code(ws: Workspace) -> None:
    with ws.catalog.write() as session:
        for channel, outcome in (
            ("api", "case_closed"),
            ("web", "case_closed"),
            ("api", "forbidden"),
            ("system", "delivery_failed"),
            ("api", "done"),
        ):
            with begin(Acting(channel, "key", "a-key")):  # type: ignore[arg-type]
                record(session, "case.read", outcome=outcome)
    assert table(year_of(ws), "refusals") == (
        3,
        {"reason": {"case_closed": 2, "forbidden": 1}},
    )


def at(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    monkeypatch.setattr(chain, "utc_now", lambda: moment)


def test_only_a_year_that_is_over_and_the_same_whenever_it_is_asked_for(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(YearNotOver):
        make_report(ws.catalog, NOW.year)
    with pytest.raises(YearNotOver):
        make_report(ws.catalog, NOW.year + 1)
    last = NOW.year - 1
    made: list[dict[str, Any]] = [{"agency": "north"}] * 30 + [{"agency": "south"}] * 4
    at(monkeypatch, datetime(last, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC))
    with ws.catalog.write() as session:
        for details in made:
            record(session, "case.create", details=details)
    at(monkeypatch, datetime(NOW.year, 1, 1, tzinfo=UTC))
    before = make_report(ws.catalog, last)
    with ws.catalog.write() as session:
        for _ in range(20):
            record(session, "case.create", details={"agency": "north"})
    cases.create_case(ws, CaseInput(case_number="1", agency="north"))
    report = make_report(ws.catalog, last)
    assert report == before
    opened = next(one for one in report.tables if one.name == "cases_opened")
    assert opened.total == 34
    # 34 - 30 would tell the other.
    assert opened.divisions["agency"] == {"north": None, "south": None}
    assert report.last_hash is not None


def test_contracts_with_what_was_measured(
    watched: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = watched
    at(monkeypatch, datetime(NOW.year - 1, 6, 1, tzinfo=UTC))
    with ws.catalog.write() as session:
        for n in range(12):
            record(
                session,
                "search.list",
                purpose="locate_missing_person",
                details={
                    "gallery_size": 123_456 + n,
                    "contract_id": ws.contract_id,
                    "agency": "",
                },
            )
    (unknown,) = make_report(ws.catalog, NOW.year - 1).contracts
    assert (unknown.calibrated, unknown.thresholds) == (False, {})
    report = make_report(ws.catalog, NOW.year - 1, ws.calibration)
    assert (report.gallery.least, report.gallery.most) == (120_000, 120_000)
    (use,) = report.contracts
    assert (use.contract_id, use.searches, use.calibrated) == (ws.contract_id, 12, True)
    assert use.thresholds == {"1e-03": 0.6, "1e-04": 0.7, "1e-05": 0.9, "1e-06": None}
