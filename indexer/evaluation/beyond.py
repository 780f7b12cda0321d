"""What helps a search beyond the models: more photos, norms, other weights by quality, clusters.

Everybody is in one of two halves for good (``trials.in_first_half``). The first half is for tuning
and is searched for among itself; figures to report come from the second half, searched for among
all faces. Each line compares one way of scoring with the one that is served, on the same trials.

Photos stand in ads as they are, or each one degraded (``poor``); in cases as they are, or half of
them degraded (``mixed``). The cohort of the norms is the people with a single photo: nobody is
looked for in them, and they are what a gallery of ads is full of. ``gallery`` takes every face in
the ads instead, the searched people's own among them, as a real gallery would have to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from indexer.evaluation.arms import (
    average_photo,
    best_photo,
    cluster_template,
    joined,
    normalised,
    penalised_by_quality,
    weighted_by_quality,
)
from indexer.evaluation.calibrate import measure_curves
from indexer.evaluation.clusters import gather, make_people
from indexer.evaluation.photos import EvaluationImpossible, LabelledFaces
from indexer.evaluation.protocol import BoolArray, IntArray, Sample
from indexer.evaluation.trials import (
    METRICS,
    Arm,
    FaceRows,
    Gain,
    Material,
    Outcome,
    Trial,
    best_mates,
    compare,
    draw_trials,
    in_first_half,
    join_outcomes,
    run_trials,
)
from models.calibration import Calibration

SETTINGS: Final = (("clean", "clean"), ("clean", "poor"), ("mixed", "poor"))
"""Cases and ads, as in the module's text."""

PHOTOS: Final = (1, 2, 3)
POWERS: Final = (0.0, 0.25, 1.0)
"""Beside the power that is served; with 0 all photos count alike."""
MADE_UP: Final = (0, 10_000)

