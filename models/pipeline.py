"""The one public door of the models: ``analyse`` turns images into faces with vectors.

Detection runs image by image, because images come in every size; landmarks, crops and embeddings
run in batches across images and faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.align import aligned_crop
from models.find import FoundFace, SearchOptions, find_faces
from models.packs.base import FacePack
from models.quality import assess
from models.types import Embedding, Face, FloatArray, Landmarks, RgbImage

_EMBED_BATCH: Final = 16
"""Faces embedded together; bounds memory."""

_DETECTION_WEIGHT: Final = 0.02
_MAIN_TURN_BONUS: Final = 0.01
_NOT_FOUND_LOSS: Final = 0.03
"""Weights of the rule that says which way up a face is; see ``_uprightness``, ``_main_turn``."""


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """``search``: where and how finely faces are looked for. ``max_faces``: the largest kept."""

    search: SearchOptions = field(default_factory=SearchOptions)
    max_faces: int = 100


@dataclass(frozen=True, slots=True, eq=False)
class _Hypothesis:
    """One face in one of its possible turns, embedded."""

    face: FoundFace
    chip: RgbImage
    vector: FloatArray
    uprightness: float


class Analyser:
    """Analyses images with one face pack; safe to share between threads."""

    def __init__(self, pack: FacePack, options: AnalysisOptions | None = None) -> None:
        self.pack = pack
        self.options = options or AnalysisOptions()

    @property
    def contract_id(self) -> str:
        return self.pack.contract.id

    @property
    def dimension(self) -> int:
        return self.pack.contract.dimension

    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        """The faces of each image, by area, largest first, then from left to right.

        ``images``: uint8 RGB arrays (height, width, 3), upright by their metadata; a face that
        lies on its side all the same is found and turned. An image without a face gives ``[]``.
        """
        found = [
            _largest(find_faces(self.pack, image, self.options.search), self.options.max_faces)
            for image in images
        ]
        hypotheses = iter(
            self._embed_hypotheses(
                [
                    (image, face)
                    for image, groups in zip(images, found, strict=True)
                    for group in groups
                    for face in group
                ]
            )
        )
        return [
            self._faces(image, [[next(hypotheses) for _ in group] for group in groups])
            for image, groups in zip(images, found, strict=True)
        ]

    def _embed_hypotheses(self, found: Sequence[tuple[RgbImage, FoundFace]]) -> list[_Hypothesis]:
        crops = [
            [self.pack.align(image, face.landmarks, scale) for scale in self.pack.views]
            for image, face in found
        ]
        vectors, consistency = self._embed(crops)
        return [
            _Hypothesis(face, views[0], vector, _uprightness(face, float(agreement)))
            for (_, face), views, vector, agreement in zip(
                found, crops, vectors, consistency, strict=True
            )
        ]

    def _faces(self, image: RgbImage, groups: Sequence[Sequence[_Hypothesis]]) -> list[Face]:
        main = _main_turn(groups)
        chosen = [
            max(group, key=lambda h: h.uprightness + _MAIN_TURN_BONUS * (h.face.turn == main))
            for group in groups
        ]
        faces = [
            Face(
                box=h.face.box,
                detection_score=h.face.score,
                turn=h.face.turn,
                landmarks=h.face.landmarks,
                quality=assess(
                    image, h.face.box, h.face.landmarks, h.chip, self._clarity(h.face.score)
                ),
                embedding=Embedding(h.vector, self.contract_id),
            )
            for h in chosen
        ]
        return sorted(faces, key=lambda f: (-round(f.box.area), f.box.x, f.box.y))

    def _embed(self, faces: Sequence[Sequence[RgbImage]]) -> tuple[FloatArray, NDArray[np.float32]]:
        """Vectors (n, dimension), and (n,) the cosine between each face and its mirror image.

        ``faces``: for each face its aligned crops, one for each of the pack's views. The raw
        embeddings of all crops and of their mirror images are added, then L2-normalised.
        """
        vectors = np.empty((len(faces), self.dimension), dtype=np.float32)
        consistency = np.empty(len(faces), dtype=np.float32)
        for at in range(0, len(faces), _EMBED_BATCH):
            batch = faces[at : at + _EMBED_BATCH]
            part = slice(at, at + len(batch))
            chips = [chip for views in batch for chip in views]
            mirrored = [np.ascontiguousarray(chip[:, ::-1]) for chip in chips]
            raw = self.pack.embed([*chips, *mirrored])
            shape = (2, len(batch), len(self.pack.views), self.dimension)
            original, mirror = raw.reshape(shape).sum(axis=2)
            vectors[part] = _normalised(original + mirror)
            consistency[part] = (_normalised(original) * _normalised(mirror)).sum(axis=1)
        return vectors, consistency

    def _clarity(self, score: float) -> float:
        doubtful, _, clear = self.pack.detection_scores
        return float(np.clip((score - doubtful) / (clear - doubtful), 0.0, 1.0))

    def crop(self, image: RgbImage, landmarks: Landmarks, size: int = 224) -> RgbImage:
        """The face upright in a square crop for people to look at: uint8 RGB (size, size, 3)."""
        return aligned_crop(image, landmarks, size, scale=1.25)


def _uprightness(face: FoundFace, consistency: float) -> float:
    """How likely this is the right way up, to compare hypotheses about one face.

    An upright face is nearly its own mirror image, and so its embedding hardly changes when the
    crop is mirrored; a face lying on its side becomes one lying on its other side, and it does.
    The detection score says the same more weakly. The weights were fitted on 300 photos turned by
    nine angles (``docs/accuracy.md``).
    """
    return consistency + _DETECTION_WEIGHT * min(face.score, 1.0)


def _main_turn(groups: Sequence[Sequence[_Hypothesis]]) -> int:
    """The turn that rights most of a photo: all its faces speak, and no turn is the usual case."""
    totals = [_MAIN_TURN_BONUS, 0.0, 0.0, 0.0]
    for group in groups:
        best = max(h.uprightness for h in group)
        loss = dict.fromkeys(range(4), _NOT_FOUND_LOSS)
        loss |= {h.face.turn: best - h.uprightness for h in group}
        for turn in range(4):
            totals[turn] -= min(loss[turn], _NOT_FOUND_LOSS)
    return max(range(4), key=lambda turn: totals[turn])


def _largest(groups: list[list[FoundFace]], count: int) -> list[list[FoundFace]]:
    return sorted(groups, key=lambda group: -group[0].box.area)[:count]


def _normalised(vectors: FloatArray) -> FloatArray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)
