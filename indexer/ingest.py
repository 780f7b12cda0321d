"""Ads and cases from files, for the command line.

Everything is done through the same functions as over HTTP, which know what they have seen
before: broken off anywhere and run again, nothing is doubled and nothing is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select

from indexer import jobs, quarantine, queue
from indexer.ads import receive_ads
from indexer.batches import chunks
from indexer.cases import add_photo, create_case, find_case
from indexer.catalog.tables import Job
from indexer.errors import CaseNotFound, DuplicateCaseNumber, SourceUnreadable, StorageError
from indexer.incoming import Delivery
from indexer.job_rows import job_record
from indexer.quarantine import BadItem
from indexer.records import AdReceipt, Failure, IngestReport, Progress, Upload
from indexer.sources import (
    AdItem,
    BadLine,
    CaseItem,
    PhotoFile,
    count_lines,
    file_chunks,
    read_ads,
    read_cases,
    read_file,
)
from indexer.workspace import Workspace
from models.errors import HomewardError

OnProgress = Callable[[Progress], None]

MAX_LISTED = 1_000
"""Refusals that a report lists; all are counted."""

_POLL_S = 0.2
_MAX_UNFINISHED = 256
_ACTOR = "command line"


class _Refused:
    """What was refused: all of it counted, the first of it listed."""

    def __init__(self) -> None:
        self.total = 0
        self.first: list[Failure] = []

    def add(self, *failures: Failure) -> None:
        self.total += len(failures)
        self.first += failures[: MAX_LISTED - len(self.first)]


def ingest_ads(
    ws: Workspace, source: Path, images_dir: Path, *, progress: OnProgress | None = None
) -> IngestReport:
    """Take the ads of a JSON-lines file, with the images that they name under ``images_dir``.

    A line that is no ad goes into the quarantine. An image that is missing, rejected or cannot be
    analysed is listed as refused; its ad is taken all the same. Memory does not grow with the
    file. Raises :class:`SourceUnreadable`, and stops at a :class:`StorageError`.
    """
    _require_folder(images_dir)
    started = time.monotonic()
    total = count_lines(source)
    refused = _Refused()
    unfinished: dict[str, str] = {}
    seen = done = created = 0
    for some in chunks(read_ads(source), jobs.ADS_AT_ONCE):
        seen += len(some)
        waiting: dict[str, str] = {}
        for where, receipt in _receive(ws, some, source, images_dir, refused):
            done += 1
            created += receipt.created
            waiting[receipt.job_id] = where
        claimed = queue.claim_these(ws, list(waiting))
        if claimed:
            jobs.run_claimed(ws, claimed)
        unfinished |= _collect(ws, waiting, refused)
        if len(unfinished) > _MAX_UNFINISHED:
            # Another process does them; it must not fall behind without bound.
            _finish(ws, unfinished, refused, None)
            unfinished = {}
        _tell(progress, "ads", seen, total)
    _finish(ws, unfinished, refused, progress)
    return _report(started, done, created, refused)


def _report(started: float, done: int, created: int, refused: _Refused) -> IngestReport:
    return IngestReport(
        done=done,
        created=created,
        refused=tuple(refused.first),
        refused_total=refused.total,
        seconds=time.monotonic() - started,
    )


def ingest_cases(
    ws: Workspace,
    source: Path,
    photos_dir: Path | None = None,
    *,
    progress: OnProgress | None = None,
) -> IngestReport:
    """Take the cases of a CSV or JSON-lines file or of a folder, with their photos.

    A case that exists (same number and agency) keeps its fields and gets the photos it lacks.
    ``photos_dir`` is where the photos lie; for a folder it is that folder. Raises
    :class:`SourceUnreadable`, and stops at a :class:`StorageError`.
    """
    root = source if photos_dir is None and source.is_dir() else photos_dir
    if root is None:
        root = source.parent
    _require_folder(root)
    started = time.monotonic()
    total = None if source.is_dir() else count_lines(source)
    if total is not None and source.suffix.lower() == ".csv":
        total = max(0, total - 1)
    refused = _Refused()
    unfinished: dict[str, str] = {}
    done = created = 0
    for seen, item in enumerate(read_cases(source), start=1):
        if isinstance(item, Failure):
            refused.add(item)
        else:
            case_id, fresh = _case(ws, item)
            done += 1
            created += fresh
            for photo in item.photos:
                job_id = _photo(ws, case_id, item.where, photo, root, refused)
                if job_id is not None:
                    unfinished[job_id] = item.where
        _tell(progress, "cases", seen, total)
    _finish(ws, unfinished, refused, progress)
    return _report(started, done, created, refused)


# --- a few ads ------------------------------------------------------------------------------


def _receive(
    ws: Workspace,
    some: Sequence[AdItem | BadLine],
    source: Path,
    images_dir: Path,
    refused: _Refused,
) -> list[tuple[str, AdReceipt]]:
    """Take a few ads together; returns where each stood and its receipt."""
    bad: list[BadItem] = []

    def refuse(failure: Failure, line: bytes) -> None:
        refused.add(failure)
        place = f"{source.name} {failure.item}"
        bad.append(BadItem(place, failure.code, failure.detail, line.rstrip(b"\r\n")))

    items: list[AdItem] = []
    for item in some:
        if isinstance(item, BadLine):
            refuse(Failure(item.item, item.code, item.detail), item.line)
        else:
            items.append(item)
    receipts: list[tuple[str, AdReceipt]] = []
    with ExitStack() as waiting:
        deliveries = [_delivery(ws, item, images_dir, refused, waiting) for item in items]
        outcomes = receive_ads(ws, deliveries, bounded=False)
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, HomewardError):
            refuse(Failure(item.where, outcome.code, str(outcome)), item.line)
            continue
        receipts.append((item.where, outcome))
        refused.add(
            *(
                Failure(f"{item.where}: {image.filename}", image.code or "", image.detail or "")
                for image in outcome.images
                if image.status == "rejected"
            )
        )
    quarantine.add(ws.catalog, bad, _ACTOR)
    return receipts


def _delivery(
    ws: Workspace, item: AdItem, root: Path, refused: _Refused, waiting: ExitStack
) -> Delivery:
    def uploads(names: Sequence[str], max_count: int, max_bytes: int) -> list[Upload]:
        # Beyond the bound the ad is refused; one file more tells that.
        found = []
        for name in names[: max_count + 1]:
            receiving = ws.blobs.receive()
            waiting.callback(receiving.abort)
            try:
                for chunk in file_chunks(root, name, max_bytes):
                    receiving.write(chunk)
            except StorageError:
                raise
            except HomewardError as error:
                refused.add(Failure(f"{item.where}: {name}", error.code, str(error)))
            else:
                found.append(Upload(receiving.done(), filename=name))
        return found

    images = uploads(item.images, ws.options.max_images_per_ad, ws.limits.max_bytes)
    pages = uploads(item.pages, ws.options.max_pages_per_ad, ws.options.max_page_bytes)
    return Delivery(item.ad, images, pages)


# --- one case --------------------------------------------------------------------------------


def _case(ws: Workspace, item: CaseItem) -> tuple[str, bool]:
    try:
        return find_case(ws, item.case.case_number, item.case.agency).case_id, False
    except CaseNotFound:
        try:
            return create_case(ws, item.case).case_id, True
        except DuplicateCaseNumber as error:
            return error.case_id, False


def _photo(
    ws: Workspace, case_id: str, where: str, photo: PhotoFile, root: Path, refused: _Refused
) -> str | None:
    try:
        data = read_file(root, photo.file, ws.limits.max_bytes)
        receipt = add_photo(
            ws,
            case_id,
            data,
            filename=Path(photo.file).name,
            face_index=photo.face_index,
            taken_on=photo.taken_on,
        )
    except StorageError:
        raise
    except HomewardError as error:
        refused.add(Failure(f"{where}: {photo.file}", error.code, str(error)))
        return None
    return receipt.job_id


# --- their jobs ------------------------------------------------------------------------------


def _collect(ws: Workspace, waiting: Mapping[str, str], refused: _Refused) -> dict[str, str]:
    """List the failures of jobs that are over; returns those that are not.

    A job that is not there any more was for something that has been forgotten.
    """
    unfinished: dict[str, str] = {}
    for some in chunks(waiting):
        with ws.catalog.read() as session:
            rows = session.scalars(select(Job).where(Job.job_id.in_(some))).all()
        for job in map(job_record, rows):
            where = waiting[job.job_id]
            if job.state in ("queued", "running"):
                unfinished[job.job_id] = where
            else:
                refused.add(*(replace(one, item=f"{where}: {one.item}") for one in job.failures))
    return unfinished


def _finish(
    ws: Workspace,
    unfinished: dict[str, str],
    refused: _Refused,
    progress: OnProgress | None,
) -> None:
    """Do the jobs that are left; those that another process does are waited for."""
    total = len(unfinished)
    while unfinished:
        ran = False
        for some in chunks(list(unfinished), jobs.ADS_AT_ONCE):
            claimed = queue.claim_these(ws, some)
            ran = ran or bool(claimed)
            if claimed:
                jobs.run_claimed(ws, claimed)
        unfinished = _collect(ws, unfinished, refused)
        _tell(progress, "searches", total - len(unfinished), total)
        if unfinished and not ran:
            queue.recover(ws)
            time.sleep(_POLL_S)


def _tell(progress: OnProgress | None, stage: str, done: int, total: int | None) -> None:
    if progress is not None:
        progress(Progress(stage=stage, done=done, total=total))


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise SourceUnreadable(
            f"There is no folder {folder}.", remedy="Name the folder in which the files lie."
        )


def refused_codes(refused: Iterable[Failure]) -> dict[str, int]:
    """How often each code occurs, for a summary."""
    counts: dict[str, int] = {}
    for failure in refused:
        counts[failure.code] = counts.get(failure.code, 0) + 1
    return counts
