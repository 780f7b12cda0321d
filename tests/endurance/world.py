"""A service and its workers as real processes, and real pictures to send them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
from PIL import Image, ImageEnhance

REPOSITORY = Path(__file__).parents[2]
KEY = "a-key-that-only-these-tests-use"
AUTH = {"authorization": f"Bearer {KEY}"}
RUN = "from service.cli import main; main()"
DRAWN = """
from service import opening
from tests.indexer.small import SmallAnalyser

opening.Analyser = lambda pack: SmallAnalyser(pack.contract.id)
from service.cli import main
main()
"""
"""Homeward but for its networks: faces are drawn blocks (``tests.indexer.small``). For runs in
which there have to be very many."""
UPRIGHT = """
import functools
from models.find import SearchOptions
from models.pipeline import AnalysisOptions, Analyser
from service import opening
options = AnalysisOptions(search=SearchOptions(turns=False))
opening.Analyser = functools.partial(Analyser, options=options)
from service.cli import main
main()
"""
"""Homeward that looks at pictures upright only: a third of the work, for runs whose length matters
more than what lies on its side."""

# The faces of insightface's group picture, each with some room around it: x, y, right, bottom.
_GROUP = (
    (0, 217, 217, 434),
    (205, 102, 423, 320),
    (400, 240, 617, 457),
    (675, 308, 892, 525),
    (846, 11, 1064, 228),
    (1064, 228, 1280, 445),
)


def _package_file(package: str, *parts: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


class Pictures:
    """Endless pictures of seven people: no two have the same bytes, few look the same."""

    def __init__(self, seed: int, size: int = 150) -> None:
        self.random = random.Random(seed)
        with Image.open(_package_file("skimage", "data", "astronaut.png")) as image:
            people = [image.convert("RGB").crop((110, 0, 330, 220))]
        with Image.open(_package_file("insightface", "data", "images", "t1.jpg")) as image:
            people += [image.convert("RGB").crop(box) for box in _GROUP]
        self._people = [person.resize((size, size)) for person in people]

    def __len__(self) -> int:
        return len(self._people)

    def plain(self, person: int) -> bytes:
        """The picture as it is."""
        return _jpeg(self._people[person], 90)

    def vary(self, person: int) -> bytes:
        """Turned, cut, lightened and compressed a little differently each time."""
        draw = self.random
        image = self._people[person].rotate(draw.uniform(-8, 8), Image.Resampling.BILINEAR)
        width, height = image.size
        cut = [draw.uniform(0, 0.06) for _ in range(4)]
        image = image.crop(
            (
                int(cut[0] * width),
                int(cut[1] * height),
                int((1 - cut[2]) * width),
                int((1 - cut[3]) * height),
            )
        )
        image = ImageEnhance.Brightness(image).enhance(draw.uniform(0.75, 1.25))
        pixels = np.asarray(image).copy()
        # A few pixels of noise, so that the bytes are never those of another.
        corner = np.frombuffer(draw.randbytes(12), np.uint8).reshape(2, 2, 3)
        pixels[:2, :2] = corner
        return _jpeg(Image.fromarray(pixels), draw.randint(60, 92))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class World:
    """A data folder with a service, workers and a client for it."""

    def __init__(
        self,
        folder: Path,
        packs: Path,
        catalog_url: str | None = None,
        *,
        program: str = RUN,
        **settings: object,
    ) -> None:
        self.program = program
        self.folder = folder
        self.catalog_url = catalog_url
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = (folder.parent / f"{folder.name}.log").open("ab")
        folder.mkdir(parents=True, exist_ok=True)
        if packs.is_dir() and not (folder / "packs").exists():
            # Built once; each process checks its digests.
            (folder / "packs").symlink_to(packs.resolve())
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("HOMEWARD_")
        } | {
            "PYTHONPATH": str(REPOSITORY),
            "HOMEWARD_DATA_DIR": str(folder),
            "HOMEWARD_API_KEY": KEY,
            "HOMEWARD_PORT": str(self.port),
            "HOMEWARD_MODEL_THREADS": "1",
            "HOMEWARD_RATE_LIMIT_PER_MINUTE": "10000000",
            "HOMEWARD_ALERT_BUDGET_PER_WEEK": "100000",
        }
        if catalog_url is not None:
            self._environment["HOMEWARD_CATALOG_URL"] = catalog_url
        for name, value in settings.items():
            self._environment[f"HOMEWARD_{name.upper()}"] = str(value)
        self.server: subprocess.Popen[bytes] | None = None
        self.workers: subprocess.Popen[bytes] | None = None
        self.single: list[subprocess.Popen[bytes]] = []

    def command(self, *words: str) -> subprocess.Popen[bytes]:
        """Start ``homeward`` with these words."""
        return subprocess.Popen(
            [sys.executable, "-c", self.program, *words],
            env=self._environment,
            cwd=REPOSITORY,
            stdout=self.log,
            stderr=self.log,
        )

    def run(self, *words: str, codes: Sequence[int] = (0,), timeout: float = 3600) -> str:
        """Run ``homeward`` to its end; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", self.program, *words],
            env=self._environment,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=self.log,
            check=False,
            timeout=timeout,
        )
        said = done.stdout.decode()
        assert done.returncode in codes, f"homeward {words} ended with {done.returncode}:\n{said}"
        return said

    def start_server(self) -> None:
        self.server = self.command("serve")

    def start_workers(self, number: int = 1) -> None:
        self.workers = self.command("worker", "-n", str(number))

    def start_single(self, number: int) -> None:
        """Workers of this very program, with nobody watching over them."""
        own = str(os.getpid())
        self.single = [self.command("worker", "--child-of", own) for _ in range(number)]

    def client(self, timeout: float | None = 60.0) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers=AUTH, timeout=timeout, trust_env=False)

    def wait_ready(self, seconds: float = 120) -> None:
        """Until the service answers that it is ready."""
        end = time.monotonic() + seconds
        with self.client(5) as client:
            while True:
                try:
                    if client.get("/readyz").status_code == 200:
                        return
                except httpx2.TransportError:
                    pass
                assert self.server is None or self.server.poll() is None, "the service ended"
                assert time.monotonic() < end, "the service does not become ready"
                time.sleep(0.1)

    def kill(self, what: str) -> None:
        """End processes as a power cut does: the ``server``, a ``worker``, who watches over it,
        or ``all``."""
        if what in ("server", "all") and self.server is not None:
            _kill_tree(self.server)
            self.server = None
        if self.workers is None:
            return
        if what in ("watch", "all"):
            if what == "all":
                _kill_tree(self.workers)
            else:
                # Its children find that it is gone and end by themselves.
                self.workers.kill()
            self.workers.wait()
            self.workers = None
        elif what == "worker":
            for child in _children(self.workers):
                child.kill()

    def stop(self) -> None:
        """End everything in good order."""
        every = [*self.single, self.workers, self.server]
        for process in every:
            if process is not None:
                process.send_signal(signal.SIGTERM)
        for process in every:
            if process is not None:
                code = process.wait(90)
                name = "the service" if process is self.server else "a worker"
                assert code == 0, f"{name} ended with {code}:\n{self._last_said()}"
        self.server = self.workers = None
        self.single = []

    def _last_said(self) -> str:
        return Path(self.log.name).read_text(errors="replace")[-4_000:]

    def close(self) -> None:
        self.kill("all")
        for process in self.single:
            process.kill()
            process.wait()
        self.log.close()

    def processes(self) -> list[psutil.Process]:
        """Every process of this world that lives."""
        found = []
        for process in (self.server, self.workers, *self.single):
            if process is not None:
                found += [psutil.Process(process.pid), *_children(process)]
        return found


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return list(psutil.Process(process.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    children = _children(process)
    process.kill()
    for child in children:
        child.kill()
    process.wait()
    psutil.wait_procs(children, timeout=30)


# --- what is sent ----------------------------------------------------------------------------


def ad_files(external_id: str, pictures: Sequence[bytes], **fields: object) -> list[Any]:
    """The parts of an ad with its pictures."""
    ad = {"site": "site-a.example", "external_id": external_id, **fields}
    files: list[Any] = [("ad", (None, json.dumps(ad), "application/json"))]
    files += [("images", (f"{n}.jpg", data, "image/jpeg")) for n, data in enumerate(pictures)]
    return files


def post_case(client: httpx2.Client, number: str, picture: bytes) -> str:
    """Open a case with one photo; returns its id."""
    made = client.post("/v1/cases", json={"case_number": number})
    assert made.status_code == 201, made.text
    case_id: str = made.json()["case_id"]
    answer = client.post(f"/v1/cases/{case_id}/photos", files={"file": ("p.jpg", picture)})
    assert answer.status_code == 201, answer.text
    return case_id
