"""Alerts in the pages: what is new, how telling it is, and how a case stands with its budget."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from indexer import cases, forget
from indexer.alerts import get_alert
from indexer.catalog.tables import Candidate
from indexer.ids import new_id
from indexer.records import CaseInput
from indexer.times import utc_now
from indexer.workspace import Workspace, open_workspace
from service.accounts.keys import KeyStore
from service.config import Settings
from service.web.alert_views import bound_text, limit_text
from service.web.texts.pages import TEXTS
from tests.indexer.raising import add_candidate, raise_alert
from tests.indexer.small import SmallAnalyser, face_picture
from tests.indexer.watch import CALIBRATION
from tests.service.web.browser import Browser
from tests.tables import lend_tables


@pytest.fixture
def workspace(settings: Settings) -> Iterator[Workspace]:
    lend_tables(settings.data_dir)
    with open_workspace(settings.data_dir, SmallAnalyser()) as opened:
        yield opened


@pytest.fixture
def case_id(workspace: Workspace) -> str:
    made = cases.create_case(workspace, CaseInput(case_number="A-1"))
    cases.add_photo(workspace, made.case_id, face_picture(1))
    return made.case_id


def test_without_alerts_the_page_says_what_will_appear(browser: Browser) -> None:
    page = browser.get("/alerts")
    assert TEXTS["alerts.empty"] in page.prose
    assert "/alerts" in page.links


def test_an_alert_shows_the_face_and_leads_to_its_case(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    candidate_id = add_candidate(workspace, case_id, 1, "7", title="An ad", city="Nowhere")
    alert_id = raise_alert(workspace, case_id, candidate_id, expected_false=0.004)
    page = browser.get("/alerts")
    face = get_alert(workspace, alert_id).face
    assert face is not None
    assert [image["src"] for image in page.images if image["src"].startswith("/faces/")] == [
        f"/faces/{face.face_id}"
    ]
    target = f"/cases/{case_id}#candidate-{candidate_id}"
    assert target in page.links
    assert f"candidate-{candidate_id}" in browser.get(f"/cases/{case_id}").ids
    page = browser.get("/alerts")
    for text in ("Case A-1", "An ad", "Nowhere", "Very strong", "1 stranger in 250 searches",
                 "unreviewed"):  # fmt: skip
        assert text in page.prose, text
    assert TEXTS["alert.tightened"] not in page.prose
    assert browser.client.get(f"/faces/{face.face_id}").status_code == 200


def test_a_stricter_limit_is_explained(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    raise_alert(workspace, case_id, tightened=True, expected_false_limit=0.01)
    page = browser.get("/alerts")
    assert TEXTS["alert.tightened"] in page.prose
    assert TEXTS["alert.tightened_help"].format(limit="0.01") in page.prose


def test_what_is_gone_is_said_to_be_gone(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    candidate_id = add_candidate(workspace, case_id, 1, "7", title="An ad")
    ad = get_alert(workspace, raise_alert(workspace, case_id, candidate_id)).ad
    assert ad is not None
    forget.forget_ad(workspace, ad.ad_id)
    page = browser.get("/alerts")
    assert TEXTS["alert.gone"] in page.prose and "An ad" not in page.prose
    assert f"/cases/{case_id}" in page.links
    cases.update_case(workspace, case_id, {"status": "found"})
    assert "A-1" not in browser.get("/alerts").prose
    page = browser.get("/alerts?show=all")
    assert TEXTS["alert.ended"].format(status="found") in page.prose


def test_pages_of_alerts_and_of_one_case(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    other = cases.create_case(workspace, CaseInput(case_number="B-2")).case_id
    raise_alert(workspace, other)
    raised = [raise_alert(workspace, case_id) for _ in range(52)]
    page = browser.get(f"/alerts?case_id={case_id}")
    assert "Alerts of case A-1" in page.prose and "B-2" not in page.prose
    shown = [found for found in page.ids if found.startswith("alert-")]
    assert shown == [f"alert-{alert_id}" for alert_id in reversed(raised[2:])]
    older = next(link for link in page.links if "cursor=" in link)
    page = browser.get(older)
    shown = [found for found in page.ids if found.startswith("alert-")]
    assert shown == [f"alert-{raised[1]}", f"alert-{raised[0]}"]
    assert f"/alerts?show=open&case_id={case_id}" in page.links
    browser.get("/alerts?cursor=x", expect=422)
    browser.get(f"/alerts?case_id={new_id()}", expect=404)
    browser.get("/alerts?case_id=nonsense", expect=404)


def test_figures_are_for_who_may_see_scores(
    client: TestClient, workspace: Workspace, case_id: str
) -> None:
    raise_alert(workspace, case_id)
    for scopes, status, sees in (
        (("alerts:read", "scores:read"), 200, True),
        (("alerts:read",), 200, False),
        (("cases:read", "scores:read"), 403, False),
    ):
        key = KeyStore(workspace.catalog).create("some", scopes).text
        client.cookies.clear()
        visitor = Browser(client)
        visitor.sign_in(key)
        page = visitor.get("/alerts", expect=status)
        assert (TEXTS["figure.score"] in page.prose) is sees
        assert (bound_text(0.05) in page.prose) is sees, "it would give the score away"


def test_a_case_shows_how_it_stands_with_its_alerts(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    assert TEXTS["standing.silent"] in browser.get(f"/cases/{case_id}").prose
    workspace.calibration = CALIBRATION
    page = browser.get(f"/cases/{case_id}")
    assert "0 alerts in the last 7 days." in page.prose
    assert TEXTS["standing.limit"].format(limit="1", budget="20") in page.prose
    assert f"/alerts?case_id={case_id}" in page.links
    cases.update_case(workspace, case_id, {"alert_budget": 1, "alert_expected_false": 0.5})
    # The alerts below are put there by hand.
    workspace.calibration = None
    candidate_id = add_candidate(workspace, case_id, 1, "7")
    raise_alert(workspace, case_id, candidate_id)
    raise_alert(workspace, case_id, at=utc_now() - timedelta(days=8))
    with workspace.catalog.write() as session:
        session.get_one(Candidate, candidate_id).held_at = utc_now()
    workspace.calibration = CALIBRATION
    page = browser.get(f"/cases/{case_id}")
    assert "1 alert in the last 7 days. 1 candidate is held back." in page.prose
    assert TEXTS["standing.tightened"].format(limit="0.05", budget="1") in page.prose
    cases.update_case(workspace, case_id, {"status": "closed"})
    assert "in the last 7 days" not in browser.get(f"/cases/{case_id}").prose


def test_the_form_of_a_case_takes_its_alert_settings(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    path = f"/cases/{case_id}/edit"
    browser.get(path)
    typed = {
        "alert_expected_false": "0,25",
        "alert_budget": "7",
        "alert_emails": " one@agency.example \n\ntwo@agency.example",
    }
    browser.send(path, typed)
    saved = cases.get_case(workspace, case_id)
    assert (saved.alert_expected_false, saved.alert_budget) == (0.25, 7)
    assert saved.alert_emails == ("one@agency.example", "two@agency.example")
    browser.get(path)
    held = browser.form(path).values
    assert (held["alert_expected_false"], held["alert_budget"]) == ("0.25", "7")
    assert held["alert_emails"] == "one@agency.example\ntwo@agency.example"
    browser.send(path, {"alert_expected_false": "", "alert_budget": "", "alert_emails": ""})
    saved = cases.get_case(workspace, case_id)
    assert (saved.alert_expected_false, saved.alert_budget, saved.alert_emails) == (None, None, ())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alert_expected_false", "0", "field.more_than"),
        ("alert_expected_false", "1001", "field.at_most"),
        ("alert_expected_false", "much", "field.number"),
        ("alert_budget", "0", "field.at_least"),
        ("alert_budget", "2.5", "field.whole"),
        ("alert_budget", "-3", "field.whole"),
        ("alert_emails", "not an address", "field.emails"),
        ("alert_emails", "a@b.example, c@d.example", "field.emails"),
        ("alert_emails", "x", "field.emails"),
        ("alert_emails", "\n".join(f"n{n}@b.example" for n in range(21)), "field.too_many"),
    ],
)
def test_what_the_form_cannot_use_is_said_beside_the_field(
    browser: Browser, workspace: Workspace, case_id: str, name: str, value: str, message: str
) -> None:
    path = f"/cases/{case_id}/edit"
    browser.get(path)
    page = browser.send(path, {name: value}, expect=422)
    assert TEXTS[message].partition("{")[0] in page.prose
    assert f"{name}-error" in page.ids
    assert browser.form(path).values[name] == value
    assert cases.get_case(workspace, case_id).alert_emails == ()


@pytest.mark.parametrize("limit", [1e-05, 0.00012345, 61.5, 172.0, 0.1])
def test_a_number_stands_in_the_form_as_it_can_be_sent_back(
    browser: Browser, workspace: Workspace, case_id: str, limit: float
) -> None:
    cases.update_case(workspace, case_id, {"alert_expected_false": limit})
    path = f"/cases/{case_id}/edit"
    browser.get(path)
    browser.send(path, {"notes": "changed"})
    saved = cases.get_case(workspace, case_id)
    assert (saved.alert_expected_false, saved.notes) == (limit, "changed")


@pytest.mark.parametrize(
    ("value", "says"),
    [(1.0, "1"), (0.1, "0.1"), (0.001, "0.001"), (0.00001, "0.00001"), (2.5, "2.5"),
     (1000.0, "1000"), (1e-20, "1e-20")],
)  # fmt: skip
def test_limits_in_plain_words(value: float, says: str) -> None:
    assert limit_text(value) == says


@pytest.mark.parametrize(
    ("expected", "says"),
    [(0.004, "1 stranger in 250 searches"), (0.5, "1 stranger in 2 searches"),
     (1.0, "about 1 stranger in each"), (12.4, "12 strangers in each")],
)  # fmt: skip
def test_bounds_in_plain_words(expected: float, says: str) -> None:
    assert says in bound_text(expected)
