"""Every route x every role x own and other agency: what the table says is what happens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from indexer.ids import new_id
from models.pipeline import Analyser
from service.accounts.access import FREE, OWNED
from service.accounts.roles import PERMISSIONS
from service.app import create_app
from service.deps import REQUIRED
from tests.service.access_seed import (
    CALLERS,
    FULL,
    NAME,
    NOBODY,
    NOTES,
    NUMBER,
    OTHER,
    Caller,
    Seed,
)
from tests.service.access_table import TABLE, Line
from tests.service.conftest import make_settings, open_with

ORDER = sorted(TABLE, key=lambda route: (not route.startswith("GET"), route))
_PARAMETER = re.compile(r"{(\w+)")
OF_NO_CASE = {
    "PUT /v1/images/{sha256}": "takes in pictures of ads; photos of cases are never spoken of",
    "POST /v1/withheld/{sha256}/settle": "the list of withheld pictures is the installation's",
    "POST /withheld/{sha256}/settle": "the same",
}
"""Routes whose address names a picture without reaching a case by it, and why."""
WHERE_TO_ADD = "add a line for it to TABLE in tests/service/access_table.py"


def all_routes(app: FastAPI) -> Iterator[Any]:
    """Every route of the interface and of the pages."""

    def walk(routes: list[Any]) -> Iterator[Any]:
        for route in routes:
            inner = getattr(route, "original_router", None)
            if inner is None:
                yield route
            else:
                yield from walk(inner.routes)

    return walk(app.routes)


def names_of(app: FastAPI) -> dict[str, Any]:
    """The routes by method and path, as the table names them."""
    return {
        f"{method} {route.path}": route
        for route in all_routes(app)
        for method in route.methods - {"HEAD"}
    }


@pytest.fixture(scope="module")
def seed(
    tmp_path_factory: pytest.TempPathFactory,
    analyser: Analyser,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
    other_bytes: bytes,
    nobody_bytes: bytes,
) -> Iterator[Seed]:
    # Jobs are done by the seed alone: nothing is delivered to the webhooks that the table sets.
    settings = make_settings(tmp_path_factory.mktemp("matrix") / "data", jobs_in_server=False)
    pictures = {
        "portrait": portrait_bytes,
        "mirrored": mirrored_bytes,
        "other": other_bytes,
        "nobody": nobody_bytes,
    }
    with open_with(settings, analyser) as ws:
        app = create_app(settings, ws)
        with TestClient(app) as client:
            made = Seed(app, client, ws, pictures)
            made.sow()
            yield made


# --- the table and the routes ----------------------------------------------------------------


def test_every_route_has_a_line_and_every_line_a_route(seed: Seed) -> None:
    routes = names_of(seed.app)
    missing = sorted(set(routes) - set(TABLE))
    assert not missing, f"{missing}: {WHERE_TO_ADD}"
    assert not set(TABLE) - set(routes), "lines without a route; take them out of TABLE"
    documented = {
        f"{method.upper()} {path}"
        for path, item in seed.app.openapi()["paths"].items()
        for method in item
    }
    assert documented <= set(routes)


def test_every_id_in_an_address_is_looked_at_where_the_permission_is(seed: Seed) -> None:
    """A route that names a record of an agency requires a permission that reaches cases, and so
    passes through ``require_records``."""

    def permissions(dependant: Any) -> Iterator[str]:
        for inner in dependant.dependencies:
            if inner.call in REQUIRED:
                yield REQUIRED[inner.call]
            yield from permissions(inner)

    for name, route in names_of(seed.app).items():
        parts = set(_PARAMETER.findall(route.path))
        unknown = parts - set(OWNED) - set(FREE)
        assert not unknown, (
            f"{name}: say in OWNED or FREE of service/accounts/access.py whose {unknown} are"
        )
        if name in OF_NO_CASE:
            continue
        if parts & set(OWNED):
            reaches = {PERMISSIONS[one].reach for one in permissions(route.dependant)}
            assert "own_agency" in reaches, f"{name}: requires no permission that reaches cases"


# --- the cells -------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ORDER)
def test_cell(seed: Seed, route: str) -> None:
    line = TABLE[route]
    for caller in CALLERS:
        _check(seed, route, line, caller)


def _check(seed: Seed, route: str, line: Line, caller: Caller) -> None:
    where = f"{route} by {caller}"
    page = not route.partition(" ")[2].startswith("/v1")
    owned = set(_PARAMETER.findall(route)) & set(OWNED)
    if route in OF_NO_CASE:
        owned = set()
    if line.open_to_all:
        answer = _ask(seed, route, line, caller, seed.ids)
        assert answer.status_code in line.ok, (where, answer.text)
    elif caller.role == NOBODY:
        answer = _ask(seed, route, line, caller, seed.ids)
        if page and route.startswith("GET"):
            assert answer.status_code == 303, where
            assert answer.headers["location"].startswith("/sign-in?next="), where
        else:
            assert answer.status_code == 401, (where, answer.text)
    elif caller.role != FULL and (caller.role not in line.who or line.everywhere):
        answer = _ask(seed, route, line, caller, seed.ids)
        assert answer.status_code == 403, (where, answer.status_code, answer.text)
        _silent(seed, route, answer, where)
    elif owned and (caller.agency == OTHER or caller.role in line.blind):
        answer = _ask(seed, route, line, caller, seed.ids)
        assert answer.status_code == 404, (where, answer.status_code, answer.text)
        _silent(seed, route, answer, where)
        _as_if_it_were_not_there(seed, route, line, caller, answer, where)
    else:
        ids = {**seed.ids, **(line.fresh(seed, caller) if line.fresh else {})}
        if line.stream:
            assert seed.listen(caller, route.partition(" ")[2]) in line.ok, where
            return
        answer = _ask(seed, route, line, caller, ids)
        assert answer.status_code in line.ok, (where, answer.status_code, answer.text)
        if caller.agency == OTHER and line.installation:
            assert not [one for one in (NUMBER, NAME, NOTES) if one in answer.text], where
        elif caller.agency == OTHER:
            _silent(seed, route, answer, where)


def _ask(seed: Seed, route: str, line: Line, caller: Caller, ids: dict[str, str]) -> Any:
    body = dict(line.send(seed, caller))
    if line.own_session and caller.role != NOBODY:
        body["session"] = seed.sign_in(caller)
    return seed.ask(caller, route, ids, body)


def _silent(seed: Seed, route: str, answer: Any, where: str) -> None:
    """Nothing of the case is told, beyond the ids that were asked with."""
    asked = {seed.ids[name] for name in _PARAMETER.findall(route) if name in seed.ids}
    told = [one for one in seed.secrets - asked if one in answer.text]
    told += [one for one in seed.secrets if one in str(dict(answer.headers)) and one not in asked]
    assert not told, (where, told)


def _as_if_it_were_not_there(
    seed: Seed, route: str, line: Line, caller: Caller, answer: Any, where: str
) -> None:
    """The same status, code and words as for an id that nobody ever had."""
    nowhere = dict(seed.ids)
    for name in set(_PARAMETER.findall(route)) & set(OWNED):
        nowhere[name] = "0" * 64 if name == "sha256" else new_id()
    missing = _ask(seed, route, line, caller, nowhere)
    assert missing.status_code == answer.status_code, where
    assert _plain(missing, nowhere) == _plain(answer, seed.ids), where


def _plain(answer: Any, ids: dict[str, str]) -> str:
    text = str(answer.text).replace(answer.headers["x-request-id"], "REQUEST")
    for name in sorted(ids):
        text = text.replace(ids[name], name) if len(ids[name]) > 30 else text
    return text


@pytest.mark.practice(10)
def test_what_was_refused_changed_nothing(seed: Seed) -> None:
    """After every cell the seeded records are all there still."""
    full = Caller(FULL)
    for route in ("GET /v1/cases/{case_id}", "GET /v1/alerts/{alert_id}", "GET /v1/jobs/{job_id}"):
        assert seed.ask(full, route, seed.ids, {}).status_code == 200, route
    case = seed.ask(full, "GET /v1/cases/{case_id}", seed.ids, {}).json()
    assert case["status"] == "open" and case["agency"] == "north"
    assert [photo["photo_id"] for photo in case["photos"]] == [seed.ids["photo_id"]]
    listed = seed.ask(full, "GET /v1/webhooks", {}, {}).json()["items"]
    assert seed.ids["webhook_id"] in [one["webhook_id"] for one in listed]


@pytest.mark.practice(10)
def test_every_cell_is_covered() -> None:
    assert {caller.role for caller in CALLERS} >= {"scraper", "auditor", FULL, NOBODY}
    assert set(ORDER) == set(TABLE) and len(CALLERS) == 12
    assert {caller.agency for caller in CALLERS} == {"north", OTHER, None}
