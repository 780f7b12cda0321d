"""Jobs: order, failures, crashes, the background runner."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from indexer import ads, cases, enrolling, jobs, queue
from indexer.catalog.tables import ImageTrial, Job, RunnerRow
from indexer.errors import (
    BlobMissing,
    InvalidCursor,
    JobNotFound,
    JobStateInvalid,
    StorageError,
    StorageFull,
)
from indexer.heart import Heart
from indexer.ids import new_id
from indexer.records import CaseInput, Failure, JobRecord, Upload
from indexer.runner import Runner
from indexer.times import utc_now
from indexer.workspace import Workspace, open_workspace
from models.errors import GpuLost
from models.types import Face, RgbImage
from tests import forked
from tests.indexer.conftest import Reopen, url_of
from tests.indexer.small import POISON, SmallAnalyser, face_picture, picture
from tests.indexer.test_ads import ad


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
    ws: Workspace, small_analyser: SmallAnalyser, short_pauses: None
) -> None:
    good = [send(ws, str(i), face_picture(i)) for i in range(10)]
    bad = send(ws, "bad", picture((9, 9, 60, POISON)), face_picture(77))
    jobs.run_pending(ws, patient=True)
    assert jobs.get_job(ws, bad).state == "failed", "it may have passed, so it was tried again"
    assert {jobs.get_job(ws, job_id).failures for job_id in good} == {()}
    (failure,) = jobs.get_job(ws, bad).failures
    assert failure.code == "analysis_failed"
    assert "fell over" in failure.detail
    assert ws.ads.count() == 11
    assert small_analyser.largest_batch <= ws.options.batch_size


def test_a_gpu_that_is_lost_says_nothing_about_the_images(
    ws: Workspace,
    small_analyser: SmallAnalyser,
    short_pauses: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = [send(ws, str(i), face_picture(i)) for i in range(3)]

    def lost(_images: Sequence[RgbImage]) -> list[list[Face]]:
        raise GpuLost("GPU 0 does not answer any more.", remedy="Start again.")

    with monkeypatch.context() as patch:
        patch.setattr(small_analyser, "analyse", lost)
        for _ in range(2 * queue.MAX_ATTEMPTS):
            assert jobs.run_pending(ws, limit=3, patient=True) == 3
    for job_id in sent:
        job = jobs.get_job(ws, job_id)
        assert (job.state, job.attempts) == ("queued", 0)
    jobs.run_pending(ws, patient=True)
    assert {jobs.get_job(ws, job_id).state for job_id in sent} == {"done"}
    assert ws.ads.count() == 3


def test_a_missing_original_is_a_failure_with_a_reason(ws: Workspace, short_pauses: None) -> None:
    receipt = ads.receive_ad(ws, ad("a"), [Upload(face_picture(1)), Upload(face_picture(2))])
    ws.blobs.delete(receipt.images[0].sha256)
    jobs.run_pending(ws, patient=True)
    job = jobs.get_job(ws, receipt.job_id)
    assert (job.state, job.attempts) == ("failed", queue.MAX_ATTEMPTS)
    assert [(f.item, f.code) for f in job.failures] == [(receipt.images[0].sha256, "blob_missing")]
    assert ws.ads.count() == 1


def test_what_was_away_for_a_while_is_read_when_it_is_back(
    ws: Workspace, short_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = send(ws, "a", face_picture(1))
    real = ws.blobs.get
    away = [2]

    def get(sha256: str) -> bytes:
        if away[0]:
            away[0] -= 1
            raise BlobMissing(sha256)
        return real(sha256)

    monkeypatch.setattr(ws.blobs, "get", get)
    assert jobs.run_pending(ws, patient=True) == 3
    assert jobs.get_job(ws, job_id).state == "done"
    assert ws.ads.count() == 1


def test_a_picture_that_failed_is_read_again_with_the_next_ad_that_shows_it(
    ws: Workspace, short_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = send(ws, "a", face_picture(1))
    with monkeypatch.context() as patch:
        patch.setattr(ws.blobs, "get", lambda sha256: (_ for _ in ()).throw(BlobMissing(sha256)))
        jobs.run_pending(ws, patient=True)
    assert jobs.get_job(ws, first).state == "failed"
    second = send(ws, "b", face_picture(1))
    jobs.run_pending(ws)
    assert jobs.get_job(ws, second).state == "done"
    assert ws.ads.count() == 1


def test_two_deadly_pictures_do_not_condemn_the_good_one_of_their_ad(ws: Workspace) -> None:
    deadly = [picture((9, 9, 60, DEADLY), salt=salt) for salt in (1, 2)]
    job_id = send(ws, "bad", *deadly, face_picture(1))
    deaths = 0
    while die_at_it(ws, DEADLY):
        deaths += 1
        assert deaths < 10, "it goes on for ever"
        queue.recover(ws)
    job = jobs.get_job(ws, job_id)
    assert (job.state, {f.code for f in job.failures}) == ("failed", {queue.CRASHED})
    assert len(job.failures) == 2
    assert ws.ads.count() == 1


def test_only_a_death_counts_against_a_picture(
    ws: Workspace, short_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = send(ws, "a", face_picture(1))
    assert die_at_it(ws)
    queue.recover(ws)
    assert jobs.get_job(ws, job_id).alone
    with monkeypatch.context() as patch:

        def away(*_: object, **__: object) -> None:
            raise StorageFull("catalog.sqlite3")

        patch.setattr("indexer.images.keep_analysis", away)
        for _ in range(4):
            jobs.run_job(ws, job_id)
    assert jobs.run_job(ws, job_id).state == "done"
    assert ws.ads.count() == 1


def test_the_dead_letter_of_a_case_is_retried_with_its_pictures(ws: Workspace) -> None:
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    photo = cases.add_photo(ws, case_id, face_picture(1))
    jobs.run_pending(ws)
    cases.update_case(ws, case_id, {"status": "closed"})
    cases.update_case(ws, case_id, {"status": "open"})
    with ws.catalog.write() as session:
        session.add(ImageTrial(sha256=photo.sha256, contract_id=ws.contract_id, crashes=3))
        session.execute(update(Job).where(Job.state == "queued").values(alone=True))
    jobs.run_pending(ws)
    (job,) = jobs.list_jobs(ws, state="failed").items
    assert ws.cases.count() == 0
    jobs.retry(ws, job.job_id)
    jobs.run_pending(ws)
    assert ws.cases.count() == 1


def test_a_claim_whose_answer_was_lost_is_taken_up(ws: Workspace) -> None:
    job_id = send(ws, "a", face_picture(1))
    claimed = queue.claim(ws, 16)
    queue.let_go(ws, claimed)  # as if this process had never learnt of it
    assert queue.recover(ws) == 0
    assert jobs.run_pending(ws) == 1
    assert jobs.get_job(ws, job_id).state == "done"


def test_a_job_that_breaks_off_is_tried_again_and_then_failed(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = enrol(ws, 1)

    def broken(*_: object) -> None:
        raise RuntimeError("no ranking today")

    with monkeypatch.context() as patch:
        patch.setattr(enrolling, "probe_ads", broken)
        for attempt in range(1, queue.MAX_ATTEMPTS + 1):
            assert jobs.run_job(ws, person).attempts == attempt
    job = jobs.get_job(ws, person)
    assert job.state == "failed"
    assert job.failures[0].code == "internal_error"
    assert "no ranking today" in job.failures[0].detail
    assert jobs.run_pending(ws) == 0


DEADLY = (250, 250, 1)
"""A block of this colour kills the process that analyses it."""


class Dies(SmallAnalyser):
    """Kills its process at a picture with a block of this colour (black: at any)."""

    def __init__(self, deadly: tuple[int, int, int]) -> None:
        super().__init__()
        self.deadly = deadly

    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        for image in images:
            if not any(self.deadly) or (image == self.deadly).all(axis=2).any():
                os.kill(os.getpid(), signal.SIGKILL)
        return super().analyse(images)


def _do_what_waits(data_dir: Path, url: str, deadly: tuple[int, int, int]) -> None:
    jobs.run_pending(open_workspace(data_dir, Dies(deadly), catalog_url=url))


def _claim_and_die(data_dir: Path, url: str, told: Connection) -> None:
    ws = open_workspace(data_dir, SmallAnalyser(), catalog_url=url)
    told.send([job.job_id for job in queue.claim(ws, 16)])
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_it(ws: Workspace, deadly: tuple[int, int, int] = (0, 0, 0)) -> bool:
    """Do what waits in a process that a picture kills (black: any); whether it did."""
    code = forked.run(_do_what_waits, ws.data_dir, url_of(ws), deadly)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def claim_and_die(ws: Workspace) -> list[str]:
    """Claim what waits in a process that is killed then; returns the jobs."""
    ours, its = forked.pipe()
    with ours, its:
        assert forked.run(_claim_and_die, ws.data_dir, url_of(ws), its) == -signal.SIGKILL
        assert ours.poll()
        claimed: list[str] = ours.recv()
    return claimed


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


def test_a_picture_that_kills_its_process_ends_in_the_dead_letters_alone(ws: Workspace) -> None:
    neighbours = [send(ws, str(n), face_picture(n)) for n in range(5)]
    bad = send(ws, "bad", face_picture(70), picture((9, 9, 60, DEADLY)))
    deaths = 0
    while die_at_it(ws, DEADLY):
        deaths += 1
        assert deaths < 10, "it goes on for ever"
        assert queue.recover(ws) >= 1
    # Once among its neighbours, then as often as one picture may.
    assert deaths == 1 + queue.DEATHS_PER_IMAGE
    assert {jobs.get_job(ws, job_id).state for job_id in neighbours} == {"done"}
    job = jobs.get_job(ws, bad)
    assert (job.state, [f.code for f in job.failures]) == ("failed", [queue.CRASHED])
    assert ws.ads.count() == 6, "the neighbours and the other picture of the same ad"
    # Somebody decides to try it again, where it does no harm.
    assert jobs.retry(ws, bad).state == "queued"
    assert jobs.run_pending(ws) == 1
    assert jobs.get_job(ws, bad).state == "done"
    assert ws.ads.count() == 7
    with ws.catalog.read() as session:
        assert session.query(ImageTrial).count() == 0


def test_a_photo_that_kills_its_process_does_not_do_so_for_ever(ws: Workspace) -> None:
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    cases.add_photo(ws, case_id, picture((9, 9, 60, DEADLY)))
    cases.add_photo(ws, case_id, face_picture(1))
    jobs.run_pending(ws)
    cases.update_case(ws, case_id, {"status": "closed"})
    cases.update_case(ws, case_id, {"status": "open"})
    deaths = 0
    while die_at_it(ws, DEADLY):
        deaths += 1
        assert deaths < 10, "it goes on for ever"
        queue.recover(ws)
    (job,) = jobs.list_jobs(ws, state="failed").items
    assert job.kind == "enrol_case"
    assert [f.code for f in job.failures] == [queue.CRASHED]
    assert ws.cases.count() == 1


def test_work_that_kills_its_process_whatever_it_is_ends_as_failed(ws: Workspace) -> None:
    job_id = send(ws, "a")
    for attempt in range(1, queue.MAX_ATTEMPTS + 1):
        (claimed,) = claim_and_die(ws)
        assert claimed == job_id
        assert queue.recover(ws) == 1
        assert jobs.get_job(ws, job_id).attempts == attempt
    job = jobs.get_job(ws, job_id)
    assert (job.state, job.alone) == ("failed", True)
    assert job.failures[-1].code == "runner_died"


# --- leases ----------------------------------------------------------------------------------


def on_another_machine(ws: Workspace) -> None:
    """As if every runner but this one were on another machine: no lock of theirs is seen."""
    with ws.catalog.write() as session:
        session.execute(
            update(RunnerRow).where(RunnerRow.runner_id != ws.runner_id).values(host="elsewhere")
        )


def test_a_runner_elsewhere_is_taken_for_dead_when_its_beat_stands_still(
    ws: Workspace, opened: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = opened()
    job_id = send(ws, "a", face_picture(1))
    (claimed,) = queue.claim(other, 16)
    on_another_machine(ws)
    clock = [1000.0]
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert queue.recover(ws) == 0, "it may have beaten a moment ago"
    clock[0] += queue.LEASE_S - 1
    assert queue.recover(ws) == 0
    queue.beat(other)
    clock[0] += 2
    assert queue.recover(ws) == 0, "it beat"
    clock[0] += queue.LEASE_S + 1
    assert queue.recover(ws) == 1
    assert jobs.get_job(ws, job_id).state == "queued"
    # It was only slow. What it does for a job that is no longer its own counts for nothing.
    (again,) = queue.claim(ws, 16)
    assert again.alone
    assert jobs.run_claimed(other, [claimed])
    assert jobs.get_job(ws, job_id).state == "running"
    queue.beat(other)
    assert jobs.run_claimed(ws, [again])
    job = jobs.get_job(ws, job_id)
    assert (job.state, job.attempts) == ("done", 2)
    assert ws.ads.count() == 1


def test_no_clock_that_jumps_ends_a_lease(
    ws: Workspace, opened: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = opened()
    send(ws, "a", face_picture(1))
    queue.claim(other, 16)
    on_another_machine(ws)
    assert queue.recover(ws) == 0
    for years in (30, -30):
        moved = utc_now() + timedelta(days=365 * years)
        monkeypatch.setattr(queue, "utc_now", lambda moved=moved: moved)
        assert queue.recover(ws) == 0


def test_the_heart_beats_while_jobs_are_held(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    heart = Heart(lambda: queue.beat(ws), 0.01)
    monkeypatch.setattr(ws, "heart", heart)

    def beats() -> int:
        with ws.catalog.read() as session:
            return session.get_one(RunnerRow, ws.runner_id).beat

    send(ws, "a", face_picture(1))
    assert not ws.heart.started
    queue.claim(ws, 16)
    try:
        wait_for(lambda: beats() >= 3)
    finally:
        heart.stop()


def test_a_runner_signs_off(ws: Workspace, opened: Reopen) -> None:
    other = opened()
    send(ws, "a", face_picture(1))
    assert jobs.run_pending(other) == 1
    with ws.catalog.read() as session:
        assert session.query(RunnerRow).count() == 1
    other.close()
    with ws.catalog.read() as session:
        assert session.query(RunnerRow).count() == 0


# --- pauses, dead letters --------------------------------------------------------------------


def test_what_broke_off_pauses_longer_each_time(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = enrol(ws, 1)
    now = [utc_now()]
    monkeypatch.setattr(queue, "utc_now", lambda: now[0])
    failure = Failure("x", "internal_error", "sample")
    pauses = []
    for _ in range(queue.MAX_ATTEMPTS - 1):
        assert len(queue.claim(ws, 16)) == 1
        assert queue.put_back(ws, job_id, failure) == "queued"
        assert queue.claim(ws, 16) == [], "not before its pause is over"
        after = jobs.get_job(ws, job_id).run_after
        assert after is not None
        pauses.append((after - now[0]).total_seconds())
        assert queue.next_due_s(ws) == pytest.approx(pauses[-1])
        now[0] = after
    # Doubled each time and spread by half, so each of these is certain.
    assert all(0.49 <= pause / 2.0 ** (n + 1) <= 1.51 for n, pause in enumerate(pauses)), pauses
    assert len(queue.claim(ws, 16)) == 1
    assert queue.put_back(ws, job_id, failure) == "failed"
    assert queue.next_due_s(ws) is None


def test_a_clock_set_back_does_not_pause_a_job_for_years(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = enrol(ws, 1)
    queue.claim(ws, 16)
    queue.put_back(ws, job_id, Failure("x", "internal_error", "sample"))
    back = utc_now() - timedelta(days=3650)
    monkeypatch.setattr(queue, "utc_now", lambda: back)
    assert queue.next_due_s(ws) == 0
    assert [job.job_id for job in queue.claim(ws, 16)] == [job_id]


def test_patience_waits_for_pauses(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_PAUSES", {False: (0.05, 0.1), True: (0.05, 0.1)})
    job_id = enrol(ws, 1)
    tries: list[int] = []

    def sometimes(ws: Workspace, case_id: str) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("not yet")
        return 0

    monkeypatch.setattr(enrolling, "probe_ads", sometimes)
    assert jobs.run_pending(ws) == 1
    assert jobs.get_job(ws, job_id).state == "queued"
    assert jobs.run_pending(ws, patient=True) == 2
    assert jobs.get_job(ws, job_id).state == "done"


def test_retry_and_drop(ws: Workspace) -> None:
    job_id = send(ws, "a", picture((9, 9, 60, POISON)))
    with pytest.raises(JobStateInvalid):
        jobs.retry(ws, job_id)
    assert jobs.drop(ws, job_id).state == "dropped"
    assert queue.claim(ws, 16) == []
    with pytest.raises(JobStateInvalid):
        jobs.drop(ws, job_id)
    assert jobs.retry(ws, job_id).state == "queued"
    jobs.run_pending(ws)
    assert jobs.get_job(ws, job_id).state == "queued", "in its pause"
    for act in (jobs.retry, jobs.drop):
        with pytest.raises(JobNotFound):
            act(ws, new_id())


def test_one_unreadable_original_does_not_condemn_its_batch(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_PAUSES", {False: (0.01, 0.01), True: (0.01, 0.01)})
    good = [send(ws, str(n), face_picture(n)) for n in range(6)]
    bad = ads.receive_ad(ws, ad("bad"), [Upload(face_picture(50))])
    real = ws.blobs.get

    def get(sha256: str) -> bytes:
        if sha256 == bad.images[0].sha256:
            raise StorageError("the disk could not be read: Input/output error")
        return real(sha256)

    monkeypatch.setattr(ws.blobs, "get", get)
    jobs.run_pending(ws, patient=True)
    assert {jobs.get_job(ws, job_id).state for job_id in good} == {"done"}
    job = jobs.get_job(ws, bad.job_id)
    assert (job.state, job.failures[0].code) == ("failed", "storage_error")


# --- the runner ------------------------------------------------------------------------------


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
        patch.setattr(enrolling, "probe_ads", full)
        jobs.run_pending(ws)
    job = jobs.get_job(ws, person)
    assert (job.state, job.attempts) == ("queued", 0)
    assert jobs.run_pending(ws) == 1
    assert jobs.get_job(ws, person).state == "done"
