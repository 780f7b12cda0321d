"""A SQLite catalog with all tables, migrated once in each test process and lent to each test.

Migrating takes longer than most tests do. That a folder without a catalog gets one, and with which
permissions, is tested where nothing is lent (``tests/indexer/test_storage.py``).
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from indexer.catalog import open_catalog
from indexer.catalog.engine import sqlite_url


@functools.cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory(prefix="tables-") as name:
        path = Path(name) / "catalog.sqlite3"
        open_catalog(sqlite_url(path)).close()  # the last to close it empties the write-ahead log
        assert not path.with_name(f"{path.name}-wal").exists()
        return path.read_bytes()


def lend_tables(data_dir: Path) -> None:
    """Put a catalog with all tables and no rows into ``data_dir``, unless one is there."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / "catalog.sqlite3"
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(_migrated())
