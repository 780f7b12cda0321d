"""Intervals of a share of independent things, and what counts as few of them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv  # type: ignore[import-untyped]

from indexer.evaluation.protocol import Interval

FEW_PEOPLE = 10
"""With fewer people on one side of a share, a bootstrap over people is too narrow, and nothing at
all where there are none: it can only draw what was seen."""


def wilson(events: float, trials: float) -> Interval:
    """95 % interval of a share (Wilson, 1927); ``trials`` above 0."""
    z = 1.959964
    share = events / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    half /= 1 + z * z / trials
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def clopper_pearson_upper(events: float, trials: float, confidence: float = 0.975) -> float:
    """One-sided upper bound of a binomial share (Clopper and Pearson, 1934)."""
    if events >= trials:
        return 1.0
    return float(betaincinv(events + 1, trials - events, confidence))


def clopper_pearson(events: float, trials: float) -> Interval:
    """Central 95 % interval of a binomial share; both may be fractions, as effective counts are."""
    events = min(max(events, 0.0), trials)
    low = 0.0
    if events > 0:
        low = float(betaincinv(events, trials - events + 1, 0.025))
    return Interval(low, clopper_pearson_upper(events, trials))


def effective_count(sizes: NDArray[np.int64]) -> float:
    """How many people of equal weight say as much as these: (sum n)^2 / sum n^2 (Kish, 1965)."""
    total = float(sizes.sum())
    return total**2 / float((sizes.astype(np.float64) ** 2).sum()) if total else 0.0


def widest(first: Interval | None, second: Interval) -> Interval:
    """The interval that holds both; ``second`` where there is no first."""
    if first is None:
        return second
    return Interval(min(first.low, second.low), max(first.high, second.high))


def widened_share(
    interval: Interval | None, events: NDArray[np.bool_], identities: NDArray[np.int64]
) -> Interval | None:
    """A bootstrapped interval of the share of true ``events``, widened where few people carry it.

    ``events`` and ``identities``: one entry for each trial. With fewer than ``FEW_PEOPLE`` people
    who have an event, or who have a trial without one, the result also holds the Clopper-Pearson
    interval over an effective number of people: as many trials as say as much, going by how far the
    trials of a person went one way (the design effect of the ratio estimator), but no more than
    there are people, and no fewer than if all trials of a person went one way. ``None`` without
    trials.
    """
    if not len(events):
        return None
    _, compact = np.unique(identities, return_inverse=True)
    sizes = np.bincount(compact).astype(np.int64)
    true = np.bincount(compact, weights=events.astype(np.float64))
    if min(int((true > 0).sum()), int((true < sizes).sum())) >= FEW_PEOPLE:
        return interval
    share = float(events.mean())
    people = effective_count(sizes)
    spread = float(((true - share * sizes) ** 2).sum())
    if spread:
        alike = len(events) * share * (1 - share)
        people = min(float(len(sizes)), max(people, len(events) * alike / spread))
    return widest(interval, clopper_pearson(share * people, people))


def widened_ratio(
    interval: Interval | None,
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    identities: NDArray[np.int64],
) -> Interval | None:
    """A bootstrapped interval of the ratio of two shares of the same trials, widened likewise.

    ``before`` and ``after``: what came out for each trial. With fewer than ``FEW_PEOPLE`` people
    for whom they differ, the result also holds what the Clopper-Pearson bounds of what was lost
    and of what was won come to. ``None`` where ``before`` is never true.
    """
    share = float(before.mean()) if len(before) else 0.0
    if not share:
        return None
    if np.unique(identities[before != after]).size >= FEW_PEOPLE:
        return interval
    _, sizes = np.unique(identities, return_counts=True)
    people = effective_count(sizes.astype(np.int64))
    lost = clopper_pearson_upper(float((before & ~after).mean()) * people, people)
    won = clopper_pearson_upper(float((after & ~before).mean()) * people, people)
    return widest(interval, Interval(max(0.0, 1 - lost / share), 1 + won / share))
