"""Images and faces a second with an InsightFace pack: our pipeline and insightface's own loop.

    python -m scripts.bench_insightface [--pack FOLDER --photos FOLDER] [--json FILE]

Everything is measured in one run on the same models and the same files, in turns, the best pass of
each engine; a pass begins with the bytes of the files. Two comparisons with ``FaceAnalysis.get`` in
a loop:

* **same work**: one look at 128 and 640 pixels, upright only, each face embedded once. The vectors
  are checked to be the same.
* **as served**: four turns, finer looks, each crop and its mirror image, quality. It does more, so
  the ratio tells what the rest costs.

Without ``--pack`` one is made: a detector that knows planted faces and an IResNet of random
weights, so that the embedder is the cost as with a real pack. Without ``--photos`` the pictures are
insightface's group picture with planted faces.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import cv2
import numpy as np
import onnxruntime as ort
import typer
from insightface.app import FaceAnalysis

from models.decode import decode
from models.packs.base import PackInfo
from models.packs.insightface.embedder import GPU_BATCH, Embedder
from models.packs.insightface.pack import InsightFacePack, load
from models.packs.insightface.package import read_package
from models.packs.insightface.rewrite import without_prelu
from models.pipeline import Analyser
from models.runtime import RuntimeOptions, open_session
from models.types import FloatArray, RgbImage
from service.bench.clock import limited
from service.demo import carried_path
from tests.models.insightface_models import make_heavy_recogniser, make_v1_folder, plant

INFO: Final = PackInfo("bench", "A pack that is measured", "", "", "", 0, False)
AT_ONCE: Final = 8
"""Images that are analysed together."""

app = typer.Typer(add_completion=False, help="Measure an InsightFace pack on our pipeline.")


@dataclass(frozen=True, slots=True)
class Rate:
    """One engine with so many threads in all. ``ratio``: against insightface's loop with as many.

    ``cpu_ms``: processor time of all threads for one image, which a busy machine changes less; a
    runtime that spins while it waits has more of it than it works.
    """

    engine: str
    threads: int
    images_per_s: float
    faces_per_s: float
    faces: int
    cpu_ms: float
    ratio: float


@dataclass(frozen=True, slots=True)
class BatchCost:
    """Milliseconds for one crop when so many are embedded in one run, with and without PReLU."""

    batch: int
    threads: int
    as_the_file: float
    without_prelu: float


@app.command()
def bench(
    pack: Annotated[Path | None, typer.Option(help="A folder in InsightFace's format.")] = None,
    photos: Annotated[Path | None, typer.Option(help="A folder of JPEG files.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="How many threads: 1 and 2.")] = None,
    images: Annotated[int, typer.Option(help="The most photos that are taken.")] = 16,
    blocks: Annotated[str, typer.Option(help="Blocks of the network that is made.")] = "2,2,2,2",
    passes: Annotated[int, typer.Option(help="Passes of each engine; the best counts.")] = 3,
    output: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
) -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = pack or _made(Path(scratch) / "pack", blocks)
        files = _files(photos, images)
        rates: list[Rate] = []
        costs: list[BatchCost] = []
        for count in threads or [1, 2]:
            with limited(count):
                costs += _batch_costs(folder, count, passes)
                rates += _rates(folder, files, count, passes)
        figures = {
            "machine": _machine(),
            "pack": "made, blocks " + blocks if pack is None else pack.name,
            "images": len(files),
            "same_vectors_within": _difference(folder, files),
            "rates": [asdict(rate) for rate in rates],
            "embedding_ms": [asdict(cost) for cost in costs],
        }
    print(f"{len(files)} images; vectors differ by at most {figures['same_vectors_within']:.1e}")
    print(
        f"{'':34}{'threads':>8}{'images/s':>10}{'faces/s':>9}{'faces':>7}{'cpu ms':>8}{'ratio':>7}"
    )
    for rate in rates:
        print(
            f"{rate.engine:34}{rate.threads:8}{rate.images_per_s:10.2f}{rate.faces_per_s:9.2f}"
            f"{rate.faces:7}{rate.cpu_ms:8.0f}{rate.ratio:7.2f}"
        )
    print(f"\n{'embed, ms a crop':34}{'threads':>8}{'batch':>7}{'file':>8}{'no PReLU':>10}")
    for cost in costs:
        print(
            f"{'':34}{cost.threads:8}{cost.batch:7}{cost.as_the_file:8.1f}{cost.without_prelu:10.1f}"
        )
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


# --- what is measured ------------------------------------------------------------------------


def _made(folder: Path, blocks: str) -> Path:
    first, second, third, fourth = (int(count) for count in blocks.split(","))
    return make_v1_folder(folder, recogniser=make_heavy_recogniser((first, second, third, fourth)))


def _files(photos: Path | None, count: int) -> list[bytes]:
    if photos is not None:
        found = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
        return [path.read_bytes() for path in found[:count]]
    group = decode(carried_path("insightface", "data", "images", "t1.jpg").read_bytes()).pixels
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        image = group.copy()
        for at in range(6):
            width = int(rng.integers(60, 180))
            x, y = 60 + 420 * (at % 3), 60 + 440 * (at // 3)
            plant(image, x, y, width, 6 * number + at)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
        files.append(cv2.imencode(".jpg", image[..., ::-1], quality)[1].tobytes())
    return files


def _theirs(folder: Path, threads: int) -> FaceAnalysis:
    """insightface as it comes, but for the number of threads and the models that are not ours."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    analysis = FaceAnalysis(
        name=str(folder),
        allowed_modules=["detection", "recognition"],
        providers=["CPUExecutionProvider"],
        sess_options=options,
    )
    analysis.prepare(ctx_id=0)
    return analysis


