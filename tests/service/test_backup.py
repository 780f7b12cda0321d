"""A back-up while ads come in, restored, with what was deleted since forgotten again."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from PIL import Image

from models.packs.base import FacePack
from tests.service.conftest import AUTH, jpeg, post_ad, post_case
from tests.service.processes import homeward, serving, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def data_dir(tmp_path: Path, pack: FacePack, pack_cache: Path) -> Path:
    return empty(tmp_path / "data", pack_cache)


def empty(folder: Path, pack_cache: Path) -> Path:
    folder.mkdir(mode=0o700)
    (folder / "packs").symlink_to(pack_cache)
    return folder


def test_while_ads_come_in(
    data_dir: Path,
    tmp_path: Path,
    pack_cache: Path,
    portrait: Image.Image,
    other_bytes: bytes,
) -> None:
    ledger, first, second = (tmp_path / name for name in ("purges.jsonl", "1.tar", "2.tar"))
    settings = {"purge_ledger": str(ledger), "min_free_bytes": "0"}
    name = "Zebulon Quillfeather"
    stop = threading.Event()
    sent: list[str] = []
    with serving(data_dir, tmp_path / "log", **settings) as client:
        case_id = post_case(client, "stays")
        gone_id = post_case(client, "goes", person={"name": name})
        photo = client.post(f"/v1/cases/{gone_id}/photos", files={"file": ("p.jpg", other_bytes)})
        assert photo.status_code == 201

        def send() -> None:
            number = 0
            while not stop.is_set():
                data = jpeg(portrait.resize((200 + number, 200 + number)))
                answer = post_ad(client, f"ad-{number}", [("a.jpg", data)], body=f"ad {number}")
                assert answer.status_code == 202, answer.text
                sent.append(answer.json()["ad_id"])
                number += 1
                stop.wait(0.3)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            wait_until(lambda: len(sent) > 5)
            homeward(data_dir, "backup", first, expect=0, **settings)
            between = len(sent)
            homeward(data_dir, "backup", second, expect=0, **settings)
        finally:
            stop.set()
            sender.join()
        assert len(sent) > between, "ads came in all the while"
        assert client.delete(f"/v1/cases/{gone_id}").status_code == 204
        assert client.delete(f"/v1/ads/{sent[0]}").status_code == 204
        wait_until(lambda: ledger.exists() and len(ledger.read_bytes().splitlines()) == 2)
    refused = homeward(data_dir, "backup", second, expect=1, **settings)
    assert "[backup_failed]" in refused.stderr
    homeward(data_dir, "backup", "one", "two", expect=2, **settings)
    whole = homeward(data_dir, "backup", "verify", second).stdout
    assert "is whole" in whole

    kept = tmp_path / "kept.jsonl"
    shutil.copy(ledger, kept)
    there = empty(tmp_path / "restored", pack_cache)
    asked = homeward(there, "restore", second, expect=2, text="")
    assert "--no-purges" in asked.stderr
    homeward(there, "restore", second, "--purges", kept, "--no-purges", expect=2)
    assert os.listdir(there) == ["packs"]
    said = homeward(there, "restore", second, "--purges", kept).stdout
    assert "Forgotten again by the 2 purges listed: 1 ad(s), 1 case(s)" in said
    assert "The file of purges lists 2, the last of 20" in said
    assert "In force again" in said and "0 webhooks" in said
    full = homeward(there, "restore", second, "--purges", kept, expect=1)
    assert "[backup_failed]" in full.stderr
    doctor = homeward(there, "doctor", "--blobs", "--json", min_free_bytes="0")
    found = {item["name"]: item for item in json.loads(doctor.stdout)["items"]}
    # Ads that came in while the back-up was made are there with all that is theirs, or not at all.
    assert [item for item in found.values() if not item["ok"] and item["name"] != "contract"] == []
    with serving(there, tmp_path / "log") as client:
        assert client.get(f"/v1/cases/{case_id}", headers=AUTH).status_code == 200
        assert client.get(f"/v1/cases/{gone_id}").status_code == 404
        assert client.get(f"/v1/ads/{sent[0]}").status_code == 404
        assert client.get(f"/v1/ads/{sent[1]}").status_code == 200
        wait_until(lambda: " 0.0" in gauge(client.get("/metrics").text, "homeward_jobs_waiting"))
    for path in there.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert name.encode() not in data and other_bytes[500:700] not in data, path
    homeward(there, "doctor", "--blobs", min_free_bytes="0")


def gauge(text: str, name: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(f"{name} ")), "")
