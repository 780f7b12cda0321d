"""What happens to every request before a route sees it, and to every answer on its way out."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from indexer.acting import Acting, Channel, begin
from models.errors import HomewardError
from service.accounts.principal import Principal
from service.errors import (
    BadRequestBody,
    ProblemHTTPException,
    Unauthenticated,
    problem_for,
    unexpected,
)
from service.headers import SECURITY_HEADERS as SECURITY_HEADERS
from service.metrics import Metrics
from service.networks import client_of
from service.peers import PROBES
from service.ratelimit import AddressLimits, RateLimiter

access_log = logging.getLogger("homeward.access")

REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
API_PREFIX = "/v1"
MAX_KEY = 1024
"""Longest key that is looked at, in characters."""
SESSION_COOKIE = "homeward_session"
"""The cookie of a signed-in browser; over TLS with ``__Host-`` before it."""
EVENT_STREAM = "text/event-stream"


def _of_api(path: str) -> bool:
    return path == API_PREFIX or path.startswith(f"{API_PREFIX}/")


class RequestContext:
    """Request id, counters, one log line, and the last resort."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else str(uuid7())
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        answered = False
        started = time.perf_counter()

        def record() -> None:
            nonlocal answered
            if not answered:
                answered = True
                self.metrics.in_flight.dec()
                self._record(scope, status, time.perf_counter() - started)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if headers.get("content-type", "").startswith(EVENT_STREAM):
                    # Answered as it begins: how long it stays open is the listener's affair.
                    headers["cache-control"] = SECURITY_HEADERS["cache-control"]
                    record()
            await send(message)

        self.metrics.in_flight.inc()
        channel: Channel = "api" if _of_api(scope["path"]) else "web"
        try:
            with begin(Acting(channel, "nobody", "nobody", request_id=request_id)):
                await self.app(scope, receive, send_with_headers)
        except Exception as error:
            if status:
                raise
            answer = unexpected(scope, error)
            await answer(scope, receive, send_with_headers)
        finally:
            record()

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = str(getattr(scope.get("route"), "path", "other"))
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.seconds.labels(method, route).observe(seconds)
        access_log.info(
            "%s %s %s %.1f ms request_id=%s",
            method,
            route,
            status,
            seconds * 1000,
            scope["state"]["request_id"],
        )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

Authenticate = Callable[[str], Awaitable[Principal | None]]


class Gate:
    """Key and rate are checked before one byte of the body is read.

    Only paths under ``/v1`` pass this gate with a bearer key; the pages keep their own session.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticate: Authenticate,
        limiter: RateLimiter,
        addresses: AddressLimits,
    ) -> None:
        self.app = app
        self.authenticate = authenticate
        self.limiter = limiter
        self.addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            if not _of_api(path):
                address = client_of(scope)
                known = self.addresses.was_right(address, _session_shown(scope))
                if path not in PROBES and not known:
                    self.addresses.anonymous(address)
                await self.app(scope, receive, send)
                return
            principal = await self._principal(scope)
            self.limiter.check(principal.actor_id)
        except HomewardError as error:
            await problem_for(scope, error)(scope, receive, send)
            return
        scope["state"]["principal"] = principal
        principal.acts()
        await self.app(scope, receive, send)

    async def _principal(self, scope: Scope) -> Principal:
        address = client_of(scope)
        headers = Headers(scope=scope).getlist("authorization")
        scheme, _, presented = (headers[0] if len(headers) == 1 else "").partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            self.addresses.anonymous(address)
            raise Unauthenticated
        self.addresses.before_key(address, presented)
        principal = await self.authenticate(presented) if len(presented) <= MAX_KEY else None
        self.addresses.after_key(address, presented, principal is not None)
        if principal is None:
            raise Unauthenticated
        return principal


def _session_shown(scope: Scope) -> str:
    """The session that the browser shows, which anybody can make up; empty where it shows none."""
    name = f"__Host-{SESSION_COOKIE}" if scope.get("scheme") == "https" else SESSION_COOKIE
    return HTTPConnection(scope).cookies.get(name, "")[:MAX_KEY]


class BodyLimit:
    """Counts the body while it streams in, and gives it a deadline."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self.max_bytes:
            await problem_for(scope, self._too_large())(scope, receive, send)
            return
        total = 0
        ended = False
        deadline: float | None = None

        async def limited_receive() -> Message:
            nonlocal total, ended, deadline
            if ended:
                return await receive()
            loop = asyncio.get_running_loop()
            if deadline is None:
                deadline = loop.time() + self.timeout_seconds
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise ProblemHTTPException(
                    BadRequestBody(
                        f"The body did not arrive within {self.timeout_seconds:g} seconds.",
                        remedy="Send less in one request or use a faster connection.",
                        code="upload_timeout",
                    )
                ) from None
            if message["type"] == "http.request":
                total += len(message.get("body", b""))
                ended = not message.get("more_body", False)
                if total > self.max_bytes:
                    raise ProblemHTTPException(self._too_large())
            return message

        await self.app(scope, limited_receive, send)

    def _too_large(self) -> BadRequestBody:
        return BadRequestBody(
            f"The body is larger than {self.max_bytes} bytes.",
            remedy="Send fewer or smaller files in one request.",
            code="body_too_large",
        )
