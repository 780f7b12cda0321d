"""What police practice and law demand, each named by its number, over a real service.

The numbers are those of the table in docs/security.md. Each number of ``DEMANDS`` has to have a
test somewhere in the suite that carries ``pytest.mark.practice(number)``.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import stat
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from indexer.catalog.tables import Job
from indexer.workspace import Workspace
from service.api.schemas.ads import AdIn
from service.search.explain import NOTICE
from tests.house import words
from tests.house.repository import ROOT
from tests.service.conftest import post_ad, post_case, post_photo, wait_for_job

DEMANDS = (1, 2, 9, 10, 11, 12, 14, 15, 16, 17)


def test_every_demand_has_a_test_that_names_it() -> None:
    named: dict[int, list[str]] = {number: [] for number in DEMANDS}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for number in _numbers(node):
                    named[number].append(f"{path.name}::{node.name}")
    assert [number for number, tests in named.items() if not tests] == []


def _numbers(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    texts = [ast.unparse(one) for one in node.decorator_list]
    found = [re.fullmatch(r"pytest\.mark\.practice\((.+)\)", text) for text in texts]
    return [int(number) for one in found if one for number in one.group(1).split(", ")]


# --- 2: words ---------------------------------------------------------------------------------


@pytest.mark.practice(2)
def test_no_answer_or_page_claims_more_than_a_candidate(
    client: TestClient, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    case_id, _ = _case_with_candidate(client, portrait_bytes, mirrored_bytes)
    listed = client.get(f"/v1/cases/{case_id}/candidates").json()
    assert listed["items"]
    assert listed["notice"] == NOTICE
    for needed in ("candidates", "not identifications", "no candidate alone is a basis for action"):
        assert needed in NOTICE
    shown = [str(listed), client.get("/openapi.json").text]
    for path in ("/sign-in", "/about", f"/cases/{case_id}"):
        shown.append(client.get(path, headers={"accept": "text/html"}).text)
    # A field of the interface is named after the term of the field.
    for text in shown:
        plain = words.template_prose(text) if text.lstrip().startswith("<") else text
        plain = re.sub(r"[a-z_]*false_match_rate[a-z_]*", " ", plain)
        assert words.offences(plain) == []


# --- 12: originals ----------------------------------------------------------------------------


@pytest.mark.practice(12)
def test_originals_stay_as_received_and_nothing_is_guessed(
    client: TestClient, workspace: Workspace, portrait_bytes: bytes
) -> None:
    page = b"<html><script>alert(1)</script>as captured</html>"
    sent = post_ad(
        client,
        "a-1",
        [("one.jpg", portrait_bytes)],
        [("page.html", page)],
        url="https://site-a.example/a-1",
        captured_at="2026-11-01T10:00:00Z",
        capture={"tool": "scraper", "tool_version": "3.1", "response_headers": {"server": "x"}},
    )
    assert sent.status_code == 202, sent.text
    wait_for_job(client, sent.json()["job_id"])
    digest = hashlib.sha256(portrait_bytes).hexdigest()
    assert [image["sha256"] for image in sent.json()["images"]] == [digest]
    assert client.get(f"/v1/images/{digest}").content == portrait_bytes
    assert workspace.blobs.get(hashlib.sha256(page).hexdigest()) == page

    ad = client.get(f"/v1/ads/{sent.json()['ad_id']}").json()
    assert ad["posted_at"] is None  # nobody said when
    assert ad["city"] is None
    (capture,) = ad["captures"]
    assert capture["captured_at"] == "2026-11-01T10:00:00.000Z"
    assert capture["content"]["capture"]["tool"] == "scraper"
    assert capture["content"]["capture"]["tool_version"] == "3.1"
    assert capture["content"]["capture"]["response_headers"] == {"server": "x"}

    # Write-once: nobody may write to the file, and the same bytes again leave it as it is.
    files = [path for path in workspace.data_dir.rglob("*") if path.name.startswith(digest)]
    assert len(files) == 1
    before = files[0].stat()
    assert not stat.S_IMODE(before.st_mode) & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    assert post_ad(client, "a-2", [("two.jpg", portrait_bytes)]).status_code == 202
    after = os.stat(files[0])
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.practice(12)
def test_every_picture_that_is_made_names_its_parent(
    client: TestClient, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    _, item = _case_with_candidate(client, portrait_bytes, mirrored_bytes)
    crop = client.get(f"/v1/faces/{item['face']['face_id']}/crop")
    assert crop.status_code == 200
    assert crop.headers["x-source-sha256"] == hashlib.sha256(mirrored_bytes).hexdigest()
    assert crop.headers["x-source-sha256"] == item["image_sha256"]


# --- 15: no contact, no verdicts --------------------------------------------------------------


@pytest.mark.practice(15)
def test_nothing_is_sent_to_what_an_ad_names_and_no_score_labels_it(
    client: TestClient, workspace: Workspace, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    """The only addresses that leave this service are a case's team and set webhooks."""
    _, item = _case_with_candidate(
        client,
        portrait_bytes,
        mirrored_bytes,
        phones=["+1 206 555 0100"],
        emails=["someone@ad.example"],
        handles=["@someone"],
    )
    with workspace.catalog.read() as session:
        payloads = [str(job.payload) for job in session.scalars(select(Job))]
    assert payloads
    assert not [text for text in payloads if "ad.example" in text or "5550100" in text]
    # An ad has no field for a verdict, neither to be sent nor to be shown.
    verdicts = re.compile("traffick|victim|verdict|suspect|risk|label", re.I)
    ad = client.get(f"/v1/ads/{item['ad']['ad_id']}").json()
    assert [name for name in (*AdIn.model_fields, *ad) if verdicts.search(name)] == []


@pytest.mark.practice(15)
def test_only_deliveries_sign_on_and_stamps_reach_others() -> None:
    """Whoever adds another way out has to add it here, with the reason."""
    outward = re.compile(
        r"^\s*(import|from) (httpx2?|smtplib|urllib\.request|http\.client)\b", re.M
    )
    modules = {
        str(path.relative_to(ROOT))
        for folder in ("models", "indexer", "service")
        for path in (ROOT / folder).rglob("*.py")
        if outward.search(path.read_text(encoding="utf-8"))
    }
    assert {
        one for one in modules if not one.startswith(("service/alerts/", "service/signon/"))
    } == {
        "service/stamping.py"  # the digest of a head of the audit log, to the set authority
    }


def _case_with_candidate(
    client: TestClient, photo: bytes, picture: bytes, **ad: Any
) -> tuple[str, dict[str, Any]]:
    case_id = post_case(client)
    enrolled = post_photo(client, case_id, photo)
    assert enrolled.status_code == 201, enrolled.text
    sent = post_ad(client, "b-1", [("b.jpg", picture)], **ad)
    wait_for_job(client, sent.json()["job_id"])
    wait_for_job(client, enrolled.json()["job_id"])
    listed = client.get(f"/v1/cases/{case_id}/candidates").json()
    return case_id, listed["items"][0]
