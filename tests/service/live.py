"""A real Homeward in a process of its own, which can be killed and started again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from indexer import queue
from indexer.workspace import WorkspaceOptions, open_workspace
from service.app import create_app
from service.cli.serve import listen
from service.config import load_settings
from tests import forked
from tests.indexer.small import SmallAnalyser
from tests.service.conftest import AUTH, KEY

REPOSITORY = Path(__file__).parents[2]


class Busy:
    """Refuses every so-manieth request as a limit or a full queue would, before it is read."""

    def __init__(self, app: ASGIApp, every: int) -> None:
        self.app, self.every, self.seen = app, every, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.seen += 1
            if self.every and self.seen % self.every == 0:
                status = (429, 503)[self.seen // self.every % 2]
                headers = [(b"retry-after", b"1"), (b"content-type", b"application/problem+json")]
                start = {"type": "http.response.start", "status": status, "headers": headers}
                await send(start)
                body = b'{"code": "rate_limited", "detail": "Too many."}'
                await send({"type": "http.response.body", "body": body})
                return
        await self.app(scope, receive, send)


def _serve(
    data: Path, port: int, max_queued_jobs: int, refuse_every: int, works: bool, told: Connection
) -> None:
    """Serve until killed; ``told`` is sent the port."""
    settings = load_settings(
        data_dir=data,
        api_key=KEY,
        max_queued_jobs=max_queued_jobs,
        rate_limit_per_minute=1_000_000,
    )
    if not works:
        queue.claim = lambda *_, **__: []
    listener = listen("127.0.0.1", port)
    options = WorkspaceOptions(max_queued_jobs=settings.max_queued_jobs)
    with open_workspace(settings.data_dir, SmallAnalyser(), options=options) as workspace:
        app = Busy(create_app(settings, workspace), refuse_every)
        told.send(listener.getsockname()[1])
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5)
        uvicorn.Server(config).run(sockets=[listener])


class LiveServer:
    """Listens on loopback; the port stays the same over restarts.

    ``refuse_every``: every so-manieth request is refused as busy. ``works``: whether it does the
    jobs that come in.
    """

    def __init__(
        self,
        data: Path,
        *,
        max_queued_jobs: int = 10_000,
        refuse_every: int = 0,
        works: bool = True,
    ) -> None:
        self._data = data
        self._words = (max_queued_jobs, refuse_every, works)
        self._process: BaseProcess | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None and self._process.pid is not None
        return self._process.pid

    def start(self) -> None:
        """Returns once it answers."""
        ours, its = forked.pipe()
        with ours, its:
            self._process = forked.start(_serve, self._data, self.port, *self._words, its)
            assert ours.poll(60), "the server did not start"
            self.port = ours.recv()
        while self._process.is_alive():
            try:
                httpx2.get(f"{self.url}/healthz")
                return
            except httpx2.TransportError:
                time.sleep(0.02)
        raise AssertionError("the server stopped while it started")

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def ads(self) -> list[dict[str, Any]]:
        """Every ad that is in."""
        return list(self._ads())

    def _ads(self) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        with httpx2.Client(base_url=self.url, headers=AUTH, timeout=60) as client:
            while True:
                words = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
                answer = client.get("/v1/ads", params=words)
                if answer.status_code in (429, 503):
                    continue
                assert answer.status_code == 200, answer.text
                yield from answer.json()["items"]
                cursor = answer.json()["next_cursor"]
                if cursor is None:
                    return
