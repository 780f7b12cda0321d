"""What a face pack is: a detector, an alignment, an embedder, a licence and a calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from models.calibration import Calibration
from models.contract import EmbeddingContract
from models.types import Detection, FloatArray, Landmarks, RgbImage


@dataclass(frozen=True, slots=True)
class PackInfo:
    """What a person must know about a pack before using it.

    ``free_for_police_use`` is false where the licence of the weights excludes it unless the
    rights are bought. ``digests`` maps each model file to its SHA-256.
    """

    name: str
    title: str
    licence: str
    licence_url: str
    provenance: str
    dimension: int
    free_for_police_use: bool
    digests: Mapping[str, str] = field(default_factory=dict)


class FacePack(Protocol):
    """The stages that differ between packs; everything else is in ``models.pipeline``."""

    @property
    def info(self) -> PackInfo: ...

    @property
    def contract(self) -> EmbeddingContract: ...

    @property
    def calibration(self) -> Calibration | None: ...

    def align(self, image: RgbImage, landmarks: Landmarks, scale: float) -> RgbImage:
        """The face upright as the embedder takes it: uint8 RGB (chip_size, chip_size, 3).

        ``scale`` is one of ``views``; above 1 shows more around the face.
        """
        ...

    @property
    def chip_size(self) -> int:
        """Side in pixels of the aligned crop that the embedder takes."""
        ...

    @property
    def views(self) -> tuple[float, ...]:
        """Scales of the crops that are embedded and averaged; above 1 shows more around a face."""
        ...

    @property
    def detection_scores(self) -> tuple[float, float, float]:
        """Detector scores of a face that is doubtful, that is accepted, and that is clear.

        Between the first two, a large face is kept as doubtful where nothing better is found:
        faces behind a bar, a mask or a watermark score there.
        """
        ...

    def detect(self, image: RgbImage, finest: float, threshold: float) -> list[Detection]:
        """Upright faces of one image with a score above ``threshold``, best first.

        ``finest`` is the scale of the finest level that is searched.
        """
        ...

    def landmarks(
        self, images: Sequence[RgbImage], detections: Sequence[Detection]
    ) -> list[Landmarks]:
        """Landmarks of each detection in the image at the same place of ``images``."""
        ...

    def embed(self, chips: Sequence[RgbImage]) -> FloatArray:
        """Raw embeddings, float32 (n, dimension), not normalised, of aligned upright crops."""
        ...
