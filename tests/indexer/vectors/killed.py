"""Runs one change of a segment once for each step of it, and is killed at that step.

``python killed.py CHANGE FOLDER...``: in the first folder the change is killed before its first
call that touches the disk, in the second before its second, and so on; a write is killed in its
middle. One line is printed for each: ``killed`` or ``done``. ``sealed-CHANGE`` is the same of an
encrypted segment.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from indexer.vectors.segment import History, remove_segment, scrub
from tests.indexer.vectors.segments import keyring, reopened, some_rows, write

DEAD = np.array([0, 3, 4, 255, 256, 599])
AFTER = History(9, "face-9")


def main(change: str, folders: list[Path]) -> None:
    for step, folder in enumerate(folders):
        child = os.fork()
        if child == 0:
            die_before(step)
            CHANGES[change](folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            print("killed")
        elif status == 0:
            print("done")
        else:
            sys.exit(f"step {step}: status {status}")


def die_before(step: int) -> None:
    """Be killed at the call of this number, from 0 on, that changes something on the disk."""
    left = step

    def dying(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                if name == "pwrite":
                    handle, data, offset = arguments
                    real(handle, data[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return real(*arguments, **named)

        return call

    for name in ("ftruncate", "pwrite", "fsync", "replace", "unlink"):
        setattr(os, name, dying(name))


CHANGES: dict[str, Callable[[Path], object]] = {
    "write": lambda folder: write(folder, "one", some_rows()),
    "scrub": lambda folder: scrub(folder, "one", DEAD, AFTER),
    "finish": lambda folder: reopened(folder),
    "remove": lambda folder: remove_segment(folder, "one"),
    "sealed-write": lambda folder: write(folder, "one", some_rows(), keys=keyring()),
    "sealed-scrub": lambda folder: scrub(folder, "one", DEAD, AFTER, keyring()),
    "sealed-finish": lambda folder: reopened(folder, keys=keyring()),
    "sealed-remove": lambda folder: remove_segment(folder, "one"),
}

if __name__ == "__main__":
    main(sys.argv[1], [Path(folder) for folder in sys.argv[2:]])
