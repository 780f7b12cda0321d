"""Columns whose values are sealed where the catalog has a keyring, and plain where it has none.

The keyring hangs on the dialect of the engine, so that one process may have several catalogs open.
What is authenticated with a value is its column and the primary key of its row: a value that was
moved to another column or another row does not open. A type knows its column, but neither on the
way in nor on the way out its row. So :func:`bind_rows` wraps what is written with the key of the
row that it goes into, and ``column_expression`` has each value come back behind the key of the row
that it came from.

Text is stored as ``hw1:`` and base64, JSON as a JSON string of that, bytes as they are.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from sqlalchemy import JSON, Column, Connection, Insert, LargeBinary, String, Table, Text, Update
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from indexer.errors import SealBroken, SealKeyMissing
from indexer.sealing.keyring import OVERHEAD, Keyring, key_id_of
from models.types import FloatArray

Wire = Literal["text", "json", "bytes"]

TEXT_MARK = "hw1:"
CONTACT_MARK = "hmac:"
_JSON_MARK = f'"{TEXT_MARK}'
_BETWEEN = "\x1f"
ROW_FUNCTION = "homeward_row"
"""SQLite's function that puts the key of a row before bytes; made for each connection."""


def keyring_of(dialect: Dialect) -> Keyring | None:
    """The keyring of the catalog that ``dialect`` belongs to."""
    found: Keyring | None = getattr(dialect, "homeward_keyring", None)
    return found


@dataclass(frozen=True, slots=True)
class InRow:
    """A value and the row it is written to."""

    row: str
    value: Any


# --- values ----------------------------------------------------------------------------------


def context_of(label: str, row: str) -> bytes:
    """What a value is bound to: ``table.column`` and the primary key of its row."""
    return f"{label}\0{row}".encode()


def seal_text(keyring: Keyring, label: str, row: str, plain: bytes) -> str:
    """Sealed text as it is stored."""
    return TEXT_MARK + b64encode(keyring.seal(context_of(label, row), plain)).decode("ascii")


def head_of(wire: Wire, stored: str | bytes | memoryview) -> str | None:
    """The id of the data key that a stored value was sealed with; ``None`` where it is plain."""
    if isinstance(stored, str):
        text = stored.removeprefix('"') if wire == "json" else stored
        if not text.startswith(TEXT_MARK):
            return None
        try:
            stored = b64decode(text[len(TEXT_MARK) : len(TEXT_MARK) + 16], validate=True)
        except NotBase64:
            return None
    return key_id_of(stored)


def sealed_by(keyring: Keyring, wire: Wire, stored: str | bytes | memoryview) -> str | None:
    """Like :func:`head_of`; while not everything is sealed, what only looks sealed is plain: it
    names a key that this catalog never had, or is too short. Whoever writes a text must not be
    able to keep it from being sealed."""
    key_id = head_of(wire, stored)
    if key_id is None or not keyring.accepts_plain:
        return key_id
    sealed = _sealed_bytes(wire, stored)
    whole = sealed is not None and len(sealed) >= OVERHEAD
    return key_id if whole and keyring.knows(key_id) else None


def _sealed_bytes(wire: Wire, stored: str | bytes | memoryview) -> bytes | memoryview | None:
    if not isinstance(stored, str):
        return stored
    text = stored.strip('"') if wire == "json" else stored
    try:
        return b64decode(text[len(TEXT_MARK) :], validate=True)
    except (NotBase64, ValueError):
        return None


def open_stored(
    keyring: Keyring, wire: Wire, label: str, row: str, stored: str | bytes | memoryview
) -> bytes:
    """The plain bytes of a stored value (UTF-8 of text and JSON).

    Raises :class:`SealBroken`, also for what is plain although all has to be sealed, and
    :class:`SealKeyMissing`.
    """
    if sealed_by(keyring, wire, stored) is None:
        if not keyring.accepts_plain:
            raise SealBroken(label)
        return stored.encode() if isinstance(stored, str) else bytes(stored)
    sealed = _sealed_bytes(wire, stored)
    if sealed is None:
        raise SealBroken(label)
    return keyring.open(context_of(label, row), sealed)


def stored_form(keyring: Keyring, wire: Wire, label: str, row: str, plain: bytes) -> str | bytes:
    """Plain bytes sealed, in the form in which their column takes them."""
    if wire == "bytes":
        return keyring.seal(context_of(label, row), plain)
    text = seal_text(keyring, label, row, plain)
    return f'"{text}"' if wire == "json" else text


def plain_length(stored: int, keyring: Keyring | None) -> int:
    """How long the value of a column of bytes is, from how long it is stored; while all is being
    sealed, of what is still plain, as much less as sealing adds."""
    return stored if keyring is None else max(0, stored - OVERHEAD)


