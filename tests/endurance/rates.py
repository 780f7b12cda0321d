"""Rates of real processes: workers, answers under load, a long ingest. Ratios are of one run.

python -m tests.endurance.rates workers [--ads 600] [--postgresql]
python -m tests.endurance.rates answers [--ads 800]
python -m tests.endurance.rates file [--ads 100000] [--how drawn] [--json FILE]
    python -m tests.endurance.rates many [--ads 100000] [--workers 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil

from tests.endurance import truth
from tests.endurance.soak import catalog
from tests.endurance.world import (
    DRAWN,
    REPOSITORY,
    RUN,
    UPRIGHT,
    Pictures,
    World,
    ad_files,
    post_case,
)
from tests.indexer.small import face_picture

PACKS = REPOSITORY / ".cache" / "packs"
SMALL = 64


def _send(world: World, ads: int, pictures: Pictures, prefix: str) -> None:
    with world.client() as client:
        for number in range(ads):
            data = pictures.vary(number % len(pictures))
            answer = client.post("/v1/ads", files=ad_files(f"{prefix}-{number}", [data]))
            assert answer.status_code == 202, answer.text


def _wait_done(world: World, seconds: float = 7200) -> None:
    opened = truth.open_read(world.folder, world.catalog_url)
    try:
        end = time.monotonic() + seconds
        while truth.open_jobs(opened):
            assert time.monotonic() < end, "the work does not come to an end"
            time.sleep(0.1)
    finally:
        opened.close()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# --- two workers against one -----------------------------------------------------------------


def workers(ads: int, postgresql: bool) -> dict[str, Any]:
    """Images a second of one worker and of two, on the same queue, one after the other."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, catalog(postgresql) as url:
        world = World(Path(folder) / "data", PACKS, url, jobs_in_server=False)
        try:
            world.start_server()
            world.wait_ready()
            with world.client() as client:
                post_case(client, "case", Pictures(0).plain(0))
            for turn, number in enumerate((1, 2, 1, 2)):
                _send(world, ads, Pictures(turn + 1), f"turn-{turn}")
                world.start_workers(number)
                # The first ads tell when they are up; from then on it is counted.
                first, began = _until(world, turn * ads + ads // 10)
                last, ended = _until(world, (turn + 1) * ads)
                rate = (last - first) / (ended - began)
                rates[number].append(round(rate, 2))
                _say(f"{number} worker(s): {rate:.2f} images/s")
                assert world.workers is not None
                world.workers.terminate()
                world.workers.wait(90)
                world.workers = None
        finally:
            world.close()
    best = {number: max(found) for number, found in rates.items()}
    return {"images_per_second": rates, "ratio": round(best[2] / best[1], 2)}


def _until(world: World, images: int) -> tuple[int, float]:
    """Wait until so many images were analysed; how many they are, and when."""
    from sqlalchemy import func, select

    from indexer.catalog.tables import ImageAnalysis

    opened = truth.open_read(world.folder, world.catalog_url)
    try:
        while True:
            with opened.read() as session:
                count = session.scalar(select(func.count()).select_from(ImageAnalysis)) or 0
            # One of them is the photo of the case.
            if count - 1 >= images:
                return count - 1, time.monotonic()
            time.sleep(0.02)
    finally:
        opened.close()


# --- answers beside a full load --------------------------------------------------------------


def answers(ads: int, postgresql: bool) -> dict[str, Any]:
    """``GET /v1/cases/{case_id}`` without and with ingest at full load beside it."""
    with tempfile.TemporaryDirectory() as folder, catalog(postgresql) as url:
        world = World(Path(folder) / "data", PACKS, url)
        try:
            world.start_server()
            world.wait_ready()
            world.start_workers(1)
            with world.client() as client:
                case_id = post_case(client, "case", Pictures(0).plain(0))
            _send(world, 20, Pictures(9), "warm")
            _wait_done(world)
            idle = _ask(world, case_id, lambda: False, 400)
            halt = threading.Event()

            def load() -> None:
                _send(world, ads, Pictures(3), "load")
                halt.set()

            sender = threading.Thread(target=load, daemon=True)
            sender.start()
            time.sleep(1)
            busy = _ask(world, case_id, halt.is_set, 400)
            sender.join()
        finally:
            world.close()
    return {"idle_ms": _spread(idle), "full_load_ms": _spread(busy)}


def _ask(world: World, case_id: str, over: Callable[[], bool], most: int) -> list[float]:
    found: list[float] = []
    with world.client() as client:
        while len(found) < most and not over():
            before = time.perf_counter()
            assert client.get(f"/v1/cases/{case_id}").status_code == 200
            found.append(1000 * (time.perf_counter() - before))
            time.sleep(0.02)
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    points = {f"p{q}": round(float(np.percentile(values, q)), 1) for q in (50, 95, 99)}
    return {"requests": len(values), **points, "max": round(max(values), 1)}


# --- very many -------------------------------------------------------------------------------


def many(ads: int, number: int, postgresql: bool, at: Path | None, how: str) -> dict[str, Any]:
    """Send ``ads`` ads with one small image each in one run; watch rate and memory; then open a
    case and wait for its first candidate. ``how``: ``full``, ``upright`` or ``drawn``, see
    ``world``."""
    program, pictures = _HOW[how]
    with tempfile.TemporaryDirectory(dir=at) as folder, catalog(postgresql) as url:
        world = World(
            Path(folder) / "data",
            PACKS,
            url,
            program=program,
            jobs_in_server=False,
            max_queued_jobs=4000,
        )
        try:
            world.start_server()
            world.wait_ready()
            world.start_single(number)
            started = time.monotonic()
            problems: list[str] = []
            sender = threading.Thread(
                target=_send_batches, args=(world, ads, problems, pictures()), daemon=True
            )
            sender.start()
            samples = list(_watch(world, ads, started, problems))
            sender.join(600)
            seconds = time.monotonic() - started
            first = _first_candidate(world, pictures().plain(0))
            world.stop()
            doctor = json.loads(world.run("doctor", "--json", codes=(0, 1)))
        finally:
            world.close()
    quarter = max(1, len(samples) // 4)
    return {
        "ads": ads,
        "workers": number,
        "how": how,
        "seconds": round(seconds),
        "images_per_second": round(ads / seconds, 1),
        "first_candidate": first,
        "doctor": {item["name"]: item["detail"] for item in doctor["items"]},
        "healthy": doctor["ok"],
        "second_quarter_mb": _mean(samples[quarter : 2 * quarter]),
        "last_quarter_mb": _mean(samples[-quarter:]),
        "samples": samples[:: max(1, len(samples) // 40)],
    }


class _Drawn(Pictures):
    """Pictures of drawn faces: 5,000 people in a few photos each."""

    def __len__(self) -> int:
        return 5_000

    def plain(self, person: int) -> bytes:
        return face_picture(person)

    def vary(self, person: int) -> bytes:
        # The first is always the same photo: the case that is opened at the end has it.
        photo = self.random.randrange(20) if person else 0
        return face_picture(person, photo, salt=self.random.randrange(10**6))


_HOW: dict[str, tuple[str, Callable[[], Pictures]]] = {
    "full": (RUN, lambda: Pictures(7, SMALL)),
    "upright": (UPRIGHT, lambda: Pictures(7, SMALL)),
    "drawn": (DRAWN, lambda: _Drawn(7)),
}


def _send_batches(
    world: World, ads: int, problems: list[str], pictures: Pictures, size: int = 100
) -> None:
    """Images ahead by digest, then the ads that name them, a hundred at a time."""
    with world.client(300) as client:
        for start in range(0, ads, size):
            lines = []
            for number in range(start, min(ads, start + size)):
                data = pictures.vary(number % len(pictures))
                sha256 = hashlib.sha256(data).hexdigest()
                ad = {"site": "site-a.example", "external_id": f"ad-{number}", "images": [sha256]}
                lines.append(json.dumps(ad))
                _put(client, data, sha256, problems)
            while lines and not problems:
                answer = client.post(
                    "/v1/ads/batch",
                    content="\n".join(lines),
                    headers={"content-type": "application/x-ndjson"},
                )
                if answer.status_code in (429, 503):
                    time.sleep(1)
                    continue
                if answer.status_code != 200:
                    problems.append(f"{answer.status_code} {answer.text[:300]}")
                    return
                full = [
                    lines[item["line"] - 1]
                    for item in answer.json()["items"]
                    if item["status"] == "refused"
                ]
                if len(full) == len(lines):
                    time.sleep(1)
                lines = full


def from_file(ads: int, postgresql: bool, at: Path | None, how: str) -> dict[str, Any]:
    """Read ``ads`` ads with one small image each from a file in one run of ``homeward ingest``;
    watch rate and memory; then serve, open a case and wait for its first candidate."""
    program, make = _HOW[how]
    pictures = make()
    with tempfile.TemporaryDirectory(dir=at) as folder, catalog(postgresql) as url:
        images = Path(folder) / "images"
        lines = Path(folder) / "ads.jsonl"
        _write_ads(ads, pictures, images, lines)
        world = World(Path(folder) / "data", PACKS, url, program=program)
        try:
            started = time.monotonic()
            reading = world.command("ingest", "ads", str(lines), "--images", str(images))
            process = psutil.Process(reading.pid)
            samples: list[dict[str, float]] = []
            while reading.poll() is None:
                rss = round(process.memory_info().rss / 1e6)
                samples.append({"at": round(time.monotonic() - started), "server_mb": rss})
                _say(json.dumps(samples[-1]))
                time.sleep(10)
            seconds = time.monotonic() - started
            assert reading.returncode == 0, f"ended with {reading.returncode}"
            world.start_server()
            world.wait_ready(600)
            opened = time.monotonic() - started - seconds
            first = _first_candidate(world, pictures.plain(0))
            world.stop()
            doctor = json.loads(world.run("doctor", "--json", codes=(0, 1)))
        finally:
            world.close()
    quarter = max(1, len(samples) // 4)
    return {
        "ads": ads,
        "how": how,
        "seconds": round(seconds),
        "images_per_second": round(ads / seconds, 1),
        "service_ready_s": round(opened, 1),
        "first_candidate": first,
        "healthy": doctor["ok"],
        "second_quarter_mb": _mean(samples[quarter : 2 * quarter], "server_mb"),
        "last_quarter_mb": _mean(samples[-quarter:], "server_mb"),
        "samples": samples[:: max(1, len(samples) // 40)],
    }


def _write_ads(ads: int, pictures: Pictures, images: Path, lines: Path) -> None:
    with lines.open("w") as file:
        for number in range(ads):
            name = f"{number // 1000}/{number}.img"
            path = images / name
            if number % 1000 == 0:
                path.parent.mkdir(parents=True)
            path.write_bytes(pictures.vary(number % len(pictures)))
            ad = {"site": "site-a.example", "external_id": f"ad-{number}", "images": [name]}
            file.write(json.dumps(ad) + "\n")


def _put(client: httpx2.Client, data: bytes, sha256: str, problems: list[str]) -> None:
    while not problems:
        answer = client.put(f"/v1/images/{sha256}", content=data)
        if answer.status_code in (200, 201):
            return
        if answer.status_code not in (429, 503):
            problems.append(f"{answer.status_code} {answer.text[:300]}")
        time.sleep(1)


def _watch(
    world: World, ads: int, started: float, problems: list[str]
) -> Iterator[dict[str, float]]:
    from sqlalchemy import func, select

    from indexer.catalog.tables import ImageAnalysis

    opened = truth.open_read(world.folder, world.catalog_url)
    try:
        while True:
            with opened.read() as session:
                done = session.scalar(select(func.count()).select_from(ImageAnalysis)) or 0
            sample: dict[str, float] = {
                "at": round(time.monotonic() - started),
                "images": done,
                **_memory(world),
            }
            _say(json.dumps(sample))
            yield sample
            assert problems == [], problems
            if done >= ads and truth.open_jobs(opened) == 0:
                return
            time.sleep(10)
    finally:
        opened.close()


def _memory(world: World) -> dict[str, float]:
    server = workers = 0.0
    for process in world.processes():
        try:
            rss = process.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            continue
        if world.server is not None and process.pid == world.server.pid:
            server += rss
        else:
            workers += rss
    return {"server_mb": round(server), "workers_mb": round(workers)}


def _mean(samples: list[dict[str, float]], *keys: str) -> dict[str, float]:
    return {
        key: round(sum(sample[key] for sample in samples) / max(1, len(samples)))
        for key in keys or ("server_mb", "workers_mb")
    }


def _first_candidate(world: World, person: bytes) -> dict[str, float]:
    """Seconds from the photo of a new case to its list, and to its first alert."""
    with world.client(300) as client:
        made = client.post("/v1/cases", json={"case_number": "first"})
        case_id = made.json()["case_id"]
        before = time.monotonic()
        posted = client.post(f"/v1/cases/{case_id}/photos", files={"file": ("p.jpg", person)})
        assert posted.status_code == 201, posted.text
        enrolled = time.monotonic() - before
        listed = client.get(f"/v1/cases/{case_id}/candidates").json()
        answered = time.monotonic() - before
        while not client.get("/v1/alerts", params={"case_id": case_id}).json()["items"]:
            time.sleep(0.05)
        alerted = time.monotonic() - before
    return {
        "gallery": listed["gallery_size"],
        "candidates": len(listed["items"]),
        "photo_enrolled_s": round(enrolled, 2),
        "list_answered_s": round(answered, 2),
        "first_alert_s": round(alerted, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("workers", "answers", "many", "file"))
    parser.add_argument("--ads", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--how", choices=tuple(_HOW), default="full")
    parser.add_argument("--folder", type=Path, help="where the data folder is made")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.what == "workers":
        report = workers(given.ads or 600, given.postgresql)
    elif given.what == "answers":
        report = answers(given.ads or 800, given.postgresql)
    elif given.what == "file":
        report = from_file(given.ads or 100_000, given.postgresql, given.folder, given.how)
    else:
        report = many(
            given.ads or 100_000, given.workers, given.postgresql, given.folder, given.how
        )
    text = json.dumps(report, indent=1)
    if given.json is not None:
        given.json.write_text(text + "\n")
    _say(text)


if __name__ == "__main__":
    main()
