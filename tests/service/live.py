"""A real Homeward in a process of its own, which can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from tests.service.conftest import AUTH, KEY

REPOSITORY = Path(__file__).parents[2]

_SERVE = """
import sys
from pathlib import Path
import uvicorn
from indexer import queue
from indexer.workspace import WorkspaceOptions, open_workspace
from service.app import create_app
from service.cli.serve import listen
from service.config import load_settings
from tests.indexer.small import SmallAnalyser

data, key, port, bound, refuse_every, works = sys.argv[1:]
settings = load_settings(
    data_dir=Path(data), api_key=key, max_queued_jobs=int(bound), rate_limit_per_minute=1_000_000
)
if not int(works):
    queue.claim = lambda *_: []

class Busy:
    '''Refuses every so-manieth request as a limit or a full queue would, before it is read.'''

    def __init__(self, app, every):
        self.app, self.every, self.seen = app, every, 0

    async def __call__(self, scope, receive, send):
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

listener = listen("127.0.0.1", int(port))
options = WorkspaceOptions(max_queued_jobs=settings.max_queued_jobs)
with open_workspace(settings.data_dir, SmallAnalyser(), options=options) as workspace:
    app = Busy(create_app(settings, workspace), int(refuse_every))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listener])
"""


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
        self._data = str(data)
        self._words = (str(max_queued_jobs), str(refuse_every), str(int(works)))
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns once it answers."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, self._data, KEY, str(self.port), *self._words],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            text=True,
        )
        watchdog = threading.Timer(60, self._process.kill)
        watchdog.start()
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        watchdog.cancel()
        assert said, "the server did not start"
        self.port = int(said)
        while self._process.poll() is None:
            try:
                httpx2.get(f"{self.url}/healthz")
                return
            except httpx2.TransportError:
                time.sleep(0.02)
        raise AssertionError("the server stopped while it started")

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
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
