"""Perceptual hashes of the images of ads, and which of two pictures count as near-duplicates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog.tables import CaptureImage, Image, ImageHash
from indexer.errors import BlobDamaged, BlobMissing
from indexer.workspace import Workspace
from models.decode import decode
from models.errors import ImageRejected
from models.pdq import HASH_BYTES, distances, pdq

MAX_DISTANCE: Final = 31
MIN_QUALITY: Final = 50
"""Two pictures are near-duplicates up to so many differing bits, if both have so much to see: the
values that PDQ's authors recommend to start with."""


class NearHashes:
    """Grows by one hash at a time and tells which of those it holds are near another one."""

    def __init__(self) -> None:
        self._rows: NDArray[np.uint8] = np.empty((0, HASH_BYTES), np.uint8)
        self._keys: list[str] = []
        self._seen: set[tuple[bytes, str]] = set()

    def add(self, one: bytes, key: str) -> None:
        """Hold a hash under ``key``; several may have the same."""
        if (one, key) in self._seen:
            return
        self._seen.add((one, key))
        if len(self._keys) == len(self._rows):
            grown = np.empty((max(64, 2 * len(self._rows)), HASH_BYTES), np.uint8)
            grown[: len(self._rows)] = self._rows
            self._rows = grown
        self._rows[len(self._keys)] = np.frombuffer(one, np.uint8)
        self._keys.append(key)

    def near(self, one: bytes) -> set[str]:
        """The keys of all hashes that are near-duplicates of ``one``."""
        found = distances(one, self._rows[: len(self._keys)]) <= MAX_DISTANCE
        return {self._keys[row] for row in np.flatnonzero(found)}


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
