"""What this machine does: images a second, milliseconds a stage, memory, milliseconds a search.

Everything that is compared is measured in the same run on the same data: the default pack against
dlib's own detector and embedder (where ``dlib-bin`` is installed) on the same pictures at the same
upsampling, and the index against plain NumPy on the same vectors. Real pictures that installed
packages carry, synthetic vectors.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.packs.registry import load_pack
from service.bench.analysis import compare_with_dlib, our_throughput, picture_sets, stages
from service.bench.clock import high_water, limited
from service.bench.report import BenchReport, tables
from service.bench.searching import search

__all__ = ["BenchOptions", "BenchReport", "run_bench", "tables"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure. ``sizes`` are numbers of vectors, ``dimensions`` their components.

    ``budget_s``: least seconds that each throughput is measured for. ``repeats``: runs of each
    stage. ``dlib``: compare with dlib's own detector and embedder where it is installed.
    """

    threads: tuple[int, ...] = (1, 2)
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    dimensions: tuple[int, ...] = (128, 512)
    budget_s: float = 4.0
    repeats: int = 9
    dlib: bool = True


def run_bench(options: BenchOptions, packs_dir: Path, say: Say = lambda _text: None) -> BenchReport:
    """Measure; takes two to four minutes with the default options.

    ``packs_dir`` is where the default pack is built, ``say`` receives a line for each part.

    Raises:
        PackMissing, PackDigestMismatch: the default pack cannot be used.
        DemonstrationPicturesMissing: the packages with the pictures are not installed.
    """
    started = time.perf_counter()
    report = BenchReport(_machine())
    sets = picture_sets()
    for threads in options.threads:
        say(f"Detecting and embedding, threads: {threads}.")
        with limited(threads):
            pack = load_pack("dlib", cache_dir=packs_dir, threads=threads)
            report.throughput += our_throughput(pack, sets, threads, options.budget_s)
            report.stages += stages(pack, sets[0].images[0], threads, options.repeats)
    report.memory_mib["detecting and embedding"] = high_water()
    for dimension in options.dimensions:
        for size in options.sizes:
            say(f"Searching {size:,} vectors of {dimension} components.")
            report.search += search(size, dimension, options.threads)
    report.memory_mib["searching"] = high_water()
    if options.dlib:
        say("The same pictures with dlib's own detector and embedder.")
        compare_with_dlib(report, sets)
        report.memory_mib["dlib"] = high_water()
    report.seconds = time.perf_counter() - started
    return report


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{
            name: importlib.metadata.version(name)
            for name in ("homeward", "numpy", "onnxruntime", "faiss-cpu", "opencv-python")
            if _installed(name)
        },
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
