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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.binomial import clopper_pearson, clopper_pearson_upper
from indexer.evaluation.intervals import draw_weights
from indexer.evaluation.photos import EvaluationImpossible, LabelledFaces, Progress
from indexer.evaluation.protocol import DoubleArray, IntArray, Sample
from models.calibration import QUALITY_POWER, Calibration, Curve, fuse, shares
from models.types import FloatArray

EVENTS_NEEDED = 30
"""Distinct pairs of people at or above a score that an estimate needs."""

PEOPLE_NEEDED = 100
"""Fewer people give no calibration that could be used. The best score of all, which none of
n(n - 1)/2 pairs of people reached, has the bound 3.69 / (n(n - 1)/2). Alerts take a gallery for one
of 1,000 faces at least: with 86 people or fewer not even that score would promise fewer than one
stranger in it, so nothing would ever be told."""

PAIRS_WANTED = 10_000
"""Pairs of people below which a warning is due: rates under 3e-3 (30 pairs) are bounds only."""

ENROLLED_NEEDED = 30
"""People with n photos that a curve for n > 1 needs. Where a few are compared with many, the pairs
are many and the people are not: bootstrap and Clopper-Pearson both say little about whom the few
stand for. Tried on people made up (two kinds of spread, 40 samples each, 1,000 others, four rates):
with 1 person enrolled the true rate lay above the bound in 11 of 80 cases and up to twice as high,
with 30 in 3 of 320. Counts without a curve take the next smaller one, with its factor."""

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


def require_people(people: int) -> None:
    """Raises ``EvaluationImpossible`` with the code ``too_few_people``."""
    if people < PEOPLE_NEEDED:
        raise EvaluationImpossible(
            f"There are photos of {people:,} people; a calibration needs {PEOPLE_NEEDED}: with "
            "fewer, not even the highest score could promise less than one stranger among 1,000 "
            "faces.",
            remedy="Use a folder with photos of more people, one folder for each.",
            code="too_few_people",
        )


def small_sample(calibration: Calibration) -> str:
    """What to warn of where the sample is small, else nothing."""
    warnings = []
    left_out: Mapping[str, int] = calibration.provenance.get("left_out", {})
    if left_out:
        counts = ", ".join(f"{people:,} have {photos}" for photos, people in left_out.items())
        warnings.append(
            f"Warning: fewer than {ENROLLED_NEEDED} people have enough photos ({counts}). Scores "
            "of that many photos are rated by the curve for fewer, made less favourable by a "
            "factor."
        )
    pairs = int(calibration.provenance["pairs_of_people"])
    if pairs >= PAIRS_WANTED:
        return "\n".join(warnings)
    warnings.append(
        f"Warning: only {pairs:,} pairs of people ({PAIRS_WANTED:,} are wanted, 142 people). "
        f"Rates below {EVENTS_NEEDED / pairs:.0e} are upper bounds only, and even a very high "
        "score will look weak in a large gallery."
    )
    return "\n".join(warnings)


