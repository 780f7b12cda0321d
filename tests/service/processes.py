"""A real service as a process of its own, over a real data folder."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest

from tests.service.conftest import AUTH, KEY

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
RUN = "from service.cli import main; main()"
_LISTENS = re.compile(r"listens on (https?://\S+)")


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """What a process of Homeward over ``data_dir`` needs; ``settings`` are without the prefix."""
    given = {
        "data_dir": str(data_dir),
        "api_key": KEY,
        "port": "0",
        "compute_threads": "2",
        "model_threads": "1",
        "rate_limit_per_minute": "100000",
        "failures_per_minute": "100000",
        **settings,
    }
    return {**os.environ, **{f"HOMEWARD_{name.upper()}": value for name, value in given.items()}}


def homeward(
    data_dir: Path, *words: str | Path, expect: int = 0, text: str | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, which has to be ``expect``."""
    run = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)],
        cwd=REPOSITORY,
        env=environment(data_dir, **settings),
        input=text,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == expect, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run


@contextmanager
def serving(
    data_dir: Path, log: Path, verify: ssl.SSLContext | None = None, /, **settings: str
) -> Iterator[httpx2.Client]:
    """``homeward serve`` as a process, what it prints in ``log``; a client with the key.

    ``verify``: what the client trusts where the service speaks TLS.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, "serve"],
            cwd=REPOSITORY,
            env=environment(data_dir, **settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        address = wait_until(lambda: _address(process, log), 120)
        with httpx2.Client(
            base_url=address, headers=AUTH, timeout=60, verify=verify or True
        ) as client:
            yield client
    finally:
        process.terminate()
        process.wait(60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str | None:
    said = log.read_text(encoding="utf-8")
    assert process.poll() is None, said
    found = _LISTENS.search(said)
    return found.group(1) if found else None


def wait_until(look: Callable[[], T | None], seconds: float = 60) -> T:
    """What ``look`` finds, asked again and again; the test fails if that is nothing for long."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:g} s in vain")
        time.sleep(0.1)
