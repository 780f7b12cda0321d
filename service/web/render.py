"""Templates to answers: one environment, escaping always on, one set of headers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from service.headers import SECURITY_HEADERS
from service.web import texts
from service.web.sessions import Session

_HERE: Final = Path(__file__).parent
STATIC: Final = _HERE / "static"

PAGE_HEADERS: Final[Mapping[str, str]] = {
    **SECURITY_HEADERS,
    "content-security-policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    # With no-referrer a browser also hides the origin of our own forms (Fetch standard, "append
    # a request Origin header"), which is what they are checked by.
    "referrer-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of our own that pages refer to; ``version`` changes with its content."""

    data: bytes
    media_type: str
    version: str


def load_assets(folder: Path = STATIC) -> dict[str, Asset]:
    """The stylesheet and the icon, read once."""
    kinds = {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in kinds:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()[:16]
            found[path.name] = Asset(data, kinds[path.suffix], digest)
    return found


class Pages:
    """Renders every page."""

    def __init__(
        self, warning: Callable[[], str | None] = lambda: None, *, provider_name: str = ""
    ) -> None:
        """``warning``: what every page has to say about the right to use the face pack;
        ``provider_name``: what people may sign in with besides, if anything."""
        self.assets = load_assets()
        self._environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(
            t=texts.text,
            tn=texts.counted,
            label=texts.label,
            asset=self._asset,
            pack_warning=warning,
            provider_name=lambda: provider_name,
        )
        self._environment.filters.update(day=day, moment=moment, bytes=size)

    def page(
        self,
        template: str,
        *,
        session: Session | None,
        status: int = 200,
        **context: Any,
    ) -> Response:
        """The page that ``template`` makes of ``context``."""
        source = self._environment.get_template(template)
        html = source.render(session=session, csrf=session.csrf if session else "", **context)
        return HTMLResponse(html, status_code=status, headers=PAGE_HEADERS)

    def problem(self, scope: Scope, problem: Mapping[str, Any]) -> Response:
        """The page of a problem document."""
        session = scope.get("state", {}).get("web_session")
        return self.page(
            "problem.html",
            session=session if isinstance(session, Session) else None,
            status=int(problem["status"]),
            problem=problem,
            words=texts.problem(problem["code"], problem["detail"], problem.get("remedy", "")),
        )

    def _asset(self, name: str) -> str:
        return f"/static/{name}?v={self.assets[name].version}"


def day(value: date | datetime | None) -> str:
    """A date as people write it without ambiguity; empty where it is unknown."""
    return f"{value.day} {texts.MONTHS[value.month - 1]} {value.year}" if value else ""


def moment(value: date | datetime | None) -> str:
    """A date, with the time in UTC where one was stated; empty where it is unknown."""
    if isinstance(value, datetime):
        return f"{day(value)}, {value:%H:%M} UTC"
    return day(value)


def size(value: int) -> str:
    """Bytes in megabytes."""
    return f"{value / 1_000_000:.0f} MB"
