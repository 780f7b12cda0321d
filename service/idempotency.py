"""Idempotency-Key on POST: the same request twice does its work once.

The first answer (success only) is kept and replayed. A request that failed may be sent again
under its key, corrected or not. Where the content of the key differs from the first time the
request is refused.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from indexer import idempotency
from indexer.acting import acting
from indexer.errors import IdempotencyConflict
from indexer.workspace import Workspace
from models.errors import HomewardError
from service.errors import InvalidFields

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class IdempotencyKeyReused(HomewardError):
    """The key was used for another request."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for a request with another content.",
            remedy="Use a fresh key for each new request, and the same only to repeat one.",
        )


class IdempotencyInProgress(HomewardError):
    """The first request with this key is still being worked on."""

    code = "idempotency_in_progress"

    def __init__(self) -> None:
        super().__init__(
            "The first request with this Idempotency-Key is still being worked on.",
            remedy="Wait a few seconds and repeat it.",
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer; ``subject_id`` names the record whose deletion removes the stored copy.

    ``kept`` is stored and repeated in place of a ``body`` that holds a secret.
    """

    status: int
    body: bytes
    subject_id: str | None
    kept: bytes | None = None


class IdempotencyGuard:
    """Keeps two requests with one key from working at the same time in this process."""

    def __init__(self) -> None:
        self._running: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def alone(self, owner: str, key: str) -> Iterator[None]:
        """Raises :class:`IdempotencyInProgress` where the key is being worked on."""
        entry = (owner, key)
        with self._lock:
            if entry in self._running:
                raise IdempotencyInProgress
            self._running.add(entry)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(entry)


async def once(
    workspace: Workspace,
    guard: IdempotencyGuard,
    request: Request,
    owner: str,
    content: str,
    work: Callable[[], Awaitable[Answer]],
    *,
    replay: bool = True,
) -> Response:
    """Answer with ``work``, or with the stored answer where it was done before.

    Without ``replay`` the key only guards against another content: the work is done anew and its
    answer is not kept.
    ``content`` is a digest of what the request holds; method and path are added here.
    """
    key = _key(request)
    if key is None:
        return _response(await work())
    # An answer may speak of a case: who has moved to another agency since does not get it again.
    agency = "" if acting().agency is None else f"{acting().agency}\n"
    digest = hashlib.sha256(
        f"{agency}{request.method}\n{request.url.path}\n{content}".encode("utf-8", "replace")
    ).hexdigest()
    with guard.alone(owner, key):
        try:
            stored = await run_in_threadpool(idempotency.recall, workspace, owner, key, digest)
        except IdempotencyConflict as error:
            raise IdempotencyKeyReused from error
        if stored is not None and replay:
            response = Response(stored.body, stored.status, media_type=stored.media_type)
            response.headers["idempotency-replayed"] = "true"
            return response
        answer = await work()
        if stored is not None:
            return _response(answer)
        kept = answer.body if answer.kept is None else answer.kept
        await run_in_threadpool(
            idempotency.remember,
            workspace,
            owner,
            key,
            digest,
            answer.status,
            kept if replay else b"",
            subject_id=answer.subject_id,
        )
        return _response(answer)


def _key(request: Request) -> str | None:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not IDEMPOTENCY_KEY.fullmatch(given[0]):
        raise InvalidFields(
            [
                {
                    "field": "Idempotency-Key",
                    "message": "Give one key of 1 to 255 visible ASCII characters.",
                }
            ]
        )
    return given[0]


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, media_type="application/json")
