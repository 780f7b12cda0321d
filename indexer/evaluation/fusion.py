"""How much several photos of a person help, and which rule to join their scores by.

The search is the one that Homeward runs: the photos of a case are compared with every face of
the other gallery, their cosines to one face are joined into one score, and the faces are ranked
by it. One photo of the person is held out and stands in the gallery among the photos of everyone
else. All numbers of photos are tried on the same people with the same held-out photos, so the
rows of the study can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.evaluation.intervals import share_interval
from indexer.evaluation.protocol import DoubleArray, Interval, Sample, threshold_at
from models.calibration import fuse, shares
from models.types import FloatArray

Rule = Callable[[FloatArray, FloatArray, DoubleArray], FloatArray]
"""(enrolled vectors (n, d), cosines (n, faces), qualities (n,)) to scores (faces,)."""


def _log_sum_exp(sharpness: float) -> Rule:
    def rule(vectors: FloatArray, cosines: FloatArray, quality: DoubleArray) -> FloatArray:
        # Between the mean (sharpness 0) and the maximum (sharpness infinite).
        peak = cosines.max(axis=0)
        joined = np.log(np.exp(sharpness * (cosines - peak)).mean(axis=0)) / sharpness + peak
        return np.asarray(joined, dtype=np.float32)

    return rule


def _template(vectors: FloatArray, cosines: FloatArray, quality: DoubleArray) -> FloatArray:
    # The cosine to the re-normalised mean vector, written with the cosines at hand.
    joined: FloatArray = cosines.sum(axis=0) / np.linalg.norm(vectors.sum(axis=0))
    return joined


def _max(vectors: FloatArray, cosines: FloatArray, quality: DoubleArray) -> FloatArray:
    highest: FloatArray = cosines.max(axis=0)
    return highest


def _mean(vectors: FloatArray, cosines: FloatArray, quality: DoubleArray) -> FloatArray:
    middle: FloatArray = cosines.mean(axis=0)
    return middle


def _max_and_template(vectors: FloatArray, cosines: FloatArray, quality: DoubleArray) -> FloatArray:
    return fuse(cosines, shares(vectors, quality, power=0.0))


def _served(vectors: FloatArray, cosines: FloatArray, quality: DoubleArray) -> FloatArray:
    return fuse(cosines, shares(vectors, quality))


RULES: Mapping[str, Rule] = {
    "max": _max,
    "mean": _mean,
    "template": _template,
    "max_template": _max_and_template,
    "served": _served,
    "lse_50": _log_sum_exp(50.0),
}
"""Maximum; mean; cosine to the mean template; half maximum, half template; the same with
photos weighted by quality, as it is served; log-mean-exp."""


@dataclass(frozen=True, slots=True)
class FusionRow:
    """One rule with one number of photos.

    ``trials`` searches for ``people`` people among ``gallery`` faces of others; ``tar_at_fmr``
    with thresholds from the joined scores themselves.
    """

    rule: str
    photos: int
    people: int
    trials: int
    gallery: int
    rank_1: float
    rank_1_interval: Interval | None
    rank_10: float
    tar_at_fmr: dict[str, float]


def fusion_study(
    sample: Sample,
    *,
    photo_counts: Sequence[int] = (1, 2, 3),
    draws: int = 8,
    seed: int = 0,
    rules: Mapping[str, Rule] = RULES,
) -> list[FusionRow]:
    """Compare ``rules`` on every person with more than ``max(photo_counts)`` faces.

    Each such person is searched for ``draws`` times with photos drawn at random (fewer where
    there are fewer photos to hold out). Photos without a face take no part: this measures the
    joining, not the detector. Without such a person there are no rows.
    """
    rows = np.flatnonzero(sample.found)
    vectors, labels, quality = sample.vectors[rows], sample.identities[rows], sample.quality[rows]
    people, counts = np.unique(labels, return_counts=True)
    most = max(photo_counts)
    chosen = people[counts > most]
    if not len(chosen):
        return []
    rng = np.random.default_rng(seed)
    # Drawn once: (person, enrolled rows in order, held-out row).
    trials = []
    for person in chosen:
        own = np.flatnonzero(labels == person)
        for _ in range(min(draws, len(own))):
            order = rng.permutation(own)
            trials.append((int(person), order[:most], int(order[most])))
    who = np.array([person for person, _, _ in trials], dtype=np.int64)
    study = []
    for photos in photo_counts:
        for name, rule in rules.items():
            if photos == 1 and name != "max":
                continue  # every rule is the identity on one photo
            ranks = np.empty(len(trials), dtype=np.int64)
            genuine = np.empty(len(trials), dtype=np.float32)
            impostor: list[FloatArray] = []
            for index, (person, enrolled, held_out) in enumerate(trials):
                query = vectors[enrolled[:photos]]
                scores = rule(query, query @ vectors.T, quality[enrolled[:photos]])
                strangers = scores[labels != person]
                genuine[index] = scores[held_out]
                ranks[index] = 1 + int((strangers >= genuine[index]).sum())
                # Only the top tenth can set a threshold at 1e-2 or below.
                keep = min(len(strangers), math.ceil(len(strangers) / 10) + 1)
                impostor.append(np.partition(strangers, len(strangers) - keep)[-keep:])
            total = sum(int((labels != person).sum()) for person, _, _ in trials)
            tail = np.sort(np.concatenate(impostor))[::-1]
            study.append(
                FusionRow(
                    rule="-" if photos == 1 else name,
                    photos=photos,
                    people=len(chosen),
                    trials=len(trials),
                    gallery=len(rows),
                    rank_1=float((ranks <= 1).mean()),
                    rank_1_interval=share_interval(ranks <= 1, who, seed=seed),
                    rank_10=float((ranks <= 10).mean()),
                    tar_at_fmr={
                        level: _tar(genuine, tail, total, rate)
                        for level, rate in {"1e-3": 1e-3, "1e-4": 1e-4, "1e-5": 1e-5}.items()
                    },
                )
            )
    return study


def _tar(genuine: FloatArray, tail: FloatArray, total: int, rate: float) -> float:
    return float((genuine > threshold_at(tail, total, rate)).mean())


def render_fusion(study: Sequence[FusionRow]) -> str:
    """The study as lines of plain text."""
    if not study:
        return ""
    first = study[0]
    lines = [
        f"{first.trials:,} searches for {first.people:,} people among {first.gallery:,} faces",
        f"{'photos':>6}  {'rule':<10}{'rank 1':>8}{'95 %':>18}{'rank 10':>9}"
        f"{'TAR@1e-3':>10}{'@1e-4':>8}{'@1e-5':>8}",
    ]
    for row in study:
        span = row.rank_1_interval
        between = "-" if span is None else f"{span.low:.3f} to {span.high:.3f}"
        tars = row.tar_at_fmr
        lines.append(
            f"{row.photos:>6}  {row.rule:<10}{row.rank_1:>8.3f}{between:>18}{row.rank_10:>9.3f}"
            f"{tars['1e-3']:>10.3f}{tars['1e-4']:>8.3f}{tars['1e-5']:>8.3f}"
        )
    return "\n".join(lines)
