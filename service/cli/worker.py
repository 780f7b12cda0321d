"""``homeward worker``: processes that do queued jobs, beside ``serve`` or instead of it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.text import Text

from indexer.runner import Runner
from service.alerts.deliver import Deliverer
from service.cli.console import (
    FAILED,
    DataDir,
    err,
    expected_errors,
    out,
    settings_for,
    workspace_for,
)
from service.config import Settings
from service.opening import open_pack

_log = logging.getLogger(__name__)

_PARENT_POLL_S = 0.5
_RESTART_S = (0.5, 30.0)
_STEADY_S = 60.0
_GRACE_S = 60.0

Number = Annotated[int, typer.Option("-n", "--number", min=1, max=256, help="How many processes.")]
Child = Annotated[int | None, typer.Option("--child-of", hidden=True)]


@expected_errors
def worker(
    context: typer.Context,
    number: Number = 1,
    child_of: Child = None,
    data_dir: DataDir = None,
) -> None:
    """Do queued jobs in processes of their own. One that dies is started again."""
    settings = settings_for(context, data_dir)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if child_of is not None:
        _work(settings, child_of)
    else:
        _supervise(settings, number)


# --- one worker ------------------------------------------------------------------------------


def _work(settings: Settings, parent: int) -> None:
    """Do jobs until told to stop, or until the process that started this one is gone."""
    stop = threading.Event()

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    with workspace_for(settings) as workspace:
        runner = Runner(workspace, deliver=Deliverer(workspace, settings))
        runner.start()
        try:
            while not stop.wait(_PARENT_POLL_S):
                if os.getppid() != parent:
                    break
                if runner.stuck():
                    # Its jobs are taken up by others, picture by picture.
                    _log.critical("a picture hangs; this process ends itself")
                    os._exit(FAILED)
        finally:
            runner.close(_GRACE_S)


# --- those who watch over them ---------------------------------------------------------------


class _Place:
    """One of the processes, started again after a pause whenever it dies."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._pause = _RESTART_S[0]
        self._start_at = 0.0
        self._started = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def tend(self, now: float) -> None:
        """Start the process if it does not run and its pause is over."""
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return
            err.print(Text(f"Worker {self.process.pid} ended with {code}; it is started again."))
            if now - self._started > _STEADY_S:
                self._pause = _RESTART_S[0]
            self._start_at = now + self._pause
            self._pause = min(2 * self._pause, _RESTART_S[1])
            self.process = None
        if now >= self._start_at:
            self._started = now
            self.process = subprocess.Popen(self._command, env=self._environment)


def _supervise(settings: Settings, number: int) -> None:
    _prepare(settings)
    places = [_Place(_command(settings), _environment(settings, number)) for _ in range(number)]
    stopping = threading.Event()

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    out.print(Text(f"{number} worker{'s' if number > 1 else ''} started. Stop with Ctrl-C."))
    try:
        while not stopping.is_set():
            now = time.monotonic()
            for place in places:
                place.tend(now)
            stopping.wait(_PARENT_POLL_S)
    finally:
        _end([place.process for place in places if place.process is not None])


def _prepare(settings: Settings) -> None:
    """Build the pack once, before several processes want to."""
    open_pack(settings)


def _command(settings: Settings) -> list[str]:
    start = "from service.cli import main; main()"
    folder = ["--data-dir", str(settings.data_dir)]
    return [sys.executable, "-c", start, "worker", "--child-of", str(os.getpid()), *folder]


def _environment(settings: Settings, number: int) -> dict[str, str]:
    """The cores shared out among the processes, so that they do not fight for them."""
    environment = dict(os.environ)
    # Running from a folder of sources, the processes have to find the same ones.
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[2]), *filter(None, [environment.get("PYTHONPATH")])]
    )
    if settings.model_threads == 0:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        environment["HOMEWARD_MODEL_THREADS"] = str(max(1, cores // number))
    return environment


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Let each finish the batch it is at, then make sure that it is gone."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
