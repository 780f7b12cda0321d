"""Reading the images of ads: for the generation in use, and for those beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Final

from sqlalchemy.orm import Session

from indexer import images, queue
from indexer.ad_faces import (
    capture_images,
    failures_of,
    images_of_job,
    still_shown,
    vectors_of,
    without_vectors,
)
from indexer.batches import chunks
from indexer.catalog.tables import Capture, Job
from indexer.clusters import join_clusters
from indexer.galleries import add_faces
from indexer.generations.rows import is_active, require_live
from indexer.generations.work import share_images
from indexer.hashes import fill_hashes
from indexer.images import Analysed
from indexer.kept_faces import drop_rest, is_transient, mode_of
from indexer.records import Failure, JobRecord
from indexer.transient import wanted_of
from indexer.trials import analyse_one_by_one
from indexer.watchlist import probe_cases
from indexer.withheld import checks
from indexer.workspace import Workspace
from models.types import FloatArray

_GATHERED: Final = "gathered"
"""In the payload of a job: its faces were put into the gallery."""


def ingest_ads(ws: Workspace, jobs: Sequence[JobRecord]) -> None:
    """Analyse the images of captures, put their faces into the gallery of ads and compare them
    with the open cases; have the other generations do so after."""
    with ws.catalog.read() as session:
        shas = {job.job_id: capture_images(session, job.job_id) for job in jobs}
    every = _read(ws, shas, alone=any(job.alone for job in jobs))
    vectors = _gathered(ws, every, list(shas))
    probe_cases(ws, vectors)
    with ws.catalog.write() as session:
        drop_rest(session, ws, list(vectors), list(shas))
        failures = failures_of(session, ws.contract_id, every)
        for job in jobs:
            own = [failures[sha256] for sha256 in shas[job.job_id] if sha256 in failures]
            row = session.get(Job, job.job_id)
            capture = None if row is None else session.get(Capture, row.payload["capture_id"])
            ended = queue.finish(session, ws.runner_id, job.job_id, own)
            if ended and capture is not None and shas[job.job_id]:
                share_images(
                    session,
                    ws.contract_id,
                    capture.ad_id,
                    capture.capture_id,
                    len(shas[job.job_id]),
                )


def embed_images(ws: Workspace, job: JobRecord) -> None:
    """Analyse images of ads under the contract of this view, and put their faces into its gallery.

    The images of one capture, or all from one SHA-256 to another. Where the contract is in use by
    now, they are compared with the open cases as well: nobody else does so after the switch.
    """
    with ws.catalog.read() as session:
        shas = images_of_job(session, job.job_id)
    every = _read(ws, {job.job_id: shas}, alone=job.alone)
    vectors = _gathered(ws, every, [job.job_id])
    with ws.catalog.read() as session:
        active = is_active(session, ws.contract_id)
    if active:
        probe_cases(ws, vectors)
    with ws.catalog.write() as session:
        drop_rest(session, ws, list(vectors), [job.job_id])
        failures = failures_of(session, ws.contract_id, every)
        queue.finish(session, ws.runner_id, job.job_id, list(failures.values()))


def _read(ws: Workspace, shas: Mapping[str, Sequence[str]], *, alone: bool) -> list[str]:
    """Analyse what is still to be read of the images of jobs; returns all of their images."""
    every = list(dict.fromkeys(sha256 for group in shas.values() for sha256 in group))
    with ws.catalog.read() as session:
        pending = without_vectors(session, ws.contract_id, every, _lost(session, ws, shas))
    owners = {job_id: set(group) for job_id, group in shas.items()}
    _analyse_pending(ws, pending, owners, alone=alone)
    _fill_hashes(ws, every)
    checks.check(ws, every)
    return every


def _lost(session: Session, ws: Workspace, shas: Mapping[str, Sequence[str]]) -> set[str]:
    """Images of jobs that broke off once their faces were in the gallery: where only candidates
    are kept, these may have been taken away before they were compared."""
    if mode_of(session, ws) != "transient":
        return set()
    again = [job_id for job_id in shas if _row_payload(session, job_id).get(_GATHERED)]
    return {sha256 for job_id in again for sha256 in shas[job_id]}


def _row_payload(session: Session, job_id: str) -> dict[str, Any]:
    row = session.get(Job, job_id)
    return {} if row is None else row.payload


def _gathered(ws: Workspace, shas: Sequence[str], job_ids: Sequence[str]) -> dict[str, FloatArray]:
    """Put the faces of images into the gallery of ads and into clusters, and note that with the
    jobs; returns their vectors."""
    with ws.catalog.write() as session:
        require_live(session, ws.contract_id)
        for job_id in job_ids:
            row = session.get(Job, job_id)
            if row is not None and _GATHERED not in row.payload:
                row.payload = {**row.payload, _GATHERED: True}
        # Only what an ad still shows: it may have been forgotten meanwhile.
        vectors = vectors_of(session, ws.contract_id, still_shown(session, shas))
        add_faces(session, "ads", ws.contract_id, list(vectors))
    join_clusters(ws, vectors)
    return vectors


def _fill_hashes(ws: Workspace, shas: Sequence[str]) -> None:
    """Hash what was analysed as the photo of a case, say, before an ad showed it.

    Only what could be analysed: a picture that killed a process is not decoded again.
    """
    with ws.catalog.read() as session:
        failed = failures_of(session, ws.contract_id, shas)
    fill_hashes(ws, [sha256 for sha256 in shas if sha256 not in failed])


def _analyse_pending(
    ws: Workspace, pending: Sequence[str], owners: dict[str, set[str]], *, alone: bool
) -> None:
    done: set[str] = set()
    analyse = analyse_one_by_one if alone else images.analyse_stored
    with closing(analyse(ws, pending)) as results:
        for some in chunks(results, 1 if alone else ws.options.batch_size):
            _keep_results(ws, some, pending, owners, done)


def _keep_results(
    ws: Workspace,
    some: Sequence[Analysed | Failure],
    pending: Sequence[str],
    owners: dict[str, set[str]],
    done: set[str],
) -> None:
    """Store what came of some images, and how far that brings each job."""
    done.update(one.item if isinstance(one, Failure) else one.sha256 for one in some)
    analysed = [one for one in some if not isinstance(one, Failure)]
    wanted = wanted_of(ws, analysed) if is_transient(ws) else {}
    with ws.catalog.write() as session:
        require_live(session, ws.contract_id)
        shown = set(still_shown(session, list(done)))
        for one in some:
            if isinstance(one, Failure):
                if one.item in shown:
                    images.note_failure(session, ws.contract_id, one)
            elif one.sha256 in shown:
                images.keep_analysis(session, ws.contract_id, one, only=wanted.get(one.sha256))
        for job_id, shas in owners.items():
            ready = len(shas & done) + len(shas.difference(pending))
            queue.advance(session, ws.runner_id, job_id, ready)
