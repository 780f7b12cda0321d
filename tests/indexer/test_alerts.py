"""Alerts as they are read: in order, from any place, joined with what is known now."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from indexer import alerts, cases, forget
from indexer.catalog.tables import Candidate
from indexer.errors import AlertNotFound, CaseNotFound, InvalidCursor
from indexer.ids import encode_cursor, new_id
from indexer.records import CaseInput
from indexer.times import utc_now
from indexer.workspace import Workspace
from tests.indexer.raising import add_candidate, raise_alert
from tests.indexer.small import face_picture


@pytest.fixture
def case_id(ws: Workspace) -> str:
    made = cases.create_case(ws, CaseInput(case_number="A-1"))
    cases.add_photo(ws, made.case_id, face_picture(1))
    return made.case_id


def ids(page: alerts.AlertPage) -> list[str]:
    return [item.alert_id for item in page.items]


def test_each_alert_is_read_once_and_in_order(ws: Workspace, case_id: str) -> None:
    raised = [raise_alert(ws, case_id) for _ in range(5)]
    seen: list[str] = []
    after = 0
    while True:
        page = alerts.list_alerts(ws, after=after, limit=2)
        seen += ids(page)
        after = page.resume_after
        if page.next_after is None:
            break
        assert page.next_after == page.resume_after
    assert seen == raised
    nothing = alerts.list_alerts(ws, after=after)
    assert nothing.items == () and nothing.resume_after == after == alerts.latest_seq(ws)
    late = raise_alert(ws, case_id)
    assert ids(alerts.list_alerts(ws, after=after)) == [late]


def test_the_newest_come_first_where_people_read(ws: Workspace, case_id: str) -> None:
    raised = [raise_alert(ws, case_id) for _ in range(3)]
    page = alerts.recent_alerts(ws, limit=2)
    assert ids(page) == [raised[2], raised[1]]
    rest = alerts.recent_alerts(ws, limit=2, before=page.next_after)
    assert ids(rest) == [raised[0]] and rest.next_after is None


def test_the_list_of_one_case_holds_no_other(ws: Workspace, case_id: str) -> None:
    other = cases.create_case(ws, CaseInput(case_number="A-2")).case_id
    mine, theirs = raise_alert(ws, case_id), raise_alert(ws, other)
    page = alerts.list_alerts(ws, case_id=case_id)
    assert ids(page) == [mine]
    # What another case raised counts as seen, so that asking again reads little.
    assert page.resume_after == alerts.latest_seq(ws)
    assert ids(alerts.recent_alerts(ws, case_id=other)) == [theirs]


def test_an_alert_tells_what_is_known_of_its_candidate(ws: Workspace, case_id: str) -> None:
    candidate_id = add_candidate(ws, case_id, 1, "7", title="An ad", city="Nowhere")
    alert_id = raise_alert(ws, case_id, candidate_id, tightened=True)
    found = alerts.get_alert(ws, alert_id)
    assert (found.case_number, found.case_status) == ("A-1", "open")
    assert found.candidate_id == candidate_id and found.status == "unreviewed"
    assert found.face is not None and found.face.box.width == 80
    assert found.image_sha256 == found.face.sha256
    assert found.ad is not None
    assert (found.ad.external_id, found.ad.title, found.ad.city) == ("7", "An ad", "Nowhere")
    assert found.lead is not None and found.lead.lead_id == found.lead_id
    assert (found.lead.ads, found.lead.images) == (1, 1)
    assert found.tightened and found.this_week == 1 and found.case_budget is None
    (listed,) = alerts.list_alerts(ws).items
    assert replace(listed, face=None) == replace(found, face=None)


def test_a_forgotten_ad_leaves_the_alert_without_content(ws: Workspace, case_id: str) -> None:
    candidate_id = add_candidate(ws, case_id, 1, "7")
    before = alerts.get_alert(ws, raise_alert(ws, case_id, candidate_id))
    assert before.ad is not None
    forget.forget_ad(ws, before.ad.ad_id)
    after = alerts.get_alert(ws, before.alert_id)
    assert after == replace(before, status=None, face=None, image_sha256=None, ad=None, lead=None)


def test_a_case_that_is_found_shows_no_alerts_as_new_work(ws: Workspace, case_id: str) -> None:
    alert_id = raise_alert(ws, case_id, add_candidate(ws, case_id, 1, "7"))
    cases.update_case(ws, case_id, {"status": "found"})
    assert alerts.list_alerts(ws).items == ()
    assert alerts.recent_alerts(ws).items == ()
    (kept,) = alerts.list_alerts(ws, include_closed=True).items
    assert (kept.alert_id, kept.case_status, kept.face) == (alert_id, "found", None)
    assert alerts.get_alert(ws, alert_id) == kept


def test_a_forgotten_case_takes_its_alerts_along(ws: Workspace, case_id: str) -> None:
    alert_id = raise_alert(ws, case_id)
    last = alerts.latest_seq(ws)
    forget.forget_case(ws, case_id)
    assert alerts.list_alerts(ws, include_closed=True).items == ()
    with pytest.raises(AlertNotFound):
        alerts.get_alert(ws, alert_id)
    # The place of who has read it all does not go back, or a later alert would come twice.
    assert alerts.list_alerts(ws, after=last).resume_after == last
    other = cases.create_case(ws, CaseInput(case_number="A-2")).case_id
    late = raise_alert(ws, other)
    assert ids(alerts.list_alerts(ws, after=last)) == [late]


@pytest.mark.parametrize("seq", [0, 1, 123456789, 2**63 - 1])
def test_cursors_come_back_as_they_went(seq: int) -> None:
    assert alerts.alert_seq(alerts.alert_cursor(seq)) == seq


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "=", "é", "YTE6LTE", "YTE6", "djE6MQ", "YTE6MQ==x", alerts.alert_cursor(2**63),
     alerts.alert_cursor(10**30), encode_cursor("01890a5d-ac96-774b-bcce-b302099a8057"),
     "YTE6MSAg"],
)  # fmt: skip
def test_other_text_is_no_cursor(cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        alerts.alert_seq(cursor)


def test_a_case_knows_how_it_stands_with_its_budget(ws: Workspace, case_id: str) -> None:
    found = alerts.standing(ws, case_id)
    assert (found.limit.raised, found.limit.base, found.held) == (0, 1.0, 0)
    assert not found.limit.tightened
    cases.update_case(ws, case_id, {"alert_budget": 2, "alert_expected_false": 0.5})
    candidate_id = add_candidate(ws, case_id, 1, "7")
    raise_alert(ws, case_id, candidate_id)
    raise_alert(ws, case_id)
    # More than a week ago: it no longer counts.
    raise_alert(ws, case_id, at=utc_now() - timedelta(days=7, seconds=1))
    with ws.catalog.write() as session:
        session.get_one(Candidate, candidate_id).held_at = utc_now()
    found = alerts.standing(ws, case_id)
    assert (found.limit.raised, found.limit.budget, found.limit.base, found.held) == (2, 2, 0.5, 1)
    assert found.limit.tightened and found.limit.expected_false == pytest.approx(0.05)
    with pytest.raises(CaseNotFound):
        alerts.standing(ws, new_id())
