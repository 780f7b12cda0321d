"""Hostile and mistaken input: escaped where it is shown, kept where it was typed."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from indexer.cases import get_case, update_case
from indexer.records import CaptureInfo
from indexer.workspace import Workspace
from service.web.forms import CASE_FIELDS
from tests.service.conftest import AUTH
from tests.service.web.browser import HTML, Browser
from tests.service.web.conftest import AddAd, new_case, settle

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}</textarea></title>"

FULL = {
    "case_number": "2026-0001",
    "agency": "Agency A",
    "name": "Sample Person",
    "aliases": "First Other\nSecond Other",
    "date_of_birth": "2006-02-28",
    "sex": "female",
    "race": "unknown",
    "height_cm": "168.5",
    "weight_kg": "57",
    "eye_color": "green",
    "hair_color": "brown",
    "marks": "Scar on the left hand\nTattoo of a bird",
    "missing_since": "2026-01-31",
    "last_seen_place": "Sample City, station",
    "last_seen_on": "2026-01-30",
    "last_seen_time": "14:30",
    "last_seen_lat": "52.5",
    "last_seen_lon": "-1.25",
    "default_purpose": "locate_missing_person",
    "notes": "A note.\nAnother line.",
    "alert_expected_false": "0.25",
    "alert_budget": "7",
    "alert_emails": "one@agency.example\ntwo@agency.example",
}


def test_every_field_is_stored_and_comes_back_in_the_form(
    browser: Browser, workspace: Workspace
) -> None:
    assert set(FULL) == set(CASE_FIELDS)
    case_id = new_case(browser, "2026-0001", **{k: FULL[k] for k in FULL if k != "case_number"})
    for value in ("Sample Person", "First Other, Second Other", "28 February 2006", "168.5"):
        assert value in browser.page.prose
    assert "30 January 2026, 14:30 UTC" in browser.page.prose
    browser.get(f"/cases/{case_id}/edit")
    values = browser.form(f"/cases/{case_id}/edit").values
    shown = {**values, "last_seen_time": values["last_seen_time"][:5]}
    assert {name: shown[name] for name in FULL} == FULL
    before = get_case(workspace, case_id)
    browser.send(f"/cases/{case_id}/edit", {"name": "Another Name"})
    after = get_case(workspace, case_id)
    assert after.person.name == "Another Name"
    assert after.last_seen == before.last_seen and after.missing_since == before.missing_since
    assert after.notes == before.notes and after.case_number == before.case_number


def test_editing_keeps_a_time_that_the_form_cannot_show(
    browser: Browser, client: TestClient, workspace: Workspace
) -> None:
    from datetime import UTC, datetime

    case_id = new_case(browser)
    moment = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
    update_case(workspace, case_id, {"missing_since": moment})
    browser.get(f"/cases/{case_id}/edit")
    browser.send(f"/cases/{case_id}/edit", {"name": "A"})
    assert get_case(workspace, case_id).missing_since == moment


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("case_number", "", "This is needed"),
        ("case_number", "x" * 101, "At most 100 characters"),
        ("name", "x" * 201, "At most 200 characters"),
        ("height_cm", "tall", "Give a number"),
        ("height_cm", "999", "at most 280"),
        ("weight_kg", "0", "at least 1"),
        ("weight_kg", "nan", "Give a number"),
        ("date_of_birth", "31.01.2006", "Give a date"),
        ("date_of_birth", "2006-02-30", "Give a date"),
        ("missing_since", "0001-01-01", "Give a date"),
        ("last_seen_on", "12345", "Give a date"),
        ("last_seen_time", "25:00", "Give a time"),
        ("last_seen_lat", "91", "at most 90"),
        ("last_seen_place", "x" * 501, "At most 500 characters"),
        ("default_purpose", "curiosity", "Choose one from the list"),
        ("aliases", "\n".join(["x"] * 51), "At most 50"),
        ("aliases", "x" * 201, "At most 200 characters"),
    ],
)
def test_a_bad_field_says_so_beside_it_and_keeps_the_rest(
    browser: Browser, name: str, value: str, says: str
) -> None:
    browser.get("/cases/new")
    values = {**FULL, name: value}
    page = browser.send("/cases/new", values, expect=422)
    assert "One field needs another look" in page.prose
    assert says in page.prose
    marked = [f for _, f in page.tags if f.get("aria-invalid") == "true"]
    assert [f["name"] for f in marked] == [name]
    held = browser.form("/cases/new").values
    kept = {field for field in FULL if field != "default_purpose" or value != "curiosity"}
    assert {field: held[field] for field in kept} == {field: values[field] for field in kept}


def test_all_bad_fields_are_named_at_once(browser: Browser) -> None:
    browser.get("/cases/new")
    values = {"case_number": "", "height_cm": "tall", "weight_kg": "9999", "last_seen_lon": "200"}
    page = browser.send("/cases/new", values, expect=422)
    assert "4 fields need another look" in page.prose


def test_a_second_case_with_the_same_number_leads_to_the_first(browser: Browser) -> None:
    case_id = new_case(browser)
    browser.get("/cases/new")
    page = browser.send("/cases/new", {"case_number": "2026-0001", "name": "B"}, expect=409)
    assert f"/cases/{case_id}" in page.links
    assert browser.form("/cases/new").values["name"] == "B"


def assert_harmless(browser: Browser) -> None:
    """The page was checked for tags already; the text has to be there as text."""
    assert "<script>" not in browser.source and "onerror=alert(1)>" not in browser.source
    assert "49" not in browser.page.prose.split()


def test_hostile_text_in_a_case_stays_text(browser: Browser) -> None:
    texts = [
        "case_number", "agency", "name", "aliases", "sex", "race", "eye_color", "hair_color",
        "marks", "last_seen_place", "notes",
    ]  # fmt: skip
    values = dict.fromkeys(texts, HOSTILE)
    values["sex"] = "<b onclick=x>"
    values["race"] = values["eye_color"] = values["hair_color"] = HOSTILE[:80]
    case_id = new_case(browser, values.pop("case_number"), **values)
    assert "&lt;script&gt;" in browser.source
    assert_harmless(browser)
    for path in ("", "/edit", "/search", "/end", "/reopen", "/delete"):
        browser.get(f"/cases/{case_id}{path}")
        assert_harmless(browser)
    browser.get("/cases")
    assert_harmless(browser)
    browser.get(f"/cases/{case_id}/edit")
    assert browser.form(f"/cases/{case_id}/edit").values["notes"] == HOSTILE
    browser.send(f"/cases/{case_id}/edit", {"height_cm": HOSTILE}, expect=422)
    assert_harmless(browser)


def test_hostile_text_in_an_ad_stays_text(
    browser: Browser,
    workspace: Workspace,
    client: TestClient,
    add_ad: AddAd,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
) -> None:
    texts = ("title", "body", "city", "region", "country", "location_text")
    values: dict[str, Any] = dict.fromkeys(texts, HOSTILE)
    values["capture"] = CaptureInfo(tool=HOSTILE, response_headers={HOSTILE: HOSTILE})
    add_ad(HOSTILE, mirrored_bytes, url=f"javascript:alert(1)//{HOSTILE}", **values)
    case_id = new_case(browser)
    browser.get(f"/cases/{case_id}")
    name = 'x"><script>alert(1)</script>.jpg'
    browser.send(f"/cases/{case_id}/photos", file=(name, portrait_bytes))
    settle(workspace)
    page = browser.get(f"/cases/{case_id}")
    assert_harmless(browser)
    assert "javascript:alert(1)" in page.prose
    assert not [link for link in page.links if "javascript" in link]
    browser.get(f"/cases/{case_id}/search")
    action = f"/cases/{case_id}/search"
    sent = {"purpose": "training", "purpose_note": HOSTILE, "site": HOSTILE[:150]}
    browser.send(action, sent, file=(name, portrait_bytes))
    assert_harmless(browser)
    for link in [link for link in page.links if link.endswith(("/whole", "/picture", "/delete"))]:
        browser.get(link)
        assert_harmless(browser)


@pytest.mark.parametrize(
    "path",
    [
        "/cases?text=%3Cscript%3Ealert(1)%3C/script%3E",
        "/cases?status=%3Cscript%3E&done=%3Cscript%3E",
        "/jobs?state=%22%3E%3Cscript%3E",
        "/cases/new?%3Cscript%3E",
    ],
)
def test_hostile_addresses_stay_text(browser: Browser, path: str) -> None:
    browser.get(path)
    assert_harmless(browser)


def test_hostile_paths_and_next_stay_text(browser: Browser, stranger: Browser) -> None:
    browser.get("/%3Cscript%3Ealert(1)%3C/script%3E", expect=404)
    assert_harmless(browser)


def test_characters_that_cannot_be_stored_are_refused_beside_the_field(
    browser: Browser, client: TestClient
) -> None:
    browser.get("/cases/new")
    token = browser.form("/cases/new").values["csrf"]
    parts: dict[str, Any] = {
        "csrf": (None, token),
        "case_number": (None, "2026-1"),
        "notes": (None, b"a\0b"),
        "name": (None, b"\xff\xfe"),
    }
    answer = client.post("/cases/new", files=parts, headers=HTML)
    assert answer.status_code == 422
    assert 'id="notes-error"' in answer.text and 'id="name-error"' in answer.text
    assert 'value="2026-1"' in answer.text


def test_other_bodies_are_refused(browser: Browser, client: TestClient) -> None:
    new_case(browser)
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/json"):
        answer = client.post("/cases/new", content=b"x=1", headers={**HTML, "content-type": kind})
        assert answer.status_code == 415
    answer = client.post("/cases/new", files={"unknown": (None, "x")}, headers=HTML)
    assert answer.status_code == 422


def test_a_form_without_a_file_takes_in_little(stranger: Browser, client: TestClient) -> None:
    stranger.get("/sign-in")
    parts = [("unknown", (None, b"x" * 500_000)) for _ in range(8)]
    answer = client.post("/sign-in", files=parts, headers=HTML)
    assert answer.status_code == 413


def test_what_the_pages_make_the_interface_returns(browser: Browser, client: TestClient) -> None:
    case_id = new_case(browser, **{k: v for k, v in FULL.items() if k != "case_number"})
    case = client.get(f"/v1/cases/{case_id}", headers=AUTH).json()
    assert case["person"]["name"] == "Sample Person"
    assert case["person"]["aliases"] == ["First Other", "Second Other"]
    assert case["missing_since"] == "2026-01-31"
    assert case["last_seen"]["at"] == "2026-01-30T14:30:00.000Z"
