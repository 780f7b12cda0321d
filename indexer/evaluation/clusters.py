"""How well faces of one person are gathered into clusters as a gallery grows.

Labelled faces arrive one by one in an order drawn at random and are clustered by the rules of
``indexer.clusters``. Figures are over pairs of faces: of the pairs put into one cluster, how many
show one person (precision); of the pairs that show one person, how many were put together (recall).

To see a larger gallery than there are photos, people can be made up: the vector of a real person,
moved towards the mean and disturbed so that all made-up people vary as the real ones do. Each has
one photo and is there before the real faces arrive; whoever joins one of them is counted as a pair
put together wrongly. The rate at which they score high with real people is reported beside that of
real strangers, because the figures are worth only as much as these two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from indexer.clusters import MEMBERS_COMPARED, belongs, cluster_limits
from indexer.evaluation.protocol import IntArray, Sample
from models.calibration import Calibration
from models.types import FloatArray

SIZES: Final = (250, 500, 1000, 2000)
MADE_UP: Final = (10_000, 100_000)

_DISTURBANCE: Final = 0.86
_CLOSE: Final = 0.95
_BLOCK: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFigures:
    """One line of the table, summed over the draws.

    ``precision`` and ``recall`` are ``None`` where there was no pair to judge. ``clusters`` were
    made, ``mixed`` of them hold more than one person; ``close_made_up`` and ``close_real`` are the
    shares of pairs of two people that score at least 0.95.
    """

    faces: int
    made_up: int
    nearest: float
    member: float
    precision: float | None
    recall: float | None
    pairs: int
    clusters: int
    mixed: int
    close_real: float
    close_made_up: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_clusters(
    sample: Sample,
    calibration: Calibration | None,
    *,
    sizes: Sequence[int] = SIZES,
    made_up: Sequence[int] = MADE_UP,
    draws: int = 5,
    seed: int = 0,
) -> list[ClusterFigures]:
    """Cluster ``sizes`` of the sample's faces, all of them, and all among made-up people.

    Each line sums ``draws`` orders of arrival, drawn by ``seed``.
    """
    vectors, people = sample.vectors[sample.found], sample.identities[sample.found]
    if len(people) < 2:
        return []
    close_real = _close_strangers(vectors, people)
    lines = [(size, 0) for size in sizes if size < len(people)]
    lines += [(len(people), 0), *((len(people), count) for count in made_up)]
    strangers = make_people(vectors, people, max(made_up, default=0), seed)
    found: list[ClusterFigures] = []
    for faces, extra in lines:
        counts = np.zeros(5, np.int64)
        for draw in range(draws):
            chosen = np.random.default_rng([seed, draw]).permutation(len(people))[:faces]
            counts += _grow(vectors[chosen], people[chosen], strangers[:extra], calibration)
        right, wrong, possible, clusters, mixed = (int(count) for count in counts)
        limits = cluster_limits(calibration, faces + extra)
        found.append(
            ClusterFigures(
                faces=faces,
                made_up=extra,
                nearest=limits.nearest,
                member=limits.member,
                precision=right / (right + wrong) if right + wrong else None,
                recall=right / possible if possible else None,
                pairs=right + wrong,
                clusters=clusters,
                mixed=mixed,
                close_real=close_real,
                close_made_up=_share_close(vectors, strangers[:extra]) if extra else None,
            )
        )
    return found


def make_people(vectors: FloatArray, people: IntArray, count: int, seed: int) -> FloatArray:
    """Vectors of ``count`` made-up people, float32 (count, dimension); see the module."""
    firsts = vectors[np.unique(people, return_index=True)[1]].astype(np.float64)
    mean = firsts.mean(axis=0)
    spread = firsts - mean
    rng = np.random.default_rng(seed)
    made = np.empty((count, vectors.shape[1]), np.float32)
    for start in range(0, count, 4096):
        rows = len(made[start : start + 4096])
        # Random weights on what real people differ by: the same covariance, another person.
        weights = rng.standard_normal((rows, len(spread))) / np.sqrt(len(spread))
        source = spread[rng.integers(0, len(spread), rows)]
        moved = mean + np.sqrt(1 - _DISTURBANCE**2) * source + _DISTURBANCE * (weights @ spread)
        made[start : start + rows] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return made


def _grow(
    vectors: FloatArray,
    people: IntArray,
    strangers: FloatArray,
    calibration: Calibration | None,
) -> NDArray[np.int64]:
    """Pairs put together rightly and wrongly, pairs there were, clusters, mixed clusters."""
    # A made-up person is nobody else.
    who = np.concatenate([-1 - np.arange(len(strangers)), people])
    right = wrong = mixed = 0
    clusters = gather(vectors, strangers, calibration)
    for members in clusters:
        together, same = len(members), _pairs_of_one(who[members])
        right += same
        wrong += together * (together - 1) // 2 - same
        mixed += len(set(who[members].tolist())) > 1
    return np.array([right, wrong, _pairs_of_one(people), len(clusters), mixed], np.int64)


def gather(
    vectors: FloatArray, before: FloatArray, calibration: Calibration | None
) -> list[list[int]]:
    """Clusters of ``vectors`` (n, d) that arrive in this order among those there ``before`` (m, d).

    The rules are those of ``indexer.clusters``. Each cluster is a list of rows, of ``before``
    first (0 to m - 1) and then of ``vectors`` (m to m + n - 1); a face in no cluster is left out.
    """
    everyone = np.concatenate([before, vectors])
    nearest_before = _nearest(vectors, before)
    cluster_of: dict[int, list[int]] = {}
    for row in range(len(before), len(everyone)):
        limits = cluster_limits(calibration, row + 1)
        nearest, best = nearest_before[row - len(before)]
        if row > len(before):
            scores = everyone[len(before) : row] @ everyone[row]
            at = int(scores.argmax())
            if scores[at] > best:
                nearest, best = len(before) + at, float(scores[at])
        if best < limits.nearest:
            continue
        members = cluster_of.get(nearest)
        if members is None:
            cluster_of[nearest] = cluster_of[row] = [nearest, row]
            continue
        # Rows are in a drawn order, so a stretch of them is a fair sample.
        if belongs(everyone[row], everyone[members[:MEMBERS_COMPARED]], limits.member):
            members.append(row)
            cluster_of[row] = members
    return list({id(members): members for members in cluster_of.values()}.values())


def _nearest(vectors: FloatArray, strangers: FloatArray) -> list[tuple[int, float]]:
    if not len(strangers):
        return [(-1, -1.0)] * len(vectors)
    found: list[tuple[int, float]] = []
    for start in range(0, len(vectors), _BLOCK):
        scores = vectors[start : start + _BLOCK] @ strangers.T
        at = scores.argmax(axis=1)
        found += zip(at.tolist(), scores[np.arange(len(at)), at].tolist(), strict=True)
    return found


def _pairs_of_one(people: IntArray) -> int:
    counts = np.unique(people, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _close_strangers(vectors: FloatArray, people: IntArray) -> float:
    close = strangers = 0
    for start in range(0, len(vectors), _BLOCK):
        scores = vectors[start : start + _BLOCK] @ vectors.T
        other = people[start : start + _BLOCK, None] != people[None]
        close += int((scores[other] >= _CLOSE).sum())
        strangers += int(other.sum())
    return close / strangers if strangers else 0.0


def _share_close(vectors: FloatArray, strangers: FloatArray) -> float:
    close = 0
    for start in range(0, len(vectors), _BLOCK):
        close += int((vectors[start : start + _BLOCK] @ strangers.T >= _CLOSE).sum())
    return close / (len(vectors) * len(strangers))


def render_clusters(lines: Sequence[ClusterFigures]) -> str:
    """The figures as a plain table."""
    heads = ("faces", "made up", "nearest", "others", "precision", "recall", "clusters", "mixed")
    rows = [
        (
            f"{one.faces:,}",
            f"{one.made_up:,}",
            f"{one.nearest:.3f}",
            f"{one.member:.3f}",
            "-" if one.precision is None else f"{one.precision:.4f}",
            "-" if one.recall is None else f"{one.recall:.3f}",
            f"{one.clusters:,}",
            f"{one.mixed:,}",
        )
        for one in lines
    ]
    return "\n".join("".join(f"{cell:>11}" for cell in row) for row in (heads, *rows))
