"""JSON from outside: what cannot be stored is refused with the place it stands at."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.errors import BadRequestBody, InvalidFields
from service.jsonbody import MAX_VALUES, parse_json


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


@pytest.mark.parametrize(
    "value",
    [
        {str(n): 0 for n in range(MAX_VALUES + 1)},
        {"a": [0] * MAX_VALUES},
        [{"a": 0}] * (MAX_VALUES // 2 + 1),
    ],
)
def test_more_values_than_anyone_means_get_one_message(value: Any) -> None:
    with pytest.raises(InvalidFields) as caught:
        parse_json(json.dumps(value).encode())
    assert [error["field"] for error in caught.value.errors] == ["body"]


def test_as_many_values_as_allowed_pass() -> None:
    value = {"a": [0] * (MAX_VALUES - 1)}
    assert parse_json(json.dumps(value).encode()) == value


def test_a_long_name_is_cut_where_it_is_reported() -> None:
    data = json.dumps({"k" * 100_000: ["\0"] * 3}).encode()
    with pytest.raises(InvalidFields) as caught:
        parse_json(data)
    assert [len(error["field"]) for error in caught.value.errors] == [200] * 3
