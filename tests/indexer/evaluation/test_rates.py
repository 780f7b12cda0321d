"""Rates held to poor photos: thresholds from good ones, shares counted by hand."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from indexer.evaluation.photos import LabelledFaces
from indexer.evaluation.poor import AD_LIKE, degradation_of
from indexer.evaluation.rates import LIMITED, NOMINAL, RateLine, rate_study, render_rates
from models.types import Quality, QualityComponent
from tests.indexer.evaluation.test_beyond import DIMENSION, labelled


def crowded(people: int, shared: float, quality: float, seed: int) -> LabelledFaces:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((people, DIMENSION))
    # What all faces share moves strangers together, as blur and bars do.
    vectors[:, 0] += shared
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whose = list(range(people))
    return labelled(vectors.astype(np.float32), whose, [quality] * people)


def study() -> list[RateLine]:
    clean = crowded(150, 0.0, 0.9, 1)
    poor = crowded(150, 2.0, 0.2, 2)
    return rate_study(clean, poor)


def test_thresholds_come_from_the_clean_comparisons() -> None:
    lines = study()
    clean = lines[0]
    poor = next(x for x in lines if (x.cases, x.kind) == ("poor", "all"))
    pairs = 150 * 149 // 2
    assert clean.pairs == poor.pairs == pairs
    for rate, value in zip(NOMINAL, clean.reached, strict=True):
        # As many as the rate allows, rounded down to whole comparisons.
        assert value == pytest.approx(int(rate * pairs) / pairs)
    assert poor.reached[0] is not None
    assert poor.reached[0] > 3 * NOMINAL[0]
    span = poor.intervals[0]
    assert span is not None
    assert span.low < poor.reached[0] < span.high


def test_comparisons_are_classed_by_what_was_done() -> None:
    kinds = Counter(degradation_of(photo.name) for photo in crowded(150, 0.0, 1.0, 1).photos.photos)
    both = {line.kind: line.pairs for line in study() if line.cases == "poor"}
    same = {kind: count * (count - 1) // 2 for kind, count in kinds.items()}
    assert {kind: both[kind] for kind in same} == same
    assert both["different"] == both["all"] - sum(same.values())
    one = {line.kind: line.pairs for line in study() if (line.cases, line.ads) == ("clean", "poor")}
    assert one["all"] == sum(one[kind] for kind in AD_LIKE) == 150 * 149 // 2


def test_comparisons_are_classed_by_how_many_faces_are_limited() -> None:
    """Where strangers look alike because both faces are covered, both say so."""
    clean, poor = crowded(150, 0.0, 0.9, 1), crowded(150, 2.0, 0.2, 2)
    covered = Quality(0.2, (QualityComponent("clarity", 50.0, "%", 0.55),))
    faces = [
        face if face is None or row % 3 else replace(face, quality=covered)
        for row, face in enumerate(poor.faces)
    ]
    lines = rate_study(clean, replace(poor, faces=tuple(faces)))
    both = {line.kind: line.pairs for line in lines if line.cases == "poor"}
    assert [both[kind] for kind in LIMITED] == [100 * 99 // 2, 50 * 100, 50 * 49 // 2]
    one = {line.kind: line.pairs for line in lines if (line.cases, line.ads) == ("clean", "poor")}
    assert one["none limited"] + one["one limited"] == one["all"]
    assert one["both limited"] == 0
    # Each pair once, the ad's face being the later row: of row r, r pairs.
    assert one["one limited"] == sum(range(0, 150, 3))
    empty = next(x for x in lines if (x.ads, x.kind) == ("poor", "both limited"))
    assert empty.reached == (None, None, None)
    assert "both limited" in render_rates(lines)


def test_the_table_can_be_read_and_kept() -> None:
    lines = study()
    assert "lower_face" in render_rates(lines)
    assert json.loads(json.dumps([line.to_json() for line in lines]))[0]["cases"] == "clean"
    alone = crowded(1, 0.0, 1.0, 1)
    assert rate_study(alone, alone) == []
    assert "no comparisons" in render_rates([])
