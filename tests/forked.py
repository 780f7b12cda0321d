"""Processes that start at once: forked from one that has loaded everything and does nothing else.

They are real ones, with an id, files and locks of their own, and can be killed. Only the seconds
are saved that a new interpreter takes to load the same libraries again. Tests of how the program
itself starts, of what its commands print and of how it ends run ``homeward`` anew instead.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["indexer.ingest", "indexer.jobs", "tests.indexer.small", "tests.service.live"]
)

pipe = _context.Pipe
"""Two connected ends; one of them goes to the process as an argument."""


def start(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Run ``work``, a function of a module, in a process of its own. It ends with this one."""
    environment = dict(os.environ)
    # Most of these are killed, and count no lines; the one they are forked from outlives the tests
    # and would write its counts while those of all others are being gathered.
    counting = os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    try:
        forkserver.ensure_running()
    finally:
        if counting is not None:
            os.environ["COVERAGE_PROCESS_CONFIG"] = counting
    process = _context.Process(
        target=_run, args=(environment, work, arguments), name=work.__name__, daemon=True
    )
    process.start()
    return process


def run(work: Callable[..., None], *arguments: Any, seconds: float = 60) -> int:
    """Run ``work`` to its end; its exit code, negative where a signal ended it."""
    process = start(work, *arguments)
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"{work.__name__} did not end within {seconds:g} s")
    code: int = process.exitcode
    process.close()
    return code


def _run(
    environment: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    # The process they are forked from may have been started by another test.
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)
