"""The pack ``yunet-sface``: OpenCV Zoo's YuNet and SFace, run by OpenCV's own classes.

``cv2.FaceDetectorYN`` finds faces with five points, ``cv2.FaceRecognizerSF`` aligns and embeds.
Both classes keep the state of a run (the size of the input, the buffers of the network), so each
has a lock: one picture at a time, on as many threads as OpenCV uses.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration
from models.contract import EmbeddingContract
from models.detect import thin
from models.errors import PackDigestMismatch, PackError, PackMissing, ProviderUnavailable
from models.packs.base import PackInfo
from models.runtime import ON_CPU, RuntimeOptions
from models.types import Box, Detection, FloatArray, Landmarks, RgbImage

CHIP_SIZE: Final = 112
DIMENSION: Final = 128
VIEWS: Final = (1.0,)

DETECTION_SCORES: Final = (0.3, 0.6, 0.9)
"""YuNet's scores, in [0, 1]. OpenCV Zoo evaluates it above 0.3 (``tools/eval/eval.py``), its own
class accepts above 0.6 (``yunet.py``) and ``cv2.FaceDetectorYN`` above 0.9 by default. They were
not fitted on photos here."""

_NMS_IOU: Final = 0.3
_TOP_K: Final = 5000
"""The defaults of ``cv2.FaceDetectorYN.create``."""

_LARGEST_FACE: Final = 300
"""YuNet finds faces of about 10 to 300 pixels (its README in OpenCV Zoo)."""

_STEP: Final = 4.0
"""From one level of the picture to the next coarser one; faces of 10 to 75 pixels are found in a
level, those of 75 to 300 in it and in the next."""

_LARGEST_SIDE: Final = 30_000
"""OpenCV takes crops from pictures of at most 32,766 pixels a side."""

_PATTERNS: Final = {"detector": "*yunet*.onnx", "recogniser": "*sface*.onnx"}
_REMEDY: Final = (
    "Put face_detection_yunet_2023mar.onnx and face_recognition_sface_2021dec.onnx of OpenCV Zoo, "
    "and no other version of them, into one folder."
)
_MAX_BYTES: Final = 500_000_000


def find_files(folder: Path) -> tuple[Path, Path]:
    """The detector and the recogniser in ``folder``.

    Raises :class:`PackMissing` where one is not there or there are several, or where it is a link
    or larger than 500 MB.
    """
    found = []
    for role, pattern in _PATTERNS.items():
        paths = sorted(folder.glob(pattern))
        if len(paths) != 1:
            raise PackMissing(
                f"The folder holds {len(paths)} files {pattern} for the {role}; one is needed.",
                remedy=_REMEDY,
            )
        if paths[0].is_symlink() or not paths[0].is_file() or paths[0].stat().st_size > _MAX_BYTES:
            raise PackError(f"{paths[0].name} is a link, or too large.", remedy=_REMEDY)
        found.append(paths[0])
    return found[0], found[1]


class YunetSfacePack:
    """Implements ``models.packs.base.FacePack``; safe to share between threads."""

    chip_size = CHIP_SIZE
    views = VIEWS
    detection_scores = DETECTION_SCORES

    def __init__(
        self,
        detector: bytes,
        recogniser: bytes,
        *,
        info: PackInfo,
        contract: EmbeddingContract,
        calibration: Calibration | None = None,
    ) -> None:
        """Raises :class:`PackError` where OpenCV cannot use a model."""
        self.info = info
        self.contract = contract
        self.calibration = calibration
        empty = np.empty(0, np.uint8)
        doubtful = DETECTION_SCORES[0]
        try:
            self._detector = cv2.FaceDetectorYN.create(
                "onnx", _buffer(detector), empty, (320, 320), doubtful, _NMS_IOU, _TOP_K
            )
            self._recogniser = cv2.FaceRecognizerSF.create("onnx", _buffer(recogniser), empty)
        except cv2.error as error:
            raise PackError(f"OpenCV cannot read a model: {error.err}.", remedy=_REMEDY) from error
        self._detecting = threading.Lock()
        self._embedding = threading.Lock()

    def detect(self, image: RgbImage, finest: float, threshold: float) -> list[Detection]:
        """At ``finest`` and at coarser levels, until a face that fills the picture is found."""
        scale = finest
        bgr = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), dtype=np.uint8)
        found = self._at(bgr, scale, threshold)
        levels = 1
        while max(image.shape[:2]) * scale > _LARGEST_FACE:
            scale /= _STEP
            found += self._at(bgr, scale, threshold)
            levels += 1
        # Within one level OpenCV did it already, by overlap of the same extent or more.
        return thin(found, _NMS_IOU) if levels > 1 else sorted(found, key=lambda d: -d.score)

    def _at(self, bgr: RgbImage, scale: float, threshold: float) -> list[Detection]:
        height, width = bgr.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if size != (width, height):
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            bgr = np.asarray(cv2.resize(bgr, size, interpolation=how), dtype=np.uint8)
        with self._detecting:
            self._detector.setInputSize(size)
            self._detector.setScoreThreshold(threshold)
            # The stubs leave out that it is ``None`` where there is no face.
            rows: cv2.typing.MatLike | None = self._detector.detect(bgr)[1]
        if rows is None or len(rows) == 0:
            return []
        grow = np.array([width / size[0], height / size[1]], dtype=np.float32)
        return [_detection(row, grow) for row in rows.astype(np.float32)]

    def landmarks(
        self, images: Sequence[RgbImage], detections: Sequence[Detection]
    ) -> list[Landmarks]:
        """The points that came with each detection. Raises :class:`PackError` where none did."""
        found = [detection.landmarks for detection in detections if detection.landmarks]
        if len(found) != len(detections):
            raise PackError(
                "A detection that did not come from this pack has no landmarks that it can use."
            )
        return found

    def align(self, image: RgbImage, landmarks: Landmarks, scale: float) -> RgbImage:
        """What ``cv2.FaceRecognizerSF.alignCrop`` gives; ``scale`` has to be 1.0."""
        part, points = _within_reach(image, landmarks.points)
        row = np.zeros((1, 15), dtype=np.float32)
        row[0, 4:14] = points.ravel()
        with self._embedding:
            return np.asarray(self._recogniser.alignCrop(part, row), dtype=np.uint8)

    def embed(self, chips: Sequence[RgbImage]) -> FloatArray:
        """One by one: OpenCV's class takes a single crop, uint8 BGR."""
        vectors = np.empty((len(chips), DIMENSION), dtype=np.float32)
        for place, chip in enumerate(chips):
            bgr = np.ascontiguousarray(chip[:, :, ::-1])
            with self._embedding:
                vectors[place] = self._recogniser.feature(bgr).ravel()
        return vectors


