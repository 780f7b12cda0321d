"""Installations that are killed before one of their steps; apart, so that they start at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from models.packs import store
from models.packs.licences import accept

STEPS = ("fsync", "rename", "replace", "rmdir")
"""What an installation does that lasts."""


def install_from(packs: Path, source: Path) -> None:
    """Install the pack, in the place of another if need be."""
    store.install(
        "yunet-sface",
        packs,
        source=source,
        accept=lambda terms: accept(terms, "Ada Lovelace"),
        replace_other=True,
    )


def install_and_be_killed(packs: Path, source: Path, before: int) -> None:
    """The same, killed (SIGKILL) before the step number ``before`` if it comes to that."""
    left = before

    def counted(name: str) -> Callable[..., object]:
        real: Callable[..., object] = getattr(os, name)

        def step(*arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return step

    for name in STEPS:
        setattr(os, name, counted(name))
    install_from(packs, source)
