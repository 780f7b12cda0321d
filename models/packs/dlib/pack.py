"""The default face pack: dlib's CC0 models, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort

from models.align import aligned_crop
from models.batching import BatchedModel, BatchOptions
from models.calibration import Calibration
from models.contract import EmbeddingContract
from models.packs.base import PackInfo
from models.packs.dlib import files
from models.packs.dlib.build import BUILD_VERSION, Artifacts, load_artifacts
from models.packs.dlib.detector import MmodDetector
from models.packs.dlib.format import ShapePredictor
from models.packs.dlib.landmarks import grey, predict
from models.runtime import ON_CPU, RuntimeOptions, ShapeRange, open_session, require_provider
from models.types import Detection, FloatArray, Landmarks, RgbImage

CHIP_SIZE: Final = 150
DIMENSION: Final = 128
MAX_BATCH: Final = 32
"""Chips in one run of the embedder; bounds the memory of a run."""

INFO: Final = PackInfo(
    name="dlib",
    title="dlib ResNet-34 variant (128-d) with dlib's mmod detector",
    licence="CC0-1.0",
    licence_url="https://creativecommons.org/publicdomain/zero/1.0/",
    provenance=(
        "Weights published by Davis King (dlib-models) and packaged as face-recognition-models "
        "0.3.0. The embedder was trained on VGG-Face and FaceScrub among others, with LFW "
        "identities left out by its author's word; the detector on ImageNet, AFLW, Pascal VOC "
        "and WIDER images. The 68-point predictor in the same package is never opened."
    ),
    dimension=DIMENSION,
    free_for_police_use=True,
    digests=files.SHA256,
)

_CHIPS: Final = ShapeRange(
    least=(1, CHIP_SIZE, CHIP_SIZE, 3),
    usual=(16, CHIP_SIZE, CHIP_SIZE, 3),
    largest=(MAX_BATCH, CHIP_SIZE, CHIP_SIZE, 3),
)

VIEWS: Final = (1.04, 0.93)
"""Each face is cropped at these scales. Two views with their mirror images beat one with its own:
TAR at FMR 1e-4 .834 to .824 on the LFW half used for development, at twice the embedding time."""

DETECTION_SCORES: Final = (-0.75, 0.0, 0.8)
"""dlib accepts above 0; clear faces score 1.05 +- 0.03. Of 300 faces behind a watermark, a bar
or a mask, 66 % score above 0 and 95 % above -0.75; so do 1 % and 6 % of pictures without a face.
"""

CONTRACT: Final = EmbeddingContract(
    pack=INFO.name,
    dimension=DIMENSION,
    parts={
        **{f"sha256:{name}": digest for name, digest in files.SHA256.items()},
        "build": str(BUILD_VERSION),
        "detection": "levels x 0.68, border 43, 5 landmarks",
        "chip": "150 px, padding 0.25, similarity from the canonical face, bilinear",
        "augmentation": f"crops at {VIEWS} and their mirror images, sum, L2",
    },
)


class DlibPack:
    """Implements ``models.packs.base.FacePack``; safe to share between threads."""

    info = INFO
    contract = CONTRACT
    chip_size = CHIP_SIZE
    views = VIEWS
    detection_scores = DETECTION_SCORES

    def __init__(
        self,
        detector: ort.InferenceSession,
        embedder: ort.InferenceSession,
        trees: ShapePredictor,
        calibration: Calibration | None,
    ) -> None:
        self._detector = MmodDetector(detector)
        self._embedder = BatchedModel(
            embedder, "pixels", "embedding", BatchOptions(max_batch=MAX_BATCH)
        )
        self._trees = trees
        self.calibration = calibration

    def detect(self, image: RgbImage, finest: float, threshold: float) -> list[Detection]:
        return self._detector.detect(image, finest, threshold)

    def landmarks(
        self, images: Sequence[RgbImage], detections: Sequence[Detection]
    ) -> list[Landmarks]:
        # Many faces share one image; its grey values are made once.
        greys = {key: grey(image) for key, image in {id(i): i for i in images}.items()}
        points = predict(self._trees, [greys[id(i)] for i in images], [d.box for d in detections])
        return [Landmarks(p, "dlib5") for p in points]

    def align(self, image: RgbImage, landmarks: Landmarks, scale: float) -> RgbImage:
        return aligned_crop(image, landmarks, CHIP_SIZE, scale=scale)

    def embed(self, chips: Sequence[RgbImage]) -> FloatArray:
        if not chips:
            return np.empty((0, DIMENSION), dtype=np.float32)
        return self._embedder.run(np.stack(chips)).astype(np.float32, copy=False)


def load(cache: Path, runtime: RuntimeOptions = ON_CPU) -> DlibPack:
    """Load the pack, building its ONNX files under ``cache`` the first time.

    Raises:
        PackMissing, PackDigestMismatch, ProviderUnavailable: see their descriptions.
    """
    # Before the pack is built, which takes a while.
    require_provider(runtime.provider)
    artifacts: Artifacts = load_artifacts(cache)
    return DlibPack(
        open_session(artifacts.detector, runtime),
        open_session(artifacts.embedder, runtime, shapes={"pixels": _CHIPS}),
        artifacts.trees,
        _shipped_calibration(),
    )


def _shipped_calibration() -> Calibration | None:
    """The calibration that ships with the pack, if it is for this very contract."""
    resource = resource_files("models.packs.dlib") / "calibration.json"
    if not resource.is_file():
        return None
    with as_file(resource) as path:
        calibration = Calibration.load(path)
    return calibration if calibration.contract_id == CONTRACT.id else None