_BY_PHOTOS: Final = ("rules", "norms", "quality", "clusters")
_SIGHTINGS: Final = 4
_CLUSTER_DRAWS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One way of scoring (``arm``; the baseline is called as it is) in one setting.

    ``half``: "first" (tuning) or "second" (reporting); ``study``: "photos", "sighting", "rules",
    "norms", "quality" or "clusters"; ``cases`` and ``ads``: how their photos are; ``photos`` per
    person; ``counted``: every held-out face ("each") or the best one of a search ("any");
    ``gallery``: faces in it.
    """

    half: str
    study: str
    cases: str
    ads: str
    photos: int
    arm: str
    counted: str
    people: int
    trials: int
    gallery: int
    gains: Mapping[str, Gain]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class _Setting:
    half: str
    cases: str
    ads: str
    material: Material
    searched: BoolArray


def beyond_study(
    clean: LabelledFaces,
    poor: LabelledFaces,
    *,
    settings: Sequence[tuple[str, str]] = SETTINGS,
    photos: Sequence[int] = PHOTOS,
    made_up: Sequence[int] = MADE_UP,
    replicates: int = 500,
    seed: int = 0,
) -> list[Line]:
    """All lines, both halves; none where nobody has two photos with a face.

    ``poor`` are the same photos by ``poor.poor_faces``.
    """
    calibration = _calibration_of_first_half(clean, seed)
    lines: list[Line] = []
    for half in ("first", "second"):
        for cases, ads in settings:
            setting = _setting(clean, poor, half, cases, ads)
            lines += _photo_lines(setting, photos, replicates, seed)
            if cases == "clean":
                lines += _sighting_lines(setting, replicates, seed)
            for count in photos:
                lines += _score_lines(setting, count, replicates, seed)
            if cases == "clean":
                for count in photos[:2]:
                    for extra in made_up:
                        lines += _cluster_lines(
                            setting, count, extra, calibration, replicates, seed
                        )
    return lines


def _first_half(faces: LabelledFaces) -> BoolArray:
    by_person = np.array([in_first_half(name) for name in faces.photos.identity_names], np.bool_)
    rows: BoolArray = by_person[faces.photos.identities]
    return rows


def _calibration_of_first_half(clean: LabelledFaces, seed: int) -> Calibration | None:
    # What decides about clusters may not come from the people that the figures are about.
    rows, sample = _first_half(clean), clean.sample
    half = Sample(
        sample.vectors[rows], sample.found[rows], sample.identities[rows], sample.quality[rows]
    )
    try:
        curves, _ = measure_curves(half, photo_counts=(1,), replicates=50, seed=seed)
    except EvaluationImpossible:
        return None
    return Calibration(clean.contract_id, curves)


def _setting(
    clean: LabelledFaces, poor: LabelledFaces, half: str, cases: str, ads: str
) -> _Setting:
    good, bad = FaceRows.of(clean), FaceRows.of(poor)
    names = [photo.name for photo in clean.photos.photos]
    mixed = [hashlib.sha256(f"mixed:{name}".encode()).digest()[0] % 2 == 0 for name in names]
    material = Material(
        bad.where(np.array(mixed, np.bool_), good) if cases == "mixed" else good,
        bad if ads == "poor" else good,
        clean.photos.identities,
    )
    first = _first_half(clean)
    if half == "second":
        return _Setting(half, cases, ads, material, ~first)
    chosen = material.take(np.flatnonzero(first))
    return _Setting(half, cases, ads, chosen, np.ones(len(chosen.people), np.bool_))


def _line(
    setting: _Setting,
    study: str,
    photos: int,
    arm: str,
    outcome: Outcome,
    gains: Mapping[str, Gain],
    *,
    counted: str = "each",
    gallery: int | None = None,
) -> Line:
    return Line(
        half=setting.half,
        study=study,
        cases=setting.cases,
        ads=setting.ads,
        photos=photos,
        arm=arm,
        counted=counted,
        people=len(np.unique(outcome.searched)),
        trials=len(outcome.searched),
        gallery=int(setting.material.ads.found.sum()) if gallery is None else gallery,
        gains=gains,
    )


def _photo_lines(
    setting: _Setting, photos: Sequence[int], replicates: int, seed: int
) -> Iterator[Line]:
    """The same people searched for with fewer and more photos; compared with the fewest."""
    baseline: Outcome | None = None
    for count in photos:
        trials = draw_trials(
            setting.material, setting.searched, count, more_than=max(photos), seed=seed
        )
        if not trials:
            return
        outcome = run_trials(setting.material, trials, joined)
        if baseline is None:
            baseline = outcome
            gains = compare(outcome, replicates=replicates, seed=seed)
        else:
            gains = compare(baseline, outcome, replicates=replicates, seed=seed)
        yield _line(setting, "photos", count, "as served", outcome, gains)


def _sighting_lines(setting: _Setting, replicates: int, seed: int) -> Iterator[Line]:
    """One photo of the family, and then also a face of the person as ads show it (compared with
    the photo alone); the two weighted by quality (compared with the two as they are served)."""
    cases, ads = setting.material.cases, setting.material.ads
    # Rows of the ads stand behind those of the cases, so that a trial can enrol either.
    material = Material(cases.followed_by(ads), ads, setting.material.people)
    drawn = draw_trials(setting.material, setting.searched, 2, seed=seed)
    drawn = [trial for trial in drawn if ads.found[trial.enrolled[1]]]
    if not drawn:
        return
    alone = [replace(trial, enrolled=trial.enrolled[:1]) for trial in drawn]
    behind = np.array([0, len(cases.found)])
    both = [replace(trial, enrolled=trial.enrolled + behind) for trial in drawn]
    baseline, outcome = (run_trials(material, trials, joined) for trials in (alone, both))
    gains = compare(baseline, replicates=replicates, seed=seed)
    yield _line(setting, "sighting", 1, "as served", baseline, gains)
    gains = compare(baseline, outcome, replicates=replicates, seed=seed)
    yield _line(setting, "sighting", 2, "and a face from an ad", outcome, gains)
    for power in POWERS:
        weighted = run_trials(material, both, weighted_by_quality(power))
        gains = compare(outcome, weighted, replicates=replicates, seed=seed)
        yield _line(setting, "sighting", 2, f"both by quality^{power:g}", weighted, gains)


def _score_arms(material: Material, photos: int) -> Iterator[tuple[str, str, Callable[[], Arm]]]:
    """(study, name, how to make it); making one compares the gallery with its cohort."""
    singles: BoolArray = np.bincount(material.people)[material.people] == 1
    everyone = np.ones(len(singles), np.bool_)
    norm = partial(normalised, material)
    yield "norms", "z-norm", partial(norm, singles, top=None, side="case")
    yield "norms", "t-norm", partial(norm, singles, top=None, side="face")
    yield "norms", "s-norm", partial(norm, singles, top=None)
    for top in (30, 100, 300):
        yield "norms", f"as-norm {top}", partial(norm, singles, top=top)
    yield "norms", "as-norm 300, gallery", partial(norm, everyone, top=300)
    if photos > 1:
        yield "rules", "best photo", lambda: best_photo
        yield "rules", "average", lambda: average_photo
        for power in POWERS:
            yield "quality", f"photos by quality^{power:g}", partial(weighted_by_quality, power)
    for penalty in (0.005, 0.01, 0.02):
        name = f"less {penalty:g} x lack of quality"
        yield "quality", name, partial(penalised_by_quality, material, penalty)


def _score_lines(setting: _Setting, photos: int, replicates: int, seed: int) -> Iterator[Line]:
    trials = draw_trials(setting.material, setting.searched, photos, seed=seed)
    if not trials:
        return
    baseline = run_trials(setting.material, trials, joined)
    gains = compare(baseline, replicates=replicates, seed=seed)
    yield _line(setting, "norms", photos, "as served", baseline, gains)
    for study, name, make in _score_arms(setting.material, photos):
        outcome = run_trials(setting.material, trials, make())
        gains = compare(baseline, outcome, replicates=replicates, seed=seed)
        yield _line(setting, study, photos, name, outcome, gains)


def _cluster_lines(
    setting: _Setting,
    photos: int,
    made_up: int,
    calibration: Calibration | None,
    replicates: int,
    seed: int,
) -> Iterator[Line]:
    """People with several faces in the ads: clusters as served make them, and perfect ones."""
    material = setting.material
    if not _sightings(material, setting.searched, photos, np.random.default_rng(seed))[0]:
        return
    if made_up:
        sample = material.ads.vectors[material.ads.found]
        extra = make_people(sample, material.people[material.ads.found], made_up, seed)
        material = material.with_strangers(extra)
    outcomes: dict[str, list[Outcome]] = {}
    trials: list[Trial] = []
    for draw in range(_CLUSTER_DRAWS):
        rng = np.random.default_rng([seed, draw])
        some, gallery = _sightings(material, setting.searched, photos, rng)
        trials += some
        rows = rng.permutation(np.flatnonzero(gallery.ads.found))
        gathered = gather(gallery.ads.vectors[rows], gallery.ads.vectors[:0], calibration)
        served = [rows[members].astype(np.int64) for members in gathered]
        perfect = _by_person(gallery)
        arms: dict[str, Arm] = {"as served": joined}
        for share in (0.5, 1.0):
            arms[f"{share:g} cluster template"] = cluster_template(gallery, served, share)
        arms["0.5 template of all the person's"] = cluster_template(gallery, perfect, 0.5)
        for name, arm in arms.items():
            outcomes.setdefault(name, []).append(run_trials(gallery, some, arm))
    whole = {name: join_outcomes(parts) for name, parts in outcomes.items()}
    size = int(material.ads.found.sum())
    for counted in ("each", "any"):
        seen = {
            name: best_mates(outcome, trials) if counted == "any" else outcome
            for name, outcome in whole.items()
        }
        baseline = seen["as served"]
        for name, outcome in seen.items():
            other = None if name == "as served" else outcome
            gains = compare(baseline, other, replicates=replicates, seed=seed)
            yield _line(
                setting, "clusters", photos, name, outcome, gains, counted=counted, gallery=size
            )


def _sightings(
    material: Material, searched: BoolArray, photos: int, rng: np.random.Generator
) -> tuple[list[Trial], Material]:
    """Trials with two to four faces of each person in the ads, and the gallery without the photos
    that are enrolled."""
    trials = []
    absent = np.zeros(len(material.people), np.bool_)
    for person in np.unique(material.people[: len(searched)][searched]):
        own = np.flatnonzero((material.people == person) & material.cases.found)
        if len(own) < photos + 2:
            continue
        own = rng.permutation(own)
        mates = own[photos : photos + _SIGHTINGS]
        absent[own], absent[mates] = True, False
        trials.append(Trial(int(person), own[:photos], mates))
    ads = material.ads
    present = FaceRows(ads.vectors, ads.found & ~absent, ads.quality)
    return trials, Material(material.cases, present, material.people)


def _by_person(material: Material) -> list[IntArray]:
    rows = np.flatnonzero(material.ads.found).astype(np.int64)
    rows = rows[np.argsort(material.people[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(material.people[rows])) + 1
    return np.split(rows, starts)


def render_beyond(lines: Sequence[Line]) -> str:
    """The lines as plain text: figures in percent; differences with their 95 % interval."""
    out: list[str] = []
    heading = None
    for line in lines:
        group = (
            f"{line.half} half, {line.study}, cases {line.cases}, ads {line.ads}, "
            + (f"{line.photos} photo(s), " if line.study in _BY_PHOTOS else "")
            + f"{line.counted} face, {line.people:,} people, {line.trials:,} searches, "
            f"{line.gallery:,} faces"
        )
        if group != heading:
            heading = group
            out += ["", group, f"{'':34}" + "".join(f"{name:>22}" for name in METRICS)]
        label = f"{line.photos} photo(s)" if line.study == "photos" else line.arm
        out.append(f"{label:<34}" + "".join(f"{_cell(line.gains[n]):>22}" for n in METRICS))
    return "\n".join(out[1:]) or "Nobody has two photos with a face: nothing to search for."


def _cell(gain: Gain) -> str:
    span = gain.difference_interval
    if span is None:
        return f"{100 * gain.value:.1f}"
    between = f"({100 * span.low:+.1f} to {100 * span.high:+.1f})"
    return f"{100 * gain.difference:+.1f} {between}"
