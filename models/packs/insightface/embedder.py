"""Aligned crops as insightface makes them, and their vectors through its ``ArcFaceONNX``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnxruntime as ort
from insightface.model_zoo import ArcFaceONNX
from insightface.utils.face_align import arcface_dst
from skimage.transform import SimilarityTransform

from models.batching import BatchOptions
from models.packs.insightface.detector import bgr, preprocessing, scale_pixels
from models.packs.insightface.package import Package
from models.packs.insightface.sessions import gathered, watched
from models.types import FloatArray, Landmarks, RgbImage

GPU_BATCH: Final = 32
CPU_BATCH: Final = 2
"""Chips in one run; bounds the memory of a run. On a processor a larger run gains nothing: with an
IResNet-18, milliseconds of processor time a chip are 53, 53, 58, 57, 57 for 1, 2, 4, 8 and 16 of
them, for the buffers of a larger run no longer fit its caches."""


def template(size: int) -> FloatArray:
    """Where the five points belong in a crop of ``size`` pixels: float32 (5, 2).

    insightface's ``face_align.estimate_norm``: for multiples of 112 the ArcFace template, for
    multiples of 128 the same with room at the sides.
    """
    if size % 112 == 0:
        return np.asarray(arcface_dst * (size / 112.0), dtype=np.float32)
    points = arcface_dst * (size / 128.0)
    points[:, 0] += 8.0 * (size / 128.0)
    return np.asarray(points, dtype=np.float32)


def aligned(image: RgbImage, landmarks: Landmarks, size: int, scale: float) -> RgbImage:
    """The face upright, uint8 RGB (size, size, 3); black where the points fall into one.

    At ``scale`` 1 bit for bit insightface's ``face_align.norm_crop``, whose own call for the
    transform is deprecated and warns; ``from_estimate`` is the same computation.
    """
    target = template(size)
    if scale != 1.0:
        middle = (size - 1) / 2
        target = np.asarray((target - middle) / scale + middle, dtype=np.float32)
    transform = SimilarityTransform.from_estimate(landmarks.points, target)
    # A transform that could not be found counts as false.
    if not transform or not np.isfinite(transform.params).all():
        return np.zeros((size, size, 3), dtype=np.uint8)
    crop = cv2.warpAffine(image, transform.params[:2], (size, size), borderValue=0.0)
    return np.asarray(crop, dtype=np.uint8)


class Embedder:
    """Safe to share between threads: ``ArcFaceONNX`` changes nothing once it is made."""

    def __init__(
        self,
        package: Package,
        session: ort.InferenceSession,
        graph: Path,
        most: int = CPU_BATCH,
    ) -> None:
        self._most = most
        self._model = ArcFaceONNX(str(graph), session)
        scale_pixels(self._model, package.recogniser_scaling, session)
        self._dimension = package.dimension
        self._chip = package.chip_size
        fixed = session.get_inputs()[0].shape[0]
        self._fixed = fixed if isinstance(fixed, int) else None

    @property
    def preprocessing(self) -> str:
        return preprocessing(self._model)

    @property
    def batch(self) -> int:
        """Chips in one run of the model."""
        return self._fixed or self._most

    def try_out(self, refusals: tuple[type[Exception], ...]) -> None:
        """Run the model on blank chips, so that one that cannot run is found out at the start.

        A model may say that it takes any number of chips and then take one only, because a size
        inside it is fixed: those are embedded one by one. ``refusals``: what a failed run raises.
        To be called while the session is bare: a watched one tells every failure as the GPU's.
        """
        blank = np.zeros((self._chip, self._chip, 3), dtype=np.uint8)
        if self._fixed is None:
            try:
                self.embed([blank, blank])
                return
            except refusals:
                self._fixed = 1
        self.embed([blank])

    def watch(self) -> None:
        """From now on failures on a GPU are told as such (``sessions.watched``)."""
        self._model.session = watched(self._model.session)

    def gather(self, options: BatchOptions | None = None) -> None:
        """As :meth:`watch`; and the chips of all callers run together, where the model takes any
        number."""
        if self._fixed is None:
            self._model.session = gathered(self._model.session, options)
        else:
            self.watch()

    def embed(self, chips: Sequence[RgbImage]) -> FloatArray:
        """As ``FacePack.embed``: float32 (n, dimension), not normalised."""
        vectors = np.empty((len(chips), self._dimension), dtype=np.float32)
        for at in range(0, len(chips), self.batch):
            part = [bgr(chip) for chip in chips[at : at + self.batch]]
            # A model of a fixed batch takes no fewer.
            missing = (self._fixed or 0) - len(part)
            raw = self._model.get_feat(part + part[-1:] * missing)
            if raw.shape[0] != len(part) + max(0, missing):
                raise ValueError(f"{raw.shape[0]} embeddings for {len(part)} crops")
            vectors[at : at + len(part)] = raw.reshape(len(raw), -1)[: len(part)]
        return vectors
