"""Approvals and holds in the pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from models.pipeline import Analyser
from service.accounts.keys import KeyStore
from service.config import Settings
from tests.service.conftest import make_settings
from tests.service.web.browser import Browser
from tests.service.web.conftest import AddAd, new_case, settle
from tests.service.web.test_flow import add_photo
from tests.tables import lend_tables


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "data", approval="required")


@pytest.fixture
def workspace(settings: Settings, analyser: Analyser) -> Iterator[Workspace]:
    lend_tables(settings.data_dir)
    options = WorkspaceOptions(approval_required=True)
    with open_workspace(
        settings.data_dir, analyser, calibration=analyser.pack.calibration, options=options
    ) as opened:
        yield opened


@pytest.fixture
def supervisor(client: TestClient, workspace: Workspace) -> Browser:
    """Another person, in a browser of their own."""
    made = KeyStore(workspace.catalog).create("the supervisor", ("role:supervisor",))
    browser = Browser(TestClient(client.app))
    browser.sign_in(made.text)
    return browser


def test_asking_and_deciding(
    browser: Browser,
    supervisor: Browser,
    workspace: Workspace,
    add_ad: AddAd,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
) -> None:
    add_ad("a-1", mirrored_bytes)
    case_id = new_case(browser)
    add_photo(browser, case_id, portrait_bytes)
    settle(workspace)
    page = browser.get(f"/cases/{case_id}")
    assert "Not searched: no approval is in force" in page.prose
    assert f"/cases/{case_id}/search" not in page.links
    ask = f"/cases/{case_id}/approvals"
    assert "is not searched now" in browser.get(ask).prose
    browser.send(ask, {"purpose": "locate_missing_person", "note": "Since <b>Monday</b>"})
    assert "The approval is asked for." in browser.page.prose
    link = next(
        link for link in supervisor.get("/approvals").links if link.startswith("/approvals/")
    )
    assert "Since <b>Monday</b>" in supervisor.get(link).prose
    supervisor.send(link, {"decision": "approve", "valid_days": "400"}, expect=422)
    supervisor.send(link, {"decision": "approve", "valid_days": "30"})
    assert "Nothing waits for a decision." in supervisor.page.prose
    page = browser.get(f"/cases/{case_id}")
    assert "Candidate 1" in page.prose and "May be searched until" in page.prose
    assert "the supervisor" in browser.get(ask).prose


def test_one_cannot_decide_ones_own(browser: Browser) -> None:
    case_id = new_case(browser)
    browser.get(f"/cases/{case_id}/approvals")
    browser.send(
        f"/cases/{case_id}/approvals",
        {"purpose": "locate_missing_person", "emergency": "yes"},
    )
    assert "may be searched until" in browser.page.prose
    link = next(link for link in browser.get("/approvals").links if link.startswith("/approvals/"))
    browser.get(link)
    browser.send(link, {"decision": "approve"}, expect=403)
    assert "Somebody else has to decide" in browser.page.prose
    browser.get("/approvals/not-an-id", expect=404)


def test_holds(browser: Browser, supervisor: Browser) -> None:
    case_id = new_case(browser)
    address = f"/cases/{case_id}/hold"
    browser.get(address)
    browser.send(address, expect=422)
    browser.send(address, {"reason": "litigation", "note": "Roe <v> Doe"})
    assert "A hold is in force." in browser.page.prose and "Roe <v> Doe" in browser.page.prose
    browser.send(address, expect=403)
    assert "Somebody else has to lift this hold" in browser.page.prose
    assert address in supervisor.get("/holds").links
    supervisor.get(address)
    supervisor.send(address)
    assert "The hold is lifted." in supervisor.page.prose
    assert "Nothing is under legal hold." in supervisor.get("/holds").prose
