"""Perceptual hashes of the images of ads, and which of two pictures count as near-duplicates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog.tables import CaptureImage, Image, ImageHash
from indexer.errors import BlobDamaged, BlobMissing
from models.decode import decode
from models.errors import ImageRejected
from models.pdq import HASH_BYTES, distances, pdq

if TYPE_CHECKING:
    from indexer.workspace import Workspace

MAX_DISTANCE: Final = 31
MIN_QUALITY: Final = 50
"""Two pictures are near-duplicates up to so many differing bits, if both have so much to see: the
values that PDQ's authors recommend to start with."""


class NearHashes:
    """Grows by one hash at a time and tells which of those it holds are near another one."""

    def __init__(self) -> None:
        self._rows: NDArray[np.uint8] = np.empty((0, HASH_BYTES), np.uint8)
        self._owners: NDArray[np.int64] = np.empty(0, np.int64)
        self._keys: dict[str, int] = {}
        self._names: list[str] = []
        self._held: set[tuple[bytes, str]] = set()

    def add(self, one: bytes, key: str) -> None:
        """Hold a hash under ``key``; a key may have several, and a hash several keys."""
        if (one, key) in self._held:
            return
        row = len(self._held)
        if row == len(self._rows):
            self._rows = np.resize(self._rows, (max(64, 2 * row), HASH_BYTES))
            self._owners = np.resize(self._owners, len(self._rows))
        self._held.add((one, key))
        if key not in self._keys:
            self._keys[key] = len(self._names)
            self._names.append(key)
        self._rows[row] = np.frombuffer(one, np.uint8)
        self._owners[row] = self._keys[key]

    def near(self, one: bytes) -> set[str]:
        """The keys of all hashes that are near-duplicates of ``one``."""
        count = len(self._held)
        close = distances(one, self._rows[:count]) <= MAX_DISTANCE
        found = np.zeros(len(self._names), np.bool_)
        found[self._owners[:count][close]] = True
        return {self._names[number] for number in np.flatnonzero(found)}


def keep_hash(session: Session, sha256: str, value: bytes, quality: int) -> None:
    """Note the hash of an image of an ad, in the caller's transaction."""
    session.merge(ImageHash(sha256=sha256, pdq=value, quality=quality))


def without_hash(session: Session, sha256s: Iterable[str] | None = None) -> list[str]:
    """The images of ads that have no hash yet, among ``sha256s`` or (``None``) of all."""
    query = (
        select(Image.sha256)
        .outerjoin(ImageHash, ImageHash.sha256 == Image.sha256)
        .where(
            ImageHash.sha256.is_(None),
            select(CaptureImage.sha256).where(CaptureImage.sha256 == Image.sha256).exists(),
        )
        .order_by(Image.sha256)
    )
    if sha256s is None:
        return list(session.scalars(query))
    found: list[str] = []
    for some in chunks(dict.fromkeys(sha256s)):
        found.extend(session.scalars(query.where(Image.sha256.in_(some))))
    return found


def fill_hashes(ws: Workspace, sha256s: Iterable[str] | None = None) -> int:
    """Hash the images of ads that lack it (``None``: all there are); returns how many it hashed.

    An image whose bytes are away, damaged or refused stays without: its analysis says why.
    """
    with ws.catalog.read() as session:
        missing = without_hash(session, sha256s)
    done = 0
    for some in chunks(missing, ws.options.batch_size):
        made: dict[str, tuple[bytes, int]] = {}
        for sha256 in some:
            try:
                made[sha256] = pdq(decode(ws.blobs.get(sha256), ws.limits).pixels)
            except (ImageRejected, BlobMissing, BlobDamaged):
                continue
        with ws.catalog.write() as session:
            for sha256 in without_hash(session, made):
                keep_hash(session, sha256, *made[sha256])
                done += 1
    return done