def _loop(analysis: FaceAnalysis, files: Sequence[bytes]) -> int:
    faces = 0
    for data in files:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        faces += len(analysis.get(pixels))
    return faces


def _ours(pack: InsightFacePack, images: Sequence[RgbImage]) -> FloatArray:
    """The same work in the order of ours: all faces of all images are embedded together."""
    chips = []
    for image in images:
        # The scale at which the sizes come out as insightface's default.
        found = pack.detect(image, 640 / (0.5 * max(image.shape)), 0.5)
        marks = pack.landmarks([image] * len(found), found)
        chips += [pack.align(image, mark, 1.0) for mark in marks]
    return pack.embed(chips)


def _groups(files: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [files[at : at + AT_ONCE] for at in range(0, len(files), AT_ONCE)]


def _decoded(files: Sequence[bytes]) -> list[RgbImage]:
    return [decode(data).pixels for data in files]


def _rates(folder: Path, files: Sequence[bytes], threads: int, passes: int) -> list[Rate]:
    analysis = _theirs(folder, threads)
    pack = load(folder, info=INFO, runtime=RuntimeOptions(threads=threads))
    served = Analyser(pack)
    engines: dict[str, Callable[[], int]] = {
        "insightface, FaceAnalysis.get": lambda: _loop(analysis, files),
        "same work, one caller": lambda: sum(
            len(_ours(pack, _decoded(group))) for group in _groups(files)
        ),
    }
    single = load(folder, info=INFO, runtime=RuntimeOptions(threads=1))
    pool = ThreadPoolExecutor(threads)
    if threads > 1:
        engines[f"same work, {threads} callers"] = lambda: sum(
            pool.map(lambda data: len(_ours(single, _decoded([data]))), files)
        )
    engines["as served"] = lambda: sum(
        len(faces) for group in _groups(files) for faces in served.analyse(_decoded(group))
    )
    best = dict.fromkeys(engines, float("inf"))
    busy = dict(best)
    faces = {}
    with warnings.catch_warnings(), pool:
        # insightface's alignment calls what scikit-image has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        for _ in range(passes):
            for name, engine in engines.items():
                started, used = time.perf_counter(), time.process_time()
                faces[name] = engine()
                best[name] = min(best[name], time.perf_counter() - started)
                busy[name] = min(busy[name], time.process_time() - used)
    loop = next(iter(best.values()))
    return [
        Rate(
            name,
            threads,
            images_per_s=len(files) / took,
            faces_per_s=faces[name] / took,
            faces=faces[name],
            cpu_ms=busy[name] * 1000 / len(files),
            ratio=loop / took,
        )
        for name, took in best.items()
    ]


def _batch_costs(folder: Path, threads: int, passes: int) -> list[BatchCost]:
    package = read_package(folder)
    runtime = RuntimeOptions(threads=threads)
    data = package.recogniser.read()
    other = without_prelu(data) or data
    plain, faster = (
        Embedder(package, open_session(model, runtime), package.recogniser.path, GPU_BATCH)
        for model in (data, other)
    )
    rng = np.random.default_rng(0)
    costs = []
    for batch in (1, 4, 16, 32):
        chips = list(rng.integers(0, 256, (batch, *[package.chip_size] * 2, 3), dtype=np.uint8))
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(max(passes, 12 // batch)):
            for which, embed in ((False, plain.embed), (True, faster.embed)):
                started = time.perf_counter()
                embed(chips)
                times[which].append((time.perf_counter() - started) * 1000 / batch)
        costs.append(BatchCost(batch, threads, min(times[False]), min(times[True])))
    return costs


def _difference(folder: Path, files: Sequence[bytes]) -> float:
    """The largest difference of a component between normalised vectors, theirs and ours."""
    analysis, pack = _theirs(folder, 1), load(folder, info=INFO)
    worst = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for image in _decoded(files):
            faces = analysis.get(np.ascontiguousarray(image[..., ::-1]))
            theirs = [face.normed_embedding for face in faces]
            ours = _ours(pack, [image])
            if len(ours) != len(theirs):
                return float("inf")
            if len(ours):
                ours /= np.linalg.norm(ours, axis=1, keepdims=True)
                worst = max(worst, float(np.abs(ours - np.stack(theirs)).max()))
    return worst


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{name: version(name) for name in ("insightface", "onnxruntime", "numpy")},
    }


if __name__ == "__main__":
    app()
