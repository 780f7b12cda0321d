"""Mixed reads and writes for a long time: no error, flat memory and file handles, nothing lost.

python -m tests.endurance.soak --minutes 30 [--postgresql] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.endurance.world import REPOSITORY, Pictures, World, ad_files, post_case

_SAMPLE_S = 10.0
_PAUSE_S = 0.4


class Soak:
    """One data folder under a mixed load that goes on until it is told to stop."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.seed = seed
        self.halt = threading.Event()
        self.lock = threading.Lock()
        self.done: Counter[str] = Counter()
        self.errors: list[str] = []
        self.ads: dict[str, tuple[str, str]] = {}
        self.cases: list[str] = []
        self.slowest: dict[str, float] = {}
        self.streamed = 0
        self.sent = 0

    def run(self, seconds: float) -> list[dict[str, float]]:
        """Load for so long; returns samples of memory and handles of all processes together."""
        jobs = [self._write, self._read, self._read, self._search, self._forget]
        threads = [
            threading.Thread(target=self._loop, args=(job, n), daemon=True)
            for n, job in enumerate(jobs)
        ]
        threads.append(threading.Thread(target=self._stream, daemon=True))
        for thread in threads:
            thread.start()
        samples = []
        end = time.monotonic() + seconds
        started = time.monotonic()
        while (now := time.monotonic()) < end:
            samples.append({"at": round(now - started), **_weigh(self.world.processes())})
            time.sleep(min(_SAMPLE_S, max(0.0, end - now)))
        self.halt.set()
        for thread in threads:
            thread.join(60)
        return samples

    def _loop(self, job: Callable[[httpx2.Client, Pictures], str], number: int) -> None:
        pictures = Pictures(self.seed + number)
        with self.world.client() as client:
            while not self.halt.is_set():
                before = time.monotonic()
                try:
                    name = job(client, pictures)
                except Exception as error:  # noqa: BLE001 - each is a finding
                    name = f"{job.__name__}: {type(error).__name__}"
                    self.errors.append(f"{name}: {error}"[:500])
                spent = time.monotonic() - before
                with self.lock:
                    self.done[name] += 1
                    self.slowest[name] = max(self.slowest.get(name, 0.0), round(spent, 3))
                self.halt.wait(_PAUSE_S * pictures.random.uniform(0.5, 1.5))

    def _write(self, client: httpx2.Client, pictures: Pictures) -> str:
        draw = pictures.random
        self.sent += 1
        number = self.sent
        if number % 40 == 7 and len(self.cases) < 30:
            case_id = post_case(client, f"case-{number}", pictures.vary(draw.randrange(7)))
            with self.lock:
                self.cases.append(case_id)
            return "open a case"
        data = pictures.vary(draw.randrange(len(pictures)))
        name = f"ad-{number}"
        answer = client.post("/v1/ads", files=ad_files(name, [data], title=f"Sample {number}"))
        _expect(answer, 202)
        with self.lock:
            self.ads[name] = (answer.json()["ad_id"], hashlib.sha256(data).hexdigest())
        return "send an ad"

    def _read(self, client: httpx2.Client, pictures: Pictures) -> str:
        draw = pictures.random
        with self.lock:
            cases, ads = list(self.cases), [ad_id for ad_id, _ in self.ads.values()]
        kind = draw.choice(("case", "candidates", "ad", "ads", "alerts", "cases", "metrics"))
        if kind in ("case", "candidates") and cases:
            suffix = "/candidates" if kind == "candidates" else ""
            _expect(client.get(f"/v1/cases/{draw.choice(cases)}{suffix}"), 200, 404)
        elif kind == "ad" and ads:
            _expect(client.get(f"/v1/ads/{draw.choice(ads)}"), 200, 404)
        elif kind in ("ads", "alerts", "cases"):
            _expect(client.get(f"/v1/{kind}"), 200)
        else:
            _expect(client.get("/metrics"), 200)
        return f"read {kind}"

    def _search(self, client: httpx2.Client, pictures: Pictures) -> str:
        draw = pictures.random
        with self.lock:
            cases = list(self.cases)
        if not cases:
            return "wait"
        self.halt.wait(2 * draw.random())
        case_id = draw.choice(cases)
        answer = client.post(
            f"/v1/cases/{case_id}/search",
            files={"file": ("p.jpg", pictures.vary(draw.randrange(7)))},
            data={"purpose": "training"},
        )
        _expect(answer, 200, 404, 409)
        if answer.status_code == 200 and (items := answer.json()["items"]) and draw.random() < 0.3:
            _expect(
                client.post(
                    f"/v1/candidates/{draw.choice(items)['candidate_id']}/judgements",
                    json={"conclusion": "inconclusive", "reason": "sample"},
                ),
                201,
                404,
                409,
            )
        return "search"

    def _forget(self, client: httpx2.Client, pictures: Pictures) -> str:
        draw = pictures.random
        self.halt.wait(8 * draw.random())
        with self.lock:
            name = draw.choice(list(self.ads)) if len(self.ads) > 50 else None
            known = self.ads.pop(name) if name else None
            case_id = self.cases.pop(0) if len(self.cases) > 20 else None
        if known is not None:
            _expect(client.delete(f"/v1/ads/{known[0]}"), 204)
        if case_id is not None:
            _expect(client.patch(f"/v1/cases/{case_id}", json={"status": "found"}), 200)
        return "forget"

    def _stream(self) -> None:
        with self.world.client(None) as client:
            while not self.halt.is_set():
                try:
                    with client.stream("GET", "/v1/alerts/events") as answer:
                        for line in answer.iter_lines():
                            self.streamed += line.startswith("event: alert")
                            if self.halt.is_set():
                                return
                except httpx2.TransportError as error:
                    if not self.halt.is_set():
                        self.errors.append(f"stream: {error}")
                        time.sleep(1)