def calibrate(
    faces: LabelledFaces,
    *,
    source: str,
    facts: Mapping[str, Any] | None = None,
    photo_counts: Sequence[int] = PHOTO_COUNTS,
    replicates: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Make a calibration for the contract of ``faces``.

    ``source`` names the photos for people ("Labeled Faces in the Wild, 2,626 photos"); ``facts``
    are kept with it (when, by what version).
    ``photo_counts`` above 1 that fewer than ``ENROLLED_NEEDED`` people have photos for are left
    out; the provenance says how many people had so many (``left_out``).

    Raises ``EvaluationImpossible`` with faces of fewer than two people.
    """
    sample = faces.sample
    photos_of = np.bincount(sample.identities[sample.found])
    curves, sizes = measure_curves(
        sample,
        photo_counts=photo_counts,
        replicates=replicates,
        seed=seed,
        progress=progress,
    )
    provenance: dict[str, Any] = {
        "source": source,
        **(facts or {}),
        "photos": len(faces.faces),
        "photos_with_a_face": sum(face is not None for face in faces.faces),
        "identities": len(faces.photos.identity_names),
        "pairs_of_people": sizes[min(sizes)].other_people
        * (sizes[min(sizes)].other_people - 1)
        // 2,
        "left_out": {str(n): int((photos_of >= n).sum()) for n in photo_counts if n not in sizes},
        "read_as": READ_AS,
        "method": (
            "FMR over ordered pairs of people, each pair weighted the same; upper bound: the "
            "larger of the 97.5 % point of a bootstrap over people and the Clopper-Pearson bound "
            f"on pairs of people; no estimate below {EVENTS_NEEDED} pairs of people."
        ),
        "joined": (
            "Half the best photo's cosine, half that to the average of the photos, weighted by "
            f"quality^{QUALITY_POWER:g}."
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
    labels, quality = labels.astype(np.int64), sample.quality[rows]
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
            _Strangers(vectors, quality, labels, sets, owners, people), replicates, seed
        )
        if progress is not None:
            progress("calibration", step + 1, len(photo_counts))
    return curves, sizes


def _photo_sets(labels: IntArray, photos: int, seed: int) -> tuple[IntArray, IntArray]:
    """Sets of ``photos`` rows of one person, (sets, photos), and whose they are, ascending.

    All single photos; otherwise at most six random sets per person, and none at all where fewer
    than ``ENROLLED_NEEDED`` people have so many photos.
    """
    if photos == 1:
        return np.arange(len(labels), dtype=np.int64)[:, None], labels
    if int((np.bincount(labels) >= photos).sum()) < ENROLLED_NEEDED:
        return np.empty((0, photos), np.int64), np.empty(0, np.int64)
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
    return np.stack(sets), np.array(owners, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Strangers:
    """Photo sets against all faces; the faces of a set's own person carry no weight."""

    vectors: FloatArray
    quality: DoubleArray
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
            cosines = (flat @ self.vectors.T).reshape(photos, count, len(self.labels))
            joined = [
                fuse(cosines[:, at], shares(self.vectors[rows], self.quality[rows]))
                for at, rows in enumerate(self.sets[part])
            ]
            yield part, np.stack(joined)

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
    lower = np.empty(len(grid))
    for index in range(len(grid)):
        share = _pair_counts(reached > index, set_starts, face_starts) / combinations
        share[np.arange(len(enrolled)), enrolled] = 0.0
        events = int(np.count_nonzero(share)) // both_ways
        estimate = float(share.sum(dtype=np.float64)) / pairs
        with np.errstate(divide="ignore", invalid="ignore"):
            replicated = ((drawn_enrolled @ share) * draws).sum(1) / totals
        replicated = replicated[np.isfinite(replicated)]
        low, high = np.quantile(replicated, (0.025, 0.975)) if len(replicated) else (0.0, 1.0)
        independent = pairs // both_ways
        seen = math.ceil(estimate * independent - 1e-6)
        upper[index] = max(high, clopper_pearson_upper(seen, independent), estimate)
        seen = math.floor(estimate * independent + 1e-6)
        lower[index] = min(low, clopper_pearson(seen, independent).low, estimate)
        fmr[index] = estimate if events >= EVENTS_NEEDED else 0.0
    # A higher score is never reached more often; the bootstrap's noise must not say otherwise.
    upper = np.minimum(1.0, np.maximum.accumulate(upper[::-1])[::-1])
    lower = np.minimum.accumulate(lower)
    size = CurveSize(
        len(enrolled), strangers.people, pairs, len(strangers.sets), len(strangers.labels)
    )
    return Curve(grid, fmr, upper, lower), size


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


RATES: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""The upper bounds of FMR at which reports show a curve."""


def _places(curve: Curve) -> Iterator[tuple[float, int | None]]:
    """For each of ``RATES`` the lowest place of the curve whose bound is at most that."""
    for rate in RATES:
        index = int(np.searchsorted(-curve.upper, -rate, side="left"))
        yield rate, index if index < len(curve.score) else None


def calibration_json(calibration: Calibration) -> dict[str, Any]:
    """A few scores of every curve with their rates and intervals, and the provenance."""
    return {
        "contract_id": calibration.contract_id,
        "provenance": dict(calibration.provenance),
        "fmr_at_score": {
            str(photos): [
                {
                    "score": float(curve.score[at]),
                    "fmr": float(curve.fmr[at]) or None,
                    "interval": [_low(curve, at), float(curve.upper[at])],
                }
                for _, at in _places(curve)
                if at is not None
            ]
            for photos, curve in sorted(calibration.curves.items())
        },
    }


def _low(curve: Curve, at: int) -> float | None:
    return None if curve.lower is None else float(curve.lower[at])


def render_calibration(calibration: Calibration) -> str:
    """A few scores of every curve as lines of plain text."""
    lines = [f"calibration of {calibration.contract_id}"]
    for photos, curve in sorted(calibration.curves.items()):
        lines.append(f"  {photos} photo{'s' if photos > 1 else ''}: score, FMR, 95 % interval")
        for rate, at in _places(curve):
            if at is None:
                lines.append(f"    upper bound {rate:.0e} is beyond this sample")
                break
            value = f"{curve.fmr[at]:.1e}" if curve.fmr[at] > 0 else "unresolved"
            low = _low(curve, at)
            span = f"{'-' if low is None else f'{low:.1e}'} to {curve.upper[at]:.1e}"
            lines.append(f"    {curve.score[at]:.4f}  {value:>10}  {span}")
    return "\n".join(lines)
