"""Clearing the slack of the catalog's pages while it is in use (see ``catalog/slack.py``)."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from indexer.catalog import Catalog, slack
from indexer.errors import StorageError

_TRIES = 10
_WAIT_S = 0.2
_LONGEST_S = 20.0
"""How long the write lock is held at most; other writers wait for less than their time-out."""


def clear_slack(catalog: Catalog) -> bool:
    """Zero the slack of all pages of a SQLite catalog.

    Call it when the write-ahead log was emptied after the last deletion. Returns false where
    writers and readers left no moment for it; call again later. Raises :class:`StorageError` where
    the program that zeroes fails.
    """
    database = catalog.engine.url.database
    assert catalog.is_sqlite and database
    # Its own files are named; nothing of the environment reaches it.
    command = [sys.executable, "-I", slack.__file__, database]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        _expect(child.stdout, "found ")
        with (
            closing(_connect(database)) as connection,
            _nobody_writes(connection, database) as alone,
        ):
            if not alone:
                return False
            watch = threading.Timer(_LONGEST_S, child.kill)
            watch.start()
            try:
                child.stdin.write("clear\n")
                child.stdin.flush()
                _expect(child.stdout, "done")
            finally:
                watch.cancel()
            # A commit makes every other connection read its pages anew, without the slack.
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute(f"PRAGMA user_version = {(version + 1) % 2**31}")
            connection.execute("COMMIT")
    return True


def _expect(answers: IO[str], beginning: str) -> None:
    if not answers.readline().startswith(beginning):
        raise StorageError(
            "The slack of the catalog's pages could not be cleared.",
            remedy="It is tried again; if it stays, read the log and check the disk.",
        )


def _connect(database: str) -> sqlite3.Connection:
    # Not one of the pool: its pages, read before, would come back with their slack.
    connection = sqlite3.connect(database, isolation_level=None, timeout=_WAIT_S)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    return connection


@contextmanager
def _nobody_writes(connection: sqlite3.Connection, database: str) -> Generator[bool]:
    """Hold the write lock with an empty write-ahead log: the file is all there is."""
    log = Path(f"{database}-wal")
    try:
        for _ in range(_TRIES):
            with suppress(sqlite3.OperationalError):  # another writes; the next try is soon
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                connection.execute("BEGIN IMMEDIATE")
                if not log.exists() or log.stat().st_size == 0:
                    break
                connection.execute("ROLLBACK")
        yield connection.in_transaction
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