def _expect(answer: httpx2.Response, *statuses: int) -> None:
    if answer.status_code not in statuses:
        raise AssertionError(f"{answer.status_code} {answer.text[:300]}")


def _weigh(processes: list[psutil.Process]) -> dict[str, float]:
    weight: Counter[str] = Counter()
    for process in processes:
        try:
            weight["rss_mb"] += round(process.memory_info().rss / 1e6)
            weight["handles"] += process.num_fds()
            weight["threads"] += process.num_threads()
        except psutil.NoSuchProcess:
            continue
    return dict(weight)


@contextmanager
def catalog(postgresql: bool) -> Iterator[str | None]:
    """The URL of a fresh PostgreSQL database, or None for SQLite."""
    if not postgresql:
        yield None
        return
    from tests.postgres import running_server

    with running_server(None) as server, server.database() as url:
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, catalog(given.postgresql) as url:
        world = World(Path(folder) / "data", REPOSITORY / ".cache" / "packs", url)
        try:
            world.start_server()
            world.wait_ready()
            world.start_workers(1)
            soak = Soak(world, given.seed)
            samples = soak.run(given.minutes * 60)
            report = _conclude(soak, samples)
        finally:
            world.close()
    text = json.dumps(report, indent=1)
    if given.json is not None:
        given.json.write_text(text + "\n")
    sys.stdout.write(text + "\n")
    sys.exit(1 if report["errors"] or report["lost"] or not report["healthy"] else 0)


def _conclude(soak: Soak, samples: list[dict[str, float]]) -> dict[str, Any]:
    """Let the work end, look for every ad, and compare the second quarter with the last."""
    world = soak.world
    with world.client() as client:
        lost = [
            name
            for name, (ad_id, sha256) in soak.ads.items()
            if (answer := client.get(f"/v1/ads/{ad_id}")).status_code != 200
            or [image["sha256"] for image in answer.json()["images"]] != [sha256]
        ]
    end = time.monotonic() + 300
    while json.loads(world.run("jobs", "list", "--json", "--limit", "1"))["counts"]["queued"]:
        assert time.monotonic() < end, "the work does not come to an end"
        time.sleep(1)
    world.stop()
    doctor = json.loads(world.run("doctor", "--blobs", "--json", codes=(0, 1)))
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    return {
        "minutes": round(samples[-1]["at"] / 60, 1),
        "done": dict(soak.done),
        "slowest_s": soak.slowest,
        "alerts_streamed": soak.streamed,
        "errors": soak.errors[:50],
        "lost": lost,
        "healthy": doctor["ok"],
        "wrong": [item for item in doctor["items"] if not item["ok"]],
        "second_quarter": _means(early),
        "last_quarter": _means(late),
        "samples": samples[:: max(1, len(samples) // 30)],
    }


def _means(samples: list[dict[str, float]]) -> dict[str, float]:
    keys = ("rss_mb", "handles", "threads")
    return {key: round(sum(s.get(key, 0) for s in samples) / len(samples), 1) for key in keys}


if __name__ == "__main__":
    main()
