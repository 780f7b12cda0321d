"""Detecting and embedding: our pictures a second and stage by stage, and dlib's own."""

from __future__ import annotations

import importlib
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from models.align import aligned_crop
from models.decode import decode
from models.find import SearchOptions
from models.packs.base import FacePack
from models.packs.dlib.files import DETECTOR, EMBEDDER, LANDMARKS, source_folder
from models.pipeline import Analyser, AnalysisOptions
from models.quality import assess
from models.types import RgbImage
from service.bench.clock import seconds, times
from service.bench.report import BenchReport, Stage, Throughput
from service.demo import carried_path


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Pictures that are compared with dlib, each doubled in size ``doublings`` times first."""

    name: str
    doublings: int
    images: Sequence[RgbImage]


def picture_sets() -> tuple[PictureSet, PictureSet]:
    """Large pictures looked at as they are, and small ones looked at twice as large.

    Raises:
        DemonstrationPicturesMissing: the packages with the pictures are not installed.
    """
    group = decode(_group_bytes()).pixels
    portrait = decode(carried_path("skimage", "data", "astronaut.png").read_bytes()).pixels
    small = [_halved(group), _halved(portrait)]
    return (
        PictureSet("4 pictures", 0, [group, portrait, *small]),
        PictureSet("2 pictures", 1, small),
    )


def _group_bytes() -> bytes:
    return carried_path("insightface", "data", "images", "t1.jpg").read_bytes()


def _halved(image: RgbImage) -> RgbImage:
    size = (image.shape[1] // 2, image.shape[0] // 2)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def our_throughput(
    pack: FacePack, sets: Sequence[PictureSet], threads: int, budget_s: float
) -> list[Throughput]:
    """Upright only and at a fixed upsampling, as dlib does it; then as the service does it."""
    result = []
    for each in sets:
        search = SearchOptions(upsample=float(2**each.doublings), turns=False)
        analyser = Analyser(pack, AnalysisOptions(search))
        rate, faces = _rate(analyser, each.images, budget_s)
        result.append(Throughput("homeward", each.name, each.doublings, threads, rate, faces))
    served = sets[0]
    rate, faces = _rate(Analyser(pack), served.images, budget_s)
    result.append(Throughput("homeward, as served", served.name, None, threads, rate, faces))
    return result


def _rate(analyser: Analyser, pictures: Sequence[RgbImage], budget_s: float) -> tuple[float, int]:
    """Images a second (best pass of at least two) and the number of faces found."""
    faces = sum(len(found) for found in analyser.analyse(pictures))
    passes: list[float] = []
    while sum(passes) < budget_s or len(passes) < 2:
        passes.append(seconds(lambda: analyser.analyse(pictures)))
    return len(pictures) / min(passes), faces


def stages(pack: FacePack, image: RgbImage, threads: int, repeats: int) -> list[Stage]:
    """Each stage by itself on ``image``, the group picture: the median of ``repeats`` runs."""
    data = _group_bytes()
    _, accepted, _ = pack.detection_scores
    found = pack.detect(image, 1.0, accepted)
    marks = pack.landmarks([image] * len(found), found)
    analyser = Analyser(pack)

    def crops() -> list[RgbImage]:
        return [
            aligned_crop(image, mark, pack.chip_size, scale=scale)
            for mark in marks
            for scale in pack.views
        ]

    views = crops()
    batch = [*views, *(np.ascontiguousarray(view[:, ::-1]) for view in views)]
    chips = views[:: len(pack.views)]

    def quality() -> None:
        for one, mark, chip in zip(found, marks, chips, strict=True):
            assess(image, one.box, mark, chip)

    size = f"{image.shape[1]} x {image.shape[0]} image"
    embedding = f"embed ({2 * len(pack.views)} crops with mirrors)"
    steps: list[tuple[str, str, int, Callable[[], object]]] = [
        ("decode (JPEG)", size, 1, lambda: decode(data)),
        ("detect, as it is", size, 1, lambda: pack.detect(image, 1.0, accepted)),
        ("detect, twice as large", size, 1, lambda: pack.detect(image, 2.0, accepted)),
        ("landmarks", "face", len(found), lambda: pack.landmarks([image] * len(found), found)),
        ("aligned crops", "face", len(found), crops),
        (embedding, "face", len(found), lambda: pack.embed(batch)),
        ("quality", "face", len(found), quality),
        ("analyse, as served", size, 1, lambda: analyser.analyse([image])),
    ]
    return [
        Stage(name, unit, threads, statistics.median(times(step, repeats)) * 1000 / count)
        for name, unit, count, step in steps
    ]


def compare_with_dlib(report: BenchReport, sets: Sequence[PictureSet]) -> None:
    """Add dlib's throughput, and to each of ours how many times faster it is."""
    try:
        dlib = importlib.import_module("dlib")
    except ImportError:
        report.notes.append(
            "dlib is not installed, so nothing is compared with it (pip install dlib-bin)."
        )
        return
    folder = source_folder()
    detector = dlib.cnn_face_detection_model_v1(str(folder / DETECTOR))
    predictor = dlib.shape_predictor(str(folder / LANDMARKS))
    embedder = dlib.face_recognition_model_v1(str(folder / EMBEDDER))
    rates: dict[int | None, float] = {}
    for each in sets:
        faces = 0
        started = time.perf_counter()
        for image in each.images:
            for found in detector(image, each.doublings):
                embedder.compute_face_descriptor(image, predictor(image, found.rect))
                faces += 1
        rates[each.doublings] = len(each.images) / (time.perf_counter() - started)
        report.throughput.append(
            Throughput("dlib", each.name, each.doublings, 1, rates[each.doublings], faces)
        )
    report.throughput = [
        replace(line, speedup=line.images_per_s / rates[line.doublings])
        if line.engine == "homeward" and line.doublings in rates
        else line
        for line in report.throughput
    ]
    report.notes.append(
        f"dlib {importlib.metadata.version('dlib-bin')} as its wheel comes, one thread, one pass; "
        "it embeds each face once, Homeward several crops of it and their mirror images."
    )
