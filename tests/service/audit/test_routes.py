"""Every route has its line in the table that the audit goes by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.app import create_app
from service.audit.routes import ACTIONS, UNRECORDED, line_of
from service.config import load_settings


def routes(items: Any) -> Iterator[str]:
    """``METHOD /path`` of every route, however deep it is included."""
    for route in items:
        if hasattr(route, "effective_candidates"):
            yield from routes(route.effective_candidates())
            continue
        path = getattr(route, "path", None)
        for method in sorted(set(getattr(route, "methods", None) or ()) - {"HEAD", "OPTIONS"}):
            yield f"{method} {path}"


def test_every_route_is_in_the_table(tmp_path: Path) -> None:
    there = set(routes(create_app(load_settings(data_dir=tmp_path)).routes))
    assert {"GET /v1/cases/{case_id}", "GET /cases", "GET /openapi.json"} <= there
    lacking = there - set(ACTIONS) - set(UNRECORDED)
    assert not lacking, (
        f"Add to ACTIONS in service/audit/routes.py the act that each of these is: {lacking}"
    )
    gone = (set(ACTIONS) | set(UNRECORDED)) - there
    assert not gone, f"These lines of service/audit/routes.py lead to no route any more: {gone}"
    assert not set(ACTIONS) & set(UNRECORDED)


def test_an_address_is_told_from_one_with_an_id() -> None:
    assert line_of("GET", "/cases/new") == ("GET /cases/new", {})
    assert line_of("GET", "/cases/1") == ("GET /cases/{case_id}", {"case_id": "1"})
    assert line_of("HEAD", "/v1/cases") == ("GET /v1/cases", {})
    assert line_of("GET", "/v1/alerts/events") == ("GET /v1/alerts/events", {})
    assert line_of("GET", "/v1/nothing") is None
