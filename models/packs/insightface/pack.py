"""Any pack in InsightFace's format on Homeward's pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

import cv2
import insightface
import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from models.calibration import Calibration
from models.contract import EmbeddingContract
from models.errors import GpuLost, InferenceFailed, PackDigestMismatch, PackError
from models.packs.base import PackInfo
from models.packs.insightface.detector import Detector, FivePoints
from models.packs.insightface.embedder import CPU_BATCH, GPU_BATCH, Embedder, aligned
from models.packs.insightface.onnx_file import ModelFile
from models.packs.insightface.package import MANIFEST, Package, read_package
from models.packs.insightface.rewrite import without_prelu
from models.packs.insightface.sessions import watched
from models.runtime import ON_CPU, RuntimeOptions, gpu_failure, open_session, speaks_of_gpu
from models.types import Box, Detection, FloatArray, Landmarks, RgbImage

DETECTION_SCORES: Final = (0.3, 0.5, 0.7)
"""SCRFD scores are between 0 and 1. insightface accepts from 0.5; below, faces behind a bar or a
mask and false ones mix. The outer two have not been measured: the public weights may not be used
in this project's tests."""

_REFUSALS: Final[tuple[type[Exception], ...]] = (
    *(
        getattr(ort_errors, name)
        for name in (
            "EPFail",
            "Fail",
            "InvalidArgument",
            "InvalidGraph",
            "InvalidProtobuf",
            "NoSuchFile",
            "NotImplemented",
            "RuntimeException",
        )
    ),
    cv2.error,
    AssertionError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)
"""What ONNX Runtime and insightface's classes raise over a model that they cannot use."""

_GET_ANOTHER: Final = "Check the pack where it was published; this model cannot be used."
_ROUNDING: Final = 1e-4
"""Of the largest component of a vector; of a normalised one of 512 that is about 1e-5."""

_BLANK: Final = np.zeros((128, 128, 3), dtype=np.uint8)
_Made = TypeVar("_Made")


class InsightFacePack:
    """Implements ``models.packs.base.FacePack``; safe to share between threads."""

    views = (1.0,)
    detection_scores = DETECTION_SCORES

    def __init__(
        self,
        package: Package,
        info: PackInfo,
        calibration: Calibration | None,
        detector: Detector,
        five_points: FivePoints | None,
        embedder: Embedder,
    ) -> None:
        self.package = package
        self.info = info
        self.chip_size = package.chip_size
        self._detector, self._five_points, self._embedder = detector, five_points, embedder
        self.contract = _contract(info, package, detector, five_points, embedder)
        matches = calibration is not None and calibration.contract_id == self.contract.id
        self.calibration = calibration if matches else None

    def detect(self, image: RgbImage, finest: float, threshold: float) -> list[Detection]:
        return self._detector.detect(image, finest, threshold)

    def landmarks(
        self, images: Sequence[RgbImage], detections: Sequence[Detection]
    ) -> list[Landmarks]:
        if self._five_points is not None:
            return self._five_points.find(images, [found.box for found in detections])
        return [_own_landmarks(found) for found in detections]

    def align(self, image: RgbImage, landmarks: Landmarks, scale: float) -> RgbImage:
        return aligned(image, landmarks, self.chip_size, scale)

    def embed(self, chips: Sequence[RgbImage]) -> FloatArray:
        return self._embedder.embed(chips)


def _own_landmarks(found: Detection) -> Landmarks:
    """What the detector found with the face, in the image turned as it was then."""
    if found.landmarks is None:
        raise ValueError("a detection without landmarks is not from this pack's detector")
    return found.landmarks


def load(
    folder: Path,
    *,
    info: PackInfo,
    calibration: Calibration | None = None,
    runtime: RuntimeOptions = ON_CPU,
) -> InsightFacePack:
    """Load the pack in ``folder``. A calibration that is for another contract is left out.

    ``info`` tells name, licence and provenance; its digests, where it has any, are what the files
    must be, and what the pack has is told in the pack's own ``info``.

    Raises:
        PackMissing, PackError: the folder is no sound pack, or a model does not run.
        PackDigestMismatch: a file is not the one that ``info`` or the manifest names.
        ProviderUnavailable: the asked-for accelerator is not there; as InferenceFailed, a model was
            too much for it.
    """
    package = read_package(folder)
    _require_pinned(package, info)
    info = replace(info, dimension=package.dimension, digests=package.pinned)
    detector = _made(package.detector, runtime, lambda s, at: Detector(package, watched(s), at))
    embedder = _made_embedder(package, runtime)
    points = None
    if package.landmarks is not None:
        points = _made(package.landmarks, runtime, lambda s, at: FivePoints(watched(s), at))
    pack = InsightFacePack(package, info, calibration, detector, points, embedder)
    _try_out(package.detector, runtime, lambda: pack.detect(_BLANK, 1.0, 0.0))
    if package.landmarks is not None and points is not None:
        box = Box(32.0, 32.0, 64.0, 64.0)
        _try_out(package.landmarks, runtime, lambda: points.find([_BLANK], [box]))
    return pack


