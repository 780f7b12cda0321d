"""Rounds of ``kill -9`` while generations are built, switched, taken back and dropped."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import httpx2
import uvicorn
from sqlalchemy import select

from indexer import jobs, runner
from indexer.catalog import Catalog
from indexer.catalog.tables import Ad, CaptureImage, Image, Job
from indexer.errors import GenerationIncomplete, GenerationNotFound, GenerationStateInvalid
from indexer.generations import rows, switching
from indexer.queue import CRASHED
from indexer.reindex import reindex
from indexer.runner import Runner
from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from service.app import create_app
from service.cli.serve import listen
from service.config import load_settings
from tests import forked
from tests.endurance import both, truth
from tests.endurance.drawn_packs import CONTRACTS, FIRST, SECOND, analyser, calibration, load
from tests.endurance.stocked import Crowd, open_first, portrait, stock
from tests.endurance.world import AUTH, KEY, ad_files

OTHER: Final = CONTRACTS[SECOND]
TARGETS: Final = ("reindex", "worker", "server", "switch")
_BUDGET = 100_000
_CASES = (3, 5, 7)


# --- processes -------------------------------------------------------------------------------


def _open(folder: Path, url: str | None) -> Workspace:
    """As a command does: with the pack of the generation in use."""
    with closing(truth.open_read(folder, url)) as catalog, catalog.read() as session:
        active = rows.active(session)
    pack = FIRST if active is None else active.pack
    return open_workspace(
        folder,
        analyser(pack),
        catalog_url=url,
        calibration=calibration(pack),
        options=WorkspaceOptions(alert_budget=_BUDGET),
        pack=pack,
        load=load,
    )


def _serve(folder: Path, url: str | None, port: int, told: Connection) -> None:
    runner._MAINTAIN_S = 0.3
    settings = load_settings(
        data_dir=folder, catalog_url=url, api_key=KEY, rate_limit_per_minute=10_000_000
    )
    listener = listen("127.0.0.1", port)
    with _open(folder, url) as ws:
        told.send(listener.getsockname()[1])
        config = uvicorn.Config(create_app(settings, ws), log_config=None)
        uvicorn.Server(config).run(sockets=[listener])


def _work(folder: Path, url: str | None, told: Connection) -> None:
    runner._MAINTAIN_S = 0.3
    with _open(folder, url) as ws:
        Runner(ws).start()
        told.send(True)
        threading.Event().wait()


def _reindex(folder: Path, url: str | None, told: Connection) -> None:
    with _open(folder, url) as ws:
        told.send(True)
        # Unless it is being dropped.
        with suppress(GenerationStateInvalid, GenerationNotFound):
            switching.begin(ws, OTHER, SECOND, analyser(SECOND).dimension, actor="tester")
            reindex(ws.views.of(OTHER))


def _switch(folder: Path, url: str | None, told: Connection) -> None:
    """One step: bring the other into use, take it back, or drop it, whichever comes next."""
    with _open(folder, url) as ws:
        told.send(True)
        # Mostly there is nothing to be done yet.
        with suppress(GenerationIncomplete, GenerationStateInvalid, GenerationNotFound):
            step(ws)


def step(ws: Workspace) -> None:
    """Building > in use > kept > dropped, and again."""
    with ws.catalog.read() as session:
        other = rows.find(session, OTHER)
    if other.state == "building":
        switching.activate(ws, OTHER, actor="tester")
    elif other.state == "active":
        switching.roll_back(ws, actor="tester")
    else:
        if other.state == "kept":
            switching.drop(ws, OTHER, actor="tester")
        switching.clear(ws, OTHER, most=None)


class Processes:
    """A server, a worker, and now and then one that reads anew or switches."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.folder, self.url = folder, url
        self.port = 0
        self.running: dict[str, BaseProcess] = {}
        self.ended_badly: list[str] = []

    def start(self, name: str) -> None:
        """Start it unless it runs; returns once it has opened the folder."""
        known = self.running.get(name)
        if known is not None and known.is_alive():
            return
        if known is not None:
            self._forget(name)
        works: dict[str, Callable[..., None]] = {
            "server": _serve,
            "worker": _work,
            "reindex": _reindex,
            "switch": _switch,
        }
        ours, its = forked.pipe()
        with ours, its:
            words: list[Any] = [self.folder, self.url, *([self.port] if name == "server" else [])]
            self.running[name] = forked.start(works[name], *words, its)
            assert ours.poll(120), f"{name} did not start"
            said = ours.recv()
        if name == "server":
            self.port = said

    def kill(self, name: str) -> bool:
        """As a power cut does; whether it was running."""
        process = self.running[name]
        ran = process.is_alive()
        process.kill()
        process.join()
        if ran:
            self.running.pop(name).close()
        else:
            self._forget(name)
        return ran

    def wait(self, name: str, seconds: float = 300) -> None:
        """Until it has come to its end by itself."""
        self.running[name].join(seconds)
        self._forget(name)

    def _forget(self, name: str) -> None:
        process = self.running.pop(name)
        if process.exitcode != 0:
            self.ended_badly.append(f"{name} ended with {process.exitcode}")
            process.kill()
            process.join()
        process.close()

    def close(self) -> None:
        for name in list(self.running):
            process = self.running.pop(name)
            process.kill()
            process.join()
            process.close()


