"""The repository's own files, without what is built, cached or written when it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "indexer", "service")
_SKIPPED = {"__pycache__", "build", "dist", "homeward-data", "node_modules"}


def files(*suffixes: str) -> Iterator[Path]:
    """Every file of the repository, sorted; with ``suffixes`` only files that end in one."""
    for folder, names, found in os.walk(ROOT):
        names[:] = sorted(
            name
            for name in names
            if name not in _SKIPPED
            and not name.endswith(".egg-info")
            and (not name.startswith(".") or name == ".ci")
        )
        for name in sorted(found):
            if not suffixes or name.endswith(suffixes):
                yield Path(folder, name)


def modules() -> Iterator[Path]:
    """Every Python module of the three packages."""
    for path in files(".py"):
        if path.relative_to(ROOT).parts[0] in PACKAGES:
            yield path


def shown(path: Path) -> str:
    """The path as a person would write it."""
    return path.relative_to(ROOT).as_posix()
