"""What a year's report counts: from the audit log, which is never purged, and once more from the
rows, as far as there are any still."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, get_args

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.casework_tables import Approval, Hold
from indexer.catalog.tables import Alert, Case, Judgement, Purge, Search
from indexer.judgements import Conclusion
from indexer.reveals import REASONS
from indexer.searches import PURPOSES
from indexer.transparency.suppression import Table

DONE: Final = frozenset({"done", "opened", "closed"})
"""Outcomes that are no refusal."""
INSTALLATION: Final = ""
"""The agency of a case that has none: the only one of an installation."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One table of the report: which acts it counts, and how they are divided up.

    ``divisions``: by name, the fixed cells (None: whatever occurs, by name) and what tells the
    cell of an act. ``rows`` counts the same from rows, where there are any; ``goes``: whether
    deletions take such rows away.
    """

    name: str
    actions: tuple[str, ...]
    divisions: Mapping[str, tuple[tuple[str, ...] | None, Callable[[AuditRecord], str]]] = field(
        default_factory=dict
    )
    rows: Callable[[Session, datetime, datetime], int] | None = None
    goes: bool = False


def _detail(name: str, otherwise: str = "other") -> Callable[[AuditRecord], str]:
    return lambda act: str(act.details.get(name, otherwise))


def _agency(act: AuditRecord) -> str:
    return str(act.details.get("agency") or INSTALLATION)


def _kind(act: AuditRecord) -> str:
    return act.action


def _rows(
    model: Any, at: Any, *where: ColumnElement[bool]
) -> Callable[[Session, datetime, datetime], int]:
    def count(session: Session, start: datetime, end: datetime) -> int:
        query = select(func.count()).select_from(model).where(at >= start, at < end, *where)
        return session.scalar(query) or 0

    return count


_FORGOTTEN: Final = ("case.forget", "photo.forget", "ad.forget")
_WITHHELD: Final = ("picture.withhold", "picture.flag", "picture.settle")
_BY_AGENCY: Final = (None, _agency)

TABLES: Final[tuple[Counted, ...]] = (
    Counted(
        "cases_opened", ("case.create",), {"agency": _BY_AGENCY},
        _rows(Case, Case.created_at), goes=True,
    ),
    Counted(
        "cases_ended", ("case.end",),
        {"outcome": (("found", "closed"), _detail("status")), "agency": _BY_AGENCY},
    ),
    Counted(
        "searches", ("search.list", "search.photo"),
        {
            "purpose": (PURPOSES, lambda act: act.purpose or "other"),
            "kind": (("search.list", "search.photo"), _kind),
            "agency": _BY_AGENCY,
            "contract": (None, _detail("contract_id")),
        },
        _rows(Search, Search.at),
    ),
    Counted(
        "watch_searches", ("search.watch",),
        {"purpose": (PURPOSES, lambda act: act.purpose or "other")},
    ),
    Counted(
        "judgements", ("judgement.create",),
        {"conclusion": (get_args(Conclusion), _detail("conclusion"))},
        _rows(Judgement, Judgement.at), goes=True,
    ),
    Counted("alerts", ("alert.raise",), {}, _rows(Alert, Alert.created_at), goes=True),
    Counted("reveals", ("picture.reveal",), {"reason": (REASONS, _detail("reason"))}),
    Counted(
        "approvals_asked", ("approval.ask",),
        {"kind": (("ordinary", "emergency"),
                  lambda act: "emergency" if act.details.get("emergency") else "ordinary")},
        _rows(Approval, Approval.asked_at), goes=True,
    ),
    Counted(
        "approvals_decided", ("approval.decide",),
        {"decision": (("approve", "refuse"), _detail("decision"))},
    ),
    Counted(
        "approvals_lapsed", ("approval.lapse",),
        {"reason": (("expired", "not_ratified", "case_ended", "superseded"), _detail("reason"))},
    ),
    Counted("holds_set", ("hold.set",), {}, _rows(Hold, Hold.set_at)),
    Counted("exports", ("evidence.export", "audit.export")),
    Counted(
        "forgotten", _FORGOTTEN, {"kind": (_FORGOTTEN, _kind)},
        _rows(Purge, Purge.at, Purge.kind.in_(("case", "photo", "ad"))),
    ),
    Counted("withheld_pictures", _WITHHELD, {"act": (_WITHHELD, _kind)}),
)  # fmt: skip
"""No two tables add up to the same thing: the withdrawal of vectors is not counted among what is
forgotten, since there is one for each case that ended."""

REFUSALS: Final = "refusals"
REFUSED_MANY: Final = "access.refuse_many"
"""The record of refusals in a minute that were too many to be recorded one by one."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A table counted both ways. ``purged``: whether deletions may have taken rows away."""

    name: str
    audit: int
    rows: int
    purged: bool

    @property
    def state(self) -> str:
        """``agrees``, ``purged`` (fewer rows, since some were deleted) or ``differs``."""
        if self.audit == self.rows:
            return "agrees"
        return "purged" if self.purged and self.rows < self.audit else "differs"


