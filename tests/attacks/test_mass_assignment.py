"""Mass assignment: fields that nobody offered change nothing, in whatever body they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select

from indexer.catalog.tables import Case
from indexer.workspace import Workspace
from tests.attacks.addresses import UNKNOWN_ID, UNKNOWN_SHA
from tests.service.conftest import post_ad, post_case

FIELDS: dict[str, Any] = {
    "role": "administrator",
    "roles": ["administrator"],
    "scopes": ["administrator"],
    "agency": "another agency",
    "legal_hold": True,
    "suspended": False,
    "status": "found",
    "actor": UNKNOWN_ID,
    "actor_id": UNKNOWN_ID,
    "user_id": UNKNOWN_ID,
    "created_by": UNKNOWN_ID,
    "requested_by": UNKNOWN_ID,
    "decided_by": UNKNOWN_ID,
    "decided_at": "2020-01-01T00:00:00Z",
    "created_at": "2020-01-01T00:00:00Z",
    "approved": True,
    "withheld": False,
    "disabled_at": None,
    "password": "seven quiet lanterns",
    "totp_secret": "AAAA",
    "case_id": UNKNOWN_ID,
    "__proto__": {"admin": True},
    "__class__": "x",
    "$where": "1",
}


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Method, path, content type and schema of everything that takes a body of fields."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                if kind == "application/octet-stream":
                    continue
                schema = content["schema"]
                found = schema.get("x-line", schema)
                name = found["$ref"].rpartition("/")[2]
                yield method, path, kind, document["components"]["schemas"][name]


def test_mass_assignment(client: TestClient, workspace: Workspace) -> None:
    case_id = post_case(client, agency="")
    ad_id = post_ad(client, "1").json()["ad_id"]
    with workspace.catalog.read() as session:
        before = _columns(session.scalars(select(Case)).one())
    tried = 0
    for method, path, kind, schema in bodies(client.get("/openapi.json").json()):
        known = set(schema["properties"])
        for name, value in FIELDS.items():
            if name in known:
                continue
            address = _address(path, case_id, ad_id)
            answer = _sent(client, method, address, kind, name, value)
            assert answer.status_code in (404, 409, 422), (path, name, answer.text[:300])
            if answer.status_code == 422 and kind == "application/json":
                named = {error["field"] for error in answer.json().get("errors", [])}
                assert name in named, (path, name, answer.text[:300])
                tried += 1
    assert tried > 100
    with workspace.catalog.read() as session:
        assert _columns(session.scalars(select(Case)).one()) == before


def test_mass_assignment_beside_a_body_that_is_right(
    client: TestClient, workspace: Workspace
) -> None:
    case_id = post_case(client)
    with workspace.catalog.read() as session:
        before = _columns(session.scalars(select(Case)).one())
    for name, value in FIELDS.items():
        if name not in ("agency", "status"):
            answer = client.patch(f"/v1/cases/{case_id}", json={"notes": "changed", name: value})
            assert answer.status_code == 422, name
        for body in (
            {"case_number": f"N-{name}", "person": {name: value}},
            {"case_number": f"N-{name}", "person": {}, "last_seen": {name: value}},
        ):
            assert client.post("/v1/cases", json=body).status_code == 422, name
    with workspace.catalog.read() as session:
        assert _columns(session.scalars(select(Case)).one()) == before


def _columns(row: Any) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns}


def _address(path: str, case_id: str, ad_id: str) -> str:
    path = path.replace("{case_id}", case_id).replace("{ad_id}", ad_id)
    path = path.replace("{sha256}", UNKNOWN_SHA)
    while "{" in path:
        start, end = path.index("{"), path.index("}")
        path = path[:start] + UNKNOWN_ID + path[end + 1 :]
    return path


def _sent(client: TestClient, method: str, path: str, kind: str, name: str, value: Any) -> Any:
    if kind == "application/json":
        return client.request(method, path, json={name: value})
    if kind == "application/x-ndjson":
        line = json.dumps({"site": "a.example", "external_id": "9", name: value})
        answer = client.request(method, path, content=line.encode(), headers={"content-type": kind})
        # Lines are judged one by one, and this one is all there is.
        (item,) = answer.json()["items"]
        assert item["code"] == "validation_failed", answer.text
        answer.status_code = 422
        return answer
    return client.request(method, path, files={name: (None, json.dumps(value))})
