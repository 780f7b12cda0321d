"""From a cosine to a false match rate, and from several photos to one score.

A calibration is a table measured on labelled photos (``homeward calibrate``): for each score,
how often two *different* people score at least as high. It belongs to one embedding contract and
carries its provenance, because a rate measured on press photos is a lower bound for scraped ads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import PackError
from models.types import FloatArray

Band = Literal["very_strong", "strong", "moderate", "weak"]

BANDS: Final[tuple[tuple[Band, float], ...]] = (
    ("very_strong", 0.01),
    ("strong", 0.1),
    ("moderate", 1.0),
)
"""A candidate's band by the upper bound of the expected number of false candidates in the gallery
at its score or above: fewer than one in a hundred searches, one in ten, one in each."""


QUALITY_POWER: Final = 0.5
"""What a photo's quality is raised to for its weight in the average. Where one photo is good and
one poor, it took back what the poor one costs, on people that it was not chosen on, and changed
next to nothing where photos are alike; .25 took back less, and 1 could not be told from it
(``docs/accuracy.md``, "What else helps a search")."""

QUALITY_FLOOR: Final = 0.01
"""Photos of a lower quality weigh as this one, a tenth of a perfect one: no photo counts for
nothing, and weights are positive, which searches that stop early rely on. As it was measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """What each photo of one person counts in their average: made by ``shares``, used by ``fuse``.

    ``weights``: float32 (photos,), in (0, 1], the best photo's being 1; ``length``: that of the
    sum of the person's vectors, each times its weight.
    """

    weights: FloatArray
    length: float


def shares(
    vectors: FloatArray, quality: NDArray[np.float64], power: float = QUALITY_POWER
) -> Shares:
    """The shares of a person's photos in their average, computed once for all searches.

    ``vectors``: float32 (photos, dimension), L2-normalised; ``quality``: float64 (photos,), the
    ``Quality.score`` of each face in [0, 1], NaN where it is not known, which counts as 1.
    A weight is quality to the ``power``, over that of the best photo: of equal qualities, each
    is exactly 1. Raises ``ValueError`` where the two are not of one length.
    """
    if len(vectors) != len(quality):
        raise ValueError("there must be one quality for each photo")
    known = np.where(np.isnan(quality), 1.0, quality)
    raw = np.clip(known, QUALITY_FLOOR, 1.0) ** power
    weights = (raw / raw.max(initial=np.finfo(np.float64).tiny)).astype(np.float32)
    total = (weights[:, None].astype(np.float64) * vectors).sum(axis=0)
    return Shares(weights, max(float(np.linalg.norm(total)), 1e-6))


def fuse(scores: FloatArray, joined: Shares) -> FloatArray:
    """One score from the cosines of a person's photos to the same ad face.

    ``scores``: float32 (photos, n); ``joined``: the ``shares`` of the same photos in the same
    order; the result has shape (n,). It is the mean of two cosines: that of the best photo, and
    that of the average of all photos, in which each counts by its quality (with weights w_i, the
    vectors v_i and cosines c_i: sum w_i c_i / |sum w_i v_i|). The first compares like with like,
    a turned head with a turned head; the second takes out what is peculiar to one photo, and a
    poor photo beside a good one has little say in it. For one photo both are its cosine.

    The result never falls when a cosine rises: the weights are positive, and the photos are added
    in their order, one rounding after the other, each of which keeps order. Rates of false
    candidates differ with the number of photos and are calibrated for it. Raises ``ValueError``
    for another number of photos.
    """
    total = np.zeros(scores.shape[1:], dtype=np.float32)
    for weight, row in zip(joined.weights, scores, strict=True):
        total += weight * row
    # The cosine of a vector with itself may come out a rounding above 1.
    middle = (scores.max(axis=0) + total / joined.length) / 2
    return np.asarray(np.clip(middle, -1.0, 1.0), dtype=np.float32)


def band(expected_upper: float) -> Band:
    """The band for an upper bound of the expected number of false candidates (see ``BANDS``)."""
    for name, limit in BANDS:
        if expected_upper < limit:
            return name
    return "weak"