def _buffer(model: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(model, np.uint8)


def _within_reach(image: RgbImage, points: FloatArray) -> tuple[RgbImage, FloatArray]:
    """The part of a very long picture around the points, and the points in that part."""
    if max(image.shape[:2]) <= _LARGEST_SIDE:
        return image, points
    half = _LARGEST_SIDE // 2
    size = np.array(image.shape[1::-1])
    corner = np.clip(points.mean(axis=0).astype(int) - half, 0, np.maximum(size - 2 * half, 0))
    x, y = (int(value) for value in corner)
    part = np.ascontiguousarray(image[y : y + 2 * half, x : x + 2 * half])
    return part, (points - corner).astype(np.float32)


def _detection(row: FloatArray, grow: FloatArray) -> Detection:
    """A row of 15: x, y, width, height; five points; score. Points are in the order of insightface:
    OpenCV's right eye is the person's own, and so the left one in the picture."""
    x, y, width, height = (float(value) for value in row[:4] * np.tile(grow, 2))
    points = (row[4:14].reshape(5, 2) * grow).astype(np.float32)
    return Detection(
        Box(x, y, width, height), float(row[14]), landmarks=Landmarks(points, "insightface5")
    )


def load(
    folder: Path,
    *,
    info: PackInfo,
    calibration: Calibration | None = None,
    runtime: RuntimeOptions = ON_CPU,
) -> YunetSfacePack:
    """Load the pack from ``folder``; the bytes that are used have to be those of ``info.digests``.

    Raises:
        PackMissing, PackDigestMismatch, PackError: a file is not there, another, or unusable.
        ProviderUnavailable: another provider than the processor was asked for.
    """
    if runtime.provider != "cpu":
        raise ProviderUnavailable(
            f"The face pack {info.name} runs on the processor only, not on {runtime.provider}.",
            remedy="Set HOMEWARD_PROVIDER=cpu, or use another pack.",
        )
    models = [_read(path, info.digests) for path in find_files(folder)]
    contract = EmbeddingContract(
        pack=info.name,
        dimension=DIMENSION,
        parts={
            **{f"sha256:{name}": digest for name, digest in sorted(info.digests.items())},
            "detection": f"levels / {_STEP:g} from the finest, nms {_NMS_IOU}, 5 points",
            "chip": "112 px, cv2.FaceRecognizerSF.alignCrop",
            "augmentation": f"crops at {VIEWS} and their mirror images, sum, L2",
        },
    )
    pack = YunetSfacePack(
        models[0], models[1], info=info, contract=contract, calibration=calibration
    )
    _try_out(pack)
    return pack


def _try_out(pack: YunetSfacePack) -> None:
    """One run of each model: a file that OpenCV reads need not be the model that it should be."""
    blank = np.zeros((CHIP_SIZE, CHIP_SIZE, 3), dtype=np.uint8)
    try:
        pack.detect(blank, 1.0, DETECTION_SCORES[0])
        vector = pack.embed([blank])
    except (cv2.error, ValueError) as error:
        raise PackError(f"A model cannot be run: {error}.", remedy=_REMEDY) from error
    if not np.isfinite(vector).all():
        raise PackError("The recogniser gives no numbers.", remedy=_REMEDY)


def _read(path: Path, digests: Mapping[str, str]) -> bytes:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digests.get(path.name):
        raise PackDigestMismatch(
            f"{path.name} is not the file that this pack names.",
            remedy="Install the pack again from a source you trust.",
        )
    return data
