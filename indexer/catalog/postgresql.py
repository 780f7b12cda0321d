"""What only a PostgreSQL server needs: settings of its connections, checks, errors, scrubbing.

The driver is psycopg 3. Codes of errors: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import URL, ExceptionContext

from indexer.errors import CatalogAway, CatalogBusy, CatalogUnusable, StorageError, StorageFull

_log = logging.getLogger(__name__)

OLDEST_VERSION = 140_000
LOCK_TIMEOUT_MS = 30_000
_HELD_BACK_S = 0.5
_WRITE_LOCK = 0x484F4D45  # "HOME"

# For each connection, and against all that a server's or a role's defaults may say. Whoever
# vanishes while holding the write lock loses it: by keep-alive when the machine is gone, by
# the time-out when only the process stands still.
_SESSION = {
    "TimeZone": "UTC",
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": "300000",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


def engine_options(url: URL) -> dict[str, Any]:
    """Arguments of ``create_engine``: the pool serves all threads of one process (at most 32
    connections), and a connection that broke since its last use is replaced unseen."""
    wanted = {
        "connect_timeout": "10",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "60000",
        "application_name": "homeward",
    }
    return {
        "pool_size": 8,
        "max_overflow": 24,
        "pool_timeout": LOCK_TIMEOUT_MS / 1000,
        "pool_pre_ping": True,
        "connect_args": {
            "client_encoding": "utf8",
            **{name: value for name, value in wanted.items() if name not in url.query},
        },
    }


def prepare(engine: Engine) -> None:
    """Set up every connection that ``engine`` makes, and what is said when it fails."""
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "handle_error", _without_values)


def _on_connect(connection: psycopg.Connection[Any], _record: object) -> None:
    names = ", ".join("set_config(%s, %s, false)" for _ in _SESSION)
    values = [part for pair in _SESSION.items() for part in pair]
    connection.execute(f"SELECT {names}".encode(), values)
    connection.commit()


def _without_values(context: ExceptionContext) -> None:
    # The server shows the row that it refuses; errors end up in logs, and rows hold names.
    original, wrapped = context.original_exception, context.sqlalchemy_exception
    if isinstance(original, psycopg.Error) and original.diag.message_detail:
        original.args = (original.diag.message_primary,)
        if wrapped is not None:
            wrapped.args = (f"({type(original).__qualname__}) {original}",)


def take_write_lock(connection: Connection, *, patient: bool) -> None:
    """Wait for the one lock of all writers; held to the end of the transaction.

    The server lets go of it only after what was committed is visible, so sequences that are
    drawn from while it is held rise in the order of commits. ``patient``: wait without end.
    """
    if patient:
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")


@contextmanager
def named_lock(connection: Connection, name: str, wait_s: float) -> Generator[Callable[[], None]]:
    """Hold the advisory lock of this name, after at most ``wait_s`` seconds.

    Yields what raises the database's error where the connection, and with it the lock, was lost.
    """
    # The number of a lock has 64 bits; the lock of writers is a small number of its own.
    key = {"key": int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)}
    connection.exec_driver_sql(f"SET lock_timeout = {max(1, round(wait_s * 1000))}")
    try:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
        yield lambda: connection.exec_driver_sql("SELECT 1").close()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)
        connection.exec_driver_sql(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
    except BaseException:
        # With the connection goes the lock, whatever state either is in.
        connection.invalidate()
        raise


def require_usable(connection: Connection) -> None:
    """Raises :class:`CatalogUnusable` for a server or database that would lose something."""
    version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
    if version < OLDEST_VERSION:
        raise CatalogUnusable(
            f"The database server is PostgreSQL {version // 10_000}.",
            remedy=f"Use PostgreSQL {OLDEST_VERSION // 10_000} or newer.",
        )
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    # Places and agencies are looked up regardless of case, in every script.
    lowered = connection.scalar(text("SELECT lower(:letters)"), {"letters": "IÄÉŻЖΔ"})
    if encoding != "UTF8" or lowered != "iäéżжδ":
        raise CatalogUnusable(
            "The database does not know the letters of all scripts: its encoding is not UTF-8, or "
            "its locale is 'C'. Places written in other cases would not be found.",
            remedy="Make the database anew: CREATE DATABASE homeward TEMPLATE template0 "
            "ENCODING 'UTF8' LOCALE 'C.UTF-8'.",
        )


def scrub(engine: Engine, tables: list[str]) -> bool:
    """Vacuum ``tables``, so that the server gives the space of deleted rows to new ones.

    Returns false where a transaction that began before still sees deleted rows, or the role may
    not vacuum; call again later.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        horizon = connection.exec_driver_sql(
            "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
        ).scalar_one()
        deadline = time.monotonic() + _HELD_BACK_S
        while connection.scalar(_OLDER, {"horizon": horizon}):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        warnings: list[str] = []
        raw = cast("psycopg.Connection[Any]", connection.connection.dbapi_connection)

        def keep(notice: psycopg.errors.Diagnostic) -> None:
            if notice.severity_nonlocalized == "WARNING":
                warnings.append(notice.message_primary or "")

        raw.add_notice_handler(keep)
        try:
            # Index entries too: those of contacts and case numbers hold what was deleted.
            connection.exec_driver_sql(f"VACUUM (INDEX_CLEANUP ON) {', '.join(tables)}")
        finally:
            raw.remove_notice_handler(keep)
    if warnings:
        _log.warning("the database could not be vacuumed after a deletion: %s", warnings[0])
    return not warnings


