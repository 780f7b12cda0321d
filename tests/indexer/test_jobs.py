"""Jobs: order, failures, crashes, the background runner."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from indexer import ads, candidates, cases, jobs, queue
from indexer.errors import InvalidCursor, JobNotFound, StorageFull
from indexer.ids import new_id
from indexer.records import CaseInput, JobRecord, Upload
from indexer.runner import Runner
from indexer.workspace import Workspace
from tests.indexer.conftest import Reopen, url_of
from tests.indexer.small import POISON, SmallAnalyser, face_picture, picture
from tests.indexer.test_ads import ad

REPOSITORY = Path(__file__).parents[2]


def send(ws: Workspace, name: str, *pictures: bytes) -> str:
    return ads.receive_ad(ws, ad(name), [Upload(data) for data in pictures]).job_id


def enrol(ws: Workspace, person: int) -> str:
    case_id = cases.create_case(ws, CaseInput(case_number=str(person))).case_id
    return cases.add_photo(ws, case_id, face_picture(person)).job_id


def wait_for(what: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_cases_go_before_ads(ws: Workspace) -> None:
    first = send(ws, "a", face_picture(1))
    second = send(ws, "b", face_picture(2))
    person = enrol(ws, 3)
    assert [job.job_id for job in queue.claim(ws, 16)] == [person]
    assert [job.job_id for job in queue.claim(ws, 16)] == [first, second]
    assert queue.claim(ws, 16) == []


def test_looking_at_jobs(ws: Workspace) -> None:
    made = [send(ws, str(i)) for i in range(5)]
    assert jobs.waiting(ws) == 5
    job = jobs.run_job(ws, made[1])
    assert (job.state, job.done, job.total, job.failures) == ("done", 0, 0, ())
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.started_at <= job.finished_at
    assert jobs.run_job(ws, made[1]) == job, "done is done"
    assert jobs.counts(ws) == {"queued": 4, "running": 0, "done": 1, "failed": 0, "dropped": 0}
    page = jobs.list_jobs(ws, limit=2)
    assert [j.job_id for j in page.items] == made[:2:-1]
    assert [j.job_id for j in jobs.list_jobs(ws, limit=9, cursor=page.next_cursor).items] == made[
        2::-1
    ]
    assert [j.job_id for j in jobs.list_jobs(ws, state="done").items] == [made[1]]
    with pytest.raises(JobNotFound):
        jobs.get_job(ws, new_id())
    with pytest.raises(JobNotFound):
        jobs.run_job(ws, new_id())
    with pytest.raises(InvalidCursor):
        jobs.list_jobs(ws, cursor="nonsense")


def test_one_poisoned_image_does_not_condemn_its_batch(
    ws: Workspace, small_analyser: SmallAnalyser
) -> None:
    good = [send(ws, str(i), face_picture(i)) for i in range(10)]
    bad = send(ws, "bad", picture((9, 9, 60, POISON)), face_picture(77))
    jobs.run_pending(ws)
    assert {jobs.get_job(ws, job_id).failures for job_id in good} == {()}
    (failure,) = jobs.get_job(ws, bad).failures
    assert failure.code == "analysis_failed"
    assert "fell over" in failure.detail
    assert ws.ads.count() == 11
    assert small_analyser.largest_batch <= ws.options.batch_size


def test_a_missing_original_is_a_failure_with_a_reason(ws: Workspace) -> None:
    receipt = ads.receive_ad(ws, ad("a"), [Upload(face_picture(1)), Upload(face_picture(2))])
    ws.blobs.delete(receipt.images[0].sha256)
    job = jobs.run_job(ws, receipt.job_id)
    assert [(f.item, f.code) for f in job.failures] == [(receipt.images[0].sha256, "blob_missing")]
    assert ws.ads.count() == 1


def test_a_job_that_breaks_off_is_tried_again_and_then_failed(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = enrol(ws, 1)

    def broken(*_: object) -> None:
        raise RuntimeError("no ranking today")

    with monkeypatch.context() as patch:
        patch.setattr(candidates, "ranked", broken)
        for attempt in range(1, queue.MAX_ATTEMPTS + 1):
            assert jobs.run_job(ws, person).attempts == attempt
    job = jobs.get_job(ws, person)
    assert job.state == "failed"
    assert job.failures[0].code == "internal_error"
    assert "no ranking today" in job.failures[0].detail
    assert jobs.run_pending(ws) == 0


_DIES = """
import os, sys
from pathlib import Path
from indexer import jobs
from indexer.workspace import open_workspace
from tests.indexer.small import SmallAnalyser

class Dies(SmallAnalyser):
    def analyse(self, images):
        os.kill(os.getpid(), 9)