@dataclass(frozen=True, slots=True)
class FmrEstimate:
    """A false match rate: the estimate, its upper 95 % bound, and whether the sample reaches it.

    Where ``resolved`` is false, fewer false candidates were seen than an estimate needs:
    ``value`` is then only the bound.
    """

    value: float
    upper: float
    resolved: bool


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Rates at rising scores, all of shape (n,). ``fmr`` is 0 where too little was seen.

    ``upper`` and ``lower`` are the ends of a 95 % interval; ``lower``, which only reports show, is
    ``None`` in tables that were made without it.

    Raises ``ValueError`` for what cannot be a curve: another shape, scores that do not rise, or
    rates outside of [0, 1] or out of order.
    """

    score: NDArray[np.float64]
    fmr: NDArray[np.float64]
    upper: NDArray[np.float64]
    lower: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        rates = [self.fmr, self.upper, *([] if self.lower is None else [self.lower])]
        if self.score.ndim != 1 or not len(self.score):
            raise ValueError("a curve needs a list of scores")
        if any(values.shape != self.score.shape for values in rates):
            raise ValueError("a curve needs one rate for each score")
        # Not-a-number fails each of these comparisons, so it is refused as well.
        if not np.all(np.abs(self.score) <= 1) or not np.all(np.diff(self.score) > 0):
            raise ValueError("the scores of a curve rise within [-1, 1]")
        if not all(np.all((values >= 0) & (values <= 1)) for values in rates):
            raise ValueError("the rates of a curve lie in [0, 1]")
        if not np.all(self.fmr <= self.upper):
            raise ValueError("a rate lies above its upper bound")

    def at(self, score: float) -> FmrEstimate:
        """The rates at ``score``: those of the nearest measured score below it, never kinder.

        An estimate is never shown below the bound that holds for scores beyond the sample's
        reach, or a lower score would look more telling than a higher one.
        """
        index = int(np.searchsorted(self.score, score, side="right")) - 1
        if index < 0:
            return FmrEstimate(1.0, 1.0, True)
        value, upper = float(self.fmr[index]), float(self.upper[index])
        if value <= 0.0:
            return FmrEstimate(upper, upper, False)
        beyond = np.flatnonzero(self.fmr <= 0.0)
        if beyond.size:
            value = max(value, min(float(self.upper[beyond[0]]), upper))
        return FmrEstimate(value, max(value, upper), True)


def _curve(values: Mapping[str, Any]) -> Curve:
    def numbers(key: str) -> NDArray[np.float64]:
        return np.asarray(values[key], dtype=np.float64)

    lower = numbers("lower") if "lower" in values else None
    return Curve(numbers("score"), numbers("fmr"), numbers("upper"), lower)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Measured curves of one embedding contract, by the number of photos that were fused."""

    contract_id: str
    curves: Mapping[int, Curve]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def fmr(self, score: float, photos: int = 1) -> FmrEstimate:
        """The false match rate at ``score`` for the fused score of ``photos`` photos.

        For more photos than were measured, the rate of the largest measured number is multiplied
        by one more than the number of photos beyond it. That is a caution, not a theorem: on the
        photos of the default pack's calibration, measured rates stayed below it up to 12 photos.
        """
        curve, groups = self._curve(photos)
        estimate = curve.at(score)
        return FmrEstimate(
            min(1.0, estimate.value * groups), min(1.0, estimate.upper * groups), estimate.resolved
        )

    def threshold(self, fmr: float, photos: int = 1) -> float:
        """The lowest measured score whose upper bound is at most ``fmr``; 1.0 if there is none."""
        curve, groups = self._curve(photos)
        reached = np.flatnonzero(curve.upper * groups <= fmr)
        return float(curve.score[reached[0]]) if reached.size else 1.0

    def _curve(self, photos: int) -> tuple[Curve, int]:
        """The curve of the largest measured number up to ``photos``, and the factor beyond it."""
        measured = max((n for n in self.curves if n <= photos), default=min(self.curves))
        return self.curves[measured], max(1, photos - measured + 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "contract_id": self.contract_id,
            "provenance": dict(self.provenance),
            "curves": {
                str(photos): {
                    key: values.tolist()
                    for key, values in asdict(curve).items()
                    if values is not None
                }
                for photos, curve in self.curves.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """Raises ``PackError`` if the table is not one."""
        try:
            curves = {int(photos): _curve(values) for photos, values in data["curves"].items()}
            contract_id = str(data["contract_id"])
            provenance = dict(data.get("provenance", {}))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PackError(f"The calibration table cannot be read: {error}.") from error
        if not curves or min(curves) < 1:
            raise PackError("The calibration table has no curve for one photo or more.")
        return cls(contract_id, curves, provenance)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Raises ``PackError`` if the file is missing or no calibration table."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PackError(f"The calibration {path.name} cannot be read: {error}.") from error
        return cls.from_json(data)
