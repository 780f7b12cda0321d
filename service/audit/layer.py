"""The layer that records what was asked before the answer leaves.

It stands between the request's context and the gate that checks keys, so that refusals pass it
too. What an act recorded in its own transaction is not recorded again. Where a record cannot be
written the answer is withheld: 503 ``audit_unavailable``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexer.acting import Acting, acting
from indexer.audit import Entry, entry_of
from indexer.errors import AuditUnavailable
from service.audit.recorder import Recorder
from service.audit.routes import ACTIONS, SUBJECTS, line_of
from service.deps import canonical_id
from service.errors import problem_for
from service.networks import client_of

REFUSED: Final = "access.refuse"
"""A request with no valid key, for an address that is none."""
_COLUMNS: Final = frozenset({"case_id", "purpose", "outcome"})
_CODES: Final = {401: "unauthenticated", 403: "forbidden", 404: "not_found"}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_CONTRACT: Final = re.compile(r"[a-z0-9_.]{1,40}-[0-9a-f]{12}")
_STREAM: Final = b"text/event-stream"

Found = tuple[str, dict[str, str]]
"""A line of the table of routes, and the ids in the address."""


class Audited:
    """Records reads, refusals, and acts that did not record themselves."""

    def __init__(self, app: ASGIApp, recorder: Callable[[], Recorder | None]) -> None:
        self.app = app
        self.recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = line_of(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if scope["type"] != "http" or (found is not None and found[0] not in ACTIONS):
            await self.app(scope, receive, send)
            return
        withheld = False
        stream = False

        async def record_first(message: Message) -> None:
            nonlocal withheld, stream
            if withheld:
                return
            if message["type"] == "http.response.start":
                stream = (b"content-type", _STREAM) in {
                    (name, value.partition(b";")[0]) for name, value in message["headers"]
                }
                outcome = "opened" if stream else ""
                try:
                    await self._record(scope, found, message["status"], outcome)
                except AuditUnavailable as error:
                    withheld = True
                    await problem_for(scope, error)(scope, receive, send)
                    return
            await send(message)

        try:
            await self.app(scope, receive, record_first)
        finally:
            if stream and not withheld:
                # Whoever listened may be gone, and this task with them: nobody waits for it.
                self._close(found)

    async def _record(self, scope: Scope, found: Found | None, status: int, outcome: str) -> None:
        recorder = self.recorder()
        who = acting()
        if recorder is None or status >= 500 or _recorded_itself(scope, who, status):
            return
        if found is not None:
            entry = _entry(found, who, status, outcome)
        elif status == 401 or who.refused == "unauthenticated":
            entry = entry_of(who, REFUSED, outcome="unauthenticated")
        else:
            return
        if status in (401, 429) or who.refused == "unauthenticated":
            written = recorder.refused(entry, client_of(scope)[:64])
        else:
            written = recorder.submit(entry)
        if written is not None:
            await asyncio.wrap_future(written)

    def _close(self, found: Found | None) -> None:
        recorder = self.recorder()
        if recorder is not None and found is not None:
            recorder.submit(_entry(found, acting(), 200, "closed"))


def _recorded_itself(scope: Scope, who: Acting, status: int) -> bool:
    """An act that was done, or a refusal that was recorded as one. Reads are always recorded."""
    if not who.recorded or scope["method"] in ("GET", "HEAD"):
        return False
    return _granted(who, status) or who.recorded not in ("done", "begun")


def _entry(found: Found, who: Acting, status: int, outcome: str) -> Entry:
    line, given = found
    ids = {name: text for name, value in given.items() if (text := _id(name, value)) is not None}
    subject = None
    for name, value in ids.items():
        subject = (SUBJECTS[name], value)
    noted = {name: value for name, value in who.noted.items() if name not in _COLUMNS}
    case_id = who.noted.get("case_id") or ids.get("case_id")
    if not outcome:
        outcome = str(who.noted.get("outcome") or "done")
        if not _granted(who, status):
            outcome = _refusal(who, status)
    return entry_of(
        who,
        ACTIONS[line],
        subject=subject,
        case_id=case_id,
        outcome=outcome[:60],
        details={"status": status, **noted},
        purpose=who.noted.get("purpose"),
    )


def _granted(who: Acting, status: int) -> bool:
    """A page answers a refusal with the way to sign in, so the status alone does not tell."""
    return status < 400 and not who.refused


def _refusal(who: Acting, status: int) -> str:
    return who.refused or _CODES.get(status, f"status_{status}")


def _id(name: str, value: str) -> str | None:
    """The id in its one form; ``None`` for what is none: it may be anything that was typed."""
    if name not in SUBJECTS:
        return None
    form = {"sha256": _SHA256, "contract_id": _CONTRACT}.get(name)
    if form is None:
        return canonical_id(value)
    return value.lower() if form.fullmatch(value.lower()) else None