jobs.run_pending(open_workspace(Path(sys.argv[1]), Dies(), catalog_url=sys.argv[2]))
"""


def die_at_it(ws: Workspace) -> None:
    command = [sys.executable, "-c", _DIES, str(ws.data_dir), url_of(ws)]
    assert subprocess.run(command, cwd=REPOSITORY, timeout=60, check=False).returncode == -9


def test_jobs_of_a_process_that_was_killed_are_taken_up(ws: Workspace, opened: Reopen) -> None:
    job_id = send(ws, "a", face_picture(1))
    die_at_it(ws)
    assert jobs.get_job(ws, job_id).state == "running"
    again = opened()
    job = jobs.get_job(again, job_id)
    assert (job.state, job.attempts) == ("queued", 1)
    assert jobs.run_job(again, job_id).state == "done"
    assert ws.ads.count() == 1


def test_jobs_of_a_living_process_are_left_to_it(ws: Workspace, opened: Reopen) -> None:
    send(ws, "a", face_picture(1))
    (claimed,) = queue.claim(ws, 16)
    other = opened()
    assert queue.recover(other) == 0
    assert jobs.run_pending(other) == 0
    assert jobs.run_claimed(ws, [claimed])
    assert jobs.get_job(other, claimed.job_id).state == "done"


def test_work_that_kills_its_process_ends_as_failed(ws: Workspace) -> None:
    job_id = send(ws, "a", face_picture(1))
    for _ in range(queue.MAX_ATTEMPTS):
        die_at_it(ws)
        queue.recover(ws)
    job = jobs.get_job(ws, job_id)
    assert job.state == "failed"
    assert job.failures[0].code == "runner_died"


def test_the_runner_does_what_comes_in(ws: Workspace, opened: Reopen) -> None:
    runner = Runner(ws, threads=2)
    runner.start()
    try:
        assert runner.alive()
        waiting = [send(ws, str(i), face_picture(i)) for i in range(30)]
        runner.wake()
        other = opened()
        waiting.append(enrol(other, 5))
        wait_for(lambda: all(_done(ws, job_id) for job_id in waiting))
    finally:
        runner.close()
    assert not runner.alive()
    assert ws.ads.count() == 30
    assert ws.ads.health() is None
    send(ws, "after", face_picture(99))
    assert jobs.waiting(ws) == 1


def _done(ws: Workspace, job_id: str) -> bool:
    job: JobRecord = jobs.get_job(ws, job_id)
    return job.state == "done"


def test_the_runner_outlives_a_broken_catalog(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = queue.claim

    def sometimes(ws: Workspace, limit: int) -> list[JobRecord]:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("away")
        return real(ws, limit)

    monkeypatch.setattr(queue, "claim", sometimes)
    monkeypatch.setattr("indexer.runner._PAUSE_S", 0.01)
    runner = Runner(ws)
    runner.start()
    job_id = send(ws, "a", face_picture(1))
    try:
        wait_for(lambda: _done(ws, job_id))
    finally:
        runner.close()
    Runner(ws).close()


class FullDisk:
    """Breaks writes of the catalog off as long as ``left`` of them are to fail."""

    def __init__(self, ws: Workspace, patch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self._real = ws.catalog.write
        patch.setattr(ws.catalog, "write", self._write)

    @contextmanager
    def _write(self) -> Generator[Session]:
        if self.left:
            self.left -= 1
            raise StorageFull("catalog.sqlite3")
        with self._real() as session:
            yield session


@pytest.mark.parametrize("maintained", [True, False])
def test_a_job_that_could_not_be_put_back_is_taken_up_by_its_own_process(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, maintained: bool
) -> None:
    job_id = send(ws, "a", face_picture(1))
    (claimed,) = queue.claim(ws, 16)
    disk = FullDisk(ws, monkeypatch)
    disk.left = 2  # what the job writes, and putting it back
    assert not jobs.run_claimed(ws, [claimed])
    assert disk.left == 0
    assert jobs.get_job(ws, job_id).state == "running"
    if maintained:
        ws.maintain()
        job = jobs.get_job(ws, job_id)
        assert (job.state, job.attempts) == ("queued", 0), "the disk's fault, not the job's"
    assert jobs.run_pending(ws) == 1
    job = jobs.get_job(ws, job_id)
    assert (job.state, job.attempts) == ("done", 1)
    assert ws.ads.count() == 1


def test_a_stranded_job_stays_known_until_it_is_put_back(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = send(ws, "a", face_picture(1))
    (claimed,) = queue.claim(ws, 16)
    disk = FullDisk(ws, monkeypatch)
    disk.left = 4
    assert not jobs.run_claimed(ws, [claimed])
    ws.maintain()
    with pytest.raises(StorageFull):
        jobs.run_pending(ws)
    assert jobs.get_job(ws, job_id).state == "running"
    ws.maintain()
    assert jobs.get_job(ws, job_id).state == "queued"


def test_a_full_disk_fails_no_job_and_ends_the_call(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = enrol(ws, 1)

    def full(*_: object) -> None:
        raise StorageFull("catalog.sqlite3")

    with monkeypatch.context() as patch:
        patch.setattr(candidates, "ranked", full)
        jobs.run_pending(ws)
    job = jobs.get_job(ws, person)
    assert (job.state, job.attempts) == ("queued", 0)
    assert jobs.run_pending(ws) == 1
    assert jobs.get_job(ws, person).state == "done"
