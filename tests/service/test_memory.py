"""An ad with as many large pictures as may be: the service holds about one at a time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.service.conftest import AUTH, KEY

REPOSITORY = Path(__file__).parents[2]
PICTURES = 20
MB = 1_000_000
EACH = 24 * MB

_SERVE = """
import sys
from pathlib import Path
import uvicorn
from indexer import queue
from indexer.workspace import open_workspace
from service.app import create_app
from service.cli.serve import listen
from service.config import load_settings
from tests.indexer.small import SmallAnalyser

queue.claim = lambda ws, limit: []  # what is measured is the receiving
settings = load_settings(data_dir=Path(sys.argv[1]), api_key=sys.argv[2])
listener = listen("127.0.0.1", 0)
with open_workspace(settings.data_dir, SmallAnalyser()) as workspace:
    app = create_app(settings, workspace)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_config=None)).run(sockets=[listener])
"""


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
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(data), KEY],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
    ) as process:
        watchdog = threading.Timer(240, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            address = f"http://127.0.0.1:{int(process.stdout.readline())}"
            form = {"content-type": "multipart/form-data; boundary=edge"}
            status = Path(f"/proc/{process.pid}/status")

            def peak() -> int:
                return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024

            with httpx2.Client(base_url=address, headers=AUTH | form, timeout=240) as client:

                def send(pictures: int, each: int) -> list[str]:
                    answer = client.post("/v1/ads", content=large_ad(nobody_bytes, pictures, each))
                    assert answer.status_code == 202, answer.text
                    return [image["status"] for image in answer.json()["images"]]

                send(1, 100_000)
                before = peak()
                assert send(PICTURES, EACH) == ["queued"] * PICTURES
                grown = peak() - before
        finally:
            watchdog.cancel()
            process.kill()
    assert grown < 3 * EACH, f"{grown / MB:.0f} MB for {PICTURES} pictures of {EACH / MB:.0f} MB"
    held = [path for path in (data / "blobs").glob("??/??/*") if path.stat().st_size == EACH]
    assert len(held) == PICTURES
    assert all(path.stat().st_mode & 0o777 == 0o400 for path in held)
    assert list((data / "blobs").rglob("*.part")) == []
