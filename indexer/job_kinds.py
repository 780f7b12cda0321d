"""The kinds of jobs: which go first, and what each runner takes."""

from __future__ import annotations

from indexer.records import JobKind

PRIORITIES: dict[JobKind, int] = {
    "probe_case": 0,
    "enrol_case": 0,
    "deliver_webhook": 5,
    "deliver_email": 5,
    "stamp_head": 5,
    "ingest_ad": 10,
    "embed_case": 15,
    "embed_images": 20,
    "check_pictures": 1,
    "read_again": 12,
    "tidy_faces": 13,
}
"""What goes first, lower before higher: a person is waiting for what is done for a case."""

EMBEDDING: tuple[JobKind, ...] = ("embed_case", "embed_images")
"""Work under a contract that the job names: for generations beside the one in use, mostly."""
KEEPING: tuple[JobKind, ...] = ("check_pictures", "read_again", "tidy_faces")
"""Work on what is stored: comparing it with lists, reading it again, taking faces away."""

WORK: tuple[JobKind, ...] = ("probe_case", "enrol_case", "ingest_ad", *EMBEDDING, *KEEPING)
DELIVERIES: tuple[JobKind, ...] = ("deliver_webhook", "deliver_email", "stamp_head")
