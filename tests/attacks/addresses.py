"""Every address that the service answers at, found in the application itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

UNKNOWN_ID: Final = "01900000-0000-7000-8000-000000000000"
UNKNOWN_SHA: Final = "0" * 64
STREAMS: Final = frozenset({"/v1/alerts/events"})
"""They answer for ever; who may not listen is refused at once."""


@dataclass(frozen=True, slots=True)
class Address:
    """One route with one method; ``path`` as it was declared."""

    method: str
    path: str

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(re.findall(r"\{(\w+)(?::\w+)?\}", self.path))

    @property
    def of_api(self) -> bool:
        return self.path.startswith("/v1/")

    def with_values(self, **values: str) -> str:
        """The path with ids that lead to nothing, unless ``values`` name others."""

        def value(found: re.Match[str]) -> str:
            name = found.group(1)
            return values.get(name, UNKNOWN_SHA if name == "sha256" else UNKNOWN_ID)

        return re.sub(r"\{(\w+)(?::\w+)?\}", value, self.path)


def addresses(app: FastAPI) -> list[Address]:
    """All of them, each method of a route by itself."""
    found = set()
    for route in _routes(app.routes):
        for method in route.methods or ():
            if method != "HEAD":
                found.add(Address(method, route.path))
    assert len(found) > 60
    return sorted(found, key=lambda one: (one.path, one.method))


def _routes(routes: Any) -> list[Any]:
    """Routes that are included are wrapped; what they come to is in their contexts."""
    found = []
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            found += list(route.effective_route_contexts())
        elif isinstance(route, APIRoute) or hasattr(route, "methods"):
            found.append(route)
    return found
