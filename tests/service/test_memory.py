"""An ad with as many large pictures as may be: the service holds about one at a time."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.service.conftest import AUTH
from tests.service.live import LiveServer

PICTURES = 20
MB = 1_000_000
EACH = 24 * MB


def large_ad(picture: bytes, pictures: int, each: int) -> Iterator[bytes]:
    """A form of an ad with pictures of ``each`` bytes, made as it is sent."""
    ad = json.dumps({"site": "a.example", "external_id": str(pictures)}).encode()
    yield b'--edge\r\nContent-Disposition: form-data; name="ad"\r\n\r\n' + ad + b"\r\n"
    for n in range(pictures):
        head = f'--edge\r\nContent-Disposition: form-data; name="images"; filename="{n}.jpg"'
        yield head.encode() + b"\r\n\r\n" + picture
        left = each - len(picture)
        while left > 0:
            yield bytes([n]) * min(left, MB)
            left -= MB
        yield b"\r\n"
    yield b"--edge--\r\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_twenty_large_pictures_are_not_held_in_memory(tmp_path: Path, nobody_bytes: bytes) -> None:
    data = tmp_path / "data"
    form = {"content-type": "multipart/form-data; boundary=edge"}
    # What is measured is the receiving, not the jobs.
    with (
        LiveServer(data, works=False) as server,
        httpx2.Client(base_url=server.url, headers=AUTH | form, timeout=240) as client,
    ):
        status = Path(f"/proc/{server.pid}/status")

        def peak() -> int:
            return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024

        def send(pictures: int, each: int) -> list[str]:
            answer = client.post("/v1/ads", content=large_ad(nobody_bytes, pictures, each))
            assert answer.status_code == 202, answer.text
            return [image["status"] for image in answer.json()["images"]]

        send(1, 100_000)
        before = peak()
        assert send(PICTURES, EACH) == ["queued"] * PICTURES
        grown = peak() - before
    assert grown < 3 * EACH, f"{grown / MB:.0f} MB for {PICTURES} pictures of {EACH / MB:.0f} MB"
    held = [path for path in (data / "blobs").glob("??/??/*") if path.stat().st_size == EACH]
    assert len(held) == PICTURES
    assert all(path.stat().st_mode & 0o777 == 0o400 for path in held)
    assert list((data / "blobs").rglob("*.part")) == []
