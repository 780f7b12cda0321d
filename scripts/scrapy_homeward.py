"""A Scrapy item pipeline that sends ads to Homeward; nothing is lost when either side stops.

In the settings of the crawl:

    ITEM_PIPELINES = {"scripts.scrapy_homeward.HomewardPipeline": 900}
    HOMEWARD_URL = "http://127.0.0.1:8000"
    HOMEWARD_API_KEY = "..."                # or the environment variable of that name
    HOMEWARD_OUTBOX = "homeward-outbox"     # folder; one for each crawl that runs at a time

An item has the fields of ``POST /v1/ads`` and ``images``: for each image its bytes, the name of a
file, or what Scrapy's FilesPipeline made of it (names are relative to ``FILES_STORE``). Do not use
ImagesPipeline: it makes new pictures of what was downloaded, and evidence has to stay as it was.

Each item is first written to the outbox, then sent with others. What was not acknowledged is sent
by the next crawl that opens the same outbox. What Homeward refuses is kept there with the reason:
ads in the table ``refused``, images in ``refused_images`` and as files in the folder ``refused``.
With ``HOMEWARD_SEND_REFUSED = True`` the crawl sends all that once more.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from itemadapter import ItemAdapter
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured

from scripts.homeward_client import Client, GaveUp, ImageFile, NotAllowed, Outcome, OutgoingAd

log = logging.getLogger(__name__)

BATCH = 100
PAUSE_SECONDS = 5.0
"""Between two attempts to reach a service that does not answer, and from an item to its sending."""


class Outbox:
    """Ads that were not acknowledged yet, in a folder: a SQLite file, and images by SHA-256.

    What was refused stays, in tables and in the folder ``refused``, until somebody removes it or
    has it sent :meth:`again`.
    """

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.refused = folder / "refused"
        for one in (self.images, self.refused):
            one.mkdir(parents=True, exist_ok=True)
        # Used from worker threads, one call at a time.
        self._db = sqlite3.connect(folder / "outbox.sqlite3", check_same_thread=False)
        self._db.executescript(
            """
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = FULL;
            CREATE TABLE IF NOT EXISTS waiting (
                id INTEGER PRIMARY KEY AUTOINCREMENT, ad TEXT NOT NULL, images TEXT NOT NULL
            );
            CREATE TABLE IF NOT EXISTS refused (
                id INTEGER PRIMARY KEY, ad TEXT NOT NULL, code TEXT NOT NULL, detail TEXT NOT NULL
            );
            CREATE TABLE IF NOT EXISTS refused_images (
                id INTEGER NOT NULL, ad TEXT NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL,
                why TEXT NOT NULL
            );
            """
        )
        # What was written for an ad that did not get in here, because the crawl was killed.
        for path in self.images.iterdir():
            if not self._needs(path.name):
                path.unlink()

    def close(self) -> None:
        self._db.close()

    def _needs(self, sha256: str) -> bool:
        needed = "SELECT 1 FROM waiting WHERE instr(images, ?) LIMIT 1"
        return self._db.execute(needed, (sha256,)).fetchone() is not None

    def put(self, ad: Mapping[str, Any], images: Iterable[tuple[str, bytes]]) -> None:
        """Keep an ad with its images (name and bytes); lasting when this returns.

        Raises ValueError or TypeError for what is no JSON.
        """
        text = json.dumps(ad, allow_nan=False, default=_plain)
        named = [(_keep(self.images, data), name) for name, data in images]
        with self._db:
            self._wait(text, named)

    def _wait(self, ad: str, images: list[tuple[str, str]]) -> None:
        self._db.execute("INSERT INTO waiting (ad, images) VALUES (?, ?)", (ad, json.dumps(images)))

    def count(self) -> int:
        """How many ads wait."""
        return int(self._db.execute("SELECT count(*) FROM waiting").fetchone()[0])

    def next(self, limit: int) -> list[tuple[int, OutgoingAd]]:
        """The oldest ads that wait, with their numbers."""
        rows = self._db.execute("SELECT id, ad, images FROM waiting ORDER BY id LIMIT ?", (limit,))
        return [
            (
                number,
                OutgoingAd(
                    json.loads(ad),
                    [ImageFile(self.images / sha, sha, name) for sha, name in json.loads(images)],
                ),
            )
            for number, ad, images in rows
        ]

    def settle(self, number: int, one: OutgoingAd, outcome: Outcome) -> None:
        """Cross out an ad that is in or refused, with the images that no other ad needs.

        Images that are refused, or of a refused ad, are kept beside.
        """
        text, refused = json.dumps(one.ad), list(outcome.refused_images)
        if outcome.status == "refused":
            told = {image.sha256: why for image, why in refused}
            of_ad = f"The ad was refused: [{outcome.code}] {outcome.detail}"
            refused = [(image, told.get(image.sha256, of_ad)) for image in one.images]
        for image, _ in refused:
            with suppress(FileNotFoundError):
                _keep(self.refused, image.path.read_bytes())
        with self._db:
            if outcome.status == "refused":
                self._db.execute(
                    "INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?)",
                    (number, text, outcome.code, outcome.detail),
                )
            self._db.executemany(
                "INSERT INTO refused_images VALUES (?, ?, ?, ?, ?)",
                [(number, text, image.sha256, image.filename, why) for image, why in refused],
            )
            self._db.execute("DELETE FROM waiting WHERE id = ?", (number,))
        for image in one.images:
            if not self._needs(image.sha256):
                image.path.unlink(missing_ok=True)

    def again(self) -> int:
        """Let everything wait again that was refused; returns the number of ads.

        An ad that went without refused images is sent with these alone, which adds them to it.
        """
        ads: dict[int, tuple[str, list[tuple[str, str]]]] = {
            number: (ad, []) for number, ad in self._db.execute("SELECT id, ad FROM refused")
        }
        rows = self._db.execute("SELECT id, ad, sha256, name FROM refused_images ORDER BY rowid")
        for number, ad, sha256, name in rows:
            with suppress(FileNotFoundError):
                _keep(self.images, (self.refused / sha256).read_bytes())
            ads.setdefault(number, (ad, []))[1].append((sha256, name))
        with self._db:
            for ad, images in ads.values():
                self._wait(ad, images)
            self._db.execute("DELETE FROM refused")
            self._db.execute("DELETE FROM refused_images")
        for path in self.refused.iterdir():
            path.unlink()
        return len(ads)


def _keep(folder: Path, data: bytes) -> str:
    """Keep an image under its SHA-256, which is returned; lasting when this returns."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / sha256
    if not path.exists():
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return sha256


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON")


