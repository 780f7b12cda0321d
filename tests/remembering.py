"""The real analyser, asked once for each picture: most tests of the service show it the same few.

What it found is found again, bit by bit; only the seconds are saved. Tests of the analyser itself
(``tests/models``) do not use it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from models.pipeline import Analyser
from models.types import Face, RgbImage


class RememberingAnalyser(Analyser):
    """Safe to share between threads; two that ask at once for the same picture both look."""

    def __init__(self, real: Analyser) -> None:
        super().__init__(real.pack, real.options)
        self._known: dict[tuple[bytes, tuple[int, ...]], list[Face]] = {}

    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        keys = [(hashlib.sha256(image.tobytes()).digest(), image.shape) for image in images]
        new = {
            key: image for key, image in zip(keys, images, strict=True) if key not in self._known
        }
        found = super().analyse(list(new.values())) if new else []
        self._known.update(zip(new, found, strict=True))
        return [list(self._known[key]) for key in keys]
