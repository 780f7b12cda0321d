"""Generations in the pages: the list, the comparison with its pictures, the switch and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from indexer import candidates, cases, forget, jobs, judgements
from indexer.generations import rows, switching
from indexer.generations.compare import compare
from indexer.generations.comparison import Comparison
from indexer.generations.views import Loaded
from indexer.reindex import reindex
from indexer.workspace import Workspace, open_workspace
from service.accounts.keys import KeyStore
from service.accounts.roles import ALL_SCOPES
from service.app import create_app
from service.config import Settings
from service.web.texts.pages import TEXTS
from tests.indexer.small import CONTRACT, OtherAnalyser, SmallAnalyser, colour, face_picture
from tests.indexer.test_candidates import crowd, make_case, send
from tests.indexer.watch import CALIBRATION
from tests.service.web.browser import Browser
from tests.service.web.conftest import settle
from tests.tables import lend_tables

NEW = "other-ffffffffffff"
MISTAKEN, UNSEEN, STRANGER = colour(1, 8), colour(1, 7), colour(105)


@pytest.fixture
def workspace(settings: Settings) -> Iterator[Workspace]:
    lend_tables(settings.data_dir)
    takes = {MISTAKEN: colour(400), STRANGER: colour(1, 20)}
    packs = {
        "first": Loaded(SmallAnalyser(), CALIBRATION),
        "second": Loaded(OtherAnalyser(NEW, takes=takes, blind={UNSEEN}, shift=5.0), None),
    }
    with open_workspace(
        settings.data_dir,
        SmallAnalyser(),
        calibration=CALIBRATION,
        pack="first",
        load=lambda generation: packs[generation.pack],
    ) as opened:
        yield opened


@pytest.fixture
def case_id(workspace: Workspace) -> str:
    """A case with a judged pair, and ads that both models can look at."""
    crowd(workspace, 10)
    for photo in (9, 8, 7):
        send(workspace, f"hers-{photo}", face_picture(1, photo), title=f"Ad {photo}")
    jobs.run_pending(workspace)
    made = make_case(workspace, face_picture(1), number="A-1")
    jobs.run_pending(workspace)
    items = candidates.ranked(workspace, made, 5).items
    mistaken = next(item for item in items if item.ad.title == "Ad 8")
    judgements.judge(workspace, mistaken.candidate_id, "supports_same", "r", actor="reviewer")
    return made


def build(ws: Workspace) -> None:
    switching.begin(ws, NEW, "second", ws.analyser.dimension, actor="tester")
    assert reindex(ws.views.loaded(NEW)).failures == ()


def compared(ws: Workspace) -> Comparison:
    build(ws)
    return compare(ws, NEW, k=3, actor="tester")


def in_use(ws: Workspace) -> str | None:
    with ws.catalog.read() as session:
        return rows.active_id(session)


def test_the_list_says_what_is_in_use_and_what_is_missing(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    page = browser.get("/generations")
    assert CONTRACT in page.prose and TEXTS["generation.state.active"] in page.prose
    assert f"/generations/{CONTRACT}/switch" not in page.links
    assert "/generations/rollback" not in page.links
    switching.begin(workspace, NEW, "second", workspace.analyser.dimension, actor="somebody")
    page = browser.get("/generations")
    assert NEW in page.prose and "13 pictures, 1 photos" in page.prose
    assert "somebody" in page.prose
    assert TEXTS["generations.never"] in page.prose
    compared(workspace)
    page = browser.get("/generations")
    assert f"/generations/{NEW}/comparison" in page.links
    assert f"/generations/{NEW}/switch" in page.links


def test_the_comparison_shows_what_is_gained_and_lost_with_pictures(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    browser.get(f"/generations/{NEW}/comparison", expect=404)
    build(workspace)
    assert "compare" in browser.get(f"/generations/{NEW}/comparison", expect=404).prose
    whole = compared(workspace)
    page = browser.get(f"/generations/{NEW}/comparison")
    assert TEXTS["comparison.for"] in page.prose
    assert f"{NEW} compared with {CONTRACT}" in page.prose
    assert "Judged to support the same person: 1 pair" in page.prose
    address = f"/generations/{NEW}/comparison/{case_id}"
    assert page.links.count(address) == 2, "among the worst, and in the list"
    assert whole.lost >= 2 and whole.gained >= 1

    page = browser.get(address)
    assert TEXTS["comparison.scale"] in page.prose
    assert f"Lost ({whole.lost})" in page.prose and f"Gained ({whole.gained})" in page.prose
    assert TEXTS["place.no_face"] in page.prose
    assert "Ad 8" in page.prose and "supports same" in page.prose
    for contract in (CONTRACT, NEW):
        assert f"on the scale of {contract}" in page.prose
    crops = [image["src"] for image in page.images if image["src"].startswith("/faces/")]
    assert len(crops) == 1 + whole.lost + whole.gained + 1
    for crop in crops:
        assert browser.client.get(crop).headers["content-type"] == "image/jpeg"


def test_what_was_deleted_since_is_left_out(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    compared(workspace)
    address = f"/generations/{NEW}/comparison/{case_id}"
    before = browser.get(address).prose
    ad = next(
        item.ad
        for item in candidates.ranked(workspace, case_id, 20).items
        if item.ad.title == "Ad 8"
    )
    forget.forget_ad(workspace, ad.ad_id)
    page = browser.get(address)
    assert "Ad 8" in before and "Ad 8" not in page.prose
    assert TEXTS["compared.none_judged"] in page.prose
    for image in page.images:
        assert browser.client.get(image["src"]).status_code == 200
    cases.update_case(workspace, case_id, {"status": "found"})
    browser.get(address, expect=404)
    page = browser.get(f"/generations/{NEW}/comparison")
    assert "A-1" not in page.prose and TEXTS["comparison.no_cases"] in page.prose


def test_cases_come_page_by_page(
    browser: Browser, workspace: Workspace, case_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {make_case(workspace, face_picture(20 + n), number=f"B-{n}") for n in range(4)}
    compared(workspace)
    monkeypatch.setattr("service.web.generation_views.CASES_ON_A_PAGE", 2)
    address, seen = f"/generations/{NEW}/comparison", list[str]()
    while address:
        page = browser.get(address)
        table = browser.source.partition('id="cases"')[2]
        seen += [one for one in {case_id, *others} if f"/comparison/{one}" in table]
        address = next((link for link in page.links if "after=" in link), "").partition("#")[0]
    assert sorted(seen) == sorted({case_id, *others})


def test_bringing_into_use_and_going_back(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    switching.begin(workspace, NEW, "second", workspace.analyser.dimension, actor="tester")
    address = f"/generations/{NEW}/switch"
    page = browser.get(address)
    assert "It is not whole: 13 pictures" in page.prose
    assert TEXTS["switch.uncompared"] in page.prose
    browser.send(address, {"confirm": "yes"}, expect=409)
    assert "homeward reindex --pack second" in browser.page.prose
    assert in_use(workspace) == CONTRACT

    compared(workspace)
    page = browser.get(address)
    assert TEXTS["switch.no_alerts"] in page.prose, "it has no calibration"
    assert "1 open case is compared" in page.prose
    assert f"/generations/{NEW}/comparison" in page.links
    browser.send(address, expect=422)
    assert TEXTS["switch.needed"] in browser.page.prose and in_use(workspace) == CONTRACT
    browser.send(address, {"confirm": "yes"})
    assert browser.path == "/generations?done=generation_switched"
    assert TEXTS["done.generation_switched"] in browser.page.prose
    assert in_use(workspace) == NEW
    settle(workspace)
    assert NEW in browser.get(f"/cases/{case_id}").prose
    with workspace.catalog.read() as session:
        actor = rows.changes(session)[-1].actor
    assert actor not in ("tester", "system", "command line")

    # What was compared before the switch can still be looked at.
    browser.get(f"/generations/{NEW}/comparison/{case_id}")
    page = browser.get("/generations")
    assert "/generations/rollback" in page.links
    page = browser.get("/generations/rollback")
    assert f"Go back to {CONTRACT}" in page.prose
    assert TEXTS["switch.no_alerts"] not in page.prose
    browser.send("/generations/rollback", expect=422)
    browser.send("/generations/rollback", {"confirm": "yes"})
    assert in_use(workspace) == CONTRACT
    settle(workspace)
    assert CONTRACT in browser.get(f"/cases/{case_id}").prose


def test_nothing_to_go_back_to_and_nothing_of_that_name(browser: Browser) -> None:
    browser.get("/generations/rollback", expect=409)
    browser.get("/generations/nothing-000000000000/switch", expect=404)
    browser.get("/generations/nothing-000000000000/comparison", expect=404)


def test_without_its_pack_a_generation_is_not_brought_into_use(
    settings: Settings, workspace: Workspace, case_id: str
) -> None:
    compared(workspace)
    with (
        open_workspace(settings.data_dir, SmallAnalyser(), pack="first") as without,
        TestClient(create_app(settings, without)) as client,
    ):
        browser = Browser(client)
        browser.sign_in()
        assert TEXTS["generations.unloaded"] in browser.get("/generations").prose
        address = f"/generations/{NEW}/switch"
        browser.get(address, expect=503)
        browser.send(address, {"confirm": "yes"}, expect=503)
        assert in_use(workspace) == CONTRACT
        # The comparison and its pictures need no pack.
        page = browser.get(f"/generations/{NEW}/comparison/{case_id}")
        for image in page.images:
            assert client.get(image["src"]).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "/generations",
        f"/generations/{NEW}/comparison",
        f"/generations/{NEW}/switch",
        "/generations/rollback",
    ],
)
def test_only_administrators_see_it(stranger: Browser, workspace: Workspace, address: str) -> None:
    assert (
        "/sign-in"
        in stranger.client.get(
            address, headers={"accept": "text/html"}, follow_redirects=False
        ).headers["location"]
    )
    scopes = tuple(ALL_SCOPES - {"generations:write"})
    stranger.sign_in(KeyStore(workspace.catalog).create("a reviewer", scopes).text)
    assert "/generations" not in stranger.page.links
    stranger.get(address, expect=403)


def test_a_form_without_its_token_changes_nothing(
    browser: Browser, workspace: Workspace, case_id: str
) -> None:
    compared(workspace)
    browser.get(f"/generations/{NEW}/switch")
    browser.send(f"/generations/{NEW}/switch", {"confirm": "yes", "csrf": "x" * 40}, expect=403)
    assert in_use(workspace) == CONTRACT