class HomewardPipeline:
    """Puts items into the outbox and empties it while the crawl goes on."""

    def __init__(self, crawler: Crawler) -> None:
        settings = crawler.settings
        self.url = str(settings.get("HOMEWARD_URL") or os.environ.get("HOMEWARD_URL", ""))
        self.key = str(settings.get("HOMEWARD_API_KEY") or os.environ.get("HOMEWARD_API_KEY", ""))
        if not self.url or not self.key:
            raise NotConfigured("set HOMEWARD_URL and HOMEWARD_API_KEY")
        self.folder = Path(settings.get("HOMEWARD_OUTBOX") or "homeward-outbox")
        self.store = Path(settings.get("FILES_STORE") or ".")
        self.attempts = settings.getint("HOMEWARD_ATTEMPTS", 8)
        self.send_refused = settings.getbool("HOMEWARD_SEND_REFUSED")
        self.most_waiting = settings.getint("HOMEWARD_MOST_WAITING", 1_000)
        self.stats = crawler.stats
        self._lock = asyncio.Lock()
        self._woken = asyncio.Event()
        self._closing = False

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> HomewardPipeline:
        return cls(crawler)

    async def open_spider(self) -> None:
        self.outbox = await asyncio.to_thread(Outbox, self.folder)
        if self.send_refused:
            await asyncio.to_thread(self.outbox.again)
        self.client = Client(self.url, self.key, attempts=self.attempts)
        self._sender = asyncio.create_task(self._send())

    async def process_item(self, item: Any) -> Any:
        """Keep the item; a crawl that is far ahead of the sending waits here."""
        fields = dict(ItemAdapter(item).asdict())
        images = fields.pop("images", None) or ()
        # Scrapy's own fields about downloads are no fields of an ad.
        for name in ("files", "file_urls", "image_urls"):
            fields.pop(name, None)
        async with self._lock:
            await asyncio.to_thread(self._put, fields, images)
            waiting = await asyncio.to_thread(self.outbox.count)
        if waiting >= BATCH:
            self._woken.set()
        while waiting > self.most_waiting and not self._sender.done():
            await asyncio.sleep(0.2)
            async with self._lock:
                waiting = await asyncio.to_thread(self.outbox.count)
        return item

    def _put(self, fields: dict[str, Any], images: Iterable[Any]) -> None:
        self.outbox.put(fields, [self._image(image) for image in images])

    def _image(self, image: Any) -> tuple[str, bytes]:
        if isinstance(image, bytes):
            return "unnamed", image
        name = image["path"] if isinstance(image, Mapping) else str(image)
        path = self.store / name
        return path.name, path.read_bytes()

    async def close_spider(self) -> None:
        """Send what is left; what cannot be sent now stays for the next crawl."""
        self._closing = True
        self._woken.set()
        try:
            await self._sender
        finally:
            self.client.close()
            left = self.outbox.count()
            if left:
                log.warning("%d ads are still in %s; the next crawl sends them", left, self.folder)
            self.outbox.close()

    async def _send(self) -> None:
        """Empty the outbox until the crawl ends and nothing is left, or nothing goes any more."""
        while True:
            if not self._closing:
                self._woken.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE_SECONDS):
                        await self._woken.wait()
            try:
                while await self._send_some():
                    pass
            except NotAllowed as error:
                log.error("Homeward does not accept the key: %s", error)
                return
            except (GaveUp, OSError) as error:
                log.warning("Homeward takes nothing now: %s", error)
            if self._closing:
                return

    async def _send_some(self) -> bool:
        """Send one batch; returns whether there may be more."""
        async with self._lock:
            some = await asyncio.to_thread(self.outbox.next, BATCH)
        if not some:
            return False
        whole = []
        for number, one in some:
            if all(image.path.is_file() for image in one.images):
                whole.append((number, one))
                continue
            # Somebody removed an image: the ad does not go without it, and keeps no other waiting.
            gone = Outcome("refused", code="image_gone", detail="An image left the outbox.")
            self._count(gone)
            async with self._lock:
                await asyncio.to_thread(self.outbox.settle, number, one, gone)
        outcomes = await asyncio.to_thread(self.client.deliver, [one for _, one in whole])
        for (number, one), outcome in zip(whole, outcomes, strict=True):
            self._count(outcome)
            if outcome.status != "waiting":
                async with self._lock:
                    await asyncio.to_thread(self.outbox.settle, number, one, outcome)
        if any(outcome.status == "waiting" for outcome in outcomes):
            raise GaveUp("there is no room for more ads")
        return True

    def _count(self, outcome: Outcome) -> None:
        if self.stats is not None:
            self.stats.inc_value(f"homeward/{outcome.status}")
            if outcome.refused_images:
                self.stats.inc_value("homeward/images_refused", len(outcome.refused_images))
        if outcome.status == "refused":
            log.warning("An ad was refused: [%s] %s", outcome.code, outcome.detail)
        for image, why in outcome.refused_images:
            log.warning("The image %s was refused: %s", image.filename, why)