# Whoever might still see a row whose deletion was committed before the horizon. A vacuum's own
# snapshot holds no other back.
_OLDER = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND query NOT ILIKE '%VACUUM%' AND "
    "greatest(age(backend_xmin), age(backend_xid)) > age(CAST(CAST(:horizon AS xid8) AS xid))"
)


def problems(connection: Connection) -> list[str]:
    """What the server knows to be wrong with the database."""
    found = []
    broken = connection.scalar(
        text("SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database()")
    )
    if broken:
        found.append(f"{broken} pages failed their checksum")
    indexes = connection.scalars(
        text(
            "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace"
        )
    ).all()
    found += [f"the index {name} is not valid" for name in indexes]
    keys = connection.scalars(
        text(
            "SELECT conname FROM pg_constraint WHERE NOT convalidated "
            "AND connamespace = current_schema()::regnamespace"
        )
    ).all()
    found += [f"the constraint {name} was never checked" for name in keys]
    return found


def translated(error: Exception) -> StorageError | None:
    """The error of ours that says what an error of the driver means; ``None``: none does."""
    if not isinstance(error, psycopg.Error):
        return None
    state = error.sqlstate or ""
    for start, make in _ERRORS.items():
        if state.startswith(start):
            return make()
    if not state and isinstance(error, psycopg.OperationalError):
        return CatalogAway()  # no connection came about, or it broke
    return None


def unusable_url(error: BaseException) -> CatalogUnusable | None:
    """The error of ours where the driver does not take a part of the URL."""
    original = getattr(error, "orig", error)
    if isinstance(original, psycopg.ProgrammingError) and not original.sqlstate:
        return CatalogUnusable(
            f"The catalog URL cannot be used: {str(original).strip()}.",
            remedy="Check HOMEWARD_CATALOG_URL.",
        )
    return None


def _damaged() -> StorageError:
    return CatalogUnusable(
        "The database server finds its files damaged.",
        remedy="Restore the database from the back-up; keep the damaged one for inspection.",
    )


def _forbidden() -> StorageError:
    return CatalogUnusable(
        "The role in the catalog URL may not do what Homeward needs.",
        remedy="Make it the owner of the database and of its tables.",
    )


def _read_only() -> StorageError:
    return CatalogUnusable(
        "The database takes no writes.", remedy="Name the primary server in the catalog URL."
    )


def _io_error() -> StorageError:
    return StorageError(
        "The database server could not read or write its files.",
        remedy="Look into the server's log and check its disk, then try again.",
    )


# By SQLSTATE, or how it begins; the first that fits counts.
_ERRORS: dict[str, Callable[[], StorageError]] = {
    "53100": lambda: StorageFull("the catalog"),
    "53": CatalogBusy,  # connections or memory have run out
    "55P03": CatalogBusy,  # waited too long for a lock
    "40": CatalogBusy,  # a deadlock or two writers at once
    "57014": CatalogBusy,  # cut off by the server's own time limit
    "57P": CatalogAway,
    "25P03": CatalogAway,  # stood still in a transaction, and was cut off
    "08": CatalogAway,
    "25006": _read_only,
    "42501": _forbidden,
    "58": _io_error,
    "XX001": _damaged,
    "XX002": _damaged,
}
