"""What encryption costs the vector index: plain and encrypted segments of the same rows in one run.

python -m tests.endurance.sealed_vectors [--rows 100000 1000000] [--dimensions 128 512]

Processor seconds beside those on the wall: what else a machine does lengthens only the latter.
Each opening is of a process of its own, so that its memory is that of one open index.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from indexer.galleries import log
from indexer.galleries.opening import scanner
from indexer.vectors.segment import Segment, open_segment, scrub, write_segment
from indexer.vectors.segmented import SegmentedIndex, part_of
from models.types import FloatArray
from service.bench.clock import limited, resident, took
from service.bench.synthetic import CONTRACT, GALLERY, sample, source
from tests.conftest import REPOSITORY
from tests.indexer.vectors.segments import keyring

HOW = ("plain", "encrypted")
KEYS = {"plain": None, "encrypted": keyring()}
NEIGHBOURS = 50
NAME = "one"


def measure(rows: int, dimension: int, probes: int) -> None:
    asked = sample(rows, dimension, probes)
    with tempfile.TemporaryDirectory() as scratch:
        for how in HOW:
            folder = Path(scratch, how)
            folder.mkdir()
            taken = took(partial(write, folder, how, rows, dimension))
            print(f"{rows:>9} x {dimension} {how:9} write {taken.wall:.2f} s {taken.processor:.2f}")
        for how in HOW:
            command = [sys.executable, "-m", "tests.endurance.sealed_vectors", "--open", how]
            command += [str(Path(scratch, how)), str(dimension)]
            said = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True).stdout
            print(f"{rows:>9} x {dimension} {how:9} {json.loads(said)}")
        segments = [opened(Path(scratch, how), how, dimension) for how in HOW]
        searched(segments, asked)
        for how in HOW:
            dead = np.array([rows // 3])
            taken = took(partial(scrub, Path(scratch, how), NAME, dead, log.BEGINNING, KEYS[how]))
            print(f"{rows:>9} x {dimension} {how:9} one row deleted {taken.wall * 1000:.1f} ms")


def searched(segments: Sequence[Segment], asked: FloatArray) -> None:
    """Each probe in both, one after the other; the answers are the same to the last bit."""
    scan = scanner("local", 1)
    indexes = [
        SegmentedIndex(one.codes.codes.shape[1], scan, [part_of(one, scan)]) for one in segments
    ]
    for segment in segments:
        segment.matrix()
    times: list[list[float]] = [[] for _ in indexes]
    found = [[index.search(asked[:1], NEIGHBOURS)[0]] for index in indexes]
    for probe in asked:
        for number, index in enumerate(indexes):
            started = time.process_time()
            found[number] += index.search(probe[None], NEIGHBOURS)
            times[number].append(time.process_time() - started)
    for plain, sealed in zip(*found, strict=True):
        assert plain.ids == sealed.ids and np.array_equal(plain.scores, sealed.scores)
    medians = [float(np.median(some)) * 1000 for some in times]
    count, dimension = segments[0].codes.codes.shape
    print(
        f"{count:>9} x {dimension} search plain {medians[0]:.2f} ms "
        f"encrypted {medians[1]:.2f} ms ratio {medians[1] / medians[0]:.3f}"
    )


def write(folder: Path, how: str, rows: int, dimension: int) -> None:
    write_segment(
        folder,
        NAME,
        source(0, rows, dimension),
        gallery=GALLERY,
        contract_id=CONTRACT,
        dimension=dimension,
        history=log.BEGINNING,
        keys=KEYS[how],
    )


def opened(folder: Path, how: str, dimension: int) -> Segment:
    return open_segment(
        folder, NAME, gallery=GALLERY, contract_id=CONTRACT, dimension=dimension, keys=KEYS[how]
    )


def opening(how: str, folder: Path, dimension: int) -> None:
    """Open it in this process, and say what that took and what it holds."""
    before = resident() or 0
    held: list[Segment] = []
    taken = took(lambda: held.append(opened(folder, how, dimension)))
    grown = (resident() or 0) - before
    print(
        json.dumps(
            {
                "open_s": round(taken.wall, 3),
                "processor_s": round(taken.processor, 3),
                "grown_gb": round(grown / 1e9, 3),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--probes", type=int, default=30)
    parser.add_argument("--open", nargs=3, metavar=("HOW", "FOLDER", "DIMENSION"))
    given = parser.parse_args()
    with limited(1):
        if given.open:
            how, folder, dimension = given.open
            opening(how, Path(folder), int(dimension))
            return
        for rows in given.rows:
            for dimension in given.dimensions:
                measure(rows, dimension, given.probes)


if __name__ == "__main__":
    main()
