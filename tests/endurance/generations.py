"""Re-indexing a large folder beside searches and ingest: how long each waits, and the truth after.

python -m tests.endurance.generations [--faces 100000] [--postgresql] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from sqlalchemy import select

from indexer.catalog import Catalog
from indexer.catalog.tables import Ad
from tests.endurance import both, truth
from tests.endurance.drawn_packs import CONTRACTS, FIRST, HOLDS, PROGRAM, SECOND
from tests.endurance.soak import catalog
from tests.endurance.stocked import Crowd, open_first, portrait, stock
from tests.endurance.world import World, ad_files, post_case

SEARCHES_A_SECOND = 10
_CASES = 30
_BACKLOG = 48
"""Searches that wait or are being answered at once."""
_PACKS = Path("no-packs-are-needed")


class Load:
    """Searches at a steady rate, new ads, photos and deletions beside them, until halted.

    A search is due at its time whether or not those before it were answered: what it waits for
    them counts as its own.
    """

    def __init__(self, world: World, cases: Sequence[str], ads_a_second: float) -> None:
        self.world = world
        self.cases = list(cases)
        self.pause_s = 1.0 / ads_a_second
        self.phase = "warm"
        self.halt = threading.Event()
        self.lock = threading.Lock()
        self.waits: dict[str, list[float]] = {}
        self.took: dict[str, list[float]] = {}
        self.left_out: Counter[str] = Counter()
        self._open = threading.BoundedSemaphore(_BACKLOG)
        self.answers: dict[str, Counter[str]] = {}
        self.errors: list[str] = []
        self.sent: dict[str, str] = {}
        self.deleted: set[str] = set()
        self._clients: queue.SimpleQueue[httpx2.Client] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=one, daemon=True)
            for one in (self._search, self._send, self._forget, self._photos)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.halt.set()
        for thread in self._threads:
            thread.join(120)

    def during(self, phase: str) -> None:
        """What comes from now on is counted under this name."""
        self.phase = phase

    def _search(self) -> None:
        draw = random.Random(1)
        for _ in range(24):
            self._clients.put(self.world.client(120))
        with ThreadPoolExecutor(24) as pool:
            due = time.perf_counter()
            while not self.halt.is_set():
                case_id = draw.choice(self.cases)
                # Where fewer can be answered than are asked for, the rest is counted, or all that
                # comes after would wait for it.
                if self._open.acquire(blocking=False):
                    pool.submit(self._ask, case_id, due, self.phase)
                else:
                    self.left_out[self.phase] += 1
                due += 1.0 / SEARCHES_A_SECOND
                self.halt.wait(max(0.0, due - time.perf_counter()))

    def _ask(self, case_id: str, due: float, phase: str) -> None:
        client = self._clients.get()
        sent = time.perf_counter()
        try:
            answer = client.get(f"/v1/cases/{case_id}/candidates", params={"k": 20})
            waited = time.perf_counter() - due
            ok = answer.status_code == 200
            with self.lock:
                self.waits.setdefault(phase, []).append(1000 * waited)
                self.took.setdefault(phase, []).append(1000 * (time.perf_counter() - sent))
                told = answer.json()["contract_id"] if ok else str(answer.status_code)
                self.answers.setdefault(phase, Counter())[told] += 1
            if not ok:
                self.errors.append(f"search: {answer.status_code} {answer.text[:200]}")
        except Exception as error:  # noqa: BLE001 - each is a finding
            self.errors.append(f"search: {type(error).__name__} {error}"[:300])
        finally:
            self._clients.put(client)
            self._open.release()

    def _send(self) -> None:
        crowd = Crowd(77, 2)
        number = 0
        with self.world.client() as client:
            while not self.halt.wait(self.pause_s):
                number += 1
                # Every fifth shows somebody who is looked for.
                people = (number % _CASES, 5000 + number) if number % 5 == 0 else ()
                name = f"new-{number}"
                try:
                    answer = client.post(
                        "/v1/ads", files=ad_files(name, [crowd.next(*people)], title=name)
                    )
                    assert answer.status_code == 202, f"{answer.status_code} {answer.text[:200]}"
                    with self.lock:
                        self.sent[name] = answer.json()["ad_id"]
                except Exception as error:  # noqa: BLE001 - each is a finding
                    self.errors.append(f"ad: {type(error).__name__} {error}"[:300])

    def _forget(self) -> None:
        draw = random.Random(2)
        with self.world.client() as client:
            while not self.halt.wait(5):
                try:
                    found = client.get("/v1/ads", params={"limit": 200}).json()["items"]
                    ad_id = draw.choice(found)["ad_id"]
                    answer = client.delete(f"/v1/ads/{ad_id}")
                    assert answer.status_code == 204, f"{answer.status_code} {answer.text[:200]}"
                    self.deleted.add(ad_id)
                except Exception as error:  # noqa: BLE001 - each is a finding
                    self.errors.append(f"deletion: {type(error).__name__} {error}"[:300])

    def _photos(self) -> None:
        """Cases are opened, closed, opened again and given more photos meanwhile."""
        number = _CASES
        with self.world.client() as client:
            while not self.halt.wait(7):
                number += 1
                try:
                    case_id = post_case(client, f"late-{number}", portrait(number))
                    if number % 2:
                        for status in ("found", "open"):
                            answer = client.patch(f"/v1/cases/{case_id}", json={"status": status})
                            assert answer.status_code == 200, answer.text[:200]
                except Exception as error:  # noqa: BLE001 - each is a finding
                    self.errors.append(f"case: {type(error).__name__} {error}"[:300])


def measure(
    faces: int, a_picture: int, ads_a_second: float, quiet_s: float, url: str | None, at: Path
) -> dict[str, Any]:
    """One run from a stocked folder to the truth."""
    data, holds = at / "data", at / "holds"
    holds.mkdir()
    began = time.monotonic()
    with open_first(data, url) as ws:
        stock(ws, faces // a_picture, a_picture)
        ws.ads.save()
    _say(f"stocked with {faces:,} faces in {time.monotonic() - began:.0f} s")
    os.environ[HOLDS] = str(holds)
    world = World(data, _PACKS, url, program=PROGRAM, pack=FIRST, jobs_in_server=False)
    report: dict[str, Any] = {"faces": faces, "pictures": faces // a_picture}
    try:
        began = time.monotonic()
        world.start_server()
        world.wait_ready(600)
        report["server_ready_s"] = round(time.monotonic() - began, 1)
        world.start_single(1)
        with world.client() as client:
            cases = [post_case(client, f"case-{n}", portrait(n)) for n in range(_CASES)]
        _until_done(world)
        load = Load(world, cases, ads_a_second)
        load.start()
        time.sleep(5)
        load.during("before")
        time.sleep(quiet_s)
        load.during("build")
        report["reindex"] = _timed(world, load, "reindex", "--pack", SECOND, "--json")
        _say(json.dumps(report["reindex"]))
        load.during("whole")
        time.sleep(quiet_s / 2)
        before = _lists(world, cases)
        load.during("switch")
        report["switch"] = _timed(world, load, "generations", "switch", CONTRACTS[SECOND])
        after = _lists(world, cases)
        load.during("second in use")
        time.sleep(quiet_s / 2)
        load.during("roll back")
        report["roll_back"] = _timed(world, load, "generations", "rollback")
        back = _lists(world, cases)
        load.during("first in use again")
        time.sleep(quiet_s / 2)
        load.stop()
        began = time.monotonic()
        _until_done(world)
        report["left_over_s"] = round(time.monotonic() - began, 1)
        report["answers"] = _compared(before, after, back)
        world.stop()
        _say("looking for what was lost or doubled")
        opened = truth.open_read(data, url)
        try:
            found = both.check_all(data, opened, read_originals=True, complete=False)
            report["truth"] = {
                "ads": found.ads,
                "images": found.images,
                "faces": dict(found.faces),
                "enrolled": dict(found.enrolled),
                "candidates": found.candidates,
                "alerts": found.alerts,
                "lost": _lost(opened, load),
            }
        finally:
            opened.close()
    finally:
        world.close()
    report["searches_ms"] = {name: _spread(some) for name, some in load.waits.items()}
    report["of_that_answering_ms"] = {name: _spread(some) for name, some in load.took.items()}
    report["not_asked"] = dict(load.left_out)
    report["answered_from"] = {name: dict(some) for name, some in load.answers.items()}
    report["ads_sent"], report["ads_deleted"] = len(load.sent), len(load.deleted)
    report["errors"] = load.errors[:20]
    report["write_lock_ms"] = _held(holds)
    return report


def _timed(world: World, load: Load, *words: str) -> dict[str, Any]:
    began = time.monotonic()
    said = world.run(*words, timeout=4 * 3600)
    seconds = time.monotonic() - began
    told: dict[str, Any] = {"seconds": round(seconds, 1)}
    if said.startswith("{"):
        answer = json.loads(said)
        assert answer["failures"] == [], answer["failures"][:3]
        told |= {"jobs": answer["jobs"], "images": answer["images"]}
        told["images_per_second"] = round(answer["images"] / answer["seconds"], 1)
    return told


def _lists(world: World, cases: Sequence[str]) -> dict[str, dict[str, Any]]:
    with world.client(120) as client:
        return {
            case_id: client.get(f"/v1/cases/{case_id}/candidates", params={"k": 20}).json()
            for case_id in cases
        }


def _compared(*lists: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Whether the best of each list are the same under both packs: their scores are equal, so
    they differ by what came and went meanwhile only."""
    contracts = [sorted({one["contract_id"] for one in some.values()}) for some in lists]
    assert contracts == [[CONTRACTS[name]] for name in (FIRST, SECOND, FIRST)], contracts
    first, *others = [
        {case_id: {_key(item) for item in one["items"][:10]} for case_id, one in some.items()}
        for some in lists
    ]
    shares = [
        np.mean([len(first[case_id] & other[case_id]) / 10 for case_id in first])
        for other in others
    ]
    assert min(shares) > 0.9, f"the lists differ: {shares}"
    return {"shared_top_10": [round(float(share), 3) for share in shares]}


