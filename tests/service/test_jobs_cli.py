"""``homeward jobs`` and ``homeward worker``: dead letters, and processes that come and go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from indexer import ads, cases, jobs, queue
from indexer.records import AdInput, CaseInput, Failure, Upload
from indexer.workspace import Workspace
from models.pipeline import Analyser
from service.cli.main import app
from tests.service.conftest import make_settings, open_with

REPOSITORY = Path(__file__).parents[2]
RUN = "from service.cli import main; main()"


@pytest.fixture
def folder(tmp_path: Path, pack_cache: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir(mode=0o700)
    (made / "packs").symlink_to(pack_cache)
    return made


@pytest.fixture
def ws(folder: Path, analyser: Analyser) -> Iterator[Workspace]:
    with open_with(make_settings(folder), analyser) as opened:
        yield opened


def send(ws: Workspace, name: str, *pictures: bytes) -> str:
    ad = AdInput(site="site-a.example", external_id=name)
    return ads.receive_ad(ws, ad, [Upload(data) for data in pictures]).job_id


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["jobs", *words, "--data-dir", str(folder)])


def wait_until(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# --- jobs ------------------------------------------------------------------------------------


def dead_letter(ws: Workspace) -> str:
    job_id = send(ws, "bad")
    assert queue.claim_one(ws, job_id) is not None
    failure = Failure(job_id, "internal_error", "it fell over")
    assert queue.put_back(ws, job_id, failure, again=False) == "failed"
    return job_id


def test_dead_letters_are_listed_with_their_reason(ws: Workspace, folder: Path) -> None:
    waiting, bad = send(ws, "good"), dead_letter(ws)
    said = run(folder, "list").stdout
    assert waiting in said and bad in said
    assert "internal_error: it fell over" in said
    assert "1 queued, 0 running, 0 done, 1 failed, 0 dropped" in said
    assert waiting not in run(folder, "list", "--state", "failed").stdout
    found = json.loads(run(folder, "list", "--json", "--state", "failed").stdout)
    assert found["counts"]["failed"] == 1
    (item,) = found["items"]
    assert (item["job_id"], item["state"], item["attempts"]) == (bad, "failed", 1)
    assert item["failures"] == [{"item": bad, "code": "internal_error", "detail": "it fell over"}]
    assert json.loads(run(folder, "list", "--json", "--limit", "1").stdout)["items"]


def test_dead_letters_are_retried_and_dropped(ws: Workspace, folder: Path) -> None:
    bad = dead_letter(ws)
    assert "queued again" in run(folder, "retry", bad).stdout
    assert jobs.get_job(ws, bad).state == "queued"
    assert "dropped" in run(folder, "drop", bad).stdout
    assert jobs.get_job(ws, bad).state == "dropped"
    again = run(folder, "drop", bad)
    assert again.exit_code == 1
    assert "[job_state_invalid]" in again.stderr and "What to do" in again.stderr
    assert run(folder, "retry", bad).exit_code == 0
    queue.claim_one(ws, bad)
    queue.put_back(ws, bad, Failure("x", "internal_error", "again"), again=False)
    assert run(folder, "retry", "--all-failed").exit_code == 0
    assert jobs.get_job(ws, bad).state == "queued"
    assert run(folder, "drop", "--all-failed").exit_code == 0, "none is failed now"
    assert jobs.get_job(ws, bad).state == "queued"


@pytest.mark.parametrize(
    "words", [("list", "--state", "odd"), ("retry",), ("drop",), ("retry", "x", "--all-failed")]
)
def test_what_is_no_use_of_it(ws: Workspace, folder: Path, words: tuple[str, ...]) -> None:
    assert run(folder, *words).exit_code == 2


def test_an_unknown_job_is_said_to_be_so(ws: Workspace, folder: Path) -> None:
    done = run(folder, "retry", "01890a5d-ac96-774b-bcce-b302099a8057")
    assert done.exit_code == 1
    assert "[job_not_found]" in done.stderr


# --- workers ---------------------------------------------------------------------------------


@contextmanager
def workers(folder: Path, number: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOMEWARD_")}
    environment |= {"HOMEWARD_MODEL_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    words = ["worker", "-n", str(number), "--data-dir", str(folder)]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *words], env=environment, cwd=REPOSITORY
    ) as process:
        try:
            yield process
        finally:
            for child in children(process):
                child.kill()
            process.kill()


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return list(psutil.Process(process.pid).children())
    except psutil.NoSuchProcess:
        return []


@pytest.mark.slow
def test_workers_do_what_waits_and_are_started_again(
    ws: Workspace, folder: Path, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    cases.add_photo(ws, case_id, portrait_bytes)
    first = send(ws, "a", mirrored_bytes)
    with workers(folder, 2) as process:
        wait_until(lambda: jobs.get_job(ws, first).state == "done")
        wait_until(lambda: jobs.waiting(ws) == 0)
        wait_until(lambda: len(children(process)) == 2)
        killed = children(process)
        for child in killed:
            child.kill()
        psutil.wait_procs(killed, timeout=30)
        second = send(ws, "b", portrait_bytes)
        wait_until(lambda: jobs.get_job(ws, second).state == "done")
        process.send_signal(signal.SIGTERM)
        left = children(process)
        assert process.wait(60) == 0
        assert psutil.wait_procs(left, timeout=30)[1] == []
    assert ws.ads.count() == 2


@pytest.mark.slow
def test_workers_end_with_the_process_that_watches_over_them(ws: Workspace, folder: Path) -> None:
    with workers(folder, 1) as process:
        wait_until(lambda: len(children(process)) == 1)
        left = children(process)
        process.kill()
        process.wait()
        assert psutil.wait_procs(left, timeout=60)[1] == []


@pytest.mark.slow
def test_a_trial_of_the_models_that_was_killed_is_started_again(folder: Path) -> None:
    with workers(folder, 1) as process:
        wait_until(lambda: any("--try-models" in child.cmdline() for child in children(process)))
        [trial] = children(process)
        trial.kill()
        wait_until(lambda: any(child.pid != trial.pid for child in children(process)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