class Sender(threading.Thread):
    """Sends ads, takes some back, opens cases, closes and opens them again; keeps at each until it
    is acknowledged."""

    def __init__(self, processes: Processes, seed: int, most: int) -> None:
        super().__init__(name="sender", daemon=True)
        self.processes = processes
        self.crowd = Crowd(seed, 1)
        self.most = most
        self.sent: dict[str, tuple[str, str]] = {}
        self.gone: dict[str, str] = {}
        self.problem: str | None = None
        self.halt = threading.Event()

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - it is looked at in the end
            self.problem = f"{type(error).__name__}: {error}"

    def _run(self) -> None:
        draw = self.crowd.random
        cases: list[str] = []
        for number in range(self.most):
            if self.halt.wait(0.05):
                return
            people = (draw.choice(_CASES),) if number % 3 == 0 else ()
            data = self.crowd.next(*people)
            made = self._until(
                lambda client, n=number, d=data: client.post(  # type: ignore[misc]
                    "/v1/ads", files=ad_files(f"sent-{n}", [d])
                ),
                202,
            )
            self.sent[f"sent-{number}"] = made["ad_id"], hashlib.sha256(data).hexdigest()
            if number % 9 == 8:
                name = draw.choice(list(self.sent))
                ad_id, sha256 = self.sent.pop(name)
                self._until(lambda client, a=ad_id: client.delete(f"/v1/ads/{a}"), 204, 404)  # type: ignore[misc]
                self.gone[ad_id] = sha256
            if number % 12 == 2 and len(cases) < len(_CASES) - 1:
                cases.append(self.open_case(_CASES[1 + len(cases)]))
            if number % 15 == 14 and cases:
                case_id = draw.choice(cases)
                for status in ("closed", "open"):
                    self._until(
                        lambda client, c=case_id, s=status: client.patch(  # type: ignore[misc]
                            f"/v1/cases/{c}", json={"status": s}
                        ),
                        200,
                    )

    def open_case(self, person: int) -> str:
        """Open the case of a person with a photo; its id."""
        made = self._until(
            lambda client: client.post("/v1/cases", json={"case_number": f"case-{person}"}),
            201,
            409,
        )
        case_id: str = made.get("case_id") or self._known(person)
        self._until(
            lambda client: client.post(
                f"/v1/cases/{case_id}/photos", files={"file": ("p.png", portrait(person))}
            ),
            *(200, 201),
        )
        return case_id

    def _known(self, person: int) -> str:
        listed = self._until(lambda client: client.get("/v1/cases"), 200)["items"]
        return next(str(one["case_id"]) for one in listed if one["case_number"] == f"case-{person}")

    def _until(
        self, ask: Callable[[httpx2.Client], httpx2.Response], *wanted: int
    ) -> dict[str, Any]:
        """Ask again until one of the wanted answers comes."""
        while True:
            url = f"http://127.0.0.1:{self.processes.port}"
            try:
                with httpx2.Client(base_url=url, headers=AUTH, timeout=60, trust_env=False) as one:
                    answer = ask(one)
            except httpx2.TransportError:
                time.sleep(0.05)
                continue
            if answer.status_code in wanted:
                return dict(answer.json()) if answer.content else {}
            if answer.status_code not in (429, 503):
                raise AssertionError(f"{answer.status_code} {answer.text[:300]}")
            time.sleep(0.1)


# --- rounds ----------------------------------------------------------------------------------


