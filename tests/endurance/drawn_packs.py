"""Two face packs for drawn pictures: what the real ones are to Homeward, without their networks.

Both find the same faces. The vectors of the second are those of the first in another order and
with other signs: within it every score is the same, across the two every score is noise.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from indexer.catalog import Catalog
from indexer.generations.rows import Generation
from indexer.generations.views import Loaded
from models.calibration import Calibration
from models.types import Embedding, Face, FloatArray, RgbImage
from tests.indexer.small import DIMENSION, SmallAnalyser
from tests.indexer.watch import CALIBRATION

FIRST: Final = "drawn"
SECOND: Final = "redrawn"
CONTRACTS: Final = {FIRST: "small-0123456789ab", SECOND: "small-ba9876543210"}

_order = np.random.default_rng(20261124)
_PLACES = _order.permutation(DIMENSION)
_SIGNS = _order.choice(np.array([-1.0, 1.0], np.float32), DIMENSION)


class RedrawnAnalyser(SmallAnalyser):
    """The same faces with vectors of another space."""

    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        return [[_moved(face) for face in faces] for faces in super().analyse(images)]


def _moved(face: Face) -> Face:
    vector: FloatArray = np.ascontiguousarray(face.embedding.vector[_PLACES] * _SIGNS)
    return replace(face, embedding=Embedding(vector, face.embedding.contract_id))


def analyser(pack: str) -> SmallAnalyser:
    """The analyser of a pack, ``FIRST`` or ``SECOND``."""
    contract_id = CONTRACTS[pack]
    return SmallAnalyser(contract_id) if pack == FIRST else RedrawnAnalyser(contract_id)


def calibration(pack: str) -> Calibration:
    """The calibration of a pack: one for both, since their scores are the same."""
    return Calibration(CONTRACTS[pack], CALIBRATION.curves, {})


def load(generation: Generation) -> Loaded:
    """As ``indexer.generations.views.Load``."""
    return Loaded(analyser(generation.pack), calibration(generation.pack))


# --- in the program itself -------------------------------------------------------------------

PROGRAM = """
from tests.endurance.drawn_packs import install
install()
from service.cli.main import main
main()
"""
"""Homeward with these two packs instead of those that it knows."""

HOLDS = "ENDURANCE_HOLDS"
"""Environment: a folder into which each process writes how long it held the write lock."""


@dataclass(frozen=True, slots=True)
class _Pack:
    name: str
    calibration: Calibration


def install() -> None:
    """Put the drawn packs in the place of real ones, in this process."""
    from service import opening
    from service.cli import reindex, worker

    def open_pack(settings: Any, name: str | None = None) -> _Pack:
        name = name or settings.pack
        return _Pack(name, calibration(name))

    def make(pack: _Pack) -> SmallAnalyser:
        return analyser(pack.name)

    for module in (opening, reindex, worker):
        for name, value in (("open_pack", open_pack), ("Analyser", make)):
            if hasattr(module, name):
                setattr(module, name, value)
    # A worker that is told to start others starts this program, not the plain one.
    if folder := os.environ.get(HOLDS):
        _watch_writes(Path(folder))


def _watch_writes(folder: Path) -> None:
    """Note how long each write transaction held the lock of all writers, by who asked for it."""
    held: dict[str, list[float]] = {}
    plain = Catalog.write

    @contextmanager
    def write(self: Catalog) -> Iterator[Any]:
        name = _caller()
        with plain(self) as session:
            began = time.perf_counter()
            yield session
            session.flush()
            ended = time.perf_counter()
        # The commit, with its fsync, belongs to it.
        held.setdefault(name, []).append(time.perf_counter() - began)
        held.setdefault(f"{name}, commit", []).append(time.perf_counter() - ended)

    Catalog.write = write  # type: ignore[method-assign]

    def tell() -> None:
        text = json.dumps({"command": sys.argv[1:], "held": held})
        (folder / f"{os.getpid()}.json").write_text(text)

    atexit.register(tell)


def _caller() -> str:
    frame = sys._getframe(2)
    while frame.f_back is not None and Path(frame.f_code.co_filename).name == "contextlib.py":
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
