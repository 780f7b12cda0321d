"""JSON from outside: bounded in size and depth, and holding only what can be stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from service.errors import BadRequestBody, InvalidFields, ProblemHTTPException

_SHOWN = 200
MAX_VALUES = 10_000
"""Names in objects and items in lists, all together: each may cost a message of its own."""


def parse_json(data: bytes, field: str = "") -> Any:
    """The value in ``data``.

    The parser itself refuses text that is not UTF-8, lone surrogates, NaN and nesting beyond 200
    levels. Raises :class:`BadRequestBody` for what is no JSON and :class:`InvalidFields` for
    values that no database holds (NUL characters, infinities, numbers beyond 64 bits) and for
    more than ``MAX_VALUES`` of them.
    """
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        where = f"The field {field!r}" if field else "The body"
        raise BadRequestBody(
            f"{where} is not valid JSON: {error}.", remedy="Send one JSON object in UTF-8."
        ) from None
    if _too_many(value):
        message = f"At most {MAX_VALUES} names and list items are taken in one body."
        raise InvalidFields([{"field": field or "body", "message": message}])
    problems: list[dict[str, str]] = []
    _check(value, field, problems)
    if problems:
        raise InvalidFields(problems)
    return value


def _too_many(value: Any) -> bool:
    count = 0
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, (dict, list)):
            count += len(inner)
            if count > MAX_VALUES:
                return True
            waiting.extend(inner.values() if isinstance(inner, dict) else inner)
    return False


def _check(value: Any, path: str, problems: list[dict[str, str]]) -> None:
    message = None
    path = path[:_SHOWN]
    if isinstance(value, str):
        if "\0" in value:
            message = "A NUL character is not allowed."
    elif isinstance(value, dict):
        for key, inner in value.items():
            if "\0" in key:
                message = "A NUL character is not allowed in a name."
            _check(inner, f"{path}.{key[:_SHOWN]}" if path else key[:_SHOWN], problems)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            _check(inner, f"{path}.{place}" if path else str(place), problems)
    elif isinstance(value, float):
        if not math.isfinite(value):
            message = "The number is out of range."
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        message = "A whole number must fit in 64 bits."
    if message is not None:
        problems.append({"field": path.replace("\0", "") or "body", "message": message})


class _JsonRequest(Request):
    """Reads a JSON body under the limits above. Multipart routes stream and never come here."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            limit: int = self.app.state.settings.max_json_bytes
            chunks = []
            total = 0
            async for chunk in self.stream():
                total += len(chunk)
                if total > limit:
                    raise ProblemHTTPException(
                        BadRequestBody(
                            f"The JSON body is larger than {limit} bytes.",
                            remedy="Send less in one request.",
                            code="body_too_large",
                        )
                    )
                chunks.append(chunk)
            body = b"".join(chunks)
            kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
            if body and kind != "application/json":
                raise ProblemHTTPException(
                    BadRequestBody(
                        "The body must be JSON.",
                        remedy="Send it with the header 'Content-Type: application/json'.",
                        code="unsupported_media_type",
                    )
                )
            self._body = body
        return self._body

    async def json(self) -> Any:
        try:
            # Off the loop: a large body takes a while.
            return await run_in_threadpool(parse_json, await self.body())
        except (BadRequestBody, InvalidFields) as error:
            raise ProblemHTTPException(error) from None


class JsonRoute(APIRoute):
    """A route whose JSON body is read by :class:`_JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json