def _key(item: dict[str, Any]) -> tuple[str, float, float]:
    box = item["face"]["box"]
    return item["image_sha256"], box["x"], box["y"]


def _lost(opened: Catalog, load: Load) -> list[str]:
    """Ads that were acknowledged and not deleted, and are not there; or deleted, and are."""
    with opened.read() as session:
        there = set(session.scalars(select(Ad.ad_id)))
    lost = [name for name, ad_id in load.sent.items() if ad_id not in there | load.deleted]
    return lost + [ad_id for ad_id in load.deleted if ad_id in there]


def _until_done(world: World, seconds: float = 3600) -> None:
    opened = truth.open_read(world.folder, world.catalog_url)
    try:
        end = time.monotonic() + seconds
        while truth.open_jobs(opened):
            assert time.monotonic() < end, "the work does not come to an end"
            time.sleep(0.5)
    finally:
        opened.close()


def _spread(values: Sequence[float]) -> dict[str, float]:
    points = {f"p{q}": round(float(np.percentile(values, q)), 1) for q in (50, 95, 99)}
    return {"searches": len(values), **points, "max": round(max(values), 1)}


def _held(folder: Path) -> dict[str, dict[str, float]]:
    """How long the lock of all writers was held, by who held it; the longest first."""
    every: dict[str, list[float]] = {}
    for path in folder.glob("*.json"):
        for name, some in json.loads(path.read_text())["held"].items():
            every.setdefault(name, []).extend(1000 * one for one in some)
    rows = {
        name: {
            "times": len(some),
            "p50": round(float(np.percentile(some, 50)), 1),
            "p99": round(float(np.percentile(some, 99)), 1),
            "max": round(max(some), 1),
            "total_s": round(sum(some) / 1000, 1),
        }
        for name, some in every.items()
    }
    return dict(sorted(rows.items(), key=lambda row: -row[1]["max"]))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=100_000)
    parser.add_argument("--a-picture", type=int, choices=(1, 2, 3, 4), default=4)
    parser.add_argument("--ads-a-second", type=float, default=2.0)
    parser.add_argument("--quiet", type=float, default=60.0, help="seconds of each phase beside")
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the data folder is made")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder, catalog(given.postgresql) as url:
        report = measure(
            given.faces, given.a_picture, given.ads_a_second, given.quiet, url, Path(folder)
        )
    text = json.dumps(report, indent=1)
    if given.json is not None:
        given.json.write_text(text + "\n")
    _say(text)
    sys.exit(1 if report["errors"] or report["truth"]["lost"] else 0)


if __name__ == "__main__":
    main()
