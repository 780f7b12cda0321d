"""Error rates by group of people, at the thresholds that hold for all of them.

A threshold is one for everybody, so what it costs differs between groups: strangers of one sex,
origin and age resemble each other more than strangers at large, and a face that the models know
less well is missed more often (NIST IR 8280, "Face Recognition Vendor Test Part 3: Demographic
Effects", 2019). For each value of each attribute of the labels: how often two strangers who share
it reach the threshold, how often a stranger of another group does, how many pairs of one person
are missed, how often the right person is not among the first 1 and 10 candidates, and how often no
face is found.

A group is a set of photos (people age), a figure of pairs is of pairs whose photos are both in it.
Each figure needs ``PEOPLE_NEEDED`` people of its own; with fewer there is no figure, and the reason
instead. Intervals as in ``intervals``: people are drawn, and where few carry a rate its interval is
widened. The ratio of the worst to the best group is chosen after the fact, and among many groups
some ratio is large by luck: ``at_least`` (the worst's lower end over the best's upper) is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array  # type: ignore[import-untyped]

from indexer.evaluation.intervals import (
    distinct_pairs,
    draw_weights,
    percentile_interval,
    share_interval,
    widened_pairs,
)
from indexer.evaluation.labels import Labels
from indexer.evaluation.pairs import PairScores, Verification
from indexer.evaluation.protocol import (
    BoolArray,
    DoubleArray,
    Identification,
    IntArray,
    Interval,
    Sample,
)

PEOPLE_NEEDED = 30
"""Fewer people say little about a group, and a figure of them much about each of them."""

LEVELS: tuple[str, ...] = ("1e-2", "1e-3", "1e-4")
"""The rates over all people whose thresholds are looked at."""

MISS_RANKS: tuple[int, ...] = (1, 10)


@dataclass(frozen=True, slots=True)
class Figure:
    """One rate of one group: ``events`` of ``trials``, carried by ``people`` people.

    ``value`` and ``interval`` are ``None`` where ``reason`` says why there is no figure.
    """

    people: int
    trials: int
    events: int | None = None
    value: float | None = None
    interval: Interval | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """The worst and the best group of one figure. ``ratio`` is ``None`` where the best is 0."""

    worst: str
    best: str
    ratio: float | None
    at_least: float | None


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """The figures of one value of an attribute, by name (``same_fmr@1e-3``, ``rank_1_miss``)."""

    value: str
    people: int
    photos: int
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class AttributeReport:
    """All groups of one attribute.

    ``same`` and ``cross``: the FMR over all pairs of strangers of the same and of different known
    values, by level. ``unlabelled``: photos without a value.
    """

    attribute: str
    groups: tuple[GroupFigures, ...]
    same: Mapping[str, Figure]
    cross: Mapping[str, Figure]
    spread: Mapping[str, Spread]
    unlabelled: int


@dataclass(frozen=True, slots=True)
class GroupReport:
    """All attributes; ``alike``: the FMR among strangers who share all of the labels."""

    attributes: tuple[AttributeReport, ...]
    alike: Mapping[str, Figure]


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """What the figures of all groups are drawn from."""

    sample: Sample
    pairs: PairScores
    thresholds: Mapping[str, float]
    identification: Identification
    replicates: int
    seed: int
    weights: DoubleArray
    """How often each person is drawn in each replicate: (replicates, people)."""


def measure_groups(
    sample: Sample,
    pairs: PairScores,
    verification: Verification,
    identification: Identification,
    labels: Labels,
    *,
    replicates: int = 500,
    seed: int = 0,
) -> GroupReport:
    """The figures of every group of ``labels`` at the thresholds of ``verification``."""
    points = verification.tar_at_fmr
    thresholds = {name: p.threshold for name in LEVELS if (p := points[name]) is not None}
    weights = draw_weights(len(pairs.compared_sizes), replicates, seed).astype(np.float64)
    measured = _Measured(sample, pairs, thresholds, identification, replicates, seed, weights)
    return GroupReport(
        attributes=tuple(_attribute(measured, labels, name) for name in labels.attributes),
        alike=_strangers(measured, *_codes_of_all(labels, len(sample.found))),
    )


def _codes_of_all(labels: Labels, photos: int) -> tuple[IntArray, BoolArray]:
    """One code for each combination of values, -1 where any is unknown; and which are counted."""
    codes = np.zeros(photos, dtype=np.int64)
    known = np.ones(photos, dtype=np.bool_)
    for name in labels.attributes:
        codes = codes * (len(labels.values[name]) + 1) + labels.codes[name]
        known &= labels.codes[name] >= 0
    codes = np.unique(np.where(known, codes, -1), return_inverse=True)[1] - int(not known.all())
    return codes.astype(np.int64), known


def _attribute(measured: _Measured, labels: Labels, attribute: str) -> AttributeReport:
    codes = labels.codes[attribute]
    groups = tuple(
        _group(measured, codes, code, value) for code, value in enumerate(labels.values[attribute])
    )
    known = codes >= 0
    # Not of strangers of other groups: such a pair belongs to both of its groups alike.
    names = dict.fromkeys(
        name for group in groups for name in group.figures if not name.startswith("cross_fmr")
    )
    spreads = {name: _spread(groups, name) for name in names}
    return AttributeReport(
        attribute=attribute,
        groups=groups,
        same=_strangers(measured, codes, known),
        cross=_strangers(measured, codes, known, same=False),
        spread={name: spread for name, spread in spreads.items() if spread is not None},
        unlabelled=int((~known).sum()),
    )


def _group(measured: _Measured, codes: IntArray, code: int, value: str) -> GroupFigures:
    inside = codes == code
    known = codes >= 0
    people = np.unique(measured.sample.identities[inside])
    same = _strangers(measured, codes, inside)
    cross = _strangers(measured, np.where(inside, 0, np.where(known, 1, -1)), known, same=False)
    figures = {f"same_fmr@{level}": figure for level, figure in same.items()}
    figures |= {f"cross_fmr@{level}": figure for level, figure in cross.items()}
    figures |= _genuine(measured, inside)
    probes = inside[measured.identification.split.mated]
    ranks = measured.identification.mated.rank[probes]
    owners = measured.identification.mated_identity[probes]
    for rank in MISS_RANKS:
        figures[f"rank_{rank}_miss"] = _share(measured, ranks > rank, owners)
    figures["failure_to_enroll"] = _share(
        measured, ~measured.sample.found[inside], measured.sample.identities[inside]
    )
    if len(people) < PEOPLE_NEEDED:
        figures = {name: _too_few(len(people), figure.trials) for name, figure in figures.items()}
    return GroupFigures(value, len(people), int(inside.sum()), figures)


def _genuine(measured: _Measured, inside: BoolArray) -> dict[str, Figure]:
    pairs = measured.pairs
    both = inside[pairs.genuine_first] & inside[pairs.genuine_second]
    scores, owners = pairs.genuine[both], pairs.genuine_identity[both]
    return {
        f"fnmr@{level}": _share(measured, scores <= threshold, owners)
        for level, threshold in measured.thresholds.items()
    }


def _share(measured: _Measured, events: BoolArray, owners: IntArray) -> Figure:
    people = int(np.unique(owners).size)
    if people < PEOPLE_NEEDED:
        return _too_few(people, len(events))
    interval = share_interval(events, owners, replicates=measured.replicates, seed=measured.seed)
    return Figure(people, len(events), int(events.sum()), float(events.mean()), interval)


def _too_few(people: int, trials: int) -> Figure:
    return Figure(
        people,
        trials,
        reason=f"insufficient data: {people} people, {PEOPLE_NEEDED} are needed",
    )


def _strangers(
    measured: _Measured, codes: IntArray, counted: BoolArray, *, same: bool = True
) -> dict[str, Figure]:
    """FMR among counted photos of two people whose codes are the same, or differ, by level.

    With ``same``, ``counted`` may be one group or all photos with a code.
    """
    pairs = measured.pairs
    people = len(pairs.compared_sizes)
    use = counted & measured.sample.found
    kinds, kind = np.unique(codes[use], return_inverse=True)
    # Faces of each person of each kind: (people, kinds).
    faces = np.zeros((people, max(1, len(kinds))))
    np.add.at(faces, (pairs.photo_identity[use], kind), 1)
    # Who is the only one of a kind is compared with nobody.
    with_others = (faces > 0).sum(0) >= 2
    carriers = int((faces[:, with_others].sum(1) > 0).sum())
    if not same:
        # Many of one kind beside a few of the others say little: the few carry every pair.
        # A person may have photos of two kinds, so each kind counts its own.
        of_kind = (faces > 0).sum(0)
        carriers = int(of_kind.sum() - of_kind.max())
    trials = round(float(_trials(faces, np.ones((1, people)), same)[0]))
    if carriers < PEOPLE_NEEDED or not trials:
        return {level: _too_few(carriers, trials) for level in measured.thresholds}
    weights = measured.weights
    totals = _trials(faces, weights, same)
    chosen = use[pairs.tail_first] & use[pairs.tail_second]
    equal = codes[pairs.tail_first] == codes[pairs.tail_second]
    chosen &= equal if same else ~equal
    found: dict[str, Figure] = {}
    for level, threshold in measured.thresholds.items():
        over = np.flatnonzero(chosen & (pairs.tail > threshold))
        first = pairs.photo_identity[pairs.tail_first[over]]
        second = pairs.photo_identity[pairs.tail_second[over]]
        rate = len(over) / trials
        counts = coo_array((np.ones(len(over)), (first, second)), shape=(people, people)).tocsr()
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = ((weights @ counts) * weights).sum(axis=1) / totals
        interval = widened_pairs(
            percentile_interval(rates),
            rate,
            distinct_pairs(first, second),
            trials**2 / float(_trials(faces**2, np.ones((1, people)), same)[0]),
        )
        found[level] = Figure(carriers, trials, len(over), rate, interval)
    return found


def _trials(faces: DoubleArray, weights: DoubleArray, same: bool) -> DoubleArray:
    """Pairs of strangers of one kind, or of two, in each replicate: float64 (replicates,).

    ``faces``: (people, kinds); ``weights``: (replicates, people).
    """
    per_kind = weights @ faces
    alike = (per_kind**2).sum(1) - (weights**2 @ faces**2).sum(1)
    if same:
        return np.asarray(alike / 2)
    of_person = faces.sum(1)
    everyone = (weights @ of_person) ** 2 - weights**2 @ of_person**2
    return np.asarray((everyone - alike) / 2)


def _spread(groups: tuple[GroupFigures, ...], name: str) -> Spread | None:
    """``None`` where fewer than two groups have the figure."""
    rated = [
        (figure.value, group.value, figure)
        for group in groups
        if (figure := group.figures[name]).value is not None
    ]
    if len(rated) < 2:
        return None
    worst, best = max(rated, key=lambda one: one[0]), min(rated, key=lambda one: one[0])
    ratio = worst[0] / best[0] if best[0] else None
    low = worst[2].interval.low if worst[2].interval else math.nan
    high = best[2].interval.high if best[2].interval else math.nan
    at_least = max(1.0, low / high) if high > 0 and math.isfinite(low) else None
    return Spread(worst[1], best[1], ratio, at_least)
