"""Whether the audit log is as it was written: the whole chain, and against heads kept elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.audit.chain import GENESIS, digest
from indexer.audit.heads import STAMPED, Head
from indexer.catalog import Catalog
from indexer.catalog.audit_tables import AuditRecord

_AT_ONCE: Final = 1_000
TABLE: Final = AuditRecord.__table__
RESTORED: Final = "backup.restore"

Kind = Literal["changed", "missing", "truncated", "rewritten", "restored"]


@dataclass(frozen=True, slots=True)
class Problem:
    """The first record that is not as it was written. ``changed``: it does not follow from the
    one before it, so it was edited, inserted or moved; ``missing``: records up to ``until`` are
    not there; ``truncated``: so are those at the end; ``rewritten``: the chain fits and a head
    that was kept elsewhere does not, so something up to here was written anew;
    ``restored``: only the record of a restore says that others were given up."""

    kind: Kind
    seq: int
    until: int
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that a restore of an older back-up gave up, from ``first`` to ``last``; the record
    ``seq`` says so. ``confirmed``: so do the heads that were kept before and right after it, or
    whoever had the log verified."""

    seq: int
    hash: str
    first: int
    last: int
    last_hash: str
    confirmed: bool


@dataclass(frozen=True, slots=True)
class _Told:
    """What a record of a restore says: when, and what the last head was that was known then.
    ``kept``: that head was kept; ``accepted``: by whoever has the log verified."""

    at: datetime
    gap: Gap
    kept: bool
    accepted: bool

    def explains(self, head: Head) -> bool:
        """Whether the record of ``head`` was given up: it was kept before the restore."""
        if not (self.kept or self.accepted) or not self.gap.first <= head.seq <= self.gap.last:
            return False
        if (head.seq, head.hash) == (self.gap.last, self.gap.last_hash):
            return True
        # Of what was kept without a time nobody knows whether it was before.
        return self.accepted if head.at is None else head.at < self.at


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
    accepted: Collection[int] = (),
) -> Verdict:
    """Read the whole log, each record once; ``progress`` is told how many were read.

    What a restore gave up is explained where the last head before it and the one right after it
    were kept, or where its number is ``accepted``. Raises the StorageError tree.
    """
    wanted: dict[int, list[Head]] = {}
    for head in heads:
        wanted.setdefault(head.seq, []).append(head)
    differing: list[Head] = []
    known = {(head.seq, head.hash) for head in heads if head.source != STAMPED}
    told: list[_Told] = []
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
            if row["action"] == RESTORED and (one := _told(row, known, accepted)) is not None:
                told.append(one)
            if seq % _AT_ONCE == 0:
                progress(seq)
    progress(seq)
    if problem is None:
        beyond = [head for some in wanted.values() for head in some]
        problem = _against(differing, beyond, told, seq, last_agreed)
    return Verdict(
        records=seq,
        seq=seq,
        hash=before,
        heads=len(heads),
        last_agreed=last_agreed,
        gaps=tuple(one.gap for one in told),
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


def _told(
    row: Mapping[str, Any], known: Collection[tuple[int, str]], accepted: Collection[int]
) -> _Told | None:
    details = row["details"] or {}
    last, last_hash, seq = details.get("last_known_seq"), details.get("last_known_hash"), row["seq"]
    if not isinstance(last, int) or last < seq:
        return None
    kept, mine = (last, last_hash) in known, seq in accepted
    confirmed = mine or (kept and (seq, row["hash"]) in known)
    gap = Gap(seq, str(row["hash"]), seq, last, str(last_hash), confirmed)
    return _Told(row["at"], gap, kept, mine)


def _against(
    differing: Sequence[Head], beyond: Sequence[Head], told: Sequence[_Told], seq: int, agreed: int
) -> Problem | None:
    """What heads that were kept elsewhere say of a chain that fits in itself."""
    lost = [head for head in differing if not any(one.explains(head) for one in told)]
    if lost:
        first = min(head.seq for head in lost)
        return Problem(
            "rewritten",
            min(agreed + 1, first),
            first,
            f"Record {first} is not the one that was the head when it was kept: something after "
            f"record {min(agreed, first - 1)} was written anew.",
        )
    cut = [head.seq for head in beyond if not any(one.explains(head) for one in told)]
    if cut:
        return Problem(
            "truncated",
            seq + 1,
            max(cut),
            f"Records {seq + 1} to {max(cut)} are missing at the end: the log was cut off.",
        )
    for gap in (one.gap for one in told if not one.gap.confirmed):
        return Problem(
            "restored",
            gap.first,
            gap.last,
            f"Record {gap.seq} says that records {gap.first} to {gap.last} were given up by a "
            "restore, and the heads that were kept do not bear it out. If that restore was made, "
            f"verify with --accept-restore {gap.seq}.",
        )
    return None
