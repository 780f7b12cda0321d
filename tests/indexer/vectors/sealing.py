"""A segmented index that seals its fresh rows by itself, as its owner would, in small pieces."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from indexer.ids import new_id
from indexer.sealing.keyring import Keyring
from indexer.vectors import segment as files
from indexer.vectors.scan import CpuScanner
from indexer.vectors.scanner import Scanner
from indexer.vectors.segment import History, Segment
from indexer.vectors.segmented import SegmentedIndex
from indexer.vectors.tags import Tag
from models.types import FloatArray

CONTRACT = "test-0123456789ab"


def scan(segment: Segment) -> Scanner:
    return CpuScanner(segment.codes, threads=2)


class SealingIndex(SegmentedIndex):
    """Seals at ``every`` changes, and merges all segments into one at five of them; the segments
    are encrypted where there are ``keys``."""

    def __init__(
        self, folder: Path, dimension: int, *, every: int = 7, keys: Keyring | None = None
    ) -> None:
        super().__init__(dimension, scan)
        self._folder = folder
        self._keys = keys
        self._every = every
        self._changes = 0

    def change(
        self,
        gone: Collection[str],
        ids: Sequence[str],
        vectors: FloatArray,
        tags: Sequence[Sequence[Tag]],
    ) -> None:
        super().change(gone, ids, vectors, tags)
        self._changes += len(gone) + len(ids)
        if self._changes >= self._every:
            self._changes = 0
            self.seal()
        if len(self.state.parts) >= 5:
            self.merge()

    def seal(self) -> None:
        seen = self.state
        live = np.flatnonzero(seen.fresh.live)
        ids, tags = seen.fresh.named(live)
        source = files.from_arrays(ids, seen.fresh.vectors(live), tags)
        self.swap(seen, (), [self._written(source)] if len(live) else [], sealed=True)

    def merge(self) -> None:
        seen = self.state
        live = [(part.segment, np.flatnonzero(part.live)) for part in seen.parts if part.alive]
        added = [self._written(files.merged(live))] if live else []
        self.swap(seen, [part.segment.name for part in seen.parts], added, sealed=False)

    def _written(self, source: files.SegmentSource) -> Segment:
        name = new_id()
        files.write_segment(
            self._folder,
            name,
            source,
            gallery="ads",
            contract_id=CONTRACT,
            dimension=self.dimension,
            history=History(0, ""),
            keys=self._keys,
        )
        return files.open_segment(
            self._folder,
            name,
            gallery="ads",
            contract_id=CONTRACT,
            dimension=self.dimension,
            keys=self._keys,
        )
