"""``homeward gallery``: what is said of the vectors, and moving them."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from indexer import ads, jobs
from indexer.records import AdInput, Upload
from models.pipeline import Analyser
from service.cli.main import app
from tests.service.conftest import make_settings, open_with


@pytest.fixture
def folder(tmp_path: Path, pack_cache: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir(mode=0o700)
    (made / "packs").symlink_to(pack_cache)
    return made


@pytest.fixture
def filled(folder: Path, analyser: Analyser, portrait_bytes: bytes) -> Path:
    """A data folder with one ad that shows one face."""
    with open_with(make_settings(folder), analyser) as ws:
        ads.receive_ad(ws, AdInput(site="a.example", external_id="1"), [Upload(portrait_bytes)])
        jobs.run_pending(ws)
        assert ws.ads.count() == 1
        ws.ads.save()
    return folder


def run(folder: Path, *words: str, **variables: str) -> Result:
    environment = {f"HOMEWARD_{name}": value for name, value in variables.items()}
    return CliRunner().invoke(app, ["gallery", *words, "--data-dir", str(folder)], env=environment)


def told(result: Result) -> dict[str, tuple[int, str | None]]:
    """From its JSON: faces and problem of each gallery."""
    return {
        one["gallery"]: (one["faces"], one["problem"])
        for one in json.loads(result.stdout)["galleries"]
    }


def segments(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in (folder / "index").glob("ads-*/*")
        if path.is_file() and path.stat().st_size
    }


GOOD = {"cases": (0, None), "ads": (1, None)}


def test_what_is_there_is_shown_and_made_anew(filled: Path) -> None:
    shown = run(filled, "show")
    assert shown.exit_code == 0
    assert "ads: 1 faces" in shown.stdout and "cases: 0 faces" in shown.stdout
    before = segments(filled)
    rebuilt = run(filled, "rebuild", "--json")
    assert rebuilt.exit_code == 0 and told(rebuilt) == GOOD
    assert before and not before & segments(filled), "other files, with the same in them"
    assert told(run(filled, "show", "--json")) == GOOD


def test_segments_are_dropped_only_where_something_else_is_in_use(filled: Path) -> None:
    refused = run(filled, "drop", "local")
    assert refused.exit_code == 2 and "is in use" in refused.stderr
    assert segments(filled)
    milvus = {"VECTORS": "milvus", "MILVUS_URI": "https://milvus.invalid"}
    assert run(filled, "drop", "milvus", **milvus).exit_code == 2
    dropped = run(filled, "drop", "local", **milvus)
    assert dropped.exit_code == 0 and "from local" in dropped.stdout
    assert not segments(filled)
    back = run(filled, "migrate", "--to", "local", "--json")
    assert back.exit_code == 0 and told(back) == GOOD
    assert segments(filled)
    assert "HOMEWARD_VECTORS=local" in run(filled, "migrate", "--to", "local").stdout
    assert run(filled, "migrate", "--to", "elsewhere").exit_code == 2


def test_a_server_that_is_away_is_told(filled: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = {"MILVUS_URI": f"http://127.0.0.1:{port}"}
    refused = run(filled, "migrate", "--to", "milvus", **server)
    assert refused.exit_code == 2 and "HOMEWARD_MILVUS_ALLOW_HTTP" in refused.stderr
    assert run(filled, "drop", "milvus").exit_code == 2, "no address is set"
    server["MILVUS_ALLOW_HTTP"] = "1"
    moved = run(filled, "migrate", "--to", "milvus", "--json", **server)
    assert moved.exit_code == 1
    assert [problem is None for _, problem in told(moved).values()] == [False, False]
    assert "differs from the catalog" in moved.stderr
    dropped = run(filled, "drop", "milvus", **server)
    assert dropped.exit_code == 1 and "[index_away]" in dropped.stderr
    assert told(run(filled, "show", "--json")) == GOOD


def test_no_folder_is_made_for_a_slip(tmp_path: Path) -> None:
    missing = tmp_path / "typo"
    for words in (("show",), ("rebuild",), ("migrate", "--to", "local"), ("drop", "milvus")):
        done = run(missing, *words, MILVUS_URI="https://milvus.invalid")
        assert done.exit_code == 1 and "[no_data_folder]" in done.stderr, words
        assert not missing.exists(), words
