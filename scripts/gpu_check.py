"""What has to hold on a GPU, measured on the machine that has it.

    python -m scripts.gpu_check --provider cuda --json gpu.json
    python -m scripts.gpu_check --provider cpu --images 20 --seconds 2 --largest 400

Equality with the processor (same faces, vectors within 1e-3 in cosine), faces and images a second,
how busy the GPU was meanwhile, and its memory over many images of changing sizes. Pictures are the
ones that installed packages carry. With the provider `cpu` everything is run too, and the memory is
that of the process: so the check itself can be tried where there is no GPU.

Exit code 0: equal, and memory stayed flat; 1: not so; 2: the provider does not start.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from models.errors import ProviderUnavailable
from models.packs.base import FacePack
from models.packs.registry import load_pack
from models.pipeline import Analyser
from models.runtime import ON_CPU, Provider, RuntimeOptions
from models.types import Face, RgbImage
from service.bench.analysis import picture_sets
from service.gpus import BUS_ORDER, visible_gpus

MOST_DIFFERENCE = 1e-3
MOST_GROWTH = 1.05
"""The most that is held in the second half, over the most that was held in the first."""


@dataclass(slots=True)
class Report:
    """``smallest_cosine``: between the vectors of one face here and on the processor.

    ``faces_per_s`` and ``images_per_s`` by number of callers. ``busy``: mean share of the GPU's
    time. ``memory_mib``: samples over the images of changing sizes, in their order.
    """

    provider: str
    device: str
    faces: int = 0
    smallest_cosine: float = 0.0
    largest_box_difference: float = 0.0
    faces_per_s: dict[int, float] = field(default_factory=dict)
    images_per_s: dict[int, float] = field(default_factory=dict)
    busy: float | None = None
    images: int = 0
    memory_mib: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


# --- equality --------------------------------------------------------------------------------


def equality(
    report: Report, here: Analyser, processor: Analyser, pictures: Sequence[RgbImage]
) -> None:
    """The same faces in the same places with the same vectors."""
    cosines, boxes = [], [0.0]
    for picture in pictures:
        (ours,), (theirs,) = here.analyse([picture]), processor.analyse([picture])
        if len(ours) != len(theirs):
            report.problems.append(f"{len(ours)} faces here, {len(theirs)} on the processor")
            continue
        for one, other in zip(ours, theirs, strict=True):
            cosines.append(float(one.embedding.vector @ other.embedding.vector))
            boxes.append(_apart(one, other))
    report.faces = len(cosines)
    report.smallest_cosine = min(cosines, default=0.0)
    report.largest_box_difference = max(boxes)
    if report.smallest_cosine < 1 - MOST_DIFFERENCE:
        report.problems.append(f"cosine {report.smallest_cosine:.6f} with the processor's vector")


def _apart(one: Face, other: Face) -> float:
    pairs = [(getattr(one.box, n), getattr(other.box, n)) for n in ("x", "y", "width", "height")]
    return float(max(abs(a - b) for a, b in pairs))


def fitted(picture: RgbImage, longest: int) -> RgbImage:
    """The picture with ``longest`` pixels on its longer side."""
    scale = longest / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


# --- speed -----------------------------------------------------------------------------------


def rate(work: Callable[[], int], callers: int, seconds: float) -> float:
    """What ``callers`` threads get done a second, each calling ``work`` again and again."""
    work()  # The first run of a size prepares the GPU for it.
    end = time.monotonic() + seconds

    def keep_on(_caller: int) -> int:
        done = 0
        while time.monotonic() < end:
            done += work()
        return done

    started = time.monotonic()
    with ThreadPoolExecutor(callers) as pool:
        done = sum(pool.map(keep_on, range(callers)))
    return done / (time.monotonic() - started)


def speed(report: Report, pack: FacePack, seconds: float, size: int) -> None:
    """Crops embedded and images analysed a second, by one caller and by several."""
    shape = (8, pack.chip_size, pack.chip_size, 3)
    chips = list(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    picture = fitted(picture_sets()[0].images[0], size)
    analyser = Analyser(pack)
    for callers in (1, 4, 16):
        report.faces_per_s[callers] = rate(lambda: len(pack.embed(chips)), callers, seconds)
    for callers in (1, 4):
        report.images_per_s[callers] = rate(
            lambda: len(analyser.analyse([picture])), callers, seconds
        )


# --- memory ----------------------------------------------------------------------------------


def changing(count: int, largest: int) -> Iterator[RgbImage]:
    """``count`` pictures, each of a size of its own."""
    rng = np.random.default_rng(1)
    pictures = [picture for each in picture_sets() for picture in each.images]
    for number in range(count):
        longest = int(rng.integers(largest // 5, largest + 1))
        yield fitted(pictures[number % len(pictures)], longest)


def memory(report: Report, pack: FacePack, count: int, largest: int) -> None:
    """Analyse pictures of changing sizes and look at the memory on the way."""
    analyser = Analyser(pack)
    every = max(1, count // 100)
    for number, picture in enumerate(changing(count, largest), start=1):
        analyser.analyse([picture])
        report.images = number
        if number % every == 0:
            report.memory_mib.append(used_mib(report.device))
    growth = growth_of(report.memory_mib)
    if growth > MOST_GROWTH:
        report.problems.append(f"memory grew by {growth - 1:.1%} over the second half")


def growth_of(samples: Sequence[float]) -> float:
    """The most of the second half over the most of the first; 1 for too few samples."""
    half = len(samples) // 2
    return max(samples[half:]) / max(samples[:half]) if half and max(samples[:half]) > 0 else 1.0


def used_mib(device: str) -> float:
    """Memory in use, in MiB: of the GPU, or of this process on a processor."""
    if device == "processor":
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(li.split()[1]) for li in status.splitlines() if "VmRSS" in li) / 1024
    return asked("memory.used", device)


def asked(what: str, device: str) -> float:
    """A figure of one GPU from nvidia-smi."""
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", "-i", device],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.strip())


class Busy:
    """Samples how busy a GPU is while a block runs; ``mean`` is a share, ``None`` without one."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._samples: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def mean(self) -> float | None:
        return float(np.mean(self._samples)) / 100 if self._samples else None

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            self._samples.append(asked("utilization.gpu", self._device))

    def __enter__(self) -> Busy:
        if self._device != "processor":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()


