"""Ads and cases from files, for the command line.

Everything is done through the same functions as over HTTP, which know what they have seen
before: broken off anywhere and run again, nothing is doubled and nothing is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from indexer import jobs, queue
from indexer.ads import receive_ad
from indexer.batches import chunks
from indexer.cases import add_photo, create_case, find_case
from indexer.errors import (
    CaseNotFound,
    DuplicateCaseNumber,
    JobNotFound,
    SourceUnreadable,
    StorageError,
)
from indexer.records import AdReceipt, Failure, IngestReport, JobRecord, Progress, Upload
from indexer.sources import (
    AdItem,
    CaseItem,
    PhotoFile,
    count_lines,
    read_ads,
    read_cases,
    read_file,
)
from indexer.workspace import Workspace
from models.errors import HomewardError

OnProgress = Callable[[Progress], None]

_POLL_S = 0.2


def ingest_ads(
    ws: Workspace, source: Path, images_dir: Path, *, progress: OnProgress | None = None
) -> IngestReport:
    """Take the ads of a JSON-lines file, with the images that they name under ``images_dir``.

    An image that is missing, rejected or cannot be analysed is listed as refused; its ad is
    taken all the same. Raises :class:`SourceUnreadable`, and stops at a :class:`StorageError`.
    """
    _require_folder(images_dir)
    started = time.monotonic()
    total = count_lines(source)
    refused: list[Failure] = []
    unfinished: dict[str, str] = {}
    seen = done = created = 0
    for some in chunks(read_ads(source), jobs.ADS_AT_ONCE):
        waiting: dict[str, str] = {}
        for item in some:
            seen += 1
            if isinstance(item, Failure):
                refused.append(item)
                continue
            receipt = _receive(ws, item, images_dir, refused)
            if receipt is not None:
                done += 1
                created += receipt.created
                waiting[receipt.job_id] = item.where
        jobs.run_claimed(ws, queue.claim_these(ws, list(waiting)))
        unfinished |= _collect(ws, waiting, refused)
        _tell(progress, "ads", seen, total)
    _finish(ws, unfinished, refused, progress)
    return IngestReport(
        done=done, created=created, refused=tuple(refused), seconds=time.monotonic() - started
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
    refused: list[Failure] = []
    unfinished: dict[str, str] = {}
    done = created = 0
    for seen, item in enumerate(read_cases(source), start=1):
        if isinstance(item, Failure):
            refused.append(item)
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
    return IngestReport(
        done=done, created=created, refused=tuple(refused), seconds=time.monotonic() - started
    )


# --- one item --------------------------------------------------------------------------------


def _receive(
    ws: Workspace, item: AdItem, images_dir: Path, refused: list[Failure]
) -> AdReceipt | None:
    images = _uploads(item.images, item.where, images_dir, ws.limits.max_bytes, refused)
    pages = _uploads(item.pages, item.where, images_dir, ws.options.max_page_bytes, refused)
    try:
        receipt = receive_ad(ws, item.ad, images, pages, bounded=False)
    except StorageError:
        raise
    except HomewardError as error:
        refused.append(Failure(item.where, error.code, str(error)))
        return None
    refused.extend(
        Failure(f"{item.where}: {image.filename}", image.code or "", image.detail or "")
        for image in receipt.images
        if image.status == "rejected"
    )
    return receipt


def _uploads(
    names: Sequence[str], where: str, root: Path, max_bytes: int, refused: list[Failure]
) -> list[Upload]:
    uploads = []
    for name in names:
        try:
            uploads.append(Upload(read_file(root, name, max_bytes), filename=name))
        except HomewardError as error:
            refused.append(Failure(f"{where}: {name}", error.code, str(error)))
    return uploads


def _case(ws: Workspace, item: CaseItem) -> tuple[str, bool]:
    try:
        return find_case(ws, item.case.case_number, item.case.agency).case_id, False
    except CaseNotFound:
        try:
            return create_case(ws, item.case).case_id, True
        except DuplicateCaseNumber as error:
            return error.case_id, False


def _photo(
    ws: Workspace, case_id: str, where: str, photo: PhotoFile, root: Path, refused: list[Failure]
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
        refused.append(Failure(f"{where}: {photo.file}", error.code, str(error)))
        return None
    return receipt.job_id


# --- their jobs ------------------------------------------------------------------------------


def _collect(ws: Workspace, waiting: dict[str, str], refused: list[Failure]) -> dict[str, str]:
    """List the failures of finished jobs; returns the jobs that are not finished."""
    unfinished: dict[str, str] = {}
    for job_id, where in waiting.items():
        job = _job(ws, job_id)
        if job is None:
            continue
        if job.state in ("done", "failed"):
            refused.extend(
                replace(failure, item=f"{where}: {failure.item}") for failure in job.failures
            )
        else:
            unfinished[job_id] = where
    return unfinished


def _job(ws: Workspace, job_id: str) -> JobRecord | None:
    try:
        return jobs.get_job(ws, job_id)
    except JobNotFound:
        return None  # what it was for has been forgotten


def _finish(
    ws: Workspace,
    unfinished: dict[str, str],
    refused: list[Failure],
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
