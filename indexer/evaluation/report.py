"""What an evaluation found, as values, as JSON and as a plain table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from indexer.evaluation.binomial import wilson
from indexer.evaluation.group_report import groups_json, render_groups
from indexer.evaluation.groups import GroupReport
from indexer.evaluation.pairs import PairScores, Verification, error_curves
from indexer.evaluation.photos import LabelledFaces, Unreadable
from indexer.evaluation.protocol import RANKS, DoubleArray, Identification, IntArray, Interval
from models.types import FloatArray

CAUTION = (
    "Measured on these labelled photos. Photos in advertisements are harder, children and "
    "look-alikes are confused more often: in real work expect at least these error rates."
)

PROTOCOL = {
    "verification": (
        "All pairs of photos. A genuine pair with a face that was not found counts as not "
        "accepted. A threshold is the (floor(FMR x n) + 1)-th largest score of the n impostor "
        "pairs in which both faces were found; scores strictly above it are accepted."
    ),
    "identification": (
        "Gallery: the first photo by name of every identity with two or more photos and of every "
        "other single identity (first, third, ... by name). The further photos are mated probes, "
        "the other singles non-mated probes. Ties count against the mate. FNIR: share of mated "
        "probes whose mate's score is not above the threshold, at any rank."
    ),
    "face": "Of several faces the one whose box centre is nearest the centre of the picture.",
    "intervals": (
        "95 %, percentile bootstrap over identities; the gallery is kept as it is. Where fewer "
        "than 10 people (30 pairs of people) carry a rate, widened to hold the Clopper-Pearson "
        "interval over the effective number of people (pairs). fmr_at_threshold: of the FMR at "
        "the thresholds, held fixed. Bins of quality: Wilson, probes taken as independent."
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class DegradedResult:
    """Probes changed by one degradation against the clean gallery.

    ``probes`` (of ``people`` people) counts all of them; a probe whose face was
    not found, clean or degraded, is a miss.
    ``share_of_clean`` is rank 1 divided by the clean rank 1 of the same probes, with its
    interval. ``rank``: int64 (probes,); ``quality``: float64 (probes,), NaN without a face.
    """

    name: str
    title: str
    probes: int
    people: int
    failure_to_enroll: float
    rank_k: dict[int, float]
    share_of_clean: float | None
    share_interval: Interval | None
    failure_interval: Interval | None
    rank_intervals: dict[int, Interval | None]
    rank: IntArray
    mate_score: FloatArray
    quality: DoubleArray


@dataclass(frozen=True, slots=True)
class QualityBin:
    """Probes with a quality in [low, high] and how many of them missed at rank 1."""

    low: float
    high: float
    probes: int
    misses: int


@dataclass(frozen=True, slots=True)
class QualityStudy:
    """Whether low quality foretells misses.

    ``area``: chance that a missed probe has a lower quality than a found one (0.5: no relation,
    1: perfect); ``None`` without both kinds. Probes without a face have no quality and are not in
    here.
    """

    probes: int
    misses: int
    area: float | None
    bins: tuple[QualityBin, ...]


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationReport:
    """The figures of one evaluation and the values behind them (``faces``, ``pairs``, ...)."""

    faces: LabelledFaces
    pairs: PairScores
    verification: Verification
    identification: Identification
    tar_intervals: dict[str, Interval | None]
    fmr_intervals: dict[str, Interval | None]
    eer_interval: Interval | None
    failure_interval: Interval | None
    rank_intervals: dict[int, Interval | None]
    fnir_intervals: dict[str, Interval | None]
    degraded: tuple[DegradedResult, ...]
    quality: QualityStudy
    groups: GroupReport | None
    seconds: float
    seconds_by_stage: dict[str, float]

    @property
    def failures(self) -> int:
        """Photos without a face, unreadable ones included."""
        return sum(face is None for face in self.faces.faces)

    @property
    def failure_to_enroll(self) -> float:
        return self.failures / len(self.faces.faces)

    @property
    def not_found(self) -> tuple[str, ...]:
        """Names of readable photos in which no face was found."""
        unreadable = {item.name for item in self.faces.unreadable}
        pairs = zip(self.faces.photos.photos, self.faces.faces, strict=True)
        return tuple(p.name for p, face in pairs if face is None and p.name not in unreadable)

    @property
    def closest_impostors(self) -> list[dict[str, Any]]:
        """The ten most alike pairs of different identities: look here for wrong labels first."""
        photos = self.faces.photos.photos
        top = zip(
            self.pairs.tail_first[:10],
            self.pairs.tail_second[:10],
            self.pairs.tail[:10],
            strict=True,
        )
        return [
            {"first": photos[a].name, "second": photos[b].name, "score": _number(score)}
            for a, b, score in top
        ]

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        return self.faces.unreadable

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; rates are shares in [0, 1], ``None`` where undefined."""
        v, i = self.verification, self.identification
        photos = self.faces.photos
        return {
            "contract_id": self.faces.contract_id,
            "images": len(photos.photos),
            "identities": len(photos.identity_names),
            "failure_to_enroll": _number(self.failure_to_enroll),
            "failures": {
                "not_found": list(self.not_found),
                "unreadable": [asdict(item) for item in self.unreadable],
            },
            "ignored_files": list(photos.ignored),
            "genuine_pairs": v.genuine_pairs,
            "impostor_pairs": v.impostor_pairs,
            "impostor_pairs_compared": v.impostor_compared,
            "tar_at_fmr": {n: _number(p.value) if p else None for n, p in v.tar_at_fmr.items()},
            "eer": _number(v.eer),
            "gallery": len(i.split.gallery),
            "mated_probes": len(i.split.mated),
            "non_mated_probes": len(i.split.non_mated),
            **{f"rank_{k}": _number(i.rank_k[k]) for k in RANKS},
            "fnir_at_fpir": {n: _number(p.value) if p else None for n, p in i.fnir_at_fpir.items()},
            "intervals": {
                "tar_at_fmr": {n: _pair(x) for n, x in self.tar_intervals.items()},
                "eer": _pair(self.eer_interval),
                "failure_to_enroll": _pair(self.failure_interval),
                "fmr_at_threshold": {n: _pair(x) for n, x in self.fmr_intervals.items()},
                **{f"rank_{k}": _pair(x) for k, x in self.rank_intervals.items()},
                "fnir_at_fpir": {n: _pair(x) for n, x in self.fnir_intervals.items()},
            },
            "thresholds": {
                "fmr": {
                    n: {"score": _number(p.threshold), "resolved": p.resolved} if p else None
                    for n, p in v.tar_at_fmr.items()
                },
                "fpir": {
                    n: {"score": _number(p.threshold), "resolved": p.resolved} if p else None
                    for n, p in i.fnir_at_fpir.items()
                },
            },
            "scores": {"genuine": asdict(v.genuine), "impostor": asdict(v.impostor)},
            "det": self.det_points(),
            "quality": _quality(self.quality),
            "degraded": [_degraded(d) for d in self.degraded],
            "groups": None if self.groups is None else groups_json(self.groups, self.thresholds),
            "closest_impostors": self.closest_impostors,
            "protocol": PROTOCOL,
            "notice": CAUTION,
            "seconds": round(self.seconds, 2),
            "seconds_by_stage": {k: round(s, 2) for k, s in self.seconds_by_stage.items()},
        }

    @property
    def thresholds(self) -> dict[str, float]:
        """Scores that are to be exceeded, by the FMR over all people that they were set for."""
        points = self.verification.tar_at_fmr.items()
        return {name: point.threshold for name, point in points if point is not None}

    def det_points(self, count: int = 61) -> list[dict[str, float]]:
        """FNMR along FMR 1 to 1e-6, on a logarithmic grid, down to the sample's resolution."""
        if not self.verification.genuine_pairs or not self.verification.impostor_compared:
            return []
        fmr, fnmr = error_curves(self.pairs)
        points = []
        for rate in np.logspace(0, -6, count):
            if rate * self.verification.impostor_compared < 1:
                break
            # FMR falls along the edges: the first edge at or under the rate is the lowest one.
            at = int(np.searchsorted(-fmr, -rate, side="left"))
            missed = float(fnmr[at]) if at < len(fnmr) else 1.0
            points.append({"fmr": float(rate), "fnmr": _rounded(missed)})
        return points


