"""A consistent copy of the catalog while others write to it, and the way back.

SQLite: ``VACUUM INTO`` a file (https://www.sqlite.org/lang_vacuum.html), which reads one state like
the backup API does and takes nothing of deleted rows along. PostgreSQL: ``pg_dump`` in its custom
format, from the snapshot in which the facts about it are read.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, create_engine, func, inspect, select, text, union

from indexer.catalog.engine import Catalog, parsed, sqlite_url
from indexer.catalog.tables import (
    Ad,
    CapturePage,
    Case,
    Image,
    Photo,
    Purge,
    StagedImage,
)
from indexer.errors import BackupFailed, CatalogUnusable
from indexer.files import storage_errors

CatalogKind = Literal["sqlite", "postgresql"]

_STREAM_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class CatalogCopy:
    """A copy in a file, and what is in it. ``last_purge``: the last that the file of purges has.

    ``originals_bytes`` is what the originals take at most.
    """

    path: Path
    kind: CatalogKind
    revision: str
    counts: dict[str, int]
    last_purge: str | None
    originals: int
    originals_bytes: int
    connection: Connection

    def original_names(self) -> Iterator[str]:
        """The SHA-256 of every original that the copy names, in order."""
        names = union(
            *(select(c) for c in (Image.sha256, CapturePage.sha256, StagedImage.sha256))
        ).order_by("sha256")
        streamed = self.connection.execution_options(yield_per=_STREAM_ROWS)
        yield from streamed.execute(names).scalars()


@contextmanager
def copied(catalog: Catalog, path: Path, pg_dump: str | None = None) -> Generator[CatalogCopy]:
    """Copy the catalog to ``path``, a new file for this account alone, removed at the end.

    ``pg_dump`` names the program where it is not in the search path. Raises
    :class:`BackupFailed` and the StorageError tree.
    """
    try:
        with storage_errors(str(path)):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        copy = _copied_sqlite if catalog.is_sqlite else _copied_postgresql
        with copy(catalog, path, pg_dump) as made:
            yield made
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _copied_sqlite(catalog: Catalog, path: Path, _: str | None) -> Generator[CatalogCopy]:
    with catalog.errors_translated():
        connection = catalog.engine.raw_connection()
        try:
            connection.cursor().execute("VACUUM INTO ?", (str(path),))
        finally:
            connection.close()
    engine = create_engine(sqlite_url(path))
    try:
        with engine.connect() as made:
            yield _facts(made, path, "sqlite")
    finally:
        engine.dispose()


@contextmanager
def _copied_postgresql(catalog: Catalog, path: Path, pg_dump: str | None) -> Generator[CatalogCopy]:
    program = _program("pg_dump", pg_dump)
    reader = catalog.engine.execution_options(isolation_level="REPEATABLE READ")
    with reader.connect() as connection:
        # The snapshot is there as long as this transaction is, however long the back-up takes.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        _run(
            [program, "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}"],
            catalog.engine,
            ["--file", str(path)],
        )
        yield _facts(connection, path, "postgresql")


def _facts(connection: Connection, path: Path, kind: CatalogKind) -> CatalogCopy:
    def count(table: type[Case | Photo | Ad | Image | Purge]) -> int:
        return connection.scalar(select(func.count()).select_from(table)) or 0

    names = union(
        *(select(c) for c in (Image.sha256, CapturePage.sha256, StagedImage.sha256))
    ).subquery()
    sizes = [
        connection.scalar(select(func.sum(column)))
        for column in (Image.size, CapturePage.size, StagedImage.size)
    ]
    return CatalogCopy(
        path=path,
        kind=kind,
        revision=connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one(),
        counts={
            "cases": count(Case),
            "photos": count(Photo),
            "ads": count(Ad),
            "images": count(Image),
            "purges": count(Purge),
        },
        last_purge=connection.scalar(
            select(func.max(Purge.purge_id)).where(Purge.written_at.is_not(None))
        ),
        originals=connection.scalar(select(func.count()).select_from(names)) or 0,
        originals_bytes=sum(int(size or 0) for size in sizes),
        connection=connection,
    )


# --- the way back ----------------------------------------------------------------------------


def require_empty(kind: CatalogKind, url: str, pg_dump: str | None = None) -> None:
    """Raises :class:`BackupFailed` where the catalog at ``url`` is not of this kind or is there
    already, or where the program that puts it back is not there."""
    engine = create_engine(parsed(url))
    try:
        if engine.dialect.name != kind:
            raise BackupFailed(
                f"The back-up holds a catalog of {kind}, and the catalog to be is one of "
                f"{engine.dialect.name}.",
                remedy="Set HOMEWARD_CATALOG_URL to an empty database of that kind, or unset it "
                "for SQLite.",
            )
        if kind == "sqlite":
            there = _sqlite_there(Path(engine.url.database or ""))
        else:
            _program("pg_restore", pg_dump)
            there = bool(inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if there:
        raise _there_already()


def _sqlite_there(target: Path) -> bool:
    """Whether the file is there, or a log of one that was: SQLite would play it into the new."""
    return any(Path(f"{target}{end}").exists() for end in ("", "-wal", "-shm", "-journal"))


def _there_already() -> BackupFailed:
    return BackupFailed(
        "There is a catalog already where the back-up is to be restored, or the log of one.",
        remedy="Restore into an empty data folder and, with PostgreSQL, an empty database.",
    )


def put_back(kind: CatalogKind, copy: Path, url: str, pg_dump: str | None = None) -> None:
    """Make the copied catalog the one at ``url``, which has to be empty. ``copy`` is taken away
    or stays as a file to be removed. Raises :class:`BackupFailed` and the StorageError tree."""
    engine = create_engine(parsed(url))
    try:
        if kind == "sqlite":
            target = Path(engine.url.database or "")
            if _sqlite_there(target):
                raise _there_already()
            with storage_errors(str(target)):
                os.replace(copy, target)
            return
        program = _program("pg_restore", pg_dump)
        options = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
        _run([program, *options], engine, [str(copy)])
    finally:
        engine.dispose()


def _program(name: str, pg_dump: str | None) -> str:
    """Where a program of PostgreSQL is; ``pg_restore`` lies beside ``pg_dump``."""
    if pg_dump is None:
        found = shutil.which(name)
    else:
        beside = Path(pg_dump).with_name(name)
        found = str(beside) if os.access(beside, os.X_OK) else None
    if found is None:
        raise BackupFailed(
            f"The program {name} was not found.",
            remedy="Install PostgreSQL's client programs in the server's version, or name them "
            "with HOMEWARD_PG_DUMP=/path/to/pg_dump.",
        )
    return found


def _run(program: list[str], engine: Engine, words: list[str]) -> None:
    """Run it against the database of ``engine``; the password is in no command line."""
    _, given = engine.dialect.create_connect_args(engine.url)
    arguments = cast("dict[str, str]", dict(given))
    password = arguments.pop("password", None)
    # psycopg's own names for what its library takes; the rest is not of the connection.
    arguments.pop("context", None)
    conninfo = make_conninfo(**arguments)
    environment = dict(os.environ)
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    run = subprocess.run(
        [*program, f"--dbname={conninfo}", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise CatalogUnusable(
            f"{Path(program[0]).name} failed: {last[:300]}",
            remedy="It has to be of the server's version or newer, and its disk not full.",
        )
