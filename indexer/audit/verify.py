"""Whether the audit log is as it was written: the whole chain, and against heads kept elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.audit.chain import GENESIS, digest
from indexer.audit.heads import Head
from indexer.catalog import Catalog
from indexer.catalog.audit_tables import AuditRecord

_AT_ONCE: Final = 1_000
TABLE: Final = AuditRecord.__table__
RESTORED: Final = "backup.restore"

Kind = Literal["changed", "missing", "truncated", "rewritten"]


@dataclass(frozen=True, slots=True)
class Problem:
    """The first record that is not as it was written. ``changed``: it does not follow from the
    one before it, so it was edited, inserted or moved; ``missing``: records up to ``until`` are
    not there; ``truncated``: so are those at the end; ``rewritten``: the chain fits and a head
    that was kept elsewhere does not, so something up to here was written anew."""

    kind: Kind
    seq: int
    until: int
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that a restore of an older back-up gave up, from ``first`` to ``last``; the record
    ``seq`` says so."""

    seq: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """``seq`` and ``hash``: the head as it is. ``heads``: how many kept elsewhere were compared.
    ``last_agreed``: the newest of them that the log has."""

    records: int
    seq: int
    hash: str
    heads: int
    last_agreed: int
    gaps: tuple[Gap, ...]
    problem: Problem | None


def verify(
    catalog: Catalog,
    heads: Sequence[Head] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Verdict:
    """Read the whole log, each record once; ``progress`` is told how many were read.

    Raises the StorageError tree.
    """
    wanted: dict[int, list[Head]] = {}
    for head in heads:
        wanted.setdefault(head.seq, []).append(head)
    differing: list[Head] = []
    gaps: list[Gap] = []
    before, seq, last_agreed = GENESIS, 0, 0
    problem: Problem | None = None
    with catalog.read() as session:
        for row in _rows(session):
            if isinstance(row, int):
                problem = _changed(row)
                break
            if row["seq"] != seq + 1:
                problem = _missing(seq + 1, row["seq"] - 1)
                break
            if not _fits(row, before):
                problem = _changed(row["seq"])
                break
            seq, before = row["seq"], row["hash"]
            for head in wanted.pop(seq, ()):
                if head.hash == before:
                    last_agreed = seq
                else:
                    differing.append(head)
            if row["action"] == RESTORED and (gap := _gap(row)) is not None:
                gaps.append(gap)
            if seq % _AT_ONCE == 0:
                progress(seq)
    progress(seq)
    if problem is None:
        beyond = [head for some in wanted.values() for head in some]
        problem = _against(differing, beyond, gaps, seq, last_agreed)
    return Verdict(
        records=seq,
        seq=seq,
        hash=before,
        heads=len(heads),
        last_agreed=last_agreed,
        gaps=tuple(gaps),
        problem=problem,
    )


def fits_all(rows: Sequence[Mapping[str, Any]], before: str) -> bool:
    """Whether neighbouring records, oldest first, follow from each other and from ``before``."""
    for row in rows:
        if not _fits(row, before):
            return False
        before = row["hash"]
    return True


def _rows(session: Session) -> Iterator[dict[str, Any] | int]:
    """Every record in order; the bare number of one whose columns cannot even be read."""
    last = -1
    while True:
        query = select(TABLE).where(TABLE.c.seq > last).order_by(TABLE.c.seq)
        try:
            some = [dict(row._mapping) for row in session.execute(query.limit(_AT_ONCE))]
        except (ValueError, TypeError, KeyError):
            numbers = select(TABLE.c.seq).where(TABLE.c.seq > last).order_by(TABLE.c.seq)
            for number in session.scalars(numbers.limit(_AT_ONCE)).all():
                try:
                    row = session.execute(select(TABLE).where(TABLE.c.seq == number)).one()
                except (ValueError, TypeError, KeyError):
                    yield number
                    return
                yield dict(row._mapping)
                last = number
            continue
        if not some:
            return
        yield from some
        last = some[-1]["seq"]


def _fits(row: Mapping[str, Any], before: str) -> bool:
    try:
        return digest(row, before) == str(row["hash"])
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False


def _changed(seq: int) -> Problem:
    return Problem(
        "changed",
        seq,
        seq,
        f"Record {seq} is not as it was written: it, or the one before it, was edited, inserted or "
        "moved.",
    )


def _missing(first: int, last: int) -> Problem:
    if last < first:
        return _changed(first)
    what = f"Record {first} is" if first == last else f"Records {first} to {last} are"
    return Problem("missing", first, last, f"{what} missing.")


def _gap(row: Mapping[str, Any]) -> Gap | None:
    last = (row["details"] or {}).get("last_known_seq")
    if not isinstance(last, int) or last < row["seq"]:
        return None
    return Gap(row["seq"], row["seq"], last)


def _against(
    differing: Sequence[Head], beyond: Sequence[Head], gaps: Sequence[Gap], seq: int, agreed: int
) -> Problem | None:
    """What heads that were kept elsewhere say of a chain that fits in itself."""
    lost = [head for head in differing if not _explained(head, gaps)]
    if lost:
        first = min(head.seq for head in lost)
        return Problem(
            "rewritten",
            min(agreed + 1, first),
            first,
            f"Record {first} is not the one that was the head when it was kept: something after "
            f"record {min(agreed, first - 1)} was written anew.",
        )
    cut = [head.seq for head in beyond if not _explained(head, gaps)]
    if cut:
        return Problem(
            "truncated",
            seq + 1,
            max(cut),
            f"Records {seq + 1} to {max(cut)} are missing at the end: the log was cut off.",
        )
    return None


def _explained(head: Head, gaps: Sequence[Gap]) -> bool:
    """Whether a restore says that the record of this head was given up."""
    return any(gap.first <= head.seq <= gap.last for gap in gaps)