def _rounded(value: float) -> float:
    return round(value, 6)


def _number(value: float | np.floating[Any] | None) -> float | None:
    return None if value is None or not np.isfinite(value) else _rounded(float(value))


def _pair(interval: Interval | None) -> list[float] | None:
    # Rates of strangers are small: decimal places alone would cut them off.
    return None if interval is None else [float(f"{x:.6g}") for x in (interval.low, interval.high)]


def _quality(study: QualityStudy) -> dict[str, Any]:
    values = asdict(study)
    for part in values["bins"]:
        part["interval"] = _pair(wilson(part["misses"], part["probes"]))
    return values


def _degraded(result: DegradedResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "title": result.title,
        "probes": result.probes,
        "people": result.people,
        "failure_to_enroll": _number(result.failure_to_enroll),
        **{f"rank_{k}": _number(v) for k, v in result.rank_k.items()},
        "share_of_clean": _number(result.share_of_clean),
        "interval": _pair(result.share_interval),
        "intervals": {
            "failure_to_enroll": _pair(result.failure_interval),
            **{f"rank_{k}": _pair(x) for k, x in result.rank_intervals.items()},
        },
    }


def render_table(report: EvaluationReport) -> str:
    """The report as lines of plain text, for a terminal or a file."""
    v, i = report.verification, report.identification
    photos = report.faces.photos
    lines = [
        f"contract            {report.faces.contract_id}",
        f"photos, identities  {len(photos.photos):,}, {len(photos.identity_names):,}",
        f"failure to enroll   {report.failure_to_enroll:.4f}  ({_span(report.failure_interval, 4)};"
        f" {report.failures} photos, {len(report.unreadable)} of them unreadable)",
        "",
        f"Verification, all pairs: {v.genuine_pairs:,} genuine, {v.impostor_pairs:,} impostor",
    ]
    for name, point in v.tar_at_fmr.items():
        value = point.value if point else None
        note = "" if point is None or point.resolved else "  (fewer than 30 impostor pairs)"
        lines.append(_line(f"TAR at FMR {name}", value, report.tar_intervals[name]) + note)
        if point is not None:
            lines.append(f"    above {point.threshold:.4f}; {_fmr(report.fmr_intervals[name])}")
    lines.append(_line("EER", v.eer, report.eer_interval))
    lines += [
        "",
        f"Identification: gallery {len(i.split.gallery):,}, mated probes"
        f" {len(i.split.mated):,}, non-mated probes {len(i.split.non_mated):,}",
    ]
    lines += [_line(f"rank {k}", i.rank_k[k], report.rank_intervals[k]) for k in RANKS]
    for name, point in i.fnir_at_fpir.items():
        value = point.value if point else None
        note = "" if point is None or point.resolved else "  (fewer than 30 non-mated probes)"
        lines.append(_line(f"FNIR at FPIR {name}", value, report.fnir_intervals[name]) + note)
    if report.degraded:
        lines += [
            "",
            f"Degraded probes against the clean gallery ({report.degraded[0].probes:,} probes)",
            f"  {'':<28}{'rank 1':>8}{'rank 10':>9}{'rank 50':>9}{'of clean':>10}"
            f"{'95 %':>16}{'not found':>11}",
        ]
        for d in report.degraded:
            share = "-" if d.share_of_clean is None else f"{d.share_of_clean:.3f}"
            lines.append(
                f"  {d.title:<28}{d.rank_k[1]:>8.3f}{d.rank_k[10]:>9.3f}{d.rank_k[50]:>9.3f}"
                f"{share:>10}{_span(d.share_interval):>16}{d.failure_to_enroll:>11.3f}"
            )
    q = report.quality
    if q.area is not None:
        lines += [
            "",
            f"Quality: {q.misses:,} of {q.probes:,} probes with a face missed at rank 1; a missed"
            f" one has the lower quality in {q.area:.0%} of comparisons",
        ]
    if report.groups is not None:
        lines += ["", render_groups(report.groups)]
    lines += ["", f"{report.seconds:.1f} s", CAUTION]
    return "\n".join(lines)


def _span(interval: Interval | None, digits: int = 3) -> str:
    if interval is None:
        return "-"
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"


def _fmr(interval: Interval | None) -> str:
    if interval is None:
        return "FMR there not known"
    return f"FMR there {interval.low:.1e} to {interval.high:.1e}"


def _line(label: str, value: float | None, interval: Interval | None) -> str:
    figure = "     -" if value is None else f"{value:.4f}"
    return f"  {label:<18}{figure}  ({_span(interval)})"
