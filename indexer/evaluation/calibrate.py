"""From labelled photos to a calibration: how often strangers reach a score.

For n photos of one person joined by ``models.calibration.fuse`` and one face of another person,
the false match rate at a score is the mean over *ordered pairs of people* of the share of (n
photos, one face) combinations that reach it. Every pair of people weighs the same, so somebody
with many photos does not dominate.

The upper bound is the larger of two: the 97.5 % point of a bootstrap over people (which knows
that comparisons sharing a person depend on each other, but collapses where almost nothing was
seen), and the Clopper-Pearson bound on the pairs of people that reached the score (which still
says something at zero, but takes pairs as independent, which they are not). Below
``EVENTS_NEEDED`` pairs of people no estimate is given, only the bound (Doddington's rule of 30).

Both speak of people like those in the photos. Press photos are sharp, frontal and of adults from
all over the world; among pictures of the same age, sex and origin, or of worse quality, strangers
reach a score more often. The rates are to be read as "at least".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv  # type: ignore[import-untyped]

from indexer.evaluation.intervals import draw_weights
from indexer.evaluation.photos import EvaluationImpossible, LabelledFaces, Progress
from indexer.evaluation.protocol import DoubleArray, IntArray, Sample
from models.calibration import Calibration, Curve, fuse
from models.types import FloatArray

EVENTS_NEEDED = 30
"""Distinct pairs of people at or above a score that an estimate needs."""

PHOTO_COUNTS: tuple[int, ...] = (1, 2, 3, 4)

_GRID = 250  # grid indexes must fit into uint8
_BINS = 1 << 16
_MOST_SETS = 6
_BLOCK_ELEMENTS = 8_000_000

READ_AS = (
    "At least: measured on the photos named here. Comparisons that share a person depend on each "
    "other. Photos in advertisements are worse, and among people of one age, sex and origin "
    "strangers reach a score more often."
)


@dataclass(frozen=True, slots=True)
class CurveSize:
    """What a curve rests on: people with enough photos, people compared with, photo sets."""

    enrolled_people: int
    other_people: int
    person_pairs: int
    photo_sets: int
    faces: int


def clopper_pearson_upper(events: int, trials: int, confidence: float = 0.975) -> float:
    """One-sided upper bound of a binomial share (Clopper and Pearson, 1934)."""
    if events >= trials:
        return 1.0
    return float(betaincinv(events + 1, trials - events, confidence))


def calibrate(
    faces: LabelledFaces,
    *,
    source: str,
    photo_counts: Sequence[int] = PHOTO_COUNTS,
    replicates: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Make a calibration for the contract of ``faces``.

    ``source`` names the photos for people ("Labeled Faces in the Wild, 2,626 photos").
    ``photo_counts`` beyond what anybody has photos for are left out.

    Raises ``EvaluationImpossible`` with faces of fewer than two people.
    """
    curves, sizes = measure_curves(
        faces.sample,
        photo_counts=photo_counts,
        replicates=replicates,
        seed=seed,
        progress=progress,
    )
    provenance: dict[str, Any] = {
        "source": source,
        "photos": len(faces.faces),
        "photos_with_a_face": sum(face is not None for face in faces.faces),
        "identities": len(faces.photos.identity_names),
        "read_as": READ_AS,
        "method": (
            "FMR over ordered pairs of people, each pair weighted the same; upper bound: the "
            "larger of the 97.5 % point of a bootstrap over people and the Clopper-Pearson bound "
            f"on pairs of people; no estimate below {EVENTS_NEEDED} pairs of people."
        ),
        "replicates": replicates,
        "seed": seed,
        "samples": {
            str(n): {
                "enrolled_people": size.enrolled_people,
                "other_people": size.other_people,
                "person_pairs": size.person_pairs,
                "photo_sets": size.photo_sets,
                "faces": size.faces,
            }
            for n, size in sizes.items()
        },
    }
    return Calibration(faces.contract_id, curves, provenance)


