"""Reading what is stored under a contract: for a generation beside the one in use, or to complete
that one.

The work is done by ordinary jobs, each for some images, so it can be killed, resumed and shared
between any number of processes; what is new meanwhile comes by jobs of its own. What other
contracts have stays where it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from indexer import jobs, queue
from indexer.batches import chunks
from indexer.catalog.tables import CaptureImage, Enrolment, ImageAnalysis, Job
from indexer.errors import GenerationStateInvalid, StorageError
from indexer.generations import missing, rows
from indexer.generations.missing import Missing
from indexer.generations.rows import Generation
from indexer.hashes import fill_hashes
from indexer.records import Failure, Progress
from indexer.room import require_room
from indexer.workspace import Workspace

IMAGES_A_JOB: Final = 64
"""Images of one job: what a process that dies has read in vain at most, about."""

_JOBS_AT_ONCE: Final = 50
"""Jobs queued in one transaction: other writers wait that long."""

_LOOK_S: Final = 0.5

_BROKEN_AT_MOST: Final = 10
"""Jobs that break off one after the other before the cause is no job's: a disk, a server."""


@dataclass(frozen=True, slots=True)
class ReindexReport:
    """``jobs`` were queued; ``failures`` are the items that could not be read; ``images`` were
    read in ``seconds``, by all processes together."""

    jobs: int
    failures: tuple[Failure, ...]
    images: int = 0
    seconds: float = 0.0


def outdated(ws: Workspace) -> Missing:
    """How many images of ads and photos of open cases wait for :func:`reindex`.

    Those that were received just now and are in the queue for the first time do not count.
    """
    with ws.catalog.read() as session:
        return missing.look(session, ws.contract_id)


def reindex(ws: Workspace, progress: Callable[[Progress], None] | None = None) -> ReindexReport:
    """Read everything stored that is not in the generation of this view, and wait until that is
    done, by this process and all others that can.

    Where the contract is the one in use, everything is compared both ways as if it were new, and
    joins the leads that are there; images of ads without a perceptual hash get one. Can be killed
    anywhere and run again, by several processes at once.

    Raises GenerationNotFound and :class:`GenerationStateInvalid` where the generation is given up
    meanwhile, and the StorageError tree where the disk or the catalog stays out of use.
    """
    fill_hashes(ws)
    started = time.monotonic()
    queued = read = 0
    last: Missing | None = None
    unplanned = False
    while True:
        planned = _plan(ws)
        queued += planned
        read += _work(ws, read, progress)
        with ws.catalog.read() as session:
            left = missing.look(session, ws.contract_id)
        # What fails again and again is not tried for ever; a round that did jobs of a run before
        # this one has not tried everything yet.
        if not left or (left == last and not unplanned):
            break
        unplanned = not planned
        last = left
    if progress is not None:
        progress(Progress(stage="reindex", done=read, total=read))
    return ReindexReport(queued, _failures(ws, left), read, time.monotonic() - started)


def _plan(ws: Workspace) -> int:
    """Queue jobs for what is missing and in no job yet; returns how many."""
    with ws.catalog.read() as session:
        generation = rows.find(session, ws.contract_id)
        busy = _busy(session, ws.contract_id)
        # Those that a run before this one queued come first.
        spans = (
            []
            if generation.generation_id in busy
            else list(missing.ranges(session, ws.contract_id, IMAGES_A_JOB))
        )
        cases: dict[str, int] = {}
        for case_id, _ in session.execute(missing.photos(ws.contract_id, again=True)):
            if case_id not in busy:
                cases[case_id] = cases.get(case_id, 0) + 1
    planned = 0
    for some in chunks(cases.items(), _JOBS_AT_ONCE):
        with ws.catalog.write() as session:
            _require_same(session, generation)
            busy = _busy(session, ws.contract_id)
            for case_id, total in some:
                if case_id not in busy:
                    planned += 1
                    queue.enqueue(
                        session, "embed_case", case_id, total=total, contract_id=ws.contract_id
                    )
    own: set[str] = set()
    for images in chunks(spans, _JOBS_AT_ONCE):
        with ws.catalog.write() as session:
            _require_same(session, generation)
            jobs_there = _jobs_of(session, ws.contract_id, generation.generation_id)
            if jobs_there - own:
                # Another process plans the same: what it leaves out is looked at again after.
                return planned
            for first, until, total in images:
                planned += 1
                own.add(
                    queue.enqueue(
                        session,
                        "embed_images",
                        generation.generation_id,
                        total=total,
                        contract_id=ws.contract_id,
                        first=first,
                        last=until,
                    )
                )
    return planned


