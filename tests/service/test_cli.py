"""The command line: what it prints, how it ends, and what it says when something is wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner, Result

from models.packs.base import FacePack
from service.cli.main import app
from service.cli.quarantine import printable

CASE = "2026-0001"
RUN = "from service.cli import main; main()"


@pytest.fixture
def data_dir(tmp_path: Path, pack: FacePack, pack_cache: Path) -> Path:
    """An empty data folder; the pack that is built already is lent to it."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "packs").symlink_to(pack_cache)
    return folder


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def failed(result: Result, exit_code: int, code: str) -> str:
    """What was said on standard error; never a traceback."""
    assert result.exit_code == exit_code, result.output
    assert f"[{code}]" in result.stderr, result.stderr
    assert "What to do:" in result.stderr
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture
def files(
    tmp_path: Path,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
    other_bytes: bytes,
) -> Path:
    """A case with a photo, and three ads of which one has a picture missing."""
    folder = tmp_path / "files"
    (folder / "pictures").mkdir(parents=True)
    for name, data in (
        ("portrait.jpg", portrait_bytes),
        ("mirrored.jpg", mirrored_bytes),
        ("other.jpg", other_bytes),
    ):
        (folder / "pictures" / name).write_bytes(data)
    ads: list[dict[str, Any]] = [
        {"site": "a.example", "external_id": "1", "images": ["mirrored.jpg"]},
        {"site": "a.example", "external_id": "2", "images": ["other.jpg"]},
    ]
    (folder / "ads.jsonl").write_text("".join(json.dumps(ad) + "\n" for ad in ads))
    case = {"case_number": CASE, "person": {"name": "Sample"}, "photos": ["portrait.jpg"]}
    (folder / "cases.jsonl").write_text(json.dumps(case) + "\n")
    return folder


def test_from_files_to_candidates(data_dir: Path, files: Path, portrait_bytes: bytes) -> None:
    pictures = files / "pictures"
    ads = run("ingest", "ads", files / "ads.jsonl", "--images", pictures, "--data-dir", data_dir)
    assert ads.exit_code == 0, ads.output
    assert "2 ads are in (2 new), 0 items refused" in ads.stdout
    # --data-dir before the command is the same.
    cases = run(
        "--data-dir", data_dir, "ingest", "cases", files / "cases.jsonl", "--photos", pictures
    )
    assert cases.exit_code == 0, cases.output
    again = run(
        "--data-dir", data_dir, "ingest", "ads", files / "ads.jsonl", "--images", pictures, "--json"
    )
    assert json.loads(again.stdout)["created"] == 0

    table = run("candidates", CASE, "--data-dir", data_dir)
    assert table.exit_code == 0, table.output
    lines = table.stdout.splitlines()
    assert lines[0].startswith("rank")
    assert lines[1].split()[0] == "1"
    assert "a.example" in lines[1]
    assert "not identifications" in table.stdout
    listed = json.loads(run("candidates", CASE, "-k", "1", "--json", "--data-dir", data_dir).stdout)
    assert [item["ad"]["external_id"] for item in listed["items"]] == ["1"]

    photo = files / "probe.jpg"
    photo.write_bytes(portrait_bytes)
    search = run(
        *("search", photo, "--case", CASE, "--purpose", "training", "--json"),
        *("--data-dir", data_dir),
    )
    assert search.exit_code == 0, search.output
    found = json.loads(search.stdout)
    assert [item["ad"]["external_id"] for item in found["items"]] == ["1", "2"]
    assert found["purpose"] == "training"

    reindexed = run("reindex", "--pack", "dlib", "--json", "--data-dir", data_dir)
    assert reindexed.exit_code == 0, reindexed.output
    assert json.loads(reindexed.stdout)["jobs"] == 0  # everything is under this contract
    failed(run("reindex", "--pack", "none", "--data-dir", data_dir), 1, "pack_missing")

    health = run("doctor", "--json", "--data-dir", data_dir)
    assert health.exit_code == 0, health.output
    assert json.loads(health.stdout)["ok"] is True


def test_refused_items_are_listed_and_the_rest_is_in(data_dir: Path, files: Path) -> None:
    with (files / "ads.jsonl").open("a") as file:
        file.write("{this is no json}\n")
        file.write(json.dumps({"site": "a.example", "external_id": "3", "images": ["gone.jpg"]}))
        file.write("\n" + json.dumps({"site": "a.example", "images": []}) + "\n")
    words = ("ingest", "ads", files / "ads.jsonl", "--images", files / "pictures")
    result = run(*words, "--data-dir", data_dir)
    assert result.exit_code == 3, result.output
    assert "refused" in result.stderr
    assert "gone.jpg" in result.stderr
    listed = json.loads(run(*words, "--json", "--data-dir", data_dir).stdout)
    assert len(listed["refused"]) == 3
    assert all(item["code"] and item["detail"] for item in listed["refused"])


