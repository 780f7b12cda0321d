"""What this machine does: images a second, milliseconds a stage, memory, milliseconds a search.

Everything that is compared is measured in the same run on the same data: the default pack against
dlib's own detector and embedder (where ``dlib-bin`` is installed) on the same pictures at the same
upsampling, and the index against FAISS's flat one, NumPy and the memory itself on the same
vectors. Real pictures that installed packages carry, synthetic vectors.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.files import make_folder
from models.packs.registry import load_pack
from models.runtime import RuntimeOptions
from service.bench.analysis import (
    PictureSet,
    compare_with_dlib,
    our_throughput,
    picture_sets,
    stages,
)
from service.bench.clock import high_water, limited
from service.bench.report import BenchReport
from service.bench.searching import measure
from service.bench.tables import tables

__all__ = ["BenchOptions", "BenchReport", "run_bench", "tables"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure. ``sizes`` are numbers of vectors, ``dimensions`` their components.

    ``budget_s``: least seconds that each throughput is measured for. ``repeats``: runs of each
    stage. ``pictures``: measure detecting and embedding at all. ``dlib``: compare with dlib's own
    detector and embedder where it is installed. ``probes``: single searches of each engine.
    ``scratch``: where vectors are written meanwhile, or the system's folder for such files.
    """

    threads: tuple[int, ...] = (1, 2)
    sizes: tuple[int, ...] = (100_000,)
    dimensions: tuple[int, ...] = (128, 512)
    budget_s: float = 4.0
    repeats: int = 9
    pictures: bool = True
    dlib: bool = True
    probes: int = 100
    scratch: Path | None = None


def run_bench(options: BenchOptions, packs_dir: Path, say: Say = lambda _text: None) -> BenchReport:
    """Measure; takes about two minutes with the default options.

    ``packs_dir`` is where the default pack is built, ``say`` receives a line for each part.

    Raises:
        PackMissing, PackDigestMismatch: the default pack cannot be used.
        DemonstrationPicturesMissing: the packages with the pictures are not installed.
    """
    started = time.perf_counter()
    report = BenchReport(_machine())
    sets = picture_sets() if options.pictures else ()
    if sets:
        _pictures(options, packs_dir, sets, report, say)
    scratch = Path(tempfile.gettempdir()) if options.scratch is None else options.scratch
    make_folder(scratch)
    for dimension in options.dimensions:
        for size in options.sizes:
            say(f"Searching {size:,} vectors of {dimension} components.")
            measure(report, size, dimension, options.threads, options.probes, scratch)
    report.memory_mib["searching"] = high_water()
    if options.dlib and sets:
        say("The same pictures with dlib's own detector and embedder.")
        compare_with_dlib(report, sets)
        report.memory_mib["dlib"] = high_water()
    if report.exactness:
        report.notes.append(
            "Every answer that was checked is that of brute force."
            if report.exact
            else "WRONG: answers differ from brute force."
        )
    report.seconds = time.perf_counter() - started
    return report


def _pictures(
    options: BenchOptions,
    packs_dir: Path,
    sets: Sequence[PictureSet],
    report: BenchReport,
    say: Say,
) -> None:
    for threads in options.threads:
        say(f"Detecting and embedding, threads: {threads}.")
        with limited(threads):
            pack = load_pack("dlib", packs_dir=packs_dir, runtime=RuntimeOptions(threads=threads))
            report.throughput += our_throughput(pack, sets, threads, options.budget_s)
            report.stages += stages(pack, sets[0].images[0], threads, options.repeats)
    report.memory_mib["detecting and embedding"] = high_water()


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
