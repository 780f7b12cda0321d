"""Pages over a real service, a real workspace and the real default pack."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient

from indexer.ads import receive_ad
from indexer.jobs import run_pending
from indexer.records import AdInput, Upload
from indexer.workspace import Workspace
from service.app import create_app
from service.config import Settings
from tests.service.web.browser import Browser

AddAd = Callable[..., str]


@pytest.fixture
def client(settings: Settings, workspace: Workspace) -> Iterator[TestClient]:
    """No key: browsers have none."""
    with TestClient(create_app(settings, workspace)) as made:
        yield made


@pytest.fixture
def stranger(client: TestClient) -> Browser:
    """A browser that is not signed in."""
    return Browser(client)


@pytest.fixture
def browser(client: TestClient) -> Browser:
    """A browser that is signed in."""
    made = Browser(client)
    made.sign_in()
    return made


@pytest.fixture
def add_ad(workspace: Workspace) -> AddAd:
    """Receive an ad and read its pictures at once."""

    def add(external_id: str, *pictures: bytes, **values: object) -> str:
        ad = AdInput(site="site-a.example", external_id=external_id, **values)  # type: ignore[arg-type]
        receipt = receive_ad(workspace, ad, [Upload(data, "picture.jpg") for data in pictures])
        run_pending(workspace)
        return receipt.ad_id

    return add


def new_case(browser: Browser, number: str = "2026-0001", **values: str) -> str:
    """Create a case in the pages; its id."""
    browser.get("/cases/new")
    browser.send("/cases/new", {"case_number": number, **values})
    case_id = browser.path.partition("?")[0].rpartition("/")[2]
    assert len(case_id) == 36
    return case_id


def settle(workspace: Workspace) -> None:
    """Do the work that is queued still; what runs in the background ends too."""
    from time import monotonic, sleep

    from indexer.jobs import counts

    run_pending(workspace)
    end = monotonic() + 60
    while counts(workspace)["running"] and monotonic() < end:
        sleep(0.05)
