"""Rounds of ``kill -9`` under ingest: at random points, of random processes, then the truth."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from pathlib import Path

import httpx2

from indexer.queue import CRASHED
from models.calibration import Calibration
from tests.endurance import truth
from tests.endurance.world import Pictures, World, ad_files, post_case

_TARGETS = ("server", "server", "worker", "watch", "all")
KINDS = len(set(_TARGETS))
"""In so many rounds each of the processes is killed once; after them they are drawn."""
_CASES = (0, 2, 4)


class Sender(threading.Thread):
    """Sends ads one after the other and keeps at each until it is acknowledged."""

    def __init__(self, world: World, seed: int, limit: int, pause_s: float) -> None:
        super().__init__(name="sender", daemon=True)
        self.world = world
        self.pictures = Pictures(seed)
        self.limit = limit
        self.pause_s = pause_s
        self.acknowledged: dict[str, tuple[str, list[str]]] = {}
        self.retries = 0
        self.problem: str | None = None
        self.halt = threading.Event()

    def run(self) -> None:
        number = 0
        draw = self.pictures.random
        with self.world.client(30) as client:
            while not self.halt.is_set() and number < self.limit:
                number += 1
                people = draw.sample(range(len(self.pictures)), draw.choice((1, 1, 1, 2)))
                data = [self.pictures.vary(person) for person in people]
                self._send(client, f"ad-{number}", data)
                if number % 7 == 0:  # and once more, as a scraper does that lost its memory
                    self._send(client, f"ad-{number}", data)
                self.halt.wait(self.pause_s)

    def _send(self, client: httpx2.Client, name: str, data: list[bytes]) -> None:
        shas = [hashlib.sha256(one).hexdigest() for one in data]
        while not self.halt.is_set():
            try:
                answer = client.post("/v1/ads", files=ad_files(name, data, title=f"Sample {name}"))
            except httpx2.TransportError:
                self.retries += 1
                time.sleep(0.05)
                continue
            if answer.status_code == 202:
                receipt = answer.json()
                known = self.acknowledged.get(name)
                if known is not None and known[0] != receipt["ad_id"]:
                    self.problem = f"{name} has two ids"
                self.acknowledged[name] = (receipt["ad_id"], shas)
                return
            if answer.status_code not in (429, 503):
                self.problem = f"{name}: {answer.status_code} {answer.text[:500]}"
                return
            self.retries += 1
            time.sleep(0.1)


def run_rounds(
    folder: Path,
    packs: Path,
    calibration: Calibration,
    contract_id: str,
    *,
    rounds: int,
    seed: int,
    catalog_url: str | None = None,
    most_ads: int = 700,
    pause_s: float = 0.0,
) -> truth.Found:
    """Kill and start again ``rounds`` times, let the work come to its end, check everything.

    ``pause_s``: between two ads, so that few rounds do not leave many minutes of work behind.
    """
    draw = random.Random(seed)
    first = draw.sample(sorted(set(_TARGETS)), KINDS)
    world = World(folder, packs, catalog_url)
    sender = Sender(world, seed, most_ads, pause_s)
    case_ids: list[str] = []
    portraits = Pictures(seed + 1)
    try:
        world.start_server()
        world.wait_ready()
        world.start_workers()
        sender.start()
        for number in range(rounds):
            if world.server is None:
                world.start_server()
            if world.workers is None:
                world.start_workers()
            world.wait_ready()
            if len(case_ids) < len(_CASES) and number >= 1:
                with world.client() as client:
                    person = _CASES[len(case_ids)]
                    case_ids.append(post_case(client, f"case-{person}", portraits.plain(person)))
            time.sleep(draw.uniform(0.05, 2.0))
            world.kill(first[number] if number < KINDS else draw.choice(_TARGETS))
        if world.server is None:
            world.start_server()
        if world.workers is None:
            world.start_workers()
        world.wait_ready()
        sender.halt.set()
        sender.join(60)
        assert sender.problem is None, sender.problem
        _wait_for_the_end(world)
        _retry_dead_letters(world)
        _same_by_feed(world)
        world.stop()
        report = json.loads(world.run("doctor", "--blobs", "--json"))
        wrong = [item for item in report["items"] if not item["ok"]]
        assert wrong == [], wrong
        catalog = truth.open_read(folder, catalog_url)
        try:
            return truth.check(catalog, calibration, contract_id, sender.acknowledged, case_ids)
        finally:
            catalog.close()
    finally:
        sender.halt.set()
        world.close()


def _wait_for_the_end(world: World, seconds: float = 600) -> None:
    catalog = truth.open_read(world.folder, world.catalog_url)
    try:
        end = time.monotonic() + seconds
        while truth.open_jobs(catalog):
            assert time.monotonic() < end, "the work does not come to an end"
            time.sleep(0.2)
    finally:
        catalog.close()


def _retry_dead_letters(world: World) -> None:
    """A picture that was being read at several of the kills looks deadly: it is in the dead
    letters, and nowhere else. Somebody retries it."""
    listed = json.loads(world.run("jobs", "list", "--json", "--state", "failed"))["items"]
    for job in listed:
        assert {failure["code"] for failure in job["failures"]} <= {CRASHED, "runner_died"}, job
    if listed:
        world.run("jobs", "retry", "--all-failed")
        _wait_for_the_end(world)


def _same_by_feed(world: World) -> None:
    """The feed of alerts tells each once, in order, and nothing after the last."""
    seen: list[str] = []
    with world.client() as client:
        cursor = None
        while True:
            query = {"limit": "50"} | ({"cursor": cursor} if cursor else {})
            page = client.get("/v1/alerts", params=query).json()
            seen += [item["alert_id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        last = page["resume_cursor"]
        assert len(seen) == len(set(seen))
        assert client.get("/v1/alerts", params={"cursor": last}).json()["items"] == []
