"""An open workspace on an empty folder, with the small analyser of ``small.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from indexer import queue
from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from tests.conftest import REPOSITORY
from tests.indexer.small import SmallAnalyser
from tests.indexer.watch import CALIBRATION
from tests.milvus import MilvusAbsent, MilvusServer, running_milvus
from tests.tables import lend_tables

Reopen = Callable[[], Workspace]
PROGRAMS = REPOSITORY / ".cache" / "milvus-server"


@pytest.fixture
def small_analyser() -> SmallAnalyser:
    return SmallAnalyser()


Opens = Callable[..., Reopen]


@pytest.fixture
def lent(tmp_path: Path, catalog_url: str | None) -> None:
    """What lies in the data folder before it is opened: a SQLite that is migrated already."""
    if catalog_url is None:
        lend_tables(tmp_path / "data")


@pytest.fixture
def opens(
    tmp_path: Path, catalog_url: str | None, small_analyser: SmallAnalyser, lent: None
) -> Iterator[Opens]:
    """Makes what opens the one data folder, with these options of ``open_workspace``."""
    with ExitStack() as stack:

        def with_options(**options: Any) -> Reopen:
            return lambda: stack.enter_context(
                open_workspace(
                    tmp_path / "data", small_analyser, catalog_url=catalog_url, **options
                )
            )

        yield with_options


@pytest.fixture
def opened(opens: Opens) -> Reopen:
    """Opens the same data folder as often as called, as several processes would."""
    return opens(options=WorkspaceOptions(max_queued_jobs=200))


def url_of(ws: Workspace) -> str:
    """The URL of its catalog, for another process that is to open the same."""
    return ws.catalog.engine.url.render_as_string(hide_password=False)


@pytest.fixture
def ws(opened: Reopen) -> Workspace:
    return opened()


@pytest.fixture
def reopen_watched(opens: Opens) -> Reopen:
    """As ``opened``, with a calibration, so that alerts are raised."""
    return opens(calibration=CALIBRATION, options=WorkspaceOptions(alert_budget=100))


@pytest.fixture
def watched(reopen_watched: Reopen) -> Workspace:
    return reopen_watched()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What broke off is tried again almost at once."""
    monkeypatch.setattr(queue, "_PAUSES", {False: (0.01, 0.01), True: (0.01, 0.01)})


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A real server, started with the first test that needs one."""
    try:
        with running_milvus(tmp_path_factory.mktemp("milvus"), PROGRAMS) as server:
            yield server
    except MilvusAbsent as absent:
        pytest.skip(str(absent))


@pytest.fixture(scope="session")
def milvus_lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded milvus-lite."""
    manager = pytest.importorskip("milvus_lite.server_manager")
    path = str(tmp_path_factory.mktemp("milvus-lite") / "vectors.db")
    yield path
    manager.server_manager_instance.release_server(path)
