"""Opening the catalog: the engine, its settings, its migrations, its transactions.

One rule for every write: it takes the write lock at its start, so what it read is still true
when it commits, and numbers given by the database rise in the order of commits. On SQLite that
is ``BEGIN IMMEDIATE`` (https://www.sqlite.org/lang_transaction.html); on PostgreSQL an advisory
lock held to the end of the transaction, each statement of which sees what was committed before.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.orm import Session

from indexer.catalog import postgresql
from indexer.catalog.schema import Base
from indexer.catalog.sealed import ROW_FUNCTION, keyring_of, row_before
from indexer.errors import (
    CatalogAbsent,
    CatalogAway,
    CatalogBusy,
    CatalogUnusable,
    SealKeyMissing,
    StorageDenied,
    StorageError,
    StorageFull,
)
from indexer.files import file_lock
from indexer.sealing.keyring import Keyring

_log = logging.getLogger(__name__)
_WRITES = "homeward_writes"
_PATIENT = "homeward_patient"
_VERSIONS = "alembic_version"

BUSY_TIMEOUT_MS = 30_000
MIGRATIONS = Path(__file__).with_name("migrations")


class SealWatch(Protocol):
    """What an encrypted catalog asks in each write transaction (``indexer.sealing.keys``)."""

    def begin(self, session: Session) -> None:
        """Have the newest key seal."""
        ...

    def end(self, session: Session) -> None:
        """Count what was sealed."""
        ...

    def rolled_back(self, session: Session) -> None:
        """Nothing of it is in the catalog."""
        ...

    def committed(self, catalog: Catalog) -> None:
        """Do what has to be done in a transaction of its own."""
        ...


class Catalog:
    """The database with its two ways in: :meth:`read` and :meth:`write`.

    Safe to use from several threads and several processes at once.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._watch: SealWatch | None = None
        engine.dialect.homeward_has_key = self._has_key  # type: ignore[attr-defined]
        self._writer = engine.execution_options(**{_WRITES: True})
        self._reader = engine
        if not self.is_sqlite:
            # A writer has to see what was committed while it waited for the lock; several
            # statements of one reader the same state. SQLite does so in any transaction.
            self._writer = self._writer.execution_options(isolation_level="READ COMMITTED")
            self._reader = engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )

    @property
    def is_sqlite(self) -> bool:
        """Whether the catalog is the embedded SQLite."""
        return self.engine.dialect.name == "sqlite"

    @property
    def keyring(self) -> Keyring | None:
        """What sealed columns are sealed with; none where encryption is off."""
        return keyring_of(self.engine.dialect)

    def seal_with(self, keyring: Keyring, watch: SealWatch) -> None:
        """From now on sealed columns are sealed, and ``watch`` sees each write transaction."""
        self.engine.dialect.homeward_keyring = keyring  # type: ignore[attr-defined]
        self._watch = watch

    def _has_key(self, key_id: str) -> bool:
        with self.engine.connect() as connection:
            query = text("SELECT 1 FROM data_keys WHERE data_key_id = :key_id")
            return connection.execute(query, {"key_id": key_id}).first() is not None

    @contextmanager
    def read(self) -> Generator[Session]:
        """A session that sees one consistent state and writes nothing."""
        with _storage_errors(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Generator[Session]:
        """A session in one transaction that commits at the end, or not at all on an exception."""
        watch = self._watch
        with _storage_errors(), Session(self._writer, expire_on_commit=False) as session:
            try:
                with session.begin():
                    # Which begins, and so waits for the lock, here and not later.
                    session.connection()
                    if watch is None:
                        _require_unencrypted(session)
                        yield session
                    else:
                        watch.begin(session)
                        yield session
                        session.flush()
                        watch.end(session)
            except BaseException:
                if watch is not None:
                    watch.rolled_back(session)
                raise
        if watch is not None:
            watch.committed(self)

    @contextmanager
    def named_lock(self, name: str, wait_s: float) -> Generator[Callable[[], None]]:
        """Hold a lock that all processes on this PostgreSQL know by its name; a process that dies
        lets go of it with its connection.

        Yields what raises where the lock was lost meanwhile. Raises :class:`CatalogBusy` where
        another holds it for more than ``wait_s`` seconds.
        """
        with (
            _storage_errors(),
            self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
            postgresql.named_lock(connection, name, wait_s) as still_held,
        ):
            yield still_held

    @contextmanager
    def errors_translated(self) -> Generator[None]:
        """For work on ``engine`` itself: errors of the database become our own."""
        with _storage_errors():
            yield

    def scrub(self) -> bool:
        """Clear what a committed deletion left: on SQLite the write-ahead log, so that deleted
        values are in no file any more; on PostgreSQL the dead rows of all tables.

        Returns false where a reader held it back; call again later.
        """
        with _storage_errors():
            if not self.is_sqlite:
                return postgresql.scrub(self.engine, sorted(Base.metadata.tables))
            raw = self.engine.raw_connection()
            try:
                cursor = raw.cursor()
                cursor.execute("PRAGMA busy_timeout = 500")
                busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            finally:
                raw.close()
        return not busy

    def problems(self) -> list[str]:
        """What the database's own check finds wrong; empty when it is whole."""
        with self.read() as session:
            if not self.is_sqlite:
                return postgresql.problems(session.connection())
            rows = session.execute(text("PRAGMA quick_check(5)")).scalars().all()
            orphans = session.execute(text("PRAGMA foreign_key_check")).all()
        found = [str(row) for row in rows if row != "ok"]
        if orphans:
            found.append(f"{len(orphans)} rows point at rows that are not there")
        return found

    def close(self) -> None:
        self.engine.dispose()


def _require_unencrypted(session: Session) -> None:
    """Under the write lock, so that nothing plain is written beside what is encrypted."""
    if session.execute(text("SELECT 1 FROM data_keys LIMIT 1")).first() is not None:
        raise SealKeyMissing(
            "Encryption was turned on for this data folder, and this process runs without a key.",
            remedy="Set HOMEWARD_ENCRYPTION_KEY_FILE or HOMEWARD_ENCRYPTION_KEYS and start again.",
        )


def open_catalog(url: str, *, lock_path: Path | None = None, make: bool = True) -> Catalog:
    """Open the catalog at ``url`` (``sqlite:///...`` or ``postgresql://...``) and bring its
    tables up to date. ``lock_path`` is a file that keeps two processes from upgrading a SQLite
    at once; on PostgreSQL the write lock does. ``make``: whether an empty database becomes a
    catalog; otherwise it stays empty and :class:`CatalogAbsent` is raised.

    Raises :class:`CatalogUnusable` for a damaged or newer database and for a URL that is none,
    :class:`CatalogAway` for a server that does not answer, :class:`StorageDenied` and
    :class:`StorageFull` for the folder it is in. No error shows the URL: it may hold a password.
    """
    engine = _engine(parsed(url))
    catalog = Catalog(engine)
    try:
        if lock_path is None or not catalog.is_sqlite:
            upgrade(catalog, make=make)
        else:
            with file_lock(lock_path):
                upgrade(catalog, make=make)
    except CatalogAway as error:
        engine.dispose()
        raise CatalogAway(_reason(error, engine.url)) from error
    except BaseException as error:
        engine.dispose()
        unusable = postgresql.unusable_url(error)
        if unusable is not None:
            raise unusable from error
        raise
    return catalog


def parsed(url: str) -> URL:
    """The parts of a catalog's URL. Raises :class:`CatalogUnusable`, which does not show it."""
    parts: URL | None = None
    with suppress(ArgumentError, ValueError):
        parts = make_url(url)
    if parts is None or parts.drivername not in _DRIVERS:
        raise CatalogUnusable(
            "The catalog URL is not the address of a database that Homeward can use.",
            remedy="Write it as postgresql://role:password@host/database, with %xx for special "
            "characters in the password, or leave it out.",
        )
    return parts


def _reason(error: CatalogAway, url: URL) -> str:
    """The driver's words for whoever starts Homeward, certainly without the password."""
    cause = error.__cause__
    words = str(cause.orig if isinstance(cause, DBAPIError) else cause).strip()
    for secret in (url.password, url.query.get("password")):
        if isinstance(secret, str) and secret:
            words = words.replace(secret, "***")
    return words.split("\n")[0]


def upgrade(catalog: Catalog, *, make: bool = True) -> None:
    """Run the migrations that the database lacks; ``make``: also those that make it one."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        with _storage_errors():
            if catalog.is_sqlite:
                with catalog.engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA user_version")
                _set_journal(catalog.engine)
            # Another process may be at it, which takes as long as it takes.
            with catalog._writer.execution_options(**{_PATIENT: True}).begin() as connection:
                if not catalog.is_sqlite:
                    postgresql.require_usable(connection)
                if not make and not inspect(connection).has_table(_VERSIONS):
                    raise CatalogAbsent
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
    except (CommandError, ResolutionError) as error:
        raise CatalogUnusable(
            f"The catalog was made by another version of Homeward ({error}).",
            remedy="Run the version of Homeward that made it, or a newer one.",
        ) from error


def _engine(url: URL) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    engine = create_engine(
        url,
        # Errors end up in logs; what was to be stored must not.
        hide_parameters=True,
        json_serializer=partial(
            json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ),
        **({} if sqlite else postgresql.engine_options(url)),
    )
    if sqlite:
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
    else:
        postgresql.prepare(engine)
        event.listen(engine, "begin", _on_postgresql_begin)
    return engine


def _on_sqlite_connect(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transaction handling is off: the begin event below says which kind.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "foreign_keys = ON",
        "synchronous = FULL",
        "secure_delete = ON",
        "temp_store = MEMORY",
        "cache_size = -65536",
    ):
        connection.execute(f"PRAGMA {pragma}")
    # SQLite's own lower() knows ASCII only; places are written in every script.
    connection.create_function("lower", 1, _lower, deterministic=True)
    connection.create_function(ROW_FUNCTION, -1, row_before, deterministic=True)


def _lower(value: str | float | None) -> str | float | None:
    return value.lower() if isinstance(value, str) else value


def _on_sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _on_postgresql_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get(_WRITES, False):
        postgresql.take_write_lock(connection, patient=options.get(_PATIENT, False))


def _set_journal(engine: Engine) -> None:
    # Outside of a transaction, once for each open: the mode is kept in the file itself.
    raw = engine.raw_connection()
    try:
        mode = raw.cursor().execute("PRAGMA journal_mode = WAL").fetchone()[0]
    finally:
        raw.close()
    if mode not in ("wal", "memory"):
        _log.warning("the catalog runs in journal mode %s instead of wal", mode)


@contextmanager
def _storage_errors() -> Generator[None]:
    """Turn what the databases and drivers say about disk, lock and server into our own errors."""
    try:
        yield
    except PoolExhausted as error:
        raise CatalogBusy from error
    except (DBAPIError, sqlite3.Error) as error:
        raised = _translated(error)
        if raised is None:
            raise
        raise raised from error


def _translated(error: Exception) -> StorageError | None:
    original = error.orig if isinstance(error, DBAPIError) else error
    assert isinstance(original, Exception)
    if not isinstance(original, sqlite3.Error):
        return postgresql.translated(original)
    name = getattr(original, "sqlite_errorname", "") or ""
    make: Callable[[], StorageError] | None = next(
        (make for start, make in _SQLITE_ERRORS.items() if name.startswith(start)), None
    )
    return None if make is None else make()


def _damaged() -> StorageError:
    return CatalogUnusable(
        "The catalog file is damaged or no catalog.",
        remedy="Restore it from the back-up; keep the damaged file for inspection.",
    )


_SQLITE_ERRORS: dict[str, Callable[[], StorageError]] = {
    "SQLITE_FULL": lambda: StorageFull("the catalog"),
    "SQLITE_IOERR_WRITE": lambda: StorageFull("the catalog"),
    "SQLITE_READONLY": lambda: StorageDenied("the catalog"),
    "SQLITE_CANTOPEN": lambda: StorageDenied("the catalog"),
    "SQLITE_PERM": lambda: StorageDenied("the catalog"),
    "SQLITE_BUSY": CatalogBusy,
    "SQLITE_LOCKED": CatalogBusy,
    "SQLITE_CORRUPT": _damaged,
    "SQLITE_NOTADB": _damaged,
}


_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite catalog at ``path``."""
    return f"sqlite:///{path.resolve()}"


def driver_facts(catalog: Catalog) -> dict[str, Any]:
    """Name and version of the database, for ``doctor``."""
    with catalog.read() as session:
        if catalog.is_sqlite:
            version = session.execute(text("SELECT sqlite_version()")).scalar_one()
        else:
            version = session.execute(text("SHOW server_version")).scalar_one()
    return {"database": catalog.engine.dialect.name, "version": str(version)}
