"""Encryption as an administrator uses it: settings, commands, a service that goes on meanwhile."""

from __future__ import annotations

import base64
import io
import json
import random
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from indexer import cases
from indexer.errors import KeysUnusable
from indexer.records import CaseInput
from indexer.sealing import outer
from indexer.sealing.spool import PART_BYTES, SealedSpool
from indexer.workspace import open_workspace
from service.cli.main import app
from service.config import SettingsInvalid, load_settings
from service.opening import outer_keys
from tests.indexer.sealed import everything, found_in
from tests.indexer.small import SmallAnalyser
from tests.service.processes import serving, wait_until

LINE = "first:" + base64.b64encode(b"1" * 32).decode()
SECOND = "second:" + base64.b64encode(b"2" * 32).decode()


def key_file(folder: Path, *lines: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.unlink(missing_ok=True)
    path.write_text("# keys\n" + "\n".join(lines) + "\n")
    path.chmod(mode)
    return path


def ran(*words: object, expect: int = 0, **environment: str) -> str:
    """What `homeward` says with these words, run in this process."""
    run = CliRunner().invoke(app, [str(word) for word in words], env=environment)
    assert run.exit_code == expect, run.output
    return run.output if expect else run.stdout


def said(data: Path, *words: str, expect: int = 0, **environment: str) -> str:
    """What `homeward encryption` says of this data folder."""
    return ran("encryption", *words, "--data-dir", data, expect=expect, **environment)


# --- settings --------------------------------------------------------------------------------


def test_keys_are_read_from_a_file_that_is_nobody_elses(tmp_path: Path) -> None:
    found = outer.from_file(key_file(tmp_path, LINE, SECOND))
    assert found.current == "first"
    assert set(found.keys) == {"first", "second"}
    assert "1111" not in repr(found)
    for mode in (0o640, 0o604, 0o620, 0o660):
        with pytest.raises(KeysUnusable, match="others"):
            outer.from_file(key_file(tmp_path, LINE, mode=mode))
    with pytest.raises(KeysUnusable, match="cannot be read"):
        outer.from_file(tmp_path / "none")
    with pytest.raises(KeysUnusable):
        outer.from_file(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "first", "first:", "first:AAAA", f"{LINE}\n{LINE}", "a b:" + LINE[6:], "x:é"]
)
def test_what_is_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(KeysUnusable) as refused:
        outer.parsed(text)
    assert LINE[6:] not in refused.value.detail + refused.value.remedy


def test_new_keys_are_keys() -> None:
    first, second = outer.new_line("2026"), outer.new_line("2026")
    assert first != second
    assert outer.parsed(first).current == "2026"
    with pytest.raises(KeysUnusable):
        outer.new_line("a:b")


def test_settings_name_one_source_and_never_an_unencrypted_server_by_accident(
    tmp_path: Path,
) -> None:
    path = key_file(tmp_path, LINE)
    assert outer_keys(load_settings(data_dir=tmp_path)) is None
    by_file = outer_keys(load_settings(data_dir=tmp_path, encryption_key_file=path))
    by_text = outer_keys(load_settings(data_dir=tmp_path, encryption_keys=LINE))
    assert by_file == by_text
    with pytest.raises(SettingsInvalid, match="both"):
        outer_keys(load_settings(data_dir=tmp_path, encryption_key_file=path, encryption_keys=LINE))
    milvus = {"vectors": "milvus", "milvus_uri": "https://milvus.test:19530"}
    with pytest.raises(SettingsInvalid, match="does not encrypt"):
        outer_keys(load_settings(data_dir=tmp_path, encryption_keys=LINE, **milvus))
    accepted = load_settings(
        data_dir=tmp_path, encryption_keys=LINE, milvus_unencrypted=True, **milvus
    )
    assert outer_keys(accepted) == by_text


# --- spool -----------------------------------------------------------------------------------


def test_a_sealed_spool_gives_back_what_was_written(tmp_path: Path) -> None:
    chance = random.Random(7)
    for size in (0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 12_345):
        data = bytes(chance.choices(b"ab\n", weights=(500, 500, 1), k=size))
        plain = io.BytesIO(data)
        with SealedSpool(tmp_path) as spool:
            at = 0
            while at < len(data):
                step = chance.randrange(1, 400_000)
                spool.write(data[at : at + step])
                at += step
            spool.seek(0)
            assert spool.read() == data
            spool.seek(0)
            plain.seek(0)
            while line := plain.readline(5_000):
                assert spool.readline(5_000) == line
            assert spool.readline(10) == b""
            spool.seek(0)
            assert spool.read(10) == data[:10]
        assert list(tmp_path.iterdir()) == [], "its file has no name"