def run_rounds(
    folder: Path, url: str | None, *, rounds: int, seed: int, pictures: int = 60
) -> tuple[both.Counted, dict[str, int]]:
    """Kill one of the processes at a random moment, ``rounds`` times, and go on; then let all come
    to an end, switch, take back, and look at everything; drop the other, and look again.

    Returns what was counted and how often each process was killed while it ran.
    """
    draw = random.Random(seed)
    with open_first(folder, url) as ws:
        stock(ws, pictures, 2, seed)
    processes = Processes(folder, url)
    sender = Sender(processes, seed + 1, most=min(250, 12 + 8 * rounds))
    killed: dict[str, int] = dict.fromkeys(TARGETS, 0)
    order = draw.sample(TARGETS, len(TARGETS))
    try:
        processes.start("server")
        sender.open_case(_CASES[0])
        sender.start()
        for number in range(rounds):
            for name in ("server", "worker", "reindex"):
                processes.start(name)
            target = order[number] if number < len(order) else draw.choice(TARGETS)
            if target == "switch":
                if number % 3:
                    # So that there is something to be switched to.
                    processes.wait("reindex")
                processes.start("switch")
                time.sleep(draw.uniform(0.0, 0.15))
            else:
                time.sleep(draw.uniform(0.02, 0.8))
            killed[target] += processes.kill(target)
        if rounds > len(order):
            sender.join(240)
        sender.halt.set()
        for name in ("server", "worker"):
            processes.start(name)
        sender.join(60)
        assert sender.problem is None, sender.problem
        processes.close()
        found = _conclude(folder, url, sender)
        assert processes.ended_badly == [], processes.ended_badly
        return found, killed
    finally:
        sender.halt.set()
        processes.close()


def _conclude(folder: Path, url: str | None, sender: Sender) -> both.Counted:
    with _open(folder, url) as ws:
        jobs_end(ws)
        _build_other(ws)
        with ws.catalog.read() as session:
            in_use = rows.active_id(session)
        if in_use != OTHER:
            switching.activate(ws, OTHER, actor="tester")
            jobs_end(ws)
        switching.roll_back(ws, actor="tester")
        jobs_end(ws)
        ws.maintain()
    with closing(truth.open_read(folder, url)) as catalog:
        found = both.check_all(folder, catalog)
        assert set(found.faces) == set(CONTRACTS.values())
        _sent_is_there(catalog, sender)
    with _open(folder, url) as ws:
        switching.drop(ws, OTHER, actor="tester")
        assert switching.clear(ws, OTHER, most=None)
        ws.maintain()
    with closing(truth.open_read(folder, url)) as catalog:
        left = both.check_all(folder, catalog)
        assert set(left.faces) == {CONTRACTS[FIRST]}
        assert left.alerts == found.alerts
    return found


def _build_other(ws: Workspace) -> None:
    with ws.catalog.read() as session:
        known = {one.contract_id: one.state for one in rows.all_generations(session)}
    if known.get(OTHER) == "dropping":
        switching.clear(ws, OTHER, most=None)
    if known.get(OTHER) != "active":
        switching.begin(ws, OTHER, SECOND, analyser(SECOND).dimension, actor="tester")
        assert reindex(ws.views.of(OTHER)).failures == ()
        jobs_end(ws)


def jobs_end(ws: Workspace) -> None:
    """Do all that waits. A picture that was being read at several of the kills looks deadly and is
    in the dead letters: somebody retries it."""
    ws.maintain()
    while True:
        jobs.run_pending(ws, patient=True)
        with ws.catalog.read() as session:
            failed = [
                (row.job_id, row.failures) for row in session.query(Job).filter_by(state="failed")
            ]
        if not failed:
            return
        for job_id, failures in failed:
            assert {one["code"] for one in failures} <= {CRASHED, "runner_died"}, failures
            jobs.retry(ws, job_id)


def _sent_is_there(catalog: Catalog, sender: Sender) -> None:
    with catalog.read() as session:
        ads = {row.external_id: row.ad_id for row in session.scalars(select(Ad))}
        shown = set(session.scalars(select(CaptureImage.sha256)))
        images = set(session.scalars(select(Image.sha256)))
    for name, (ad_id, sha256) in sender.sent.items():
        assert ads.get(name) == ad_id, f"{name} is lost or doubled"
        assert sha256 in shown, f"the picture of {name} is lost"
    for ad_id, sha256 in sender.gone.items():
        assert ad_id not in ads.values(), "an ad came back"
        assert sha256 not in images, "a picture of a forgotten ad is left"
