"""The OpenAPI document is complete, and the service keeps to it under generated requests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import (
    CheckFunction,
    not_a_server_error,
)
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
    use_after_free,
)

from models.pipeline import Analyser
from service.app import create_app
from service.cli.serve import listen
from tests.service.conftest import AUTH, make_settings, open_with, post_ad, post_case

CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
    use_after_free,
]
ENDLESS = "/events$"
"""A stream has no end that a generated request could wait for."""
WITHOUT_INPUT = {"/healthz", "/readyz", "/metrics"}
KEY = {"Authorization": AUTH["authorization"]}
BOUNDED = settings(
    max_examples=10,
    stateful_step_count=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@schemathesis.serializer("application/x-ndjson")
def one_line(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """Whatever was generated, as the one line of a batch."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


CONTRACT = {
    "POST /v1/cases",
    "GET /v1/cases",
    "GET /v1/cases/{case_id}",
    "PATCH /v1/cases/{case_id}",
    "DELETE /v1/cases/{case_id}",
    "POST /v1/cases/{case_id}/photos",
    "DELETE /v1/cases/{case_id}/photos/{photo_id}",
    "GET /v1/cases/{case_id}/candidates",
    "POST /v1/candidates/{candidate_id}/judgements",
    "POST /v1/cases/{case_id}/search",
    "POST /v1/ads",
    "POST /v1/ads/batch",
    "PUT /v1/images/{sha256}",
    "GET /v1/ads",
    "GET /v1/ads/{ad_id}",
    "DELETE /v1/ads/{ad_id}",
    "GET /v1/jobs/{job_id}",
    "GET /v1/jobs/{job_id}/events",
    "GET /v1/alerts",
    "GET /v1/alerts/events",
    "GET /v1/alerts/{alert_id}",
    "POST /v1/webhooks",
    "GET /v1/webhooks",
    "DELETE /v1/webhooks/{webhook_id}",
    "GET /v1/generations",
    "GET /v1/generations/{contract_id}/comparison",
    "POST /v1/generations/{contract_id}/activate",
    "POST /v1/generations/rollback",
    "GET /v1/images/{sha256}",
    "GET /v1/faces/{face_id}/crop",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
}
"""Calls that programs of others rely on: none of them may go. Which calls there are at all is in
the table of the audit (``service/audit/routes.py``)."""


def test_every_call_documents_its_errors(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    calls = {
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    }
    assert calls >= CONTRACT
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            if not path.startswith("/v1"):
                continue
            assert operation["security"] == [{"key": []}]
            for status in ("401", "403", "422", "429", "500", "503"):
                content = operation["responses"][status]["content"]
                assert list(content) == ["application/problem+json"], (method, path, status)
    for name in _references(document):
        assert name in document["components"]["schemas"], name


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].removeprefix("#/components/schemas/")
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def test_no_page_loads_anything_from_elsewhere(client: TestClient) -> None:
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404


@pytest.fixture(scope="module")
def api_schema(
    tmp_path_factory: pytest.TempPathFactory, analyser: Analyser
) -> Iterator[schemathesis.BaseSchema]:
    """The document of a live server on loopback that holds a case and an ad."""
    made = make_settings(tmp_path_factory.mktemp("generated"))
    listener = listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with open_with(made, analyser) as workspace, listener:
        server = uvicorn.Server(
            uvicorn.Config(create_app(made, workspace), log_config=None, access_log=False)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.02)
            with httpx2.Client(base_url=address, headers=AUTH) as client:
                post_case(client)
                post_ad(client, "1")
            document = schemathesis.openapi.from_url(f"{address}/openapi.json")
            # A text beyond every bound is refused for its size, before anybody looks at what it is.
            rejection = document.config.checks.negative_data_rejection
            rejection.expected_statuses = [*rejection.expected_statuses, "413", "414"]
            yield document.exclude(path_regex=ENDLESS)
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_generated_requests_are_answered_as_documented(
    api_schema: schemathesis.BaseSchema, mode: schemathesis.GenerationMode
) -> None:
    tried = 0
    for found in api_schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if mode.is_negative and operation.path in WITHOUT_INPUT:
            continue

        @BOUNDED
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case[Any]) -> None:
            # A request that was made to lack its key is not given one.
            lacks = mode.is_negative and "Authorization" not in (case.headers or {})
            case.call_and_validate(headers={} if lacks else KEY, checks=CHECKS)

        check()
        tried += 1
    assert tried >= 18


def test_generated_sequences_are_answered_as_documented(
    api_schema: schemathesis.BaseSchema,
) -> None:
    machine = api_schema.as_state_machine()

    class Sequences(machine):  # type: ignore[misc,valid-type]
        def get_call_kwargs(self, case: schemathesis.Case[Any]) -> dict[str, Any]:
            return {"headers": self._key(case)}

        @staticmethod
        def _key(case: schemathesis.Case[Any]) -> dict[str, str]:
            """None for a request that was made to lack it."""
            made = case.meta.generation.mode if case.meta is not None else None
            negative = made is not None and made.is_negative
            return {} if negative and "Authorization" not in (case.headers or {}) else KEY

        def validate_response(
            self, response: schemathesis.Response, case: schemathesis.Case[Any], **kwargs: Any
        ) -> None:
            case.validate_response(response, checks=CHECKS, headers=self._key(case))

    Sequences.run(settings=BOUNDED)