# --- the whole -------------------------------------------------------------------------------


def test_a_service_is_encrypted_and_its_key_changed_while_it_works(
    tmp_path: Path, portrait_bytes: bytes, other_bytes: bytes
) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    needles = {"name": b"Zebulon Quillfeather", "photo": portrait_bytes[2000:2060]}
    with serving(data, log) as client:
        case_id = client.post(
            "/v1/cases", json={"case_number": "1", "person": {"name": "Zebulon Quillfeather"}}
        ).json()["case_id"]
        assert client.post(
            f"/v1/cases/{case_id}/photos", files={"file": ("p.jpg", portrait_bytes)}
        ).is_success
    assert set(found_in(_files(data), needles)) == set(needles)

    keys = str(key_file(tmp_path, LINE))
    refused = said(data, "status", expect=1, HOMEWARD_ENCRYPTION_KEY_FILE=keys)
    assert "encryption_keys" in refused
    said(data, "on", HOMEWARD_ENCRYPTION_KEY_FILE=keys)
    assert found_in(_files(data), needles) == {}
    assert "encryption_keys" in said(data, "status", expect=1)
    before = json.loads(said(data, "status", "--json", HOMEWARD_ENCRYPTION_KEY_FILE=keys))
    assert before["encrypted"]
    assert before["sealing"] is None

    with serving(data, log, encryption_key_file=keys) as client:
        stop, errors, sent = threading.Event(), list[str](), list[str]()

        def load() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                ad = {"site": "example.test", "external_id": str(number), "title": f"t {number}"}
                answer = client.post(
                    "/v1/ads",
                    files=[
                        ("ad", (None, json.dumps(ad), "application/json")),
                        ("images", ("a.jpg", other_bytes + number.to_bytes(4, "big"))),
                    ],
                )
                if answer.is_success:
                    sent.append(answer.json()["ad_id"])
                else:
                    errors.append(answer.text)
                got = client.get(f"/v1/cases/{case_id}")
                if not got.is_success or got.json()["person"]["name"] != "Zebulon Quillfeather":
                    errors.append(got.text)

        worker = threading.Thread(target=load)
        worker.start()
        try:
            wait_until(lambda: len(sent) > 3)
            said(data, "rotate", HOMEWARD_ENCRYPTION_KEY_FILE=keys)
            wait_until(lambda: len(sent) > 6)
        finally:
            stop.set()
            worker.join()
        assert errors == []
        for ad_id in sent:
            assert client.get(f"/v1/ads/{ad_id}").json()["ad_id"] == ad_id
    checked = json.loads(said(data, "check", "--json", HOMEWARD_ENCRYPTION_KEY_FILE=keys))
    old = next(one["data_key_id"] for one in before["keys"] if one["current"])
    assert checked["broken"] == {}
    assert set(checked["by_key"]) == {checked["current"]}
    assert checked["current"] != old
    assert found_in(_files(data), needles) == {}

    # The outer key is changed by wrapping anew; then the first is not needed any more.
    both = str(key_file(tmp_path, SECOND, LINE))
    assert "second: 3 keys" in said(data, "rewrap", HOMEWARD_ENCRYPTION_KEY_FILE=both)
    assert "encryption_keys" in said(data, "status", expect=1, HOMEWARD_ENCRYPTION_KEYS=LINE)
    assert "Everything is sealed" in said(data, "status", HOMEWARD_ENCRYPTION_KEYS=SECOND)


def test_a_back_up_of_an_encrypted_folder_needs_the_key(tmp_path: Path) -> None:
    data, again, file = tmp_path / "data", tmp_path / "again", tmp_path / "b.tar"
    with open_workspace(data, SmallAnalyser(), keys=outer.parsed(LINE)) as ws:
        cases.create_case(ws, CaseInput(case_number="7"))
    told = ran("backup", file, "--data-dir", data, HOMEWARD_ENCRYPTION_KEYS=LINE)
    assert "cannot be restored without these keys: first" in told
    words = ("restore", file, "--no-purges", "--data-dir", again)
    assert "encryption_keys" in ran(*words, expect=1)
    ran(*words, HOMEWARD_ENCRYPTION_KEYS=LINE)
    assert "Everything is sealed" in said(again, "status", HOMEWARD_ENCRYPTION_KEYS=LINE)


def _files(data: Path) -> dict[str, bytes]:
    """All files but those of the face pack."""
    return {path: held for path, held in everything(data).items() if not path.startswith("packs/")}
