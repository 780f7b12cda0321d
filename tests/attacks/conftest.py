"""A real service over a real data folder; the analyser is the small one, since no attack here is
about faces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from indexer.workspace import Workspace, open_workspace
from service.app import create_app
from service.config import Settings
from tests.attacks.servers import Server, running
from tests.indexer.small import SmallAnalyser
from tests.service.conftest import AUTH, make_settings
from tests.tables import lend_tables


def open_small(settings: Settings) -> Workspace:
    lend_tables(settings.data_dir)
    return open_workspace(settings.data_dir, SmallAnalyser())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "data")


@pytest.fixture
def workspace(settings: Settings) -> Iterator[Workspace]:
    with open_small(settings) as opened:
        yield opened


@pytest.fixture
def client(settings: Settings, workspace: Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(settings, workspace), headers=AUTH) as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all raw bytes of a module."""
    made = make_settings(
        tmp_path_factory.mktemp("raw"), header_timeout_seconds=1.0, upload_timeout_seconds=1.0
    )
    with open_small(made) as workspace, running(made, workspace) as found:
        yield found
