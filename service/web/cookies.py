"""Cookies of the pages: for this host and this site only, out of reach of scripts.

Over TLS their names begin with ``__Host-``: a browser then takes them only from this very host
over TLS and for all paths (RFC 6265bis), so that no neighbouring name can plant one.
"""

from __future__ import annotations

from typing import Final, Literal

from fastapi import Request
from starlette.responses import Response

SESSION_COOKIE: Final = "homeward_session"
FORM_COOKIE: Final = "homeward_form"
PROVIDER_COOKIE: Final = "homeward_provider"
"""Remembers, in the browser that began it, a sign-in that goes on at the provider."""
CODE_COOKIE: Final = "homeward_code"
"""Stands for a person who came back from there and still has to give a code."""
HOST_PREFIX: Final = "__Host-"


def is_secure(request: Request) -> bool:
    """Whether the browser speaks TLS, here or to a proxy that is trusted."""
    return request.url.scheme == "https"


def name_for(request: Request, name: str) -> str:
    """The name that the cookie goes by on this connection."""
    return f"{HOST_PREFIX}{name}" if is_secure(request) else name


def read(request: Request, name: str) -> str:
    """What the browser holds; empty where it holds nothing. Over TLS only what was set over TLS
    counts."""
    return request.cookies.get(name_for(request, name), "")


def put(
    request: Request,
    answer: Response,
    name: str,
    value: str,
    *,
    samesite: Literal["strict", "lax"] = "strict",
    max_age: int | None = None,
) -> None:
    """Have the browser hold it, until it is closed where no ``max_age`` in seconds is given."""
    answer.set_cookie(
        name_for(request, name),
        value,
        path="/",
        httponly=True,
        samesite=samesite,
        secure=is_secure(request),
        max_age=max_age,
    )


def drop(request: Request, answer: Response, name: str) -> None:
    """Have the browser forget it."""
    answer.delete_cookie(
        name_for(request, name),
        path="/",
        httponly=True,
        samesite="strict",
        secure=is_secure(request),
    )
