"""Clearing the slack of the catalog's pages while it is in use (see ``catalog/slack.py``)."""

from __future__ import annotations

import logging
import subprocess
import sys

from sqlalchemy import text

from indexer.catalog import Catalog, slack
from indexer.errors import StorageError

_log = logging.getLogger(__name__)

_LONGEST_S = 600.0
"""For reading the whole catalog; the write lock is held for a small part of it."""


def clear_slack(catalog: Catalog) -> bool:
    """Zero the slack of all pages of a SQLite catalog.

    Call it when the write-ahead log was emptied after the last deletion. Returns false where
    writers and readers left no moment for it; call again later. A catalog that is too large for
    it is left alone, which is logged. Raises :class:`StorageError` where the program that zeroes
    fails or takes too long.
    """
    database = catalog.engine.url.database
    assert catalog.is_sqlite and database
    # Its own files are named; nothing of the environment reaches it.
    command = [sys.executable, "-I", slack.__file__, database]
    try:
        run = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _failed() from error
    outcome = run.stdout.strip()
    if run.returncode or outcome not in ("done", "busy", "large"):
        raise _failed()
    if outcome == "large":
        _log.warning("the catalog is too large: remains in the slack of its pages are not cleared")
    return outcome != "busy"


def too_large(catalog: Catalog) -> bool:
    """Whether the catalog has too many pages for their slack to be cleared."""
    if not catalog.is_sqlite:
        return False
    with catalog.read() as session:
        return int(session.execute(text("PRAGMA page_count")).scalar_one()) > slack.MAX_PAGES


def _failed() -> StorageError:
    return StorageError(
        "The slack of the catalog's pages could not be cleared.",
        remedy="It is tried again; if it stays, read the log and check the disk.",
    )
