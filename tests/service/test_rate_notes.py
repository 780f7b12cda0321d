"""Where rates do not hold: it is said wherever a candidate or an alert is shown, and promised less.

Lists and alerts themselves stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from indexer import alerts, jobs, notify
from indexer.catalog.tables import Job
from indexer.workspace import Workspace, open_workspace
from models.quality import RATE_LIMITS, limited_of, outside_rates
from models.types import Quality, QualityComponent
from service.alerts.webhooks import alert_body
from service.app import create_app
from service.cli.search import _show
from service.search.explain import BOTH_PICTURES_LIMITED, ONE_PICTURE_LIMITED, shown_band
from service.search.rank import case_candidates
from service.web.alert_views import alert_list
from service.web.texts.pages import TEXTS
from service.web.views import list_view
from tests.indexer.small import JudgingAnalyser, colour, face_picture
from tests.indexer.test_candidates import crowd, make_case, send
from tests.indexer.watch import CALIBRATION
from tests.service.conftest import AUTH, make_settings
from tests.service.web.browser import Browser
from tests.tables import lend_tables

COVERED = Quality(0.7, (QualityComponent("clarity", 84.0, "% of a clear face", 0.86),))
CLEAR_PHOTO, COVERED_PHOTO = face_picture(1, 0), face_picture(1, 5)


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    """An ad with a covered face of person 1, among clear faces of others, and a webhook."""
    lend_tables(tmp_path / "data")
    analyser = JudgingAnalyser({colour(1, 5): COVERED, colour(1, 9): COVERED})
    with open_workspace(tmp_path / "data", analyser, calibration=CALIBRATION) as opened:
        notify.add_webhook(opened.catalog, "https://hook.example/", secret="whsec_c2VjcmV0")
        crowd(opened, 5)
        send(opened, "hers", face_picture(1, 9))
        jobs.run_pending(opened)
        yield opened


@pytest.fixture
def client(ws: Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(ws.data_dir), ws), headers=AUTH) as made:
        yield made


def listed(client: TestClient, case_id: str) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/cases/{case_id}/candidates")
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


@pytest.mark.parametrize(
    ("photo", "notes", "band"),
    [
        (CLEAR_PHOTO, [ONE_PICTURE_LIMITED], "very_strong"),
        (COVERED_PHOTO, [BOTH_PICTURES_LIMITED], "weak"),
    ],
)
def test_a_candidate_says_where_its_rate_does_not_hold(
    ws: Workspace, client: TestClient, photo: bytes, notes: list[str], band: str
) -> None:
    case_id = make_case(ws, photo)
    jobs.run_pending(ws)
    first, *others = listed(client, case_id)
    assert (first["ad"]["external_id"], first["band"]) == ("hers", band)
    assert first["rate_notes"] == notes
    # The figures stay as they were measured; only what is promised changes.
    assert first["expected_false_candidates_upper"] < 0.01
    for other in others:
        assert other["rate_notes"] == ([] if photo == CLEAR_PHOTO else [ONE_PICTURE_LIMITED])
    shown = list_view(case_candidates(ws, case_id)).items[0]
    assert (shown.band, list(shown.rate_notes)) == (band, notes)
    assert (shown.expectation == TEXTS["expect.outside"]) == (band == "weak")


def test_a_search_with_a_photo_goes_by_that_photo(ws: Workspace, client: TestClient) -> None:
    case_id = make_case(ws, CLEAR_PHOTO)
    jobs.run_pending(ws)
    answer = client.post(
        f"/v1/cases/{case_id}/search",
        files={"file": ("photo.png", COVERED_PHOTO)},
        data={"purpose": "training"},
    )
    first = answer.json()["items"][0]
    assert (first["band"], first["rate_notes"]) == ("weak", [BOTH_PICTURES_LIMITED])


def test_alerts_are_raised_all_the_same_and_say_it_too(ws: Workspace, client: TestClient) -> None:
    clear = make_case(ws, CLEAR_PHOTO, number="clear")
    covered = make_case(ws, COVERED_PHOTO, number="covered")
    jobs.run_pending(ws)
    items = {item["case_id"]: item for item in client.get("/v1/alerts").json()["items"]}
    assert set(items) == {clear, covered}, "a face that is hard to see is told like any other"
    assert (items[clear]["band"], items[clear]["rate_notes"]) == ("moderate", [ONE_PICTURE_LIMITED])
    assert (items[covered]["band"], items[covered]["rate_notes"]) == (
        "weak",
        [BOTH_PICTURES_LIMITED],
    )
    assert items[covered]["expected_false_candidates_upper"] < 1
    page = alert_list(
        ws, cursor=None, case_id=covered, include_closed=False, scores=True, agency=None
    )
    assert page.items[0].expectation == TEXTS["expect.outside"]
    hidden = alert_list(
        ws, cursor=None, case_id=covered, include_closed=False, scores=False, agency=None
    )
    assert hidden.items[0].expectation == ""


def test_a_webhook_promises_no_more_than_the_pages(ws: Workspace) -> None:
    bands = {}
    for photo, number in ((CLEAR_PHOTO, "clear"), (COVERED_PHOTO, "covered")):
        make_case(ws, photo, number=number)
        jobs.run_pending(ws)
        with ws.catalog.read() as session:
            job_id = session.scalars(
                select(Job.job_id)
                .where(Job.kind == "deliver_webhook")
                .order_by(Job.job_id.desc())
                .limit(1)
            ).one()
        delivery = notify.webhook_delivery(ws, job_id)
        assert delivery is not None
        bands[number] = json.loads(alert_body(delivery.alert))["data"]["band"]
    assert bands == {"clear": "moderate", "covered": "weak"}


def test_the_command_line_says_it_once_with_the_ranks(
    ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    case_id = make_case(ws, COVERED_PHOTO)
    jobs.run_pending(ws)
    _show(case_candidates(ws, case_id), as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    assert f"Rank 1: {BOTH_PICTURES_LIMITED}" in said
    assert f"Rank 2, 3, 4, 5, 6: {ONE_PICTURE_LIMITED}" in said


def test_the_pages_show_it(ws: Workspace, client: TestClient) -> None:
    case_id = make_case(ws, COVERED_PHOTO)
    jobs.run_pending(ws)
    browser = Browser(client)
    browser.sign_in()
    for address in (f"/cases/{case_id}", "/alerts"):
        prose = browser.get(address).prose
        assert TEXTS["candidate.rate_notes"] in prose
        assert BOTH_PICTURES_LIMITED in prose
        assert TEXTS["expect.outside"] in prose
    assert len(alerts.list_alerts(ws).items) == 1


def face(**scores: float) -> Quality:
    return Quality(0.5, tuple(QualityComponent(n, 0.0, "", s) for n, s in scores.items()))


def test_which_faces_rates_do_not_hold_for() -> None:
    clear = face(size=0.1, contrast=0.1, compression=0.1, sharpness=0.5, exposure=0.5, clarity=0.99)
    assert outside_rates(clear) == outside_rates(None) == ()
    for name, limit in RATE_LIMITS.items():
        assert outside_rates(face(**{name: limit - 0.001})) == (name,)
    unknown = face(sharpness=float("nan"), clarity=float("nan"))
    assert outside_rates(unknown) == ()
    assert [limited_of(a, b) for a in (clear, COVERED) for b in (None, COVERED)] == [0, 1, 1, 2]


def test_only_two_limited_pictures_take_the_band_away() -> None:
    assert [shown_band("very_strong", limited) for limited in (0, 1, 2)] == [
        "very_strong",
        "very_strong",
        "weak",
    ]