def _made(
    model: ModelFile,
    runtime: RuntimeOptions,
    make: Callable[[ort.InferenceSession, Path], _Made],
) -> _Made:
    data, outline = model.read_twofold()
    try:
        with _file_of(outline) as graph:
            return make(open_session(data, runtime), graph)
    except _REFUSALS as error:
        raise PackError(f"{model.name} cannot be opened: {error}.", remedy=_GET_ANOTHER)


@contextmanager
def _file_of(outline: bytes) -> Iterator[Path]:
    """insightface's classes open a model by its path, to look at nodes and inputs: a private file,
    so that they see what was checked whatever happens to the pack's own."""
    with TemporaryDirectory(prefix="homeward-") as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(outline)
        yield path


def _made_embedder(package: Package, runtime: RuntimeOptions) -> Embedder:
    """On a processor without PReLU where that gives the same vectors; a GPU has no need of it."""
    most = CPU_BATCH if runtime.provider == "cpu" else GPU_BATCH
    make = partial(Embedder, package, most=most)
    plain = _made(package.recogniser, runtime, make)
    _try_out(package.recogniser, runtime, lambda: plain.try_out(_REFUSALS))
    if runtime.provider != "cpu":
        plain.gather()
        return plain
    plain.watch()
    data, outline = package.recogniser.read_twofold()
    model = without_prelu(data)
    if model is None:
        return plain
    try:
        with _file_of(outline) as graph:
            faster = make(open_session(model, runtime), graph)
        faster.try_out(_REFUSALS)
        faster.watch()
    except _REFUSALS:
        return plain
    return faster if agree(plain, faster, package.chip_size) else plain


def agree(one: Embedder, other: Embedder, size: int) -> bool:
    """Whether two embedders give the same vectors of two noisy crops, but for rounding."""
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    first, second = one.embed(list(noise)), other.embed(list(noise))
    return bool(np.abs(first - second).max() <= _ROUNDING * np.abs(first).max())


def _try_out(model: ModelFile, runtime: RuntimeOptions, step: Callable[[], object]) -> None:
    """Run a model once: better found out now that it cannot than at the first photo.

    Whether the model or the GPU is to blame is told apart, since only one of them can be mended
    with another pack.
    """
    try:
        step()
    except InferenceFailed as error:
        if isinstance(error, GpuLost) or speaks_of_gpu(str(error.__cause__)):
            raise
        raise PackError(f"{model.name} does not run: {error.__cause__}.", remedy=_GET_ANOTHER)
    except _REFUSALS as error:
        if runtime.provider != "cpu" and speaks_of_gpu(str(error)):
            raise gpu_failure(runtime, str(error)) from error
        raise PackError(f"{model.name} does not run: {error}.", remedy=_GET_ANOTHER)


def _require_pinned(package: Package, info: PackInfo) -> None:
    """Every file that bears on a vector is the one that was installed, and the manifest is there
    where one was, and only there."""
    if not info.digests:
        return
    wanted = {MANIFEST: info.digests[MANIFEST]} if MANIFEST in info.digests else {}
    for name in package.pinned | wanted:
        if info.digests.get(name) != package.pinned.get(name):
            raise PackDigestMismatch(
                f"{name} of the pack {info.name} is not the file that was installed.",
                remedy="Remove the pack and install it again from where it was published.",
            )


def _contract(
    info: PackInfo,
    package: Package,
    detector: Detector,
    points: FivePoints | None,
    embedder: Embedder,
) -> EmbeddingContract:
    """Files are named by their role: a file that was only renamed makes the same vectors."""
    models = {"detector": package.detector, "recogniser": package.recogniser}
    if package.landmarks is not None:
        models["landmarks"] = package.landmarks
    chip = f"{package.chip_size} px, ArcFace template, similarity from the image, bilinear"
    return EmbeddingContract(
        pack=info.name,
        dimension=package.dimension,
        parts={
            **{f"sha256:{role}": " ".join(m.digests.values()) for role, m in models.items()},
            "insightface": insightface.__version__.partition(".")[0],
            "detection": detector.looks,
            "detector input": detector.preprocessing,
            "landmarks": "key points" if points is None else f"106 > 5, {points.preprocessing}",
            "recogniser input": embedder.preprocessing,
            "chip": chip,
            "augmentation": "crop and its mirror image, sum, L2",
        },
    )
