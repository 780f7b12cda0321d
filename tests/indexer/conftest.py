"""An open workspace on an empty folder, with the small analyser of ``small.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from tests.indexer.small import SmallAnalyser

Reopen = Callable[[], Workspace]


@pytest.fixture
def small_analyser() -> SmallAnalyser:
    return SmallAnalyser()


@pytest.fixture
def opened(tmp_path: Path, small_analyser: SmallAnalyser) -> Iterator[Reopen]:
    """Opens the same data folder as often as called, as several processes would."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(
            open_workspace(
                tmp_path / "data", small_analyser, options=WorkspaceOptions(max_queued_jobs=200)
            )
        )


@pytest.fixture
def ws(opened: Reopen) -> Workspace:
    return opened()