def measure_curves(
    sample: Sample,
    *,
    photo_counts: Sequence[int] = PHOTO_COUNTS,
    replicates: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[dict[int, Curve], dict[int, CurveSize]]:
    """Curves and what they rest on, by the number of joined photos."""
    rows = np.flatnonzero(sample.found)
    vectors = np.ascontiguousarray(sample.vectors[rows], dtype=np.float32)
    _, labels = np.unique(sample.identities[rows], return_inverse=True)
    labels = labels.astype(np.int64)
    people = int(labels.max()) + 1 if len(labels) else 0
    if people < 2:
        raise EvaluationImpossible(
            "A calibration needs faces of at least two people.",
            remedy="Use a folder with photos of more people.",
        )
    curves: dict[int, Curve] = {}
    sizes: dict[int, CurveSize] = {}
    for step, photos in enumerate(photo_counts):
        sets, owners = _photo_sets(labels, photos, seed)
        if not len(sets):
            continue
        curves[photos], sizes[photos] = _curve(
            _Strangers(vectors, labels, sets, owners, people), replicates, seed
        )
        if progress is not None:
            progress("calibration", step + 1, len(photo_counts))
    return curves, sizes


def _photo_sets(labels: IntArray, photos: int, seed: int) -> tuple[IntArray, IntArray]:
    """Sets of ``photos`` rows of one person, (sets, photos), and whose they are, ascending.

    All single photos; otherwise at most six random sets per person.
    """
    if photos == 1:
        return np.arange(len(labels), dtype=np.int64)[:, None], labels
    rng = np.random.default_rng([seed, photos])
    sets: list[IntArray] = []
    owners: list[int] = []
    for person, count in enumerate(np.bincount(labels)):
        if count < photos:
            continue
        own = np.flatnonzero(labels == person)
        drawn = {
            tuple(sorted(rng.choice(own, photos, replace=False).tolist()))
            for _ in range(min(_MOST_SETS, math.comb(int(count), photos)))
        }
        sets.extend(np.array(rows, dtype=np.int64) for rows in sorted(drawn))
        owners.extend([person] * len(drawn))
    if not sets:
        return np.empty((0, photos), np.int64), np.empty(0, np.int64)
    return np.stack(sets), np.array(owners, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Strangers:
    """Photo sets against all faces; the faces of a set's own person carry no weight."""

    vectors: FloatArray
    labels: IntArray
    sets: IntArray
    owners: IntArray
    people: int

    @property
    def enrolled(self) -> IntArray:
        """The people who own a set, ascending."""
        return np.unique(self.owners)

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Joined scores, (sets, faces), for one slice of the sets after the other."""
        photos = self.sets.shape[1]
        step = max(1, _BLOCK_ELEMENTS // (len(self.labels) * photos))
        for start in range(0, len(self.sets), step):
            part = slice(start, min(len(self.sets), start + step))
            count = part.stop - part.start
            flat = self.vectors[self.sets[part].T.reshape(-1)]
            cosines = (flat @ self.vectors.T).reshape(photos, count * len(self.labels))
            lengths = np.linalg.norm(self.vectors[self.sets[part]].sum(axis=1), axis=1)
            joined = fuse(cosines, np.repeat(lengths, len(self.labels)))
            yield part, joined.reshape(count, len(self.labels))

    def weights(self, part: slice) -> FloatArray:
        """1 / (sets of the owner x faces of the other person), 0 for the own faces."""
        sets_of = np.bincount(self.owners, minlength=self.people)
        faces_of = np.bincount(self.labels, minlength=self.people)
        weights = (1.0 / sets_of[self.owners[part]])[:, None] / faces_of[self.labels][None, :]
        weights[self.owners[part, None] == self.labels[None, :]] = 0.0
        return weights.astype(np.float32)


def _curve(strangers: _Strangers, replicates: int, seed: int) -> tuple[Curve, CurveSize]:
    enrolled = strangers.enrolled
    pairs = len(enrolled) * (strangers.people - 1)
    grid = _grid(strangers, pairs)
    reached = np.zeros((len(strangers.sets), len(strangers.labels)), dtype=np.uint8)
    for part, scores in strangers.blocks():
        # The number of grid scores at or below each score.
        reached[part] = np.searchsorted(grid, scores, side="right").astype(np.uint8)
    set_starts = np.flatnonzero(np.diff(strangers.owners, prepend=-1))
    face_starts = np.flatnonzero(np.diff(strangers.labels, prepend=-1))
    sets_of = np.diff(np.append(set_starts, len(strangers.owners)))
    faces_of = np.diff(np.append(face_starts, len(strangers.labels)))
    combinations = (sets_of[:, None] * faces_of[None, :]).astype(np.float32)
    draws = draw_weights(strangers.people, replicates, seed).astype(np.float32)
    drawn_enrolled = draws[:, enrolled]
    # Ordered pairs of different people in each replicate.
    totals = drawn_enrolled.sum(1) * draws.sum(1) - (drawn_enrolled**2).sum(1)
    # With single photos both orders of a pair are the same comparison.
    both_ways = 2 if strangers.sets.shape[1] == 1 else 1

    fmr = np.empty(len(grid))
    upper = np.empty(len(grid))
    for index in range(len(grid)):
        share = _pair_counts(reached > index, set_starts, face_starts) / combinations
        share[np.arange(len(enrolled)), enrolled] = 0.0
        events = int(np.count_nonzero(share)) // both_ways
        estimate = float(share.sum(dtype=np.float64)) / pairs
        with np.errstate(divide="ignore", invalid="ignore"):
            replicated = ((drawn_enrolled @ share) * draws).sum(1) / totals
        replicated = replicated[np.isfinite(replicated)]
        bootstrap = float(np.quantile(replicated, 0.975)) if len(replicated) else 1.0
        independent = pairs // both_ways
        seen = math.ceil(estimate * independent - 1e-6)
        upper[index] = max(bootstrap, clopper_pearson_upper(seen, independent), estimate)
        fmr[index] = estimate if events >= EVENTS_NEEDED else 0.0
    # A higher score is never reached more often; the bootstrap's noise must not say otherwise.
    upper = np.minimum(1.0, np.maximum.accumulate(upper[::-1])[::-1])
    size = CurveSize(
        len(enrolled), strangers.people, pairs, len(strangers.sets), len(strangers.labels)
    )
    return Curve(grid, fmr, upper), size


def _pair_counts(
    reached: NDArray[np.bool_], set_starts: IntArray, face_starts: IntArray
) -> FloatArray:
    """How many (set, face) combinations of each pair of people reached a score."""
    by_face = np.add.reduceat(reached, face_starts, axis=1, dtype=np.float32)
    counts: FloatArray = np.add.reduceat(by_face, set_starts, axis=0)
    return counts


def _grid(strangers: _Strangers, pairs: int) -> DoubleArray:
    """Scores at evenly spaced logarithms of the rate, from 0.9 down to one pair of people.

    Above the highest stranger nothing changes, so the grid ends just past them. Rounded to five
    places.
    """
    histogram = np.zeros(_BINS)
    highest = -1.0
    for part, scores in strangers.blocks():
        weights = strangers.weights(part)
        bins = np.clip((scores + 1.0) * (_BINS / 2), 0, _BINS - 1).astype(np.int64)
        histogram += np.bincount(bins.ravel(), weights=weights.ravel(), minlength=_BINS)
        highest = max(highest, float(scores[weights > 0].max(initial=-1.0)))
    above = np.cumsum(histogram[::-1])[::-1] / pairs
    rates = np.logspace(math.log10(0.9), math.log10(0.5 / pairs), _GRID)
    # The lowest bin edge that at most the rate's share reaches.
    edges = np.searchsorted(-above, -rates, side="left") / (_BINS / 2) - 1.0
    past = min(1.0, math.ceil(highest * 1e5 + 1) / 1e5)
    return np.unique(np.round(np.append(edges[edges < past], past), 5))


def render_calibration(calibration: Calibration) -> str:
    """A few scores of every curve as lines of plain text."""
    lines = [f"calibration of {calibration.contract_id}"]
    for photos, curve in sorted(calibration.curves.items()):
        lines.append(f"  {photos} photo{'s' if photos > 1 else ''}: score, FMR, upper 95 % bound")
        for rate in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
            index = int(np.searchsorted(-curve.upper, -rate, side="left"))
            if index >= len(curve.score):
                lines.append(f"    upper bound {rate:.0e} is beyond this sample")
                break
            value = f"{curve.fmr[index]:.1e}" if curve.fmr[index] > 0 else "unresolved"
            lines.append(f"    {curve.score[index]:.4f}  {value:>10}  {curve.upper[index]:.1e}")
    return "\n".join(lines)