def _require_same(session: Session, generation: Generation) -> None:
    """Raises where the generation was given up since: nothing more is queued for it."""
    now = rows.find(session, generation.contract_id)
    if now.state == "dropping" or now.generation_id != generation.generation_id:
        raise GenerationStateInvalid(
            f"The generation {generation.contract_id} was given up meanwhile.",
            remedy="Start again if it is to be built all the same.",
        )


def _busy(session: Session, contract_id: str) -> set[str]:
    """Subjects for which jobs of the contract wait or run."""
    return {job.subject_id for job in session.execute(_unfinished(contract_id))}


def _jobs_of(session: Session, contract_id: str, subject_id: str) -> set[str]:
    query = _unfinished(contract_id).where(Job.subject_id == subject_id)
    return {job.job_id for job in session.execute(query)}


def _work(ws: Workspace, before: int, progress: Callable[[Progress], None] | None) -> int:
    """Do jobs of the contract until those that are there now have ended, here or elsewhere;
    returns how many images and photos they read."""
    with ws.catalog.read() as session:
        known = {job.job_id for job in session.execute(_unfinished(ws.contract_id))}
    broken = 0
    while True:
        require_room(ws)
        claimed = queue.claim(ws, 1, queue.EMBEDDING, contract_id=ws.contract_id)
        if claimed and not jobs.run_claimed(ws, claimed):
            broken += 1
            # What says nothing about the job is not counted with it, and would go on for ever.
            if broken >= _BROKEN_AT_MOST:
                raise StorageError(
                    f"{broken} jobs broke off one after the other; the log says why.",
                    remedy="See to the cause, then run it again: what was read stays.",
                )
            time.sleep(_LOOK_S)
        elif claimed:
            broken = 0
        with ws.catalog.read() as session:
            left = known & {job.job_id for job in session.execute(_unfinished(ws.contract_id))}
            done, total = _progress(session, known)
        if progress is not None:
            progress(Progress(stage="reindex", done=before + done, total=before + total))
        if not left:
            return done
        if not claimed:
            queue.recover(ws)
            time.sleep(_LOOK_S)


def _unfinished(contract_id: str) -> Select[str, str]:
    return select(Job.job_id, Job.subject_id).where(
        Job.contract_id == contract_id,
        Job.kind.in_(queue.EMBEDDING),
        Job.state.in_(("queued", "running")),
    )


def _progress(session: Session, job_ids: set[str]) -> tuple[int, int]:
    done = total = 0
    for some in chunks(sorted(job_ids)):
        row = session.execute(
            select(func.sum(Job.done), func.sum(Job.total)).where(Job.job_id.in_(some))
        ).one()
        done, total = done + int(row[0] or 0), total + int(row[1] or 0)
    return done, total


def _failures(ws: Workspace, left: Missing) -> tuple[Failure, ...]:
    """What could not be read under the contract, and why."""
    with ws.catalog.read() as session:
        images = session.scalars(
            select(ImageAnalysis)
            .where(
                ImageAnalysis.contract_id == ws.contract_id,
                ImageAnalysis.state == "failed",
                select(CaptureImage.sha256)
                .where(CaptureImage.sha256 == ImageAnalysis.sha256)
                .exists(),
            )
            .order_by(ImageAnalysis.sha256)
        )
        found = [
            Failure(item=row.sha256, code=row.code or "analysis_failed", detail=row.detail or "")
            for row in images
        ]
        photos = session.execute(
            select(Enrolment.photo_id, Enrolment.code)
            .where(Enrolment.contract_id == ws.contract_id, Enrolment.face_id.is_(None))
            .order_by(Enrolment.photo_id)
        )
        found += [
            Failure(
                item=photo_id,
                code=code or "analysis_failed",
                detail="The enrolled face was not found again in the photo; enrol the photo anew."
                if code == "no_face_found"
                else "The photo could not be read.",
            )
            for photo_id, code in photos
        ]
    if left:
        found.append(
            Failure(
                item=ws.contract_id,
                code="generation_incomplete",
                detail=f"{left.ad_images} images of ads and {left.photos} photos could not be "
                "read: their jobs failed. See `homeward jobs list --state failed`, then retry.",
            )
        )
    return tuple(found)
