"""The ready senders against a live server: killed half-way, busy, full, and with bad pictures."""

from __future__ import annotations

import http.server
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from scripts import homeward_client, send_ads
from scripts.homeward_client import Client, ImageFile, NotAllowed, Outcome, OutgoingAd
from scripts.scrapy_homeward import Outbox
from tests.indexer.small import face_picture
from tests.service.conftest import KEY
from tests.service.live import REPOSITORY, LiveServer

ADS = 60


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A file of ads with two pictures each, one of which the ad before has as well."""
    folder = tmp_path / "files"
    folder.mkdir()
    for n in range(ADS + 1):
        (folder / f"{n}.png").write_bytes(face_picture(n))
    lines = [
        {"site": "a.example", "external_id": str(n), "images": [f"{n}.png", f"{n + 1}.png"]}
        for n in range(ADS)
    ]
    (folder / "ads.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def words(files: Path, server: LiveServer, *more: str) -> list[str]:
    source = str(files / "ads.jsonl")
    return [source, "--images", str(files), "--url", server.url, "--batch", "5", *more]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEWARD_API_KEY", KEY)


def all_in(server: LiveServer, count: int = ADS) -> None:
    """Every ad is there once, with one capture and both pictures."""
    ads = server.ads()
    assert sorted(int(ad["external_id"]) for ad in ads) == list(range(count))
    assert {(len(ad["captures"]), len(ad["images"])) for ad in ads} == {(1, 2)}


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- a file ----------------------------------------------------------------------------------


def test_a_file_is_sent_once(data: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LiveServer(data) as server:
        assert send_ads.main(words(files, server)) == 0
        told = f"{ADS} ads created, 0 known already, 0 refused; {ADS + 1} images sent, 0 refused."
        assert told in capsys.readouterr().out
        all_in(server)
        assert send_ads.main(words(files, server)) == 0
        assert "0 ads created, 0 known already" in capsys.readouterr().out, "nothing was left"
        (files / "ads.jsonl.progress").unlink()
        assert send_ads.main(words(files, server)) == 0
        assert f"0 ads created, {ADS} known already" in capsys.readouterr().out
        all_in(server)


def test_the_server_is_killed_half_way(data: Path, files: Path) -> None:
    with LiveServer(data) as server:
        sender = start(["scripts.send_ads", *words(files, server, "--attempts", "12")])
        progress = files / "ads.jsonl.progress"
        wait_for(lambda: progress.exists() and json.loads(progress.read_text())["line"] >= 10)
        server.kill()
        time.sleep(0.5)
        server.start()
        out, errors = sender.communicate(timeout=120)
        assert sender.returncode == 0, errors
        assert "0 refused;" in out
        all_in(server)


def test_the_sender_is_killed_half_way_and_goes_on(data: Path, files: Path) -> None:
    with LiveServer(data) as server:
        sender = start(["scripts.send_ads", *words(files, server)])
        progress = files / "ads.jsonl.progress"
        wait_for(lambda: progress.exists() and json.loads(progress.read_text())["line"] >= 10)
        os.kill(sender.pid, signal.SIGKILL)
        sender.communicate()
        assert len(server.ads()) < ADS
        again = start(["scripts.send_ads", *words(files, server)])
        _, errors = again.communicate(timeout=120)
        assert again.returncode == 0
        assert "Going on after line" in errors
        all_in(server)


def test_no_server_is_said_and_nothing_lost(
    data: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = LiveServer(data)
    with server:
        pass
    assert send_ads.main(words(files, server, "--attempts", "2")) == 1
    assert "run the same command again" in capsys.readouterr().err
    with server:
        assert send_ads.main(words(files, server)) == 0
        all_in(server)


def test_a_busy_server_with_a_short_queue(
    data: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homeward_client, "MOST_SECONDS", 0.2)
    with LiveServer(data, max_queued_jobs=14, refuse_every=30) as server:
        more = ("--attempts", "600", "--batch", "30")
        assert send_ads.main(words(files, server, *more)) == 0
        all_in(server)


def test_what_is_refused_is_told_and_the_rest_is_in(
    data: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "1.png").write_bytes(b"no picture " * 20)
    (files / "page.html").write_bytes(b"<html>")
    with (files / "ads.jsonl").open("a") as file:
        file.write("{no json\n\n")
        file.write(json.dumps({"site": "a.example", "external_id": "x", "lat": 100}) + "\n")
        file.write(json.dumps({"site": "a.example", "external_id": "x", "pages": ["none"]}) + "\n")
        page = {"images": ["1.png", "2.png"], "pages": ["page.html"]}
        file.write(json.dumps({"site": "a.example", "external_id": "1000", **page}) + "\n")
    with LiveServer(data) as server:
        assert send_ads.main(words(files, server)) == 3
        told = capsys.readouterr()
        assert f"{ADS + 1} ads created, 0 known already, 3 refused" in told.out
        assert f"{ADS} images sent, 3 refused" in told.out
        assert "line 1: 1.png refused: [unsupported_format]" in told.err
        assert f"line {ADS + 3} refused: [validation_failed]" in told.err
        ads = {ad["external_id"]: ad for ad in server.ads()}
        assert len(ads) == ADS + 1
        assert len(ads["0"]["images"]) == 1
        assert len(ads["1000"]["captures"][0]["pages"]) == 1
        assert len(ads["1000"]["images"]) == 1


def test_no_ad_goes_without_a_picture_that_cannot_be_read(
    data: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = (files / "8.png").read_bytes()
    (files / "8.png").unlink()
    with LiveServer(data) as server:
        assert send_ads.main(words(files, server)) == 1
        assert "line 8: 8.png cannot be read" in capsys.readouterr().err
        all_in(server, 7)
        (files / "8.png").write_bytes(picture)
        assert send_ads.main(words(files, server)) == 0
        all_in(server)


class Proxy:
    """Answers itself, as a proxy in front of Homeward may do; to ``behind`` it passes requests on,
    but none with a picture."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 413, dict[str, str](), b"<html>too large</html>"
        self.behind: LiveServer | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                status, headers, content = outer.status, outer.headers, outer.body
                if outer.behind is not None and self.command == "POST":
                    sent = {name: self.headers[name] for name in ("authorization", "content-type")}
                    answer = httpx2.post(
                        outer.behind.url + self.path, content=body, headers=sent, timeout=60
                    )
                    status, content = answer.status_code, answer.content
                    headers = {"content-type": answer.headers["content-type"]}
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_PUT = do_POST = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "body", "says"),
    [
        (413, {}, b"<html>", "client_max_body_size"),
        (301, {"location": "https://h.example/"}, b"", "redirect"),
        (404, {}, b'{"code": "not_found", "detail": "x"}', "not Homeward"),
        (
            404,
            {},
            b'{"type": "urn:homeward:problem:not_found", "code": "not_found", "detail": "x"}',
            "does not have",
        ),
        (200, {}, b"<html>Sign in to this network</html>", "not Homeward"),
    ],
)
def test_what_a_proxy_answers_refuses_nothing(
    files: Path,
    proxy: Proxy,
    capsys: pytest.CaptureFixture[str],
    status: int,
    headers: dict[str, str],
    body: bytes,
    says: str,
) -> None:
    proxy.status, proxy.headers, proxy.body = status, headers, body
    source = str(files / "ads.jsonl")
    assert send_ads.main([source, "--images", str(files), "--url", proxy.url]) == 1
    told = capsys.readouterr().err
    assert says in told and "Nothing is lost" in told and "refused:" not in told
    assert not (files / "ads.jsonl.progress").exists()


