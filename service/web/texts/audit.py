"""The words of the page of the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TEXTS: Final[Mapping[str, str]] = {
    "nav.audit": "Audit",
    "audit.title": "Audit log",
    "audit.about": "What was done, read and refused, newest first: ids and figures, no personal "
    "values. Reading it is recorded too.",
    "audit.head": "Head",
    "audit.head_help": "Keep it where nobody of this machine can change it. Whether the whole log "
    "is as it was written: homeward audit verify.",
    "audit.fit": "The records on this page follow from each other.",
    "audit.unfit": "The records on this page do not follow from each other: one was changed or "
    "taken away. Have the whole log verified: homeward audit verify.",
    "audit.contradicted": "The file of heads names record {seq}, which this log does not have as "
    "it was: it was cut off or written anew. Have the whole log verified: homeward audit verify.",
    "audit.heads_unreadable": "The file of heads cannot be read, so nothing tells whether the end "
    "of this log was cut off. Run `homeward audit verify`.",
    "audit.agrees": "The last head in the file of heads is in the log.",
    "audit.stamp_done": "Last time stamp: record {seq}, {when}.",
    "audit.stamp_pending": "A time stamp for record {seq} is pending.",
    "audit.filter.case": "Case id",
    "audit.filter.actor": "Actor",
    "audit.filter.action": "Action",
    "audit.filter.since": "From (UTC)",
    "audit.filter.until": "Before (UTC)",
    "audit.filter": "Show",
    "audit.bad_filter": "A time reads like 2026-01-31 or 2026-01-31T12:00; that filter was left "
    "out.",
    "audit.column.seq": "No.",
    "audit.column.at": "When",
    "audit.column.actor": "Who",
    "audit.column.action": "What",
    "audit.column.subject": "On what",
    "audit.column.case": "Case",
    "audit.column.outcome": "Outcome",
    "audit.column.details": "Details",
    "audit.none": "No such records.",
}
