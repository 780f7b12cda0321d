"""What is deleted is in no search of any process at once, and in no file within a minute.

A real service and another process that has the same folder open do their upkeep meanwhile; the
log of the service lies in the folder and is searched like every other file.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import httpx2
import pytest
from PIL import Image

from indexer import ledger
from models.packs.base import FacePack
from models.types import RgbImage
from tests.service.conftest import KEY, jpeg, post_ad, post_case
from tests.service.processes import REPOSITORY, environment, homeward, serving, wait_until

pytestmark = pytest.mark.slow

NAME = "Zebulon Quillfeather"
SETTINGS = {"ad_max_age_days": "30"}

_OTHER_PROCESS = """
import sys
from indexer.runner import Runner
from service.config import load_settings
from service.opening import open_for

with open_for(load_settings()) as workspace:
    runner = Runner(workspace)
    runner.start()
    for line in sys.stdin:
        gallery = workspace.cases if line.strip() == "cases" else workspace.ads
        print(" ".join(sorted(gallery.ids())), flush=True)
    runner.close()
"""


@dataclass(frozen=True)
class Other:
    """Another process with the folder open; says which faces its view of a gallery holds."""

    asked: IO[str]
    answers: IO[str]

    def faces(self, gallery: str) -> set[str]:
        self.asked.write(f"{gallery}\n")
        self.asked.flush()
        return set(self.answers.readline().split())


@dataclass
class Live:
    data_dir: Path
    client: httpx2.Client
    other: Other
    vectors: dict[str, list[bytes]] = field(default_factory=dict)

    def query(self, statement: str, *values: str) -> list[tuple[object, ...]]:
        path = f"file:{self.data_dir / 'catalog.sqlite3'}?mode=rw"
        with closing(sqlite3.connect(path, uri=True, timeout=30)) as connection:
            connection.isolation_level = None
            return connection.execute(statement, values).fetchall()

    def face_ids(self, sha256: str) -> set[str]:
        rows = self.query("SELECT face_id FROM faces WHERE sha256 = ?", sha256)
        return {str(face_id) for (face_id,) in rows}

    def vectors_of(self, sha256: str) -> list[bytes]:
        """Beginning and end of each vector of an image, as its bytes are in the catalog."""
        rows = self.query(
            "SELECT vector FROM faces WHERE sha256 = ? AND vector IS NOT NULL", sha256
        )
        found = [part for (v,) in rows if isinstance(v, bytes) for part in (v[:64], v[-64:])]
        assert found
        return found

    def files_with(self, needle: bytes) -> list[str]:
        found = []
        for path in self.data_dir.rglob("*"):
            try:
                if path.is_file() and needle in path.read_bytes():
                    found.append(str(path.relative_to(self.data_dir)))
            except FileNotFoundError:
                continue
        return found

    def there(self, *needles: bytes) -> None:
        for needle in needles:
            assert self.files_with(needle), needle[:60]

    def gone(self, *needles: bytes) -> None:
        """Waits until no file holds any of them."""
        try:
            wait_until(lambda: not any(self.files_with(needle) for needle in needles), 60)
        except pytest.fail.Exception:
            assert {needle[:40]: self.files_with(needle) for needle in needles} == {}
            raise


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory, pack: FacePack, pack_cache: Path
) -> Iterator[Live]:
    data_dir = tmp_path_factory.mktemp("deletion") / "data"
    data_dir.mkdir(mode=0o700)
    (data_dir / "packs").symlink_to(pack_cache)
    with serving(data_dir, data_dir / "service.log", **SETTINGS) as client:
        process = subprocess.Popen(
            [sys.executable, "-c", _OTHER_PROCESS],
            cwd=REPOSITORY,
            env=environment(data_dir, **SETTINGS),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            yield Live(data_dir, client, Other(process.stdin, process.stdout))
        finally:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()


@pytest.fixture(scope="module")
def pictures(portrait: Image.Image, group_photo: RgbImage) -> Callable[[], bytes]:
    """A new picture of a face each time: other bytes, another vector."""
    people = [
        portrait,
        Image.fromarray(group_photo).crop((425, 200, 655, 430)),
    ]
    made = iter(range(1000))

    def make() -> bytes:
        number = next(made)
        side = 200 + 3 * number
        return jpeg(people[number % 2].resize((side, side)), quality=70 + number % 25)

    return make


def inside(data: bytes) -> bytes:
    """A piece of a file that no other has."""
    return data[len(data) // 2 : len(data) // 2 + 200]


def enrol(
    live: Live, case_id: str, data: bytes, key: str | None = None, filename: str = "photo.jpg"
) -> dict[str, str]:
    headers = {} if key is None else {"idempotency-key": key}
    answer = live.client.post(
        f"/v1/cases/{case_id}/photos",
        files={"file": (filename, data)},
        headers=headers,
    )
    assert answer.status_code == 201, answer.text
    wait_for_job(live, answer.json()["job_id"])
    return dict(answer.json())


def send_ad(live: Live, external_id: str, data: bytes, **fields: object) -> dict[str, str]:
    answer = post_ad(
        live.client,
        external_id,
        [("a.jpg", data)],
        [("p.html", f"<p>page of {external_id}</p>".encode())],
        **fields,
    )
    assert answer.status_code == 202, answer.text
    wait_for_job(live, answer.json()["job_id"])
    return {**answer.json(), "sha256": answer.json()["images"][0]["sha256"]}


def wait_for_job(live: Live, job_id: str) -> None:
    wait_until(lambda: live.client.get(f"/v1/jobs/{job_id}").json()["state"] == "done")


def abort_upload(live: Live, path: str, data: bytes) -> None:
    """Send the head and most of a photo, then hang up."""
    address = live.client.base_url
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        "content-type: multipart/form-data; boundary=b\r\n"
        f"content-length: {len(data) + 5_000_000}\r\n\r\n"
        '--b\r\ncontent-disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    )
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(head.encode() + data + bytes(2_000_000))


def test_a_photo(live: Live, pictures: Callable[[], bytes]) -> None:
    case_id = post_case(live.client, "photo", person={"name": "Somebody"})
    kept, data = pictures(), pictures()
    stays = enrol(live, case_id, kept)
    abort_upload(live, f"/v1/cases/{case_id}/photos", data)
    photo = enrol(live, case_id, data, key="the-photo")
    again = live.client.post(
        f"/v1/cases/{case_id}/photos",
        files={"file": ("photo.jpg", data)},
        headers={"idempotency-key": "the-photo"},
    )
    assert again.headers["idempotency-replayed"] == "true"
    needles = [inside(data), *live.vectors_of(photo["sha256"]), photo["photo_id"].encode()]
    faces = live.face_ids(photo["sha256"])
    assert faces & live.other.faces("cases")
    live.there(*needles)
    answer = live.client.delete(f"/v1/cases/{case_id}/photos/{photo['photo_id']}")
    assert answer.status_code == 204
    assert not faces & live.other.faces("cases")
    live.gone(*needles[:-1])
    live.there(inside(kept), *live.vectors_of(stays["sha256"]))
    assert live.query("SELECT count(*) FROM idempotency WHERE key = 'the-photo'") == [(0,)]
    assert all(
        name in ("catalog.sqlite3", "catalog.sqlite3-wal", "purges.jsonl")
        for name in live.files_with(photo["photo_id"].encode())
    ), "only the ledger names it"


@pytest.mark.practice(11)
def test_a_case_and_a_case_that_is_found(live: Live, pictures: Callable[[], bytes]) -> None:
    send_ad(live, "beside", pictures())
    data, found_data = pictures(), pictures()
    answer = live.client.post(
        "/v1/cases",
        json={"case_number": "gone", "person": {"name": NAME}, "notes": f"About {NAME}"},
        headers={"idempotency-key": "the-case"},
    )
    case_id = answer.json()["case_id"]
    photo = enrol(live, case_id, data, key="a-photo-of-the-case", filename=f"{NAME}.jpg")
    for _ in range(2):
        changed = live.client.patch(f"/v1/cases/{case_id}", json={"notes": NAME * 100})
        assert changed.status_code == 200
    search = live.client.post(
        f"/v1/cases/{case_id}/search",
        files={"file": ("x.jpg", pictures())},
        data={"purpose": "training", "purpose_note": f"for {NAME}"},
    )
    assert search.status_code == 200, search.text
    found_id = post_case(live.client, "found", person={"name": "Ottoline Underhay"})
    found = enrol(live, found_id, found_data)
    needles = [NAME.encode(), inside(data), *live.vectors_of(photo["sha256"])]
    vectors = live.vectors_of(found["sha256"])
    faces = live.face_ids(photo["sha256"]) | live.face_ids(found["sha256"])
    assert len(faces & live.other.faces("cases")) == 2
    live.there(*needles, *vectors)
    assert live.client.delete(f"/v1/cases/{case_id}").status_code == 204
    answer = live.client.patch(f"/v1/cases/{found_id}", json={"status": "found"})
    assert answer.status_code == 200
    assert not faces & live.other.faces("cases")
    live.gone(*needles, *vectors)
    live.there(inside(found_data), b"Ottoline Underhay")


@pytest.mark.practice(11)
def test_an_ad_and_one_that_is_too_old(live: Live, pictures: Callable[[], bytes]) -> None:
    for number in range(4):
        post_ad(live.client, f"young-{number}")
    deleted, old = pictures(), pictures()
    words = {"title": "A quaint vermilion title", "phones": ["+1 555 0100 777"]}
    ad = send_ad(live, "deleted", deleted, **words, body="Body of that ad " * 200)
    answer = live.client.post(
        "/v1/ads",
        files=[("ad", (None, json.dumps({"site": "s", "external_id": "x-no-image"})))],
        headers={"idempotency-key": "an-ad"},
    )
    assert answer.status_code == 202
    aged = send_ad(live, "aged", old, title="An elderly cerulean title")
    needles = [
        inside(deleted),
        inside(old),
        *live.vectors_of(ad["sha256"]),
        *live.vectors_of(aged["sha256"]),
        b"vermilion",
        b"15550100777",
        b"cerulean",
        b"page of deleted",
        b"page of aged",
    ]
    faces = live.face_ids(ad["sha256"]) | live.face_ids(aged["sha256"])
    assert len(faces & live.other.faces("ads")) == 2
    live.there(*needles)
    assert live.client.delete(f"/v1/ads/{ad['ad_id']}").status_code == 204
    assert live.client.delete(f"/v1/ads/{answer.json()['ad_id']}").status_code == 204
    assert not live.face_ids(ad["sha256"]) & live.other.faces("ads")
    long_ago = (datetime.now(UTC) - timedelta(days=31)).strftime("%Y-%m-%d %H:%M:%S.%f")
    live.query("UPDATE ads SET last_received_at = ? WHERE ad_id = ?", long_ago, aged["ad_id"])
    live.gone(*needles)
    assert not faces & live.other.faces("ads")
    assert live.client.get(f"/v1/ads/{aged['ad_id']}").status_code == 404
    assert live.query("SELECT count(*) FROM idempotency WHERE key = 'an-ad'") == [(0,)]


def test_the_command_line(live: Live, pictures: Callable[[], bytes]) -> None:
    first, second, third = pictures(), pictures(), pictures()
    case_id = post_case(live.client, "by hand", person={"name": NAME})
    photo = enrol(live, case_id, first)
    by_id = send_ad(live, "by-id", second, title="by id")
    by_name = send_ad(live, "by-name", third, title="by name")
    shas = [photo["sha256"], by_id["sha256"], by_name["sha256"]]
    needles = [NAME.encode(), *map(inside, (first, second, third))]
    needles += [part for sha256 in shas for part in live.vectors_of(sha256)]
    live.there(*needles)
    refused = homeward(live.data_dir, "purge", "case", "by hand", expect=2, text="")
    assert "--yes" in refused.stderr
    homeward(live.data_dir, "purge", "ad", expect=2)
    homeward(live.data_dir, "purge", "ad", "no id", "--yes", expect=1)
    homeward(live.data_dir, "purge", "case", "by hand", "--yes")
    homeward(live.data_dir, "purge", "ad", by_id["ad_id"], "--yes")
    homeward(
        live.data_dir,
        *("purge", "ad", "--site", "site-a.example", "--external-id", "by-name", "--yes"),
    )
    for gallery in ("cases", "ads"):
        assert not set().union(*map(live.face_ids, shas)) & live.other.faces(gallery)
    live.gone(*needles)
    counted = homeward(live.data_dir, "purge", "ads", "--older-than", "30", "--dry-run")
    assert counted.stdout.startswith("0 of ")
    listed = json.loads(homeward(live.data_dir, "purge", "list", "--json").stdout)
    subjects = [item["subject_id"] for item in listed[:3]]
    assert subjects == [by_name["ad_id"], by_id["ad_id"], case_id]
    assert by_id["ad_id"] in homeward(live.data_dir, "purge", "list").stdout
    named = {entry.subject_id for entry in ledger.read(live.data_dir / "purges.jsonl").purges}
    assert set(subjects) <= named
    doctor = homeward(live.data_dir, "doctor", "--json")
    assert json.loads(doctor.stdout)["ok"] is True


def test_a_reader_that_stays_open_holds_it_back_only_as_long_as_it_reads(
    live: Live, pictures: Callable[[], bytes]
) -> None:
    data = pictures()
    ad = send_ad(live, "read", data, title="read by somebody")
    needles = [inside(data), b"read by somebody", *live.vectors_of(ad["sha256"])]
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('BEGIN'); c.execute('SELECT count(*) FROM ads').fetchone(); print('reads', "
        "flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(live.data_dir / "catalog.sqlite3")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "reads\n"
        assert live.client.delete(f"/v1/ads/{ad['ad_id']}").status_code == 204
        assert not live.face_ids(ad["sha256"]) & live.other.faces("ads")
        assert live.files_with(b"read by somebody"), "somebody still reads it"
        os.kill(reader.pid, signal.SIGKILL)
    live.gone(*needles)
