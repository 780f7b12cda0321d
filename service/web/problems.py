"""Problems as pages: whoever asks with a browser gets the same words in the look of the pages.

The problem document that ``service.errors`` made stays the one source; only its dress changes.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.web.render import Pages

_PROBLEM = "application/problem+json"
_KEPT = ("retry-after", "x-request-id", "allow")


class ProblemPages:
    """Outermost of the page middleware: turns problem documents into pages for browsers."""

    def __init__(self, app: ASGIApp, pages: Pages) -> None:
        self.app = app
        self.pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _wants_page(scope):
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def hold(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                if Headers(raw=message["headers"]).get("content-type") != _PROBLEM:
                    await send(message)
                    return
                start = message
                return
            if start is None or message["type"] != "http.response.body":
                await send(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                answer = self._answer(scope, start, json.loads(bytes(body)))
                await answer(scope, receive, send)

        await self.app(scope, receive, hold)

    def _answer(self, scope: Scope, start: Message, problem: dict[str, Any]) -> Response:
        if problem["code"] == "unauthenticated" and scope["method"] in ("GET", "HEAD"):
            query = scope.get("query_string", b"").decode("latin-1")
            there = scope["path"] + (f"?{query}" if query else "")
            answer: Response = RedirectResponse(
                f"/sign-in?next={quote(there, safe='')}", status_code=303
            )
        elif problem["code"] == "set_up_unfinished" and scope["method"] in ("GET", "HEAD"):
            answer = RedirectResponse("/account/set-up", status_code=303)
        else:
            answer = self.pages.problem(scope, problem)
        old = Headers(raw=start["headers"])
        for name in _KEPT:
            if name in old:
                answer.headers[name] = old[name]
        return answer


def _wants_page(scope: Scope) -> bool:
    path = scope["path"]
    if path == "/v1" or path.startswith("/v1/"):
        return False
    return "text/html" in Headers(scope=scope).get("accept", "")
