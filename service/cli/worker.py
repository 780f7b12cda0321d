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
from models.runtime import gpu_lost
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
from service.gpus import Gpu, chosen_gpus, environment_of, visible_gpus
from service.opening import open_pack, pack_in_use

_log = logging.getLogger(__name__)

_PARENT_POLL_S = 0.5
_RESTART_S = (0.5, 30.0)
_STEADY_S = 60.0
_GRACE_S = 60.0

Number = Annotated[
    int,
    typer.Option("-n", "--number", min=1, max=256, help="How many processes, or for each GPU."),
]
Gpus = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="all|0,1",
        help="A process for each of these GPUs; implies HOMEWARD_PROVIDER=cuda where it is cpu.",
        show_default=False,
    ),
]
Child = Annotated[int | None, typer.Option("--child-of", hidden=True)]
Try = Annotated[bool, typer.Option("--try-models", hidden=True)]


@expected_errors
def worker(
    context: typer.Context,
    number: Number = 1,
    gpus: Gpus = None,
    child_of: Child = None,
    try_models: Try = False,
    data_dir: DataDir = None,
) -> None:
    """Do queued jobs in processes of their own. One that dies is started again."""
    settings = settings_for(context, data_dir)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if try_models:
        open_pack(settings, pack_in_use(settings))
    elif child_of is not None:
        _work(settings, child_of)
    else:
        chosen = [] if gpus is None else chosen_gpus(gpus, visible_gpus())
        _supervise(settings, environments(settings, number, chosen))


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
                if gpu_lost():
                    _log.critical("the GPU does not answer any more; this process ends itself")
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


def _supervise(settings: Settings, each: list[dict[str, str]]) -> None:
    """Keep one process for each environment until told to stop."""
    stopping = threading.Event()

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    # Before anything is started: as the first process of a container this one has no other way
    # to be stopped.
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    for environment in _distinct(each):
        _try_models(settings, environment, stopping)
    places = [_Place(_command(settings, "--child-of", str(os.getpid())), env) for env in each]
    number = len(places)
    out.print(Text(f"{number} worker{'s' if number > 1 else ''} started. Stop with Ctrl-C."))
    try:
        while not stopping.is_set():
            now = time.monotonic()
            for place in places:
                place.tend(now)
            stopping.wait(_PARENT_POLL_S)
    finally:
        _end([place.process for place in places if place.process is not None])


def _distinct(each: list[dict[str, str]]) -> list[dict[str, str]]:
    """One environment for each GPU."""
    return list({env.get("CUDA_VISIBLE_DEVICES"): env for env in each}.values())


def _try_models(settings: Settings, environment: dict[str, str], stopping: threading.Event) -> None:
    """Build the pack once, before several processes want to, and see that it runs where it shall.

    In a process of its own: this one would hold memory of the GPU for as long as it lives.
    Ends this process as that one ends, which has said why, or when it is told to stop. One that
    was killed could say nothing: it is started again after a pause, as the workers are.
    """
    pause = _RESTART_S[0]
    while (code := _tried(_command(settings, "--try-models"), environment, stopping)) < 0:
        err.print(Text(f"The trial of the models ended with {code}; it is started again."))
        if stopping.wait(pause):
            raise typer.Exit
        pause = min(2 * pause, _RESTART_S[1])
    if code != 0:
        raise typer.Exit(code)


def _tried(command: list[str], environment: dict[str, str], stopping: threading.Event) -> int:
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None:
            if stopping.wait(0.1):
                process.terminate()
                process.wait()
                raise typer.Exit
    return process.returncode


def _command(settings: Settings, *options: str) -> list[str]:
    start = "from service.cli import main; main()"
    folder = ["--data-dir", str(settings.data_dir)]
    return [sys.executable, "-c", start, "worker", *options, *folder]


def environments(settings: Settings, number: int, gpus: list[Gpu]) -> list[dict[str, str]]:
    """What each process is given: its GPU, and its share of the cores.

    ``number`` processes, or as many for each of ``gpus``. The cores are shared out so that the
    processes do not fight for them.
    """
    common = dict(os.environ)
    # Running from a folder of sources, the processes have to find the same ones.
    common["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[2]), *filter(None, [common.get("PYTHONPATH")])]
    )
    total = number * max(1, len(gpus))
    if settings.model_threads == 0:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        common["HOMEWARD_MODEL_THREADS"] = str(max(1, cores // total))
    if not gpus:
        return [common] * number
    if settings.provider == "cpu":
        common["HOMEWARD_PROVIDER"] = "cuda"
    return [common | environment_of(gpu) for gpu in gpus for _ in range(number)]


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
