"""Ads age: what was not received for so many days is forgotten, a little at a time.

Times come from the clock of the machine, and a clock may be wrong; an ad that is forgotten cannot
be had again. So upkeep forgets slowly, and not at all where the clock contradicts the ads:

- nothing while the clock is behind the newest ad that was received;
- nothing while more than half of all ads are due at once. A clock that jumped ahead looks like
  that, and so does a limit that is set for the first time: a person has to look, and does the
  first round with ``homeward purge ads``;
- otherwise at most 5 % of all ads (or 100, if that is more) within an hour, in small transactions.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, aliased

from indexer import removals
from indexer.catalog.picture_tables import WithheldImage
from indexer.catalog.tables import Ad, Capture, CaptureImage, Case, Judgement, Purge
from indexer.files import try_lock
from indexer.records import PurgeRecord
from indexer.times import utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indexer.workspace import Workspace

_log = logging.getLogger(__name__)

ACTOR = "retention"
SUPPORTING = ("supports_same", "strongly_supports_same")
"""Conclusions that keep an ad; conclusions of ``indexer.judgements``."""

MOST_DUE = 0.5
HOURLY_SHARE = 0.05
HOURLY_LEAST = 100
_SKEW = timedelta(minutes=5)
_BATCH = 20
_SLICE_S = 5.0


@dataclass(frozen=True, slots=True)
class Ageing:
    """How many ads are over the age, of how many, and why upkeep leaves them (or ``None``)."""

    due: int
    total: int
    held_back: str | None


def look(ws: Workspace, days: int, site: str | None = None) -> Ageing:
    """Which ads were not received for ``days`` days. Not due are those under legal hold, those in
    which an open case has found its person, as far as people concluded, and those with a withheld
    picture that is not settled."""
    now = utc_now()
    with ws.catalog.read() as session:
        due = session.scalar(select(func.count()).select_from(Ad).where(*_due(now, days, site)))
        total = session.scalar(select(func.count()).select_from(Ad)) or 0
        newest = session.scalar(select(func.max(Ad.last_received_at)))
    reason = None
    if newest is not None and now < newest - _SKEW:
        reason = "the clock is behind the time at which the newest ad was received"
    elif due and due > MOST_DUE * total:
        reason = "more than half of all ads are due at once, as if the clock had jumped"
    return Ageing(due or 0, total, reason)


def forget_aged(ws: Workspace) -> int:
    """One slice of ageing, a few seconds at most; returns how many ads were forgotten.

    Does nothing where ``options.ad_max_age_days`` is 0 and where another process is at it.
    """
    days = ws.options.ad_max_age_days
    if not days or not _anything_due(ws, days):
        return 0
    lock = try_lock(ws.locks_dir / "retention.lock")
    if lock is None:
        return 0
    with lock:
        ageing = look(ws, days)
        if ageing.held_back:
            _log.warning("%d ads are over their age and stay: %s", ageing.due, ageing.held_back)
            return 0
        allowed = max(HOURLY_LEAST, int(HOURLY_SHARE * ageing.total)) - _done_lately(ws)
        gone = 0
        ends = time.monotonic() + _SLICE_S
        for batch in forget_older(ws, days, actor=ACTOR, at_most=allowed):
            gone += len(batch)
            if time.monotonic() >= ends:
                break
        return gone


def forget_older(
    ws: Workspace,
    days: int,
    *,
    site: str | None = None,
    actor: str = "system",
    at_most: int | None = None,
) -> Iterator[list[PurgeRecord]]:
    """Forget the ads that were not received for ``days`` days, oldest first, batch by batch."""
    # Here, not above: forgetting needs the workspace, whose upkeep calls this module.
    from indexer.forget import forget_ad_in, lines_of_ads

    # The limit stands from the start on: what comes in meanwhile is not due.
    now = utc_now()
    left = at_most
    while left is None or left > 0:
        size = _BATCH if left is None else min(_BATCH, left)
        due = _due(now, days, site)
        with ws.catalog.read() as session:
            found = session.execute(
                select(Ad.ad_id, Ad.site, Ad.external_id)
                .where(*due)
                .order_by(Ad.last_received_at, Ad.ad_id)
                .limit(size)
            ).all()
            lines = lines_of_ads([(row.site, row.external_id) for row in found])
            if found:
                lines.look(session)
        if not found:
            return
        ids = [row.ad_id for row in found]
        with ws.catalog.write() as session:
            # Those that are due still.
            ads = session.scalars(
                select(Ad).where(Ad.ad_id.in_(ids), *due).order_by(Ad.last_received_at, Ad.ad_id)
            ).all()
            batch = [forget_ad_in(session, ad, actor) for ad in ads]
            lines.drop(session)
        removals.finish_if_possible(ws)
        left = None if left is None else left - len(batch)
        yield batch


def _due(now: datetime, days: int, site: str | None) -> list[ColumnElement[bool]]:
    conditions = [
        Ad.last_received_at < now - timedelta(days=days),
        Ad.legal_hold.is_(False),
        Ad.ad_id.not_in(_supporting()),
        Ad.ad_id.not_in(_withheld()),
    ]
    return conditions if site is None else [*conditions, Ad.site == site]


def _supporting() -> Select[str]:
    """The ads with a picture that was judged to show the person of a case that is open."""
    later = aliased(Judgement)
    return (
        select(Capture.ad_id)
        .join(CaptureImage, CaptureImage.capture_id == Capture.capture_id)
        .join(Judgement, Judgement.image_sha256 == CaptureImage.sha256)
        .join(Case, Case.case_id == Judgement.case_id)
        .where(
            Case.status == "open",
            Judgement.conclusion.in_(SUPPORTING),
            ~select(later.judgement_id)
            .where(later.case_id == Case.case_id, later.supersedes == Judgement.judgement_id)
            .exists(),
        )
    )


def _withheld() -> Select[str]:
    """The ads with a picture that waits for the designated role: its report needs them."""
    return (
        select(Capture.ad_id)
        .join(CaptureImage, CaptureImage.capture_id == Capture.capture_id)
        .join(WithheldImage, WithheldImage.sha256 == CaptureImage.sha256)
        .where(WithheldImage.settled_at.is_(None))
    )


def _anything_due(ws: Workspace, days: int) -> bool:
    with ws.catalog.read() as session:
        found = session.scalar(select(Ad.ad_id).where(*_due(utc_now(), days, None)).limit(1))
    return found is not None


def _done_lately(ws: Workspace) -> int:
    """Ads that upkeep of any process forgot within the last hour."""
    with ws.catalog.read() as session:
        return _count_since(session, utc_now() - timedelta(hours=1))


def _count_since(session: Session, moment: datetime) -> int:
    # Ids begin with the time at which they were made, so the key itself finds the late ones.
    first = f"{int(moment.timestamp() * 1000):012x}"
    return (
        session.scalar(
            select(func.count()).where(
                Purge.purge_id >= f"{first[:8]}-{first[8:]}", Purge.actor == ACTOR
            )
        )
        or 0
    )