# --- all of it -------------------------------------------------------------------------------


def check(runtime: RuntimeOptions, given: argparse.Namespace) -> Report:
    """Measure everything. Raises ProviderUnavailable."""
    report = Report(runtime.provider, device_of(runtime))
    pack = load_pack(given.pack, packs_dir=given.packs, runtime=runtime)
    processor = load_pack(given.pack, packs_dir=given.packs, runtime=ON_CPU)
    pictures = [fitted(p, given.largest) for each in picture_sets() for p in each.images]
    equality(report, Analyser(pack), Analyser(processor), pictures)
    del processor
    with Busy(report.device) as busy:
        speed(report, pack, given.seconds, given.largest)
    report.busy = busy.mean
    memory(report, pack, given.images, given.largest)
    return report


def device_of(runtime: RuntimeOptions) -> str:
    """The device as nvidia-smi knows it: its number there, or a UUID; or ``processor``.

    The runtime counts those that this process sees, which CUDA_VISIBLE_DEVICES may choose.
    """
    if runtime.provider == "cpu":
        return "processor"
    seen = visible_gpus()
    return seen[runtime.device].name if runtime.device < len(seen) else str(runtime.device)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--provider", choices=["cpu", "cuda", "tensorrt"], default="cuda")
    parser.add_argument(
        "--device", type=int, default=0, help="among those seen, as nvidia-smi counts"
    )
    parser.add_argument("--memory-gb", type=float, default=0.0, help="bound of each model")
    parser.add_argument("--pack", default="dlib")
    parser.add_argument("--packs", type=Path, default=Path("homeward-data/packs"))
    parser.add_argument("--images", type=int, default=20_000, help="of changing sizes")
    parser.add_argument("--largest", type=int, default=1600, help="pixels of the longer side")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each rate")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    # Before CUDA starts: its own order puts the fastest first, and the memory and load of another
    # GPU would be looked at.
    os.environ.update(BUS_ORDER)
    provider: Provider = given.provider
    runtime = RuntimeOptions(
        provider=provider,
        device=given.device,
        memory_bytes=round(given.memory_gb * 1e9),
        engine_cache=given.packs.parent / "engines",
    )
    if provider != "cpu" and shutil.which("nvidia-smi") is None:
        print("nvidia-smi, which says how much memory is used, was not found.", file=sys.stderr)
        return 2
    try:
        report = check(runtime, given)
    except ProviderUnavailable as error:
        print(error, file=sys.stderr)
        return 2
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    _show(asdict(report) | {"memory_mib": _summary(report.memory_mib)})
    return 1 if report.problems else 0


def _summary(samples: Sequence[float]) -> str:
    return f"{samples[0]:.0f} at first, {max(samples):.0f} at most" if samples else "not looked at"


def _show(report: dict[str, Any]) -> None:
    for name, value in report.items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    sys.exit(main())
