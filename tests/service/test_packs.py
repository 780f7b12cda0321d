"""Packs on the command line, and what is said about their licence at start and on every page."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from indexer.calibrations import keep
from indexer.workspace import Workspace, make_catalog
from models.calibration import Calibration
from models.packs.licences import OWN_RESPONSIBILITY, RESEARCH_ONLY
from models.packs.record import RECORD
from models.packs.registry import load_pack
from models.pipeline import Analyser
from models.runtime import RuntimeOptions
from service.app import create_app
from service.cli.main import app
from service.config import Settings
from service.doctor import examine
from tests.indexer.watch import CALIBRATION
from tests.models.insightface_models import make_recogniser, make_v1_folder
from tests.models.licence_files import write_licence
from tests.models.opencv_models import sface, write_folder
from tests.service.conftest import make_settings, open_with
from tests.service.processes import REPOSITORY, RUN, environment, serving
from tests.service.web.browser import Browser

ADA = ("--accept-licence-as", "Ada Lovelace")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def failed(result: Result, code: str) -> str:
    assert result.exit_code == 1, result.output
    assert f"[{code}]" in result.stderr, result.stderr
    assert "What to do:" in result.stderr
    return result.stderr


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def listed(data_dir: Path, name: str) -> dict[str, Any]:
    shown = json.loads(done(run("packs", "list", "--json", "--data-dir", data_dir)).stdout)
    found: dict[str, Any] = next(item for item in shown if item["name"] == name)
    return found


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return make_v1_folder(tmp_path / "models")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_the_licence_is_shown_in_full_and_accepted_by_name(data: Path, models: Path) -> None:
    words = ("packs", "install", "buffalo_s", "--from", models, "--data-dir", data)
    refused = run(*words)
    failed(refused, "licence_not_accepted")
    assert RESEARCH_ONLY.text in refused.stdout and RESEARCH_ONLY.url in refused.stdout
    assert listed(data, "buffalo_s")["installed"] is False
    accepted = done(run(*words, *ADA))
    assert RESEARCH_ONLY.text in accepted.stdout and "is installed" in accepted.stdout
    assert "is uncalibrated" in accepted.stdout
    assert "Ada Lovelace" in accepted.stderr
    item = listed(data, "buffalo_s")
    assert item["installed"] and not item["free_for_police_use"] and not item["in_use"]
    assert item["licence_accepted_by"] == "Ada Lovelace"
    assert item["licence_accepted_at"].endswith("Z")
    assert (item["kind"], item["format"], item["calibrated"]) == ("insightface", "v1", False)
    assert set(item["files"]) == {"det_10g.onnx", "w600k_r50.onnx"}
    assert item["installed_at"] >= item["licence_accepted_at"][:10]
    assert "research only" in item["warning"]
    with closing(make_catalog(data)) as catalog:
        keep(catalog, Calibration(item["contract_id"], CALIBRATION.curves, {}), actor="tester")
    assert listed(data, "buffalo_s")["calibrated"] is True
    (data / "catalog.sqlite3").write_bytes(b"no catalog" * 1000)
    assert listed(data, "buffalo_s")["calibrated"] is None, "nobody knows"


def test_a_name_that_is_none_is_refused(data: Path, models: Path) -> None:
    words = ("packs", "install", "buffalo_s", "--from", models, "--data-dir", data)
    for name in ("", "x", "  "):
        failed(run(*words, "--accept-licence-as", name), "licence_not_accepted")
    assert listed(data, "buffalo_s")["installed"] is False


def test_on_a_terminal_the_name_is_asked_for(data: Path, models: Path) -> None:
    for typed, code in ((b"\n", 1), (b"Ada Lovelace\n", 0)):
        ours, theirs = pty.openpty()
        os.write(ours, typed)
        words = ("packs", "install", "own", "--from", str(models), "--data-dir", str(data))
        ended = subprocess.run(
            [sys.executable, "-c", RUN, *words],
            cwd=REPOSITORY,
            env=environment(data),
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        os.close(ours)
        os.close(theirs)
        assert ended.returncode == code, ended.stderr
        assert OWN_RESPONSIBILITY.text in ended.stdout
        assert listed(data, "buffalo_s")["installed"] is False
    assert listed(data, "own")["licence_accepted_by"] == "Ada Lovelace"


def test_packs_are_shown_verified_and_removed(
    data: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--data-dir", data)
    done(run("packs", "install", "ours", "--from", models, *ADA, *where))
    assert "ours" in done(run("packs", "list", *where)).stdout
    text = done(run("packs", "show", "ours", *where)).stdout
    assert "Ada Lovelace" in text and "w600k_r50.onnx" in text
    shown = json.loads(done(run("packs", "show", "ours", "--json", *where)).stdout)
    assert shown["digests"] == shown["files"]
    assert "is whole" in done(run("packs", "verify", "ours", *where)).stdout
    damaged = next((data / "packs" / "ours").rglob("w600k_r50.onnx"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    said = failed(run("packs", "verify", "ours", *where), "pack_digest_mismatch")
    assert "w600k_r50.onnx" in said
    monkeypatch.setenv("HOMEWARD_PACK", "ours")
    failed(run("packs", "remove", "ours", *where), "pack_in_use")
    monkeypatch.delenv("HOMEWARD_PACK")
    assert "removed" in done(run("packs", "remove", "ours", *where)).stdout
    failed(run("packs", "remove", "ours", *where), "pack_missing")
    failed(run("packs", "show", "ours", *where), "pack_missing")
    failed(run("packs", "remove", "dlib", *where), "pack_in_use")


def test_other_files_need_a_word(data: Path, tmp_path: Path) -> None:
    words = ("packs", "install", "yunet-sface", *ADA, "--data-dir", data, "--from")
    done(run(*words, write_folder(tmp_path / "one")))
    other = write_folder(tmp_path / "other", recogniser=sface(seed=9))
    failed(run(*words, other), "pack_differs")
    before = listed(data, "yunet-sface")
    done(run(*words, other, "--replace"))
    assert listed(data, "yunet-sface")["contract_id"] != before["contract_id"]


def test_what_cannot_be_had_is_said(data: Path, tmp_path: Path) -> None:
    where = ("--data-dir", data)
    said = failed(run("packs", "install", "buffalo_l", *ADA, *where), "pack_download_failed")
    assert "buffalo_l.zip" in said and "--from" in said
    assert "huggingface" in failed(
        run("packs", "install", "auraface", *where), "pack_download_failed"
    )
    said = failed(
        run("packs", "install", "dlib", "--from", tmp_path, *where), "pack_source_invalid"
    )
    assert "--from" in said
    failed(run("packs", "verify", "buffalo_l", *where), "pack_missing")


def test_every_known_pack_is_listed_with_its_licence(data: Path) -> None:
    shown = json.loads(done(run("packs", "list", "--json", "--data-dir", data)).stdout)
    assert next(item["name"] for item in shown) == "dlib"
    licences = {item["name"]: item["licence"] for item in shown}
    assert licences["auraface"] == "Apache-2.0"
    assert "non-commercial" in licences["buffalo_l"]
    free = {item["name"] for item in shown if item["free_for_police_use"]}
    assert free == {"dlib", "yunet-sface"}
    assert {item["name"]: item["warning"] for item in shown}["dlib"] is None
    assert "yunet-sface" in done(run("packs", "list", "--data-dir", data)).stdout


def test_a_licence_that_insightface_did_not_sign_is_refused(data: Path, models: Path) -> None:
    write_licence(models, Ed25519PrivateKey.generate(), "buffalo_s")
    words = ("packs", "install", "buffalo_s", "--from", models, *ADA, "--data-dir", data)
    assert "signature" in failed(run(*words), "licence_invalid")
    assert listed(data, "buffalo_s")["installed"] is False


# --- while it is in use ----------------------------------------------------------------------


@pytest.fixture
def restricted(tmp_path: Path, models: Path) -> Settings:
    """Settings of an installation that works with a research pack."""
    data = tmp_path / "data"
    words = ("packs", "install", "buffalo_s", "--from", models, *ADA, "--data-dir", data)
    done(run(*words))
    return make_settings(data, pack="buffalo_s")


@pytest.fixture
def pages(restricted: Settings) -> Iterator[Browser]:
    pack = load_pack("buffalo_s", packs_dir=restricted.packs_dir, runtime=RuntimeOptions(threads=1))
    with (
        open_with(restricted, Analyser(pack)) as workspace,
        TestClient(create_app(restricted, workspace)) as client,
    ):
        yield Browser(client)


def said(browser: Browser, path: str) -> str:
    return " ".join("".join(browser.get(path).text).split())


def test_every_page_says_so(pages: Browser) -> None:
    first = said(pages, "/sign-in")
    assert "non-commercial research only" in first and "Ada" not in first
    pages.sign_in()
    for path in ("/cases", "/alerts", "/jobs", "/about"):
        page = said(pages, path)
        assert "The face pack buffalo_s is for non-commercial research only" in page, path
        assert ("Ada Lovelace" in page) == (path == "/about"), "a name is not for everyone"
    assert RESEARCH_ONLY.sha256 in said(pages, "/about")


def test_every_page_says_that_the_rights_cannot_be_read(
    restricted: Settings, pages: Browser
) -> None:
    """A record that is damaged while the service runs; and that it was made whole is seen."""
    assert "research only" in said(pages, "/sign-in")
    record = restricted.packs_dir / "buffalo_s" / RECORD
    whole = record.read_text()
    pages.sign_in()
    record.write_text("{")
    for path in ("/cases", "/alerts", "/about"):
        assert "The right to use the face pack buffalo_s cannot be told" in said(pages, path)
    record.unlink()  # its name says enough
    assert "research only" in said(pages, "/cases")
    record.write_text(whole)
    for path in ("/cases", "/about"):
        assert "research only" in said(pages, path) and "cannot be told" not in said(pages, path)


def test_free_packs_leave_the_pages_alone(settings: Settings, workspace: Workspace) -> None:
    with TestClient(create_app(settings, workspace)) as client:
        browser = Browser(client)
        browser.sign_in()
        assert "research" not in said(browser, "/cases")
        assert "CC0-1.0" in said(browser, "/about")


def test_the_doctor_says_so(restricted: Settings, tmp_path: Path) -> None:
    found = {item.name: item for item in examine(restricted)}
    item = found["licence of pack buffalo_s"]
    assert not item.ok and "Ada Lovelace" in item.detail and item.remedy
    assert "licence of pack antelopev2" not in found
    # The data folder was opened with the pack: its generation counts, whatever the settings say.
    named_otherwise = make_settings(restricted.data_dir, pack="dlib")
    assert not next(i for i in examine(named_otherwise) if i.name == item.name).ok
    said = failed(
        run("packs", "remove", "buffalo_s", "--data-dir", restricted.data_dir), "pack_in_use"
    )
    assert "generation" in said
    other = make_v1_folder(tmp_path / "other", recogniser=make_recogniser(dimension=256))
    words = ("packs", "install", "buffalo_s", "--from", other, *ADA, "--replace")
    assert "generation" in failed(run(*words, "--data-dir", restricted.data_dir), "pack_in_use")
    assert listed(restricted.data_dir, "buffalo_s")["in_use"] is True


def test_the_doctor_takes_no_offence_at_a_pack_that_is_not_in_use(restricted: Settings) -> None:
    settings = make_settings(restricted.data_dir, pack="dlib")
    found = next(i for i in examine(settings) if i.name == "licence of pack buffalo_s")
    assert found.ok and "not free for police use" in found.detail


def test_serve_warns_at_every_start(restricted: Settings, tmp_path: Path) -> None:
    for number in range(2):
        log = tmp_path / f"log-{number}"
        with serving(restricted.data_dir, log, pack="buffalo_s") as client:
            assert client.get("/readyz").status_code == 200
        warned = log.read_text()
        assert "Warning: The face pack buffalo_s is for non-commercial research" in warned
        assert "accepted by Ada Lovelace" in warned
