"""The transparency report over HTTP, at the command line and as a page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from indexer.audit import chain
from indexer.audit.chain import record
from indexer.times import utc_now
from indexer.workspace import Workspace
from service.accounts.keys import KeyStore
from service.cli.main import app as command_line
from tests.service.conftest import problem
from tests.service.web.browser import Browser

LAST = utc_now().year - 1


@pytest.fixture(autouse=True)
def year(workspace: Workspace) -> None:
    """What was done last year: 40 cases of one agency, 3 of another."""
    with pytest.MonkeyPatch.context() as patch, workspace.catalog.write() as session:
        patch.setattr(chain, "utc_now", lambda: datetime(LAST, 3, 1, tzinfo=UTC))
        for agency in ["north"] * 40 + ["south"] * 3:
            record(session, "case.create", details={"agency": agency})
        for _ in range(50):
            record(session, "approval.ask", details={"emergency": False})


def test_the_interface_gives_it_to_those_who_may_read_it(
    client: TestClient, workspace: Workspace
) -> None:
    made = KeyStore(workspace.catalog).create("x", ("role:investigator",))
    auditor = KeyStore(workspace.catalog).create("y", ("role:auditor",))
    address = f"/v1/reports/transparency/{LAST}"
    refused = client.get(address, headers={"authorization": f"Bearer {made.text}"})
    problem(refused, 403, "forbidden")
    answer = client.get(address, headers={"authorization": f"Bearer {auditor.text}"})
    assert answer.status_code == 200, answer.text
    report = answer.json()
    tables = {table["name"]: table for table in report["tables"]}
    assert tables["cases_opened"]["total"] == 43
    assert tables["cases_opened"]["divisions"] == {"agency": {"north": None, "south": None}}
    assert tables["approvals_asked"]["divisions"]["kind"] == {"ordinary": 50, "emergency": 0}
    assert report["reconciled"]["cases_opened"] == "differs"
    problem(client.get(f"/v1/reports/transparency/{LAST + 1}"), 409, "year_not_over")
    problem(client.get("/v1/reports/transparency/99"), 422, "validation_failed")


def test_the_command_line_writes_it(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    words = ["--data-dir", str(workspace.data_dir), "report"]
    runner = CliRunner()
    result = runner.invoke(
        command_line, [*words, "transparency", "--year", str(LAST), "--json", str(file)]
    )
    assert result.exit_code == 0, result.output
    assert "hidden" in result.stdout and " 3\n" not in result.stdout
    assert json.loads(file.read_text())["year"] == LAST
    # The rows of these cases are not there: whoever looks after it is told.
    result = runner.invoke(command_line, [*words, "reconcile", "--year", str(LAST), "--json"])
    assert result.exit_code == 1
    (opened,) = (one for one in json.loads(result.stdout) if one["name"] == "cases_opened")
    assert (opened["audit"], opened["rows"], opened["state"]) == (43, 0, "differs")
    assert runner.invoke(
        command_line, [*words, "transparency", "--year", str(LAST + 1)]
    ).exit_code == 1  # fmt: skip


def test_the_page_names_nobody_and_no_small_number(client: TestClient) -> None:
    client.headers.pop("authorization")
    browser = Browser(client)
    browser.sign_in()
    page = browser.get("/reports/transparency")
    assert f"Transparency report {LAST}" in page.prose
    assert "Cases opened 43" in page.prose
    assert "north hidden south hidden" in page.prose
    browser.get(f"/reports/transparency?year={LAST + 1}", expect=409)
    assert "This year is not over" in browser.page.prose
    browser.get("/reports/transparency?year=x", expect=422)
