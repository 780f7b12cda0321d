"""Rates by group: each against its definition, and intervals against a world that is known."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.evaluation.group_plots import groups
from indexer.evaluation.group_report import groups_json, render_groups
from indexer.evaluation.groups import PEOPLE_NEEDED, Figure, GroupReport, measure_groups
from indexer.evaluation.labels import Labels
from indexer.evaluation.pairs import PairScores, Verification, score_pairs, verify
from indexer.evaluation.protocol import (
    OperatingPoint,
    Sample,
    identify,
)

DIMENSION = 12


def unit(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def people_of(rng: np.random.Generator, count: int, pull: float) -> NDArray[np.float64]:
    """Directions that are drawn towards one side by ``pull``: those people look more alike."""
    centres = rng.normal(size=(count, DIMENSION))
    centres[:, 0] += pull
    return centres


def world(
    seed: int, counts: tuple[int, int], photos: int = 2, noise: float = 0.35
) -> tuple[Sample, Labels]:
    """People of two sexes; the second look more alike. One photo in 40 has no face; every second
    photo of a person was taken later; every third person has no known age."""
    rng = np.random.default_rng(seed)
    centres = np.concatenate([people_of(rng, counts[0], 0.0), people_of(rng, counts[1], 1.5)])
    vectors = centres.repeat(photos, axis=0)
    vectors = unit(vectors + noise * rng.normal(size=vectors.shape))
    who = np.repeat(np.arange(sum(counts)), photos)
    sex = (who >= counts[0]).astype(np.int64)
    age = np.where(who % 3 == 0, -1, np.arange(len(who)) % 2).astype(np.int64)
    found = rng.random(len(who)) > 1 / 40
    labels = Labels(
        {"sex": ("man", "woman"), "age_band": ("18-29", "30-49")}, {"sex": sex, "age_band": age}
    )
    return Sample(vectors, found, who), labels


def measured(
    sample: Sample, labels: Labels, **options: Any
) -> tuple[GroupReport, PairScores, Verification]:
    pairs = score_pairs(sample)
    figures = verify(pairs)
    report = measure_groups(
        sample, pairs, figures, identify(sample), labels, replicates=100, **options
    )
    return report, pairs, figures


def same(figure: Figure, events: int, trials: int) -> bool:
    assert figure.value is not None
    assert figure.value == pytest.approx(events / trials)
    assert figure.interval is not None
    assert figure.interval.low <= figure.value <= figure.interval.high
    return (figure.events, figure.trials) == (events, trials)


def test_every_rate_follows_its_definition() -> None:
    sample, labels = world(1, (40, 35))
    report, _, figures = measured(sample, labels)
    point = figures.tar_at_fmr["1e-2"]
    assert point is not None
    threshold = point.threshold
    sexes, ages = labels.codes["sex"], labels.codes["age_band"]
    counts = dict.fromkeys(itertools.product("gsca", (0, 1), (0, 1)), 0)
    alike = [0, 0]
    for a, b in itertools.combinations(range(len(sexes)), 2):
        both = bool(sample.found[a] and sample.found[b])
        over = both and float(sample.vectors[a] @ sample.vectors[b]) > threshold
        if sample.identities[a] == sample.identities[b]:
            counts["g", int(sexes[a]), 0] += 1
            counts["g", int(sexes[a]), 1] += not over
        elif both and sexes[a] == sexes[b]:
            counts["s", int(sexes[a]), 0] += 1
            counts["s", int(sexes[a]), 1] += over
            if ages[a] == ages[b] >= 0:
                alike[0] += 1
                alike[1] += over
        elif both:
            counts["c", 0, 0] += 1
            counts["c", 0, 1] += over
    sex = report.attributes[0]
    assert (sex.attribute, sex.unlabelled) == ("sex", 0)
    for code, group in enumerate(sex.groups):
        shown = group.figures
        assert same(shown["same_fmr@1e-2"], counts["s", code, 1], counts["s", code, 0])
        assert same(shown["cross_fmr@1e-2"], counts["c", 0, 1], counts["c", 0, 0])
        assert same(shown["fnmr@1e-2"], counts["g", code, 1], counts["g", code, 0])
    assert same(sex.cross["1e-2"], counts["c", 0, 1], counts["c", 0, 0])
    events, trials = (counts["s", 0, at] + counts["s", 1, at] for at in (1, 0))
    assert same(sex.same["1e-2"], events, trials)
    assert same(report.alike["1e-2"], alike[1], alike[0])

    result = identify(sample)
    probes = result.split.mated
    for code, group in enumerate(sex.groups):
        inside = sexes[probes] == code
        for rank in (1, 10):
            missed = int((result.mated.rank[inside] > rank).sum())
            assert same(group.figures[f"rank_{rank}_miss"], missed, int(inside.sum()))
        lost = int((~sample.found[sexes == code]).sum())
        assert same(group.figures["failure_to_enroll"], lost, int((sexes == code).sum()))


def test_people_who_share_a_label_with_nobody_carry_no_figure() -> None:
    # 200 people: of one kind two, of another 28, the others each of a kind of their own.
    sample, _ = world(5, (100, 100))
    for sharing, given in (((2,), False), ((28, 2), True), ((27, 2), False)):
        kinds = np.repeat(np.arange(len(sharing)), sharing)
        kinds = np.concatenate([kinds, len(sharing) + np.arange(200 - len(kinds))])
        names = tuple(f"kind {number:03d}" for number in range(int(kinds.max()) + 1))
        whole = replace(sample, found=np.ones_like(sample.found))
        labels = Labels({"race": names}, {"race": kinds[whole.identities]})
        report, _, _ = measured(whole, labels)
        for figures in (report.alike, report.attributes[0].same):
            figure = figures["1e-2"]
            assert figure.people == sum(sharing)
            assert (figure.value is not None) == given
            assert given or (figure.reason or "").startswith("insufficient data")


def test_strangers_of_one_group_collide_more_and_it_is_said() -> None:
    sample, labels = world(2, (120, 120))
    report, _, figures = measured(sample, labels)
    sex = report.attributes[0]
    cross, alike = sex.cross["1e-2"], sex.same["1e-2"]
    assert cross.value is not None
    assert alike.value is not None
    assert alike.value > cross.value
    spread = sex.spread["same_fmr@1e-2"]
    assert (spread.worst, spread.best) == ("woman", "man")
    assert spread.ratio is not None
    assert spread.at_least is not None
    assert 1 < spread.at_least < spread.ratio
    thresholds = {n: p.threshold for n, p in figures.tar_at_fmr.items() if p is not None}
    shown = json.loads(json.dumps(groups_json(report, thresholds), allow_nan=False))
    woman = shown["attributes"]["sex"]["values"]["woman"]
    assert woman["people"] == 120
    # People have photos of both ages here, and each age counts its own.
    ages = labels.codes["age_band"]
    of_age = [np.unique(sample.identities[sample.found & (ages == age)]).size for age in (0, 1)]
    assert report.attributes[1].cross["1e-2"].people == min(of_age) > 100
    low, high = woman["same_fmr@1e-2"]["interval"]
    assert low < woman["same_fmr@1e-2"]["value"] < high
    assert shown["attributes"]["age_band"]["unlabelled_photos"] == 160
    assert set(shown["same_in_all"]) == {"fmr@1e-2", "fmr@1e-3", "fmr@1e-4"}
    table = render_groups(report)
    assert "strangers of this group: worst woman, best man" in table
    assert "strangers of other groups: worst" not in table
    assert "strangers alike in all labels" in table


def test_fewer_than_thirty_people_have_no_figure() -> None:
    sample, labels = world(3, (60, PEOPLE_NEEDED - 1))
    report, _, _ = measured(sample, labels)
    sex = report.attributes[0]
    man, woman = sex.groups
    assert woman.people == 29
    for figure in woman.figures.values():
        assert (figure.value, figure.interval, figure.events) == (None, None, None)
        assert figure.reason == "insufficient data: 29 people, 30 are needed"
    # What few people carry is no figure either, though the men alone are enough.
    assert man.figures["cross_fmr@1e-2"].value is None
    assert sex.cross["1e-2"].value is None
    assert man.figures["same_fmr@1e-2"].value is not None
    assert sex.spread == {}
    assert "insufficient data" in render_groups(report)
    values = groups_json(report, {})["attributes"]["sex"]["values"]["woman"]
    assert values["fnmr@1e-3"]["value"] is None
    assert values["fnmr@1e-3"]["reason"]
    # One more and there are figures.
    more, labels = world(3, (60, PEOPLE_NEEDED))
    assert measured(more, labels)[0].attributes[0].groups[1].figures["fnmr@1e-2"].value is not None


def test_a_figure_needs_thirty_people_of_its_own() -> None:
    """Forty people, of whom ten have a second photo: no rate of pairs of one person."""
    rng = np.random.default_rng(4)
    who = np.sort(np.concatenate([np.arange(40), np.arange(10)]))
    sample = Sample(unit(people_of(rng, 50, 0.0)), np.ones(50, np.bool_), who)
    labels = Labels({"race": ("a",)}, {"race": np.zeros(50, np.int64)})
    report, _, _ = measured(sample, labels)
    figures = report.attributes[0].groups[0].figures
    assert figures["fnmr@1e-3"].reason == "insufficient data: 10 people, 30 are needed"
    assert figures["rank_1_miss"].value is None
    assert figures["failure_to_enroll"].value == 0.0
    assert figures["same_fmr@1e-3"].value is not None
    # Nobody is of another group.
    assert figures["cross_fmr@1e-3"].value is None


def test_the_picture_shows_what_is_known(tmp_path: Path) -> None:
    sample, labels = world(2, (60, 29))
    report, _, _ = measured(sample, labels)
    figure = groups(report)
    assert figure is not None
    figure.savefig(tmp_path / "groups.png", dpi=60)
    texts = [t.get_text() for axes in figure.axes for t in axes.get_yticklabels()]
    assert texts[:1] == ["sex: man (60)"]
    assert not [text for text in texts if "woman" in text]
    titles = {axes.get_title(loc="left") for axes in figure.axes}
    # Nobody of another sex is counted, so that panel is of the ages alone.
    assert {"strangers of this group", "no face found"} <= titles
    assert groups(None) is None
    few, labels = world(2, (20, 20))
    assert groups(measured(few, Labels({"sex": labels.values["sex"]}, labels.codes))[0]) is None


def test_nobody_labelled() -> None:
    sample, _ = world(5, (40, 40))
    nobody = Labels({"sex": ()}, {"sex": np.full(160, -1, np.int64)})
    report, _, _ = measured(sample, nobody)
    assert report.attributes[0].groups == ()
    assert report.attributes[0].unlabelled == 160
    assert report.alike["1e-3"].value is None


def test_intervals_hold_the_rates_of_a_known_world() -> None:
    """The truth: how often 4,000 other people of the same kinds reach the thresholds."""
    rng = np.random.default_rng(77)
    men, women = unit(people_of(rng, 2000, 0.0)), unit(people_of(rng, 2000, 1.5))
    levels = {"1e-2": 0.72, "1e-3": 0.84, "1e-4": 0.9}
    upper = np.triu_indices(2000, 1)
    worlds = {"man": (men @ men.T)[upper], "woman": (women @ women.T)[upper], "": men @ women.T}
    truth = {
        (kind, level): float((scores > at).mean())
        for kind, scores in worlds.items()
        for level, at in levels.items()
    }
    assert truth["woman", "1e-2"] > 3 * truth["man", "1e-2"] > 1e-3
    points: dict[str, OperatingPoint | None] = {
        name: OperatingPoint(0.0, at, 0.0, 0) for name, at in levels.items()
    }
    held = total = 0
    for seed in range(20):
        sample, labels = world(seed, (60, 60), photos=1, noise=0.0)
        sample = replace(sample, found=np.ones(120, np.bool_))
        pairs = score_pairs(sample)
        figures = replace(verify(pairs), tar_at_fmr=points)
        report = measure_groups(
            sample, pairs, figures, identify(sample), labels, replicates=100, seed=seed
        )
        sex = report.attributes[0]
        for level in levels:
            shown = [(group.value, group.figures[f"same_fmr@{level}"]) for group in sex.groups]
            for kind, figure in [*shown, ("", sex.cross[level])]:
                assert figure.interval is not None
                held += figure.interval.low <= truth[kind, level] <= figure.interval.high
                total += 1
    assert total == 180
    assert held >= 0.93 * total
