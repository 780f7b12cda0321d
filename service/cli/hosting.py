"""The HTTP server of ``homeward serve`` and ``homeward demo``.

Apart from the commands, since loading the HTTP framework takes as long as loading all else: no
other command waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from rich.text import Text

from indexer.workspace import Workspace
from service.accounts.keys import NewKey
from service.app import create_app
from service.cli.console import out
from service.config import Settings

GRACE_SECONDS = 10


def serve_until_told(
    settings: Settings, workspace: Workspace, listener: socket.socket, ready: Callable[[], None]
) -> bool:
    """Serve on ``listener`` until SIGINT or SIGTERM; ``ready`` is called once it answers.

    Returns whether it came to serving; where it did not, the reason was logged.
    """
    application = create_app(settings, workspace, announce=_show_key)
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # It warns of every malformed body; those are answered and counted already.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, _stop)

    def stopping() -> None:
        if (service := application.state.service) is not None:
            service.streams.close()

    server = _Server(config, ready, stopping)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return server.started


class _Server(uvicorn.Server):
    """Says where it listens once it does, and ends the event streams when it stops."""

    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before it waits for the answers under way: event streams have no end of their own.
        self._stopping()
        await super().shutdown(sockets=sockets)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Uvicorn raises SIGTERM again once it has stopped; the workspace still has to be closed."""
    raise KeyboardInterrupt


def _show_key(key: NewKey) -> None:
    out.print(Text("Administrator key (shown once, keep it):"))
    out.print(Text(f"    {key.text}"))
