"""The HTTP server of ``homeward serve`` and ``homeward demo``.

Apart from the commands, since loading the HTTP framework takes as long as loading all else: no
other command waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from rich.text import Text

from indexer.workspace import Workspace
from service.accounts.keys import NewKey
from service.app import create_app
from service.cli.console import out
from service.config import Settings
from service.protocol import MAX_PART_BYTES, protocol_class
from service.tls import Certificate

GRACE_SECONDS = 10
CERTIFICATE_LOOK_SECONDS = 10
"""So often it is looked whether the certificate files have changed."""


def serve_until_told(
    settings: Settings, workspace: Workspace, listener: socket.socket, ready: Callable[[], None]
) -> bool:
    """Serve on ``listener`` until SIGINT or SIGTERM; ``ready`` is called once it answers.

    Returns whether it came to serving; where it did not, the reason was logged.
    """
    application = create_app(settings, workspace, announce=_show_key)
    certificate = certificate_of(settings)
    config = server_config(application, settings, certificate)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # It warns of every malformed body; those are answered and counted already.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, _stop)

    def stopping() -> None:
        if (service := application.state.service) is not None:
            service.streams.close()

    server = _Server(config, ready, stopping, certificate)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return server.started


class _Server(uvicorn.Server):
    """Says where it listens once it does, and ends the event streams when it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        stopping: Callable[[], None],
        certificate: Certificate | None,
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping
        self._certificate = certificate
        self._watch: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            if self._certificate is not None:
                self._watch = asyncio.create_task(_watch(self._certificate))
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before it waits for the answers under way: event streams have no end of their own.
        self._stopping()
        if self._watch is not None:
            self._watch.cancel()
        await super().shutdown(sockets=sockets)


def server_config(
    application: FastAPI, settings: Settings, certificate: Certificate | None = None
) -> uvicorn.Config:
    """How the application is served: bounded heads, no headers of a proxy believed here."""
    return uvicorn.Config(
        application,
        http=protocol_class(settings.header_timeout_seconds),
        h11_max_incomplete_event_size=MAX_PART_BYTES,
        ws="none",
        ssl_context_factory=(lambda _config, _default: certificate.context)
        if certificate
        else None,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


async def _watch(certificate: Certificate) -> None:
    """Take over new certificate files while the server runs."""
    while True:
        await asyncio.sleep(CERTIFICATE_LOOK_SECONDS)
        await asyncio.to_thread(certificate.refresh)


def certificate_of(settings: Settings) -> Certificate | None:
    """The certificate that the settings name. Raises :class:`TlsUnusable`."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Uvicorn raises SIGTERM again once it has stopped; the workspace still has to be closed."""
    raise KeyboardInterrupt


def _show_key(key: NewKey) -> None:
    out.print(Text("Administrator key (shown once, keep it):"))
    out.print(Text(f"    {key.text}"))
