"""The OpenAPI document: what the routes declare, plus the shapes that only the document knows."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.common import DESCRIBED, LINES
from service.api.schemas.common import Problem

DESCRIPTION = """\
Homeward compares photos of missing people with pictures in advertisements and returns
**candidates for review**. It never says that two faces are the same person.

Errors are problem documents (RFC 9457) with a stable `code`. Lists answer `{items, next_cursor}`.
Times are RFC 3339 in UTC. Boxes are in pixels of the upright image.
"""


def install(app: FastAPI) -> None:
    """Serve the completed document at ``/openapi.json``."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    description=DESCRIPTION,
                    routes=app.routes,
                )
            )
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    models: list[type[BaseModel]] = sorted(
        {*DESCRIBED, *LINES, Problem}, key=lambda model: model.__name__
    )
    _, extra = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    for name, schema in extra["$defs"].items():
        schemas.setdefault(name, schema)
    for model in DESCRIBED:
        for name, field in schemas[model.__name__]["properties"].items():
            schemas[model.__name__]["properties"][name] = _without_null(field)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in document["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict):
                for answer in operation.get("responses", {}).values():
                    headers = answer.setdefault("headers", {})
                    headers["X-Request-Id"] = {
                        "description": "Names this request in logs and problem documents",
                        "schema": {"type": "string"},
                    }
    return document


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """A part of a form is there or not; it is never null."""
    kinds = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return field
    rest = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
    return {**kinds[0], **rest}
