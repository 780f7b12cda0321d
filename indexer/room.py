"""Room on the disk: nothing new is taken in below a watermark, and deletions work even when full.

A deletion has to be written down before it takes anything away, and that needs a little room. A
reserve, a file of zeros in the data folder, is given back to the disk when a deletion finds it
full; upkeep sets it aside anew as soon as there is room again.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from indexer.errors import StorageFull, StorageLow
from indexer.files import storage_errors

if TYPE_CHECKING:
    from indexer.workspace import Workspace

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
RESERVE = "reserve"


class Room:
    """What was last seen of the free space; looked at anew after a second. Safe in threads."""

    def __init__(self) -> None:
        self._seen: tuple[float, int] | None = None

    def free(self, ws: Workspace) -> int:
        """As :func:`free_bytes`, at most a second old."""
        seen, now = self._seen, time.monotonic()
        if seen is None or now - seen[0] >= _LOOK_EVERY_S:
            self._seen = seen = (now, free_bytes(ws))
        return seen[1]


def free_bytes(ws: Workspace) -> int:
    """Bytes free where the originals are, or where they are received if that cannot be said.

    Raises the StorageError tree.
    """
    free = ws.blobs.free_bytes()
    if free is not None:
        return free
    with storage_errors(str(ws.data_dir)):
        return shutil.disk_usage(ws.data_dir).free


def room_left(ws: Workspace) -> bool:
    """Whether there is as much free disk as the watermark asks for; cheap to call."""
    return ws.room.free(ws) >= ws.options.min_free_bytes


def require_room(ws: Workspace) -> None:
    """Raises :class:`StorageLow` (``storage_full``) below the watermark."""
    if not room_left(ws):
        raise StorageLow(ws.room.free(ws), ws.options.min_free_bytes)


def keep_reserve(ws: Workspace) -> None:
    """Set the reserve aside where it is missing and the disk has room for it above the watermark.

    Raises the StorageError tree.
    """
    size = ws.options.reserve_bytes
    path = ws.data_dir / RESERVE
    if not size or path.exists() or free_bytes(ws) < ws.options.min_free_bytes + 2 * size:
        return
    with storage_errors(str(path)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(handle, 0, size)
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise
        finally:
            os.close(handle)


def deletes(
    work: Callable[Concatenate[Workspace, P], R],
) -> Callable[Concatenate[Workspace, P], R]:
    """Do a deletion; where the disk is full, once more with the reserve given back to it."""

    @functools.wraps(work)
    def done(ws: Workspace, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return work(ws, *args, **kwargs)
        except StorageFull as full:
            try:
                (ws.data_dir / RESERVE).unlink()
            except OSError:
                raise full from None
            _log.warning("the disk is full; the reserve is used so that a deletion can be done")
            return work(ws, *args, **kwargs)

    return done
