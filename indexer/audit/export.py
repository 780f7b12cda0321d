"""Writing records to a file that verifies without Homeward.

Each line is the very text that the hash of the record is over, in canonical JSON, with the hash of
the record before it as ``prev``: the SHA-256 of a line, without its line feed, is the ``prev`` of
the next one. The manifest names the digest of the file and the hash of every record where the lines
are not neighbours, and of the last one where they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from indexer.audit.chain import GENESIS, canonical, digest
from indexer.audit.verify import TABLE
from indexer.batches import chunks
from indexer.catalog import Catalog
from indexer.errors import AuditDamaged
from indexer.files import write_atomic
from indexer.times import rfc3339, utc_now

FORMAT: Final = 1
MANIFEST: Final = ".manifest.json"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the records, their first and last number (0 where there are none), the
    hash of the last, and the SHA-256 of the file."""

    records: int
    first: int
    last: int
    last_hash: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Range:
    """From the record numbered, or made at, ``since`` to ``until``, both included; ``None``: from
    the first, to the last. ``case_id``: only those of one case."""

    since: int | datetime | None = None
    until: int | datetime | None = None
    case_id: str | None = None


def export(catalog: Catalog, path: Path, wanted: Range, *, homeward: str) -> Exported:
    """Write the records to ``path`` and the manifest beside it, each whole or not at all.

    Raises :class:`AuditDamaged` at a record that does not fit, and the StorageError tree.
    """
    whole = hashlib.sha256()
    hashes: dict[str, str] = {}
    records = first = last = 0
    last_hash = ""

    # What is asked for by time may leave records out: a clock can be set back.
    may_jump = wanted.case_id is not None or any(
        isinstance(value, datetime) for value in (wanted.since, wanted.until)
    )

    def lines() -> Iterator[bytes]:
        nonlocal records, first, last, last_hash
        for row, before in _rows(catalog, wanted):
            if digest(row, before) != row["hash"]:
                raise AuditDamaged(row["seq"])
            line = canonical(row, before) + b"\n"
            whole.update(line)
            records, first, last = records + 1, first or row["seq"], row["seq"]
            last_hash = row["hash"]
            if may_jump:
                hashes[str(last)] = last_hash
            yield line

    write_atomic(path, lines())
    # Neighbours prove each other; where a number is left out each hash is named.
    neighbours = wanted.case_id is None and records == last - first + (records > 0)
    if neighbours:
        hashes.clear()
    made = Exported(records, first, last, last_hash, whole.hexdigest())
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "made_at": rfc3339(utc_now()),
        "homeward": homeward,
        "file": path.name,
        "sha256": made.sha256,
        "records": made.records,
        "first": made.first,
        "last": made.last,
        "last_hash": made.last_hash,
        "case_id": wanted.case_id,
        "neighbours": neighbours,
    }
    if hashes:
        manifest["hashes"] = hashes
    text = json.dumps(manifest, indent=1).encode() + b"\n"
    write_atomic(path.with_name(path.name + MANIFEST), [text])
    return made


def _rows(catalog: Catalog, wanted: Range) -> Iterator[tuple[dict[str, Any], str]]:
    """The records with the hash of the one before each, a page at a time in one read."""
    conditions = []
    for value, after in ((wanted.since, True), (wanted.until, False)):
        if value is not None:
            column = TABLE.c.seq if isinstance(value, int) else TABLE.c.at
            conditions.append(column >= value if after else column <= value)
    if wanted.case_id is not None:
        conditions.append(TABLE.c.case_id == wanted.case_id)
    last = 0
    with catalog.read() as session:
        while True:
            query = select(TABLE).where(*conditions, TABLE.c.seq > last).order_by(TABLE.c.seq)
            some = [dict(row._mapping) for row in session.execute(query.limit(1_000))]
            if not some:
                return
            before: dict[int, str] = {}
            for numbers in chunks(row["seq"] - 1 for row in some):
                pairs = select(TABLE.c.seq, TABLE.c.hash).where(TABLE.c.seq.in_(numbers))
                before |= {pair.seq: pair.hash for pair in session.execute(pairs)}
            for row in some:
                yield row, before.get(row["seq"] - 1, GENESIS)
            last = some[-1]["seq"]