def test_missing_sources_are_said_with_a_remedy(data_dir: Path, files: Path) -> None:
    where = ("--data-dir", data_dir)
    failed(
        run("ingest", "ads", files / "none.jsonl", "--images", files, *where),
        1,
        "source_unreadable",
    )
    ads = files / "ads.jsonl"
    failed(run("ingest", "ads", ads, "--images", files / "none", *where), 1, "source_unreadable")
    cases = files / "cases.jsonl"
    failed(
        run("ingest", "cases", cases, "--photos", files / "none", *where), 1, "source_unreadable"
    )
    failed(run("candidates", "NO-SUCH-CASE", *where), 1, "case_not_found")
    photo = files / "none.jpg"
    words = ("search", photo, "--case", CASE, "--purpose", "training")
    run("ingest", "cases", cases, "--photos", files / "pictures", *where)
    failed(run(*words, *where), 1, "source_unreadable")


def test_a_wrong_purpose_is_a_matter_of_usage(data_dir: Path, files: Path) -> None:
    photo = files / "pictures" / "portrait.jpg"
    words = ("search", photo, "--case", CASE, "--purpose", "curiosity", "--data-dir", data_dir)
    assert "locate_missing_person" in failed(run(*words), 2, "purpose_required")
    assert run("search", photo, "--case", CASE).exit_code == 2