@dataclass(frozen=True, slots=True)
class Year:
    """Everything that is counted for one year, nothing hidden yet.

    ``gallery``: faces that were searched, one entry for each search; ``last_hash``: of the
    last record of the year in the audit log.
    """

    year: int
    tables: tuple[Table, ...]
    reconciled: tuple[Reconciled, ...]
    gallery: tuple[int, ...]
    last_hash: str | None


def bounds(year: int) -> tuple[datetime, datetime]:
    """The first moment of a year and that of the next, in UTC."""
    return datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)


def count(session: Session, year: int) -> Year:
    """Count a year. Reads only the acts that are counted, in the order of the chain."""
    start, end = bounds(year)
    within = (AuditRecord.at >= start, AuditRecord.at < end)
    by_action = {action: table for table in TABLES for action in table.actions}
    totals: Counter[str] = Counter()
    cells: dict[tuple[str, str], Counter[str]] = {}
    gallery: list[int] = []
    acts = session.scalars(
        select(AuditRecord)
        .where(*within, AuditRecord.action.in_(list(by_action)), AuditRecord.outcome == "done")
        .order_by(AuditRecord.seq)
        .execution_options(yield_per=1_000)
    )
    for act in acts:
        table = by_action[act.action]
        totals[table.name] += 1
        for name, (_, cell) in table.divisions.items():
            cells.setdefault((table.name, name), Counter())[cell(act)] += 1
        if table.name == "searches":
            gallery.append(int(act.details.get("gallery_size", 0)))
    tables = [
        Table(
            table.name,
            totals[table.name],
            {
                name: _ordered(fixed, cells.get((table.name, name), Counter()))
                for name, (fixed, _) in table.divisions.items()
            },
        )
        for table in TABLES
    ]
    tables.append(_refusals(session, within))
    newest = session.scalar(
        select(AuditRecord.hash).where(*within).order_by(AuditRecord.seq.desc()).limit(1)
    )
    return Year(
        year,
        tuple(tables),
        tuple(_reconciled(session, totals, start, end)),
        tuple(gallery),
        newest,
    )


def _ordered(fixed: tuple[str, ...] | None, found: Counter[str]) -> dict[str, int]:
    known = {name: found.get(name, 0) for name in fixed or ()}
    return known | {name: found[name] for name in sorted(found) if name not in known}


def _refusals(session: Session, within: Iterable[ColumnElement[bool]]) -> Table:
    """Refused attempts by the code of the error. What was only counted, since too many came, is in
    the log as one record for each minute, and here too."""
    rows = session.execute(
        select(AuditRecord.outcome, func.count())
        .where(
            *within,
            AuditRecord.outcome.not_in(DONE),
            or_(AuditRecord.channel != "system", AuditRecord.action == REFUSED_MANY),
        )
        .group_by(AuditRecord.outcome)
        .order_by(AuditRecord.outcome)
    )
    codes = {code: number for code, number in rows}  # noqa: C416 - rows of the catalog, not pairs
    return Table(REFUSALS, sum(codes.values()), {"reason": codes})


def _reconciled(
    session: Session, totals: Mapping[str, int], start: datetime, end: datetime
) -> Iterable[Reconciled]:
    purged = session.scalar(
        select(AuditRecord.seq)
        .where(AuditRecord.at >= start, AuditRecord.action == "case.forget")
        .limit(1)
    )
    for table in TABLES:
        if table.rows is not None:
            rows = table.rows(session, start, end)
            gone = table.goes and purged is not None
            yield Reconciled(table.name, totals[table.name], rows, gone)