def test_an_ad_waits_for_a_picture_that_a_proxy_keeps_back(
    data: Path, files: Path, proxy: Proxy
) -> None:
    with LiveServer(data) as server:
        proxy.behind = server
        source = str(files / "ads.jsonl")
        assert send_ads.main([source, "--images", str(files), "--url", proxy.url]) == 1
        assert server.ads() == []
        assert send_ads.main(words(files, server)) == 0
        all_in(server)


def test_a_wrong_key_is_said(
    data: Path, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOMEWARD_API_KEY", "not-the-key-of-anyone")
    with LiveServer(data) as server:
        assert send_ads.main(words(files, server)) == 1
        assert "not accepted" in capsys.readouterr().err
        client = Client(server.url, "not-the-key-of-anyone")
        with pytest.raises(NotAllowed):
            client.deliver([OutgoingAd({"site": "a", "external_id": "1"})])
        client.close()


def test_images_that_were_let_go_of_are_sent_again(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    path.write_bytes(face_picture(1) + b"\0" * 100_000)
    from hashlib import sha256

    image = ImageFile(path, sha256(path.read_bytes()).hexdigest(), "1.png")
    with LiveServer(data) as server:
        client = Client(server.url, KEY)
        client.put_image(image)
        with sqlite3.connect(data / "catalog.sqlite3") as catalog:
            catalog.execute("DELETE FROM staged_images")
        catalog.close()
        (outcome,) = client.deliver([OutgoingAd({"site": "a", "external_id": "1"}, [image])])
        assert (outcome.status, client.images_sent) == ("created", 2)
        other = Client(server.url, KEY)
        other.put_image(image)
        assert other.images_sent == 0, "it was asked first"
        # More than one request may hold is sent in parts.
        long = [OutgoingAd({"site": "a", "external_id": str(n)}, [image]) for n in range(1_500)]
        assert {one.status for one in other.deliver(long[2:])} == {"created"}
        client.close()
        other.close()


# --- Scrapy ----------------------------------------------------------------------------------

_CRAWL = """
import sys
from pathlib import Path
import scrapy
from scrapy.crawler import CrawlerProcess
from scripts import homeward_client, scrapy_homeward

homeward_client.MOST_SECONDS = scrapy_homeward.PAUSE_SECONDS = 0.5
files, first, last, url, outbox = sys.argv[1:]

class Sample(scrapy.Spider):
    name = "sample"

    async def start(self):
        for n in range(int(first), int(last)):
            picture = (Path(files) / f"{n}.png").read_bytes()
            yield {
                "site": "a.example",
                "external_id": str(n),
                "images": [picture, {"path": f"{n + 1}.png", "url": "x"}],
            }

process = CrawlerProcess({
    "ITEM_PIPELINES": {"scripts.scrapy_homeward.HomewardPipeline": 900},
    "HOMEWARD_URL": url,
    "HOMEWARD_OUTBOX": outbox,
    "HOMEWARD_ATTEMPTS": 2,
    "HOMEWARD_MOST_WAITING": 40,
    "FILES_STORE": files,
    "LOG_LEVEL": "INFO",
    "TELNETCONSOLE_ENABLED": False,
})
crawler = process.create_crawler(Sample)
process.crawl(crawler)
process.start()
print({k: v for k, v in crawler.stats.get_stats().items() if k.startswith("homeward")})
"""


@pytest.fixture
def crawl(files: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def begin(server: LiveServer, first: int, last: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _CRAWL, str(files), str(first), str(last), server.url),
                str(tmp_path / "outbox"),
            ],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def left(tmp_path: Path) -> tuple[int, int]:
    """Ads and images that wait in the outbox."""
    outbox = Outbox(tmp_path / "outbox")
    try:
        return outbox.count(), len(list(outbox.images.iterdir()))
    finally:
        outbox.close()


def test_a_crawl_sends_its_items(
    data: Path, tmp_path: Path, crawl: Callable[..., subprocess.Popen[str]]
) -> None:
    with LiveServer(data, refuse_every=50) as server:
        out, errors = crawl(server, 0, ADS).communicate(timeout=120)
        assert f"'homeward/created': {ADS}" in out, errors
        all_in(server)
    assert left(tmp_path) == (0, 0)


def test_a_crawl_without_a_server_keeps_all_for_the_next(
    data: Path, tmp_path: Path, crawl: Callable[..., subprocess.Popen[str]]
) -> None:
    server = LiveServer(data)
    with server:
        pass
    process = crawl(server, 0, 20)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "20 ads are still in" in errors
    assert left(tmp_path) == (20, 21)
    with server:
        out, errors = crawl(server, 20, 30).communicate(timeout=120)
        assert "'homeward/created': 30" in out, errors
        all_in(server, 30)
    assert left(tmp_path) == (0, 0)


def test_crawl_and_server_are_killed_half_way(
    data: Path, tmp_path: Path, crawl: Callable[..., subprocess.Popen[str]]
) -> None:
    with LiveServer(data) as server:
        process = crawl(server, 0, ADS)
        wait_for(lambda: process.poll() is not None or len(server.ads()) > 0)
        server.kill()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        server.start()
        out, errors = crawl(server, 0, ADS).communicate(timeout=120)
        assert "'homeward/" in out, errors
        all_in(server)
    assert left(tmp_path) == (0, 0)


def test_what_an_outbox_keeps(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    bad: dict[str, Any] = {"site": object()}
    with pytest.raises(TypeError):
        outbox.put(bad, [])
    outbox.put({"external_id": "1"}, [("a", b"one"), ("b", b"two")])
    outbox.put({"external_id": "2"}, [("a", b"one")])
    (first, one), (second, two) = outbox.next(10)
    assert [image.path.read_bytes() for image in one.images] == [b"one", b"two"]
    outbox.settle(first, one, Outcome("refused", code="validation_failed", detail="why"))
    assert [path.read_bytes() for path in outbox.images.iterdir()] == [b"one"]
    (tmp_path / "images" / "stray").write_bytes(b"x")
    outbox.close()
    outbox = Outbox(tmp_path)
    assert [number for number, _ in outbox.next(10)] == [second]
    outbox.settle(second, two, Outcome("created"))
    outbox.close()
    assert list(outbox.images.iterdir()) == []
    with sqlite3.connect(tmp_path / "outbox.sqlite3") as db:
        refused = db.execute("SELECT ad, code, detail FROM refused").fetchall()
    db.close()
    assert refused == [('{"external_id": "1"}', "validation_failed", "why")]
    assert sorted(path.read_bytes() for path in outbox.refused.iterdir()) == [b"one", b"two"]


def test_what_was_refused_can_be_sent_again(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put({"external_id": "1"}, [("a", b"one"), ("b", b"two")])
    outbox.put({"external_id": "2"}, [("a", b"one"), ("c", b"three")])
    (first, one), (second, two) = outbox.next(10)
    outbox.settle(first, one, Outcome("refused", code="validation_failed", detail="why"))
    outbox.settle(second, two, Outcome("created", refused_images=[(two.images[1], "too large")]))
    assert (outbox.count(), list(outbox.images.iterdir())) == (0, [])
    assert outbox.again() == 2
    sent = [
        (one.ad, [(image.filename, image.path.read_bytes()) for image in one.images])
        for _, one in outbox.next(10)
    ]
    assert sent == [
        ({"external_id": "1"}, [("a", b"one"), ("b", b"two")]),
        ({"external_id": "2"}, [("c", b"three")]),
    ]
    assert list(outbox.refused.iterdir()) == [] and outbox.again() == 0
    outbox.close()