@pytest.mark.parametrize(
    "words",
    [("no-such-command",), ("candidates",), ("candidates", "1", "-k", "0"), ("ingest", "ads", "x")],
)
def test_wrong_usage_ends_with_two(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


def test_a_weak_key_is_refused_at_the_start(data_dir: Path) -> None:
    result = run("serve", "--api-key", "short", "--data-dir", data_dir)
    said = failed(result, 2, "settings_invalid")
    assert "16 characters" in said


def test_a_port_in_use_is_said(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", str(port), "--data-dir", data_dir)
        assert str(port) in failed(result, 1, "port_in_use")
    failed(run("serve", "--host", "no.host.invalid", "--data-dir", data_dir), 1, "host_unknown")


def test_a_folder_without_permission_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:  # root may write everywhere

        def denied(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", denied)
    try:
        result = run("candidates", CASE, "--data-dir", tmp_path / "data")
    finally:
        tmp_path.chmod(0o700)
    failed(result, 1, "storage_denied")


def test_a_data_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    result = run("candidates", CASE, "--data-dir", file)
    assert result.exit_code == 1, result.output
    assert "Error [" in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_pack_is_said(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEWARD_PACK", "no-such-pack")
    assert "dlib" in failed(run("candidates", CASE, "--data-dir", data_dir), 1, "pack_missing")
    failed(run("packs", "show", "no-such-pack"), 1, "pack_missing")


def test_a_damaged_pack_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert run("packs", "install", "--data-dir", folder).exit_code == 0
    assert run("packs", "verify", "--data-dir", folder).exit_code == 0
    damaged = max((folder / "packs").rglob("*.onnx"), key=lambda path: path.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.chmod(0o600)
    damaged.write_bytes(content)
    result = run("packs", "verify", "--data-dir", folder)
    # Either the difference is said, or the file is made anew from the installed package.
    if result.exit_code == 0:
        assert damaged.read_bytes() != bytes(content)
    else:
        failed(result, 1, "pack_digest_mismatch")


def test_packs_are_listed_with_their_licence(data_dir: Path) -> None:
    listed = json.loads(run("packs", "list", "--json", "--data-dir", data_dir).stdout)
    dlib = next(item for item in listed if item["name"] == "dlib")
    assert dlib["licence"] == "CC0-1.0"
    assert dlib["installed"] is True
    assert dlib["in_use"] is True
    assert "CC0-1.0" in run("packs", "list", "--data-dir", data_dir).stdout
    shown = json.loads(run("packs", "show", "dlib", "--json", "--data-dir", data_dir).stdout)
    assert shown["digests"]


def test_the_data_folder_may_come_from_the_environment(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEWARD_DATA_DIR", str(data_dir))
    failed(run("candidates", CASE), 1, "case_not_found")
    assert (data_dir / "catalog.sqlite3").exists()


def test_keys_are_made_listed_and_revoked(data_dir: Path) -> None:
    where = ("--data-dir", data_dir)
    failed(run("keys", "list", *where), 1, "no_data_folder")
    run("candidates", CASE, *where)
    made = json.loads(run("keys", "create", "scraper at work", "--json", *where).stdout)
    listed = json.loads(run("keys", "list", "--json", *where).stdout)
    assert [item["key_id"] for item in listed] == [made["key_id"]]
    assert made["key"] not in run("keys", "list", *where).stdout
    assert run("keys", "revoke", made["key_id"], *where).exit_code == 0
    failed(run("keys", "revoke", "no-such-id", *where), 1, "key_not_found")


def test_the_doctor_works_before_anything_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "nothing" / "yet"
    result = run("doctor", "--data-dir", folder)
    assert result.exit_code == 0, result.output
    assert "onnxruntime" in result.stdout
    assert not folder.exists()


def test_evaluate_writes_its_figures(data_dir: Path, tmp_path: Path, files: Path) -> None:
    people = tmp_path / "people"
    for person, names in {"a": ["portrait", "mirrored"], "b": ["other"], "c": ["other"]}.items():
        (people / person).mkdir(parents=True)
        for number, name in enumerate(names):
            source = files / "pictures" / f"{name}.jpg"
            (people / person / f"{number}.jpg").write_bytes(source.read_bytes())
    out = tmp_path / "figures.json"
    words = ("evaluate", people, "--json", out, "--plots", tmp_path / "plots", "--clusters")
    result = run(*words, "--data-dir", data_dir)
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert (figures["images"], figures["identities"]) == (4, 3)
    assert [line["made_up"] for line in figures["clusters"]] == [0, 10_000, 100_000]
    assert "precision" in result.stdout
    assert list((tmp_path / "plots").glob("*.png"))
    # What helps a search needs two photos of somebody and strangers, which these few are.
    fusion = run("evaluate", people, "--fusion", "--json", "--data-dir", data_dir)
    assert fusion.exit_code == 0, fusion.output
    lines = json.loads(fusion.stdout)["fusion"]["beyond"]
    one = [line for line in lines if line["ads"] == "clean" and line["arm"] == "as served"]
    assert one and {line["people"] for line in one} == {1}
    assert one[0]["gains"]["rank_1"]["value"] == 1.0
    # `--degrade` alone is the standard set, whether the folder stands before or after it.
    bare = run("evaluate", "--degrade", people, "--json", "--data-dir", data_dir)
    assert bare.exit_code == 0, bare.output
    degraded = {row["name"] for row in json.loads(bare.stdout)["degraded"]}
    assert {"face_40px", "rotate_180", "eye_bar"} <= degraded
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("evaluate", empty, "--data-dir", data_dir).exit_code == 1
    denied = tmp_path / "figures.json" / "inside"
    failed(run("evaluate", people, "--json", denied, "--data-dir", data_dir), 1, "output_denied")


def test_serve_prints_one_key_answers_and_stops(data_dir: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOMEWARD_")}
    words = [sys.executable, "-c", RUN, "serve", "--port", "0", "--data-dir", str(data_dir)]
    keys = []
    for _ in range(2):
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            said = ""
            while "Stop with" not in said:
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr else said
                said += line
            keys += re.findall(r"hw_\S+", said)
            address = re.findall(r"http://127\.0\.0\.1:\d+", said)[0]
            header = {"authorization": f"Bearer {keys[0]}"}
            assert httpx2.get(f"{address}/v1/cases", headers=header).status_code == 200
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
            assert errors == ""
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
    assert len(keys) == 1


def test_bad_lines_are_listed_shown_and_dropped(data_dir: Path, files: Path) -> None:
    where = ("--data-dir", data_dir)
    failed(run("quarantine", "list", *where), 1, "no_data_folder")
    with (files / "ads.jsonl").open("ab") as file:
        file.write(b"{this is \x1b[31m no json}\n")
    run("ingest", "ads", files / "ads.jsonl", "--images", files / "pictures", *where)
    (item,) = json.loads(run("quarantine", "list", "--json", *where).stdout)
    assert (item["place"], item["code"]) == ("ads.jsonl line 3", "malformed_line")
    assert item["item_id"] in run("quarantine", "list", *where).stdout
    shown = run("quarantine", "show", item["item_id"], *where)
    assert shown.stdout_bytes == b"{this is \x1b[31m no json}\n"
    assert "ads.jsonl line 3" in shown.stderr
    failed(run("quarantine", "show", "none", *where), 1, "quarantine_item_not_found")
    assert run("quarantine", "drop", *where).exit_code == 2
    assert "1 dropped" in run("quarantine", "drop", item["item_id"], *where).stdout
    assert "empty" in run("quarantine", "list", *where).stdout
    assert "0 dropped" in run("quarantine", "drop", "--all", *where).stdout


def test_what_a_stranger_wrote_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b[31m\u202eb\n") == "a\\x1b[31m\\u202eb\\n"
