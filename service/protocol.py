"""The HTTP protocol of the server, for people who mean it ill: bounded heads, and no waiting.

Uvicorn gives a body to whoever reads it, and ours has a deadline there; but it waits for the head
of a request as long as the other side likes.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.headers import HSTS, SECURITY_HEADERS

MAX_PART_BYTES: Final = 32_768
"""Of a head that is not complete yet; that of a complete one is looked at in ``peers``."""


def protocol_class(header_timeout_seconds: float) -> type[asyncio.Protocol]:
    """The protocol whose connections have so long for the head of a request."""

    class Bounded(BoundedProtocol):
        header_timeout = header_timeout_seconds

    return Bounded


class BoundedProtocol(H11Protocol):
    """Closes a connection whose head of a request is not complete in time."""

    header_timeout: float = 15.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._head_is_there()
        elif self.conn.trailing_data[0]:
            # Once begun, the rest of a head does not prolong its time.
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no HTTP: a problem document like any other, then the end."""
        self._head_is_there()
        body = json.dumps(
            {
                "type": "urn:homeward:problem:malformed_request",
                "title": "Malformed request",
                "status": 400,
                "detail": "This is no HTTP request that can be read.",
                "code": "malformed_request",
                "request_id": "",
            }
        ).encode()
        headers = {
            **SECURITY_HEADERS,
            "content-type": "application/problem+json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        if self.scheme == "https":
            headers["strict-transport-security"] = HSTS
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            parts = (
                h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            for part in parts:
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.header_timeout, self._too_slow)

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
