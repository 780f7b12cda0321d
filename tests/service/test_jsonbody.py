"""JSON from outside: what cannot be stored is refused with the place it stands at."""

from __future__ import annotations

import pytest

from service.errors import BadRequestBody, InvalidFields
from service.jsonbody import parse_json


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequestBody) as caught:
        parse_json(data)
    assert caught.value.code == "malformed_body"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"a": {"b": ["\\u0000"]}}', "a.b.0"),
        (b'{"a": 1e999}', "a"),
        (b'{"a": 99999999999999999999}', "a"),
        (b'{"a\\u0000": 1}', "body"),
    ],
)
def test_what_no_database_holds_is_refused(data: bytes, field: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        parse_json(data)
    assert [error["field"] for error in caught.value.errors] == [field]


def test_ordinary_json_passes() -> None:
    assert parse_json('{"a": [1, 2.5, "ü\U0001f600", null, true]}'.encode()) == {
        "a": [1, 2.5, "ü\U0001f600", None, True]
    }