def contact_form(keyring: Keyring | None, key: str) -> str:
    """How a contact is stored for being looked up: a keyed digest, or as it is without a keyring.

    The key of these digests is not the one that seals, and stays as it is when that is changed.
    """
    return key if keyring is None else CONTACT_MARK + keyring.contact_digest(key)


def contact_forms(keyring: Keyring | None, key: str) -> list[str]:
    """All forms in which a contact may be stored now."""
    forms = [contact_form(keyring, key)]
    return [*forms, key] if keyring is not None and keyring.accepts_plain else forms


# --- the row on the way out ------------------------------------------------------------------


class with_row(FunctionElement[Any]):  # noqa: N801 - a function of SQL
    """A sealed column behind the primary key of its row; the column alone without a keyring."""

    name = "with_row"
    inherit_cache = True


@compiles(with_row)
def _with_row(element: with_row, compiler: SQLCompiler, **kw: Any) -> str:
    kw.pop("add_to_result_map", None)
    column, *row = element.clauses
    value = compiler.process(column, **kw)
    if keyring_of(compiler.dialect) is None:
        return value
    keys = [compiler.process(one, **kw) for one in row]
    wire = element.type.wire if isinstance(element.type, _Sealed) else "bytes"
    if compiler.dialect.name == "sqlite":
        if wire == "bytes":
            return f"{ROW_FUNCTION}({', '.join([value, *keys])})"
        return f"({' || char(31) || '.join([*keys, value])})"
    joined = " || chr(31) || ".join(keys)
    if wire == "bytes":
        return f"(convert_to({joined}, 'UTF8') || decode('1f', 'hex') || {value})"
    return f"({joined} || chr(31) || CAST({value} AS TEXT))"


def row_before(value: bytes | None, *row: str) -> bytes | None:
    """:data:`ROW_FUNCTION`: the key of the row before the bytes."""
    return None if value is None else (_BETWEEN.join(row) + _BETWEEN).encode() + value


def _split(value: str | bytes, keys: int) -> tuple[str, str | bytes]:
    """The key of the row, which has ``keys`` columns, and what stands behind it."""
    if isinstance(value, str):
        *row, rest = value.split(_BETWEEN, keys)
        return _BETWEEN.join(row), rest
    *parts, tail = bytes(value).split(b"\x1f", keys)
    return _BETWEEN.join(part.decode() for part in parts), tail


# --- types -----------------------------------------------------------------------------------


class _Sealed(TypeDecorator[Any]):
    """``label``: ``table.column``; ``keys``: columns of the table's primary key."""

    impl: Any = Text
    cache_ok = True
    wire: Wire = "text"

    def __init__(self, label: str, keys: int = 1) -> None:
        super().__init__()
        self.label = label
        self.keys = keys

    def to_bytes(self, value: Any) -> bytes:
        raise NotImplementedError

    def from_bytes(self, plain: bytes) -> Any:
        raise NotImplementedError

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        element = with_row(column, *column.table.primary_key)
        element.type = self
        return element

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        plain = self._plain_bind(dialect)

        def process(value: Any) -> Any:
            keyring = keyring_of(dialect)
            if keyring is None:
                value = value.value if isinstance(value, InRow) else value
                return plain(value)
            if value is None:
                return None
            if not isinstance(value, InRow):
                raise TypeError(f"{self.label} is sealed: it is written by row, never compared")
            return stored_form(
                keyring, self.wire, self.label, value.row, self.to_bytes(value.value)
            )

        return process

    def result_processor(self, dialect: Dialect, coltype: Any) -> Callable[[Any], Any] | None:
        plain = self._plain_result(dialect, coltype)

        def process(value: Any) -> Any:
            keyring = keyring_of(dialect)
            if keyring is None:
                if value is not None and self._is_sealed(value, dialect):
                    raise SealKeyMissing(
                        f"{self.label} is encrypted, and this process runs without a key.",
                        remedy="Set HOMEWARD_ENCRYPTION_KEY_FILE or HOMEWARD_ENCRYPTION_KEYS and "
                        "start again.",
                    )
                return plain(value)
            if value is None:
                return None
            row, stored = _split(value, self.keys)
            return self.from_bytes(open_stored(keyring, self.wire, self.label, row, stored))

        return process

    def _is_sealed(self, value: Any, dialect: Dialect) -> bool:
        """For whoever has no keyring: whether encryption was turned on elsewhere. What only looks
        sealed names a key that the catalog does not have: anybody may have written it."""
        if not isinstance(value, str | bytes | memoryview):
            return False
        if self.wire != "bytes" and TEXT_MARK not in str(value[: len(_JSON_MARK)]):
            return False
        key_id = head_of(self.wire, value)
        has_key: Callable[[str], bool] | None = getattr(dialect, "homeward_has_key", None)
        return key_id is not None and has_key is not None and has_key(key_id)

    def _plain_bind(self, dialect: Dialect) -> Callable[[Any], Any]:
        found = self.impl_instance.dialect_impl(dialect).bind_processor(dialect)
        return found or _same

    def _plain_result(self, dialect: Dialect, coltype: Any) -> Callable[[Any], Any]:
        found = self.impl_instance.dialect_impl(dialect).result_processor(dialect, coltype)
        return found or _same


