"""Forms come from pages of this site: besides the token in them, the browser says so itself."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import HomewardError
from service.errors import problem_for

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class CrossOrigin(HomewardError):
    """A form was sent by a page of another site."""

    code = "cross_origin"

    def __init__(self) -> None:
        super().__init__(
            "The form was sent from a page of another site; nothing was changed.",
            remedy="Open the page here and send the form from there.",
        )


class OwnForms:
    """Lets requests to pages change something only where they come from a page of this site.

    Browsers state where a request comes from in ``Sec-Fetch-Site`` (Fetch Metadata), which no page
    can forge; those that do not, in ``Origin`` or ``Referer``. Clients that are no browsers state
    nothing, and are held to the token alone. ``public_url``: where people reach the pages; without
    it, that is whatever name the request is for.
    """

    def __init__(self, app: ASGIApp, public_url: str | None = None) -> None:
        self.app = app
        self.public = _place(public_url) if public_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and scope["method"] not in _SAFE
        path = scope.get("path", "")
        if guarded and path != "/v1" and not path.startswith("/v1/") and not self._own(scope):
            await problem_for(scope, CrossOrigin())(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _own(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        if (site := headers.get("sec-fetch-site")) is not None:
            return site in ("same-origin", "none")
        origins = headers.getlist("origin") or headers.getlist("referer")
        if not origins:
            return True
        found = _place(origins[0]) if len(origins) == 1 else None
        if found is None:
            return False
        here = _place(f"{scope.get('scheme', 'http')}://{headers.get('host', '')}")
        if self.public is not None:
            return found in (self.public, here)
        # A proxy that is not trusted may have taken TLS off: the scheme is not compared then.
        return here is not None and found[1:] == here[1:]


def _place(text: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port of an address, the port only where it is not a usual one; None where
    it is no such address."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.scheme not in ("http", "https"):
        return None
    return parts.scheme, host, None if port in (80, 443) else port
