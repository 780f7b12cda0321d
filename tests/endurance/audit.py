"""What the audit log costs: ``python -m tests.endurance.audit [--postgresql]``.

A real server in a process of its own is asked for a case (a read, recorded by the writer) and told
of new ones (an act, recorded in its transaction), by 1, 8 and 32 callers at once, with the log and
with it patched out, in turns of one run; and ads are taken in by the dozen both ways.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import uuid4

import httpx2
import uvicorn

from indexer import ads
from indexer.audit import chain, writer
from indexer.incoming import Delivery
from indexer.records import AdInput
from indexer.workspace import WorkspaceOptions, open_workspace
from service.app import create_app
from service.cli.serve import listen
from service.config import load_settings
from tests import forked
from tests.indexer.small import SmallAnalyser
from tests.postgres import running_server
from tests.service.conftest import AUTH, KEY
from tests.tables import lend_tables

CALLERS = (1, 8, 32)
SECONDS = 4.0
TURNS = 2


def _patched_out() -> None:
    """No record is written anywhere, and nobody waits for one."""

    def submit(_self: object, _entry: object) -> Future[None]:
        future: Future[None] = Future()
        future.set_result(None)
        return future

    chain.append = lambda *_: None
    writer.AuditWriter.submit = submit  # type: ignore[method-assign, assignment]


def _serve(data: Path, url: str | None, audited: bool, told: Connection) -> None:
    if not audited:
        _patched_out()
    settings = load_settings(
        data_dir=data,
        api_key=KEY,
        catalog_url=url,
        rate_limit_per_minute=9_000_000,
        jobs_in_server=False,
    )
    listener = listen("127.0.0.1", 0)
    with open_workspace(
        data, SmallAnalyser(), catalog_url=url, options=WorkspaceOptions()
    ) as workspace:
        app = create_app(settings, workspace)
        told.send(listener.getsockname()[1])
        uvicorn.Server(uvicorn.Config(app, log_config=None)).run(sockets=[listener])


@contextmanager
def _server(data: Path, url: str | None, audited: bool) -> Iterator[str]:
    ours, its = forked.pipe()
    process = forked.start(_serve, data, url, audited, its)
    assert ours.poll(60), "the server did not start"
    address = f"http://127.0.0.1:{ours.recv()}"
    try:
        while True:
            try:
                httpx2.get(f"{address}/healthz")
                break
            except httpx2.TransportError:
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.join()


def _times(address: str, callers: int, ask: Callable[[httpx2.Client], httpx2.Response]) -> str:
    """p50, p99 in milliseconds and requests a second."""
    taken: list[float] = []
    ends = time.monotonic() + SECONDS

    def call() -> None:
        with httpx2.Client(base_url=address, headers=AUTH, timeout=60) as client:
            while time.monotonic() < ends:
                began = time.perf_counter()
                answer = ask(client)
                taken.append((time.perf_counter() - began) * 1000)
                assert answer.status_code < 300, answer.text

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cuts = statistics.quantiles(taken, n=100)
    return f"{cuts[49]:7.1f} {cuts[98]:8.1f} {len(taken) / SECONDS:8.0f}"


def _requests(folder: Path, url: str | None, name: str) -> None:
    print(f"\n{name}: milliseconds p50, p99, requests a second (with 1, 8, 32 callers)")
    for turn in range(TURNS):
        for audited in (True, False):
            data = folder / f"{name}-{turn}-{audited}"
            lend_tables(data)
            with _server(data, url, audited) as address:
                made = httpx2.post(
                    f"{address}/v1/cases",
                    headers=AUTH,
                    json={"case_number": str(uuid4()), "person": {}},
                ).json()
                path = f"/v1/cases/{made['case_id']}"
                for kind in ("read", "write"):

                    def ask(
                        client: httpx2.Client, kind: str = kind, path: str = path
                    ) -> httpx2.Response:
                        if kind == "read":
                            return client.get(path)
                        body = {"case_number": str(uuid4()), "person": {}}
                        return client.post("/v1/cases", json=body)

                    for callers in CALLERS:
                        told = _times(address, callers, ask)
                        word = "with" if audited else "without"
                        print(f"  {kind:5} {callers:2} callers, {word:7} the log: {told}")


def _ingest(folder: Path, url: str | None, name: str) -> None:
    print(f"\n{name}: ads taken in a minute, without pictures, by the dozen")
    kept = chain.append
    for turn in range(2 * TURNS):
        audited = turn % 2 == 0
        chain.append = kept if audited else lambda *_: None
        data = folder / f"ingest-{name}-{turn}"
        lend_tables(data)
        with open_workspace(
            data, SmallAnalyser(), catalog_url=url, options=WorkspaceOptions(max_queued_jobs=10**6)
        ) as workspace:
            count, began = 0, time.monotonic()
            while time.monotonic() - began < SECONDS:
                some = [
                    Delivery(AdInput(site="a", external_id=str(uuid4())), [], []) for _ in range(24)
                ]
                ads.receive_ads(workspace, some)
                count += len(some)
            rate = 60 * count / (time.monotonic() - began)
        print(f"  {'with' if audited else 'without':7} the log: {rate:8.0f}")
    chain.append = kept


def main() -> None:
    """Measure on SQLite, and on PostgreSQL where that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--postgresql", action="store_true")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="audit-")))
        url, name = None, "SQLite"
        if parser.parse_args().postgresql:
            server = stack.enter_context(running_server(None))
            url, name = stack.enter_context(server.database()), "PostgreSQL"
        _requests(folder, url, name)
        _ingest(folder, url, name)


if __name__ == "__main__":
    main()