def _same(value: Any) -> Any:
    return value


class SealedText(_Sealed):
    """Text. ``length``: what the plain column of SQLite is said to hold, which nothing checks."""

    cache_ok = True

    def __init__(self, label: str, keys: int = 1, length: int | None = None) -> None:
        super().__init__(label, keys)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        short = self.length is not None and dialect.name == "sqlite"
        return String(self.length) if short else Text()

    def to_bytes(self, value: Any) -> bytes:
        return str(value).encode()

    def from_bytes(self, plain: bytes) -> Any:
        return plain.decode()


class SealedJson(_Sealed):
    """JSON; ``None`` is SQL's NULL."""

    cache_ok = True
    impl = JSON(none_as_null=True)
    wire: Wire = "json"

    def to_bytes(self, value: Any) -> bytes:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()

    def from_bytes(self, plain: bytes) -> Any:
        return json.loads(plain)


class SealedBytes(_Sealed):
    """Bytes."""

    cache_ok = True
    impl = LargeBinary
    wire: Wire = "bytes"

    def to_bytes(self, value: Any) -> bytes:
        return bytes(value)

    def from_bytes(self, plain: bytes) -> Any:
        return plain


class Vector(_Sealed):
    """A float32 vector as little-endian bytes: 4 bytes for each dimension."""

    cache_ok = True
    impl = LargeBinary
    wire: Wire = "bytes"

    def to_bytes(self, value: FloatArray) -> bytes:
        return np.ascontiguousarray(value, dtype="<f4").tobytes()

    def from_bytes(self, plain: bytes) -> FloatArray:
        return np.frombuffer(plain, dtype="<f4").astype(np.float32)

    def _plain_bind(self, dialect: Dialect) -> Callable[[Any], Any]:
        return lambda value: None if value is None else self.to_bytes(value)

    def _plain_result(self, dialect: Dialect, coltype: Any) -> Callable[[Any], Any]:
        return lambda value: None if value is None else self.from_bytes(value)


# --- the row on the way in -------------------------------------------------------------------


@cache
def sealed_columns(table: Table) -> Mapping[str, Column[Any]]:
    """The sealed columns of a table by name."""
    return {column.name: column for column in table.columns if isinstance(column.type, _Sealed)}


def wire_of(column: Column[Any]) -> Wire:
    """How the values of a sealed column are stored."""
    assert isinstance(column.type, _Sealed)
    return column.type.wire


def row_key(values: Iterator[Any]) -> str:
    """The primary key of a row as text."""
    return _BETWEEN.join(str(value) for value in values)


def bind_rows(
    _connection: Connection,
    statement: Any,
    multi: Any,
    single: Any,
    _options: Any,
) -> tuple[Any, Any, Any]:
    """Before a statement is executed: values of sealed columns learn which row they go into."""
    if not isinstance(statement, Insert | Update) or not isinstance(statement.table, Table):
        return statement, multi, single
    sealed = sealed_columns(statement.table)
    if not sealed:
        return statement, multi, single
    inserts = isinstance(statement, Insert)
    if multi:
        return statement, [_in_row(one, statement.table, inserts) for one in multi], single
    return statement, multi, _in_row(single, statement.table, inserts) if single else single


def _in_row(given: Mapping[str, Any], table: Table, inserts: bool) -> dict[str, Any]:
    values = dict(given)
    sealed = sealed_columns(table)
    if inserts:
        for name, column in sealed.items():
            if name not in values and column.default is not None:
                make = getattr(column.default, "arg", None)
                values[name] = make(None) if callable(make) else make
    wanted = [name for name in sealed if values.get(name) is not None]
    if not wanted:
        return values
    keys = table.primary_key.columns
    # An update by the mapper names the key of the row by its label: the column may change too.
    row = row_key(
        values[column.name if inserts else f"{table.name}_{column.name}"] for column in keys
    )
    for name in wanted:
        values[name] = InRow(row, values[name])
    return values
