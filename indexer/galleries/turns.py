"""One process at a time at a collection that many share: a lock that ends with whoever held it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from indexer.catalog import Catalog
from indexer.errors import CatalogBusy, IndexAway
from indexer.files import try_lock

_LOOK_S = 0.02


class Busy(IndexAway):
    """Another thread or process is at the collection."""


@contextmanager
def alone(catalog: Catalog, path: Path, name: str, wait_s: float) -> Generator[Callable[[], None]]:
    """Hold the lock that all processes of a catalog know: the file ``path`` beside SQLite, whose
    processes share a machine, else the lock ``name`` on PostgreSQL.

    Yields what raises the StorageError tree where the lock was lost meanwhile. Raises
    :class:`Busy` where another holds it for ``wait_s`` seconds.
    """
    busy = Busy("another process is bringing its collection up to date")
    if catalog.is_sqlite:
        until = time.monotonic() + wait_s
        while (held := try_lock(path)) is None:
            if time.monotonic() >= until:
                raise busy
            time.sleep(_LOOK_S)
        with held:
            yield lambda: None
        return
    entered = False
    try:
        with catalog.named_lock(name, wait_s) as still_held:
            entered = True
            yield still_held
    except CatalogBusy:
        if entered:
            raise
        raise busy from None
