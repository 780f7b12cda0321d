"""The report as pictures: DET, CMC, scores, quality and degradations, as PNG.

Drawn with matplotlib's object interface on the Agg canvas, so nothing global is touched and it
works in threads and without a display. Every picture carries its sample sizes and the caution.
"""

from __future__ import annotations

import math
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, PercentFormatter

from indexer.evaluation import group_plots
from indexer.evaluation.binomial import wilson
from indexer.evaluation.pairs import HISTOGRAM_BINS, bin_edges
from indexer.evaluation.protocol import DoubleArray
from indexer.evaluation.report import CAUTION, EvaluationReport

_INK = "#2b2f33"
_QUIET = "#7a828a"
_BLUE = "#2f6690"
_RED = "#b4532a"
_PALE = "#c8d3dc"
_SIZE = (8.0, 5.4)


def write_plots(report: EvaluationReport, directory: Path) -> list[Path]:
    """Write all pictures that the report has data for; returns their paths.

    The folder is made if need be; pictures of the same name are replaced.
    """
    directory.mkdir(parents=True, exist_ok=True)
    drawings = {
        "det.png": det,
        "cmc.png": cmc,
        "scores.png": scores,
        "quality.png": quality,
        "degraded.png": degraded,
        "groups.png": by_group,
    }
    written = []
    for name, draw in drawings.items():
        figure = draw(report)
        if figure is not None:
            path = directory / name
            figure.savefig(path, dpi=140)
            written.append(path)
    return written


def _figure(title: str, subtitle: str, height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_SIZE[0], height), facecolor="white")
    FigureCanvasAgg(figure)
    bottom, top = 1.12 / height, 1 - 0.88 / height
    axes = figure.add_axes((0.105, bottom, 0.86, top - bottom))
    figure.text(0.035, 1 - 0.14 / height, title, fontsize=14, color=_INK, va="top", weight="bold")
    figure.text(0.035, 1 - 0.48 / height, subtitle, fontsize=9.5, color=_QUIET, va="top")
    figure.text(0.035, 0.1 / height, fill(CAUTION, 125), fontsize=8, color=_QUIET, va="bottom")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_QUIET)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.minorticks_off()
    axes.grid(visible=True, which="major", color="#e8ebee", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _labels(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=10, color=_INK)
    axes.set_ylabel(y, fontsize=10, color=_INK)


def _rate(value: float, _: object = None) -> str:
    """1 in N for small rates, which reads better than powers of ten."""
    return f"1 in {1 / value:,.0f}" if value > 0 else "0"


def det(report: EvaluationReport) -> Figure | None:
    """Detection error trade-off: false match rate against missed genuine pairs."""
    v = report.verification
    points = [p for p in report.det_points(121) if p["fmr"] <= 0.2]
    if not points:
        return None
    figure, axes = _figure(
        "How many true pairs are missed at each false match rate",
        f"All pairs: {v.genuine_pairs:,} of the same person, {v.impostor_pairs:,} of different"
        f" people · {len(report.faces.photos.identity_names):,} people",
    )
    # A rate of nothing cannot be drawn on a logarithmic axis; half a pair stands for it.
    floor = 0.5 / v.genuine_pairs
    axes.plot(
        [p["fmr"] for p in points], [max(p["fnmr"], floor) for p in points], color=_BLUE, lw=2
    )
    for name, point in v.tar_at_fmr.items():
        if point is None:
            continue
        missed, interval = max(1 - point.value, floor), report.tar_intervals[name]
        if interval is not None:
            axes.plot(
                [point.rate, point.rate],
                [max(1 - interval.high, floor), max(1 - interval.low, floor)],
                color=_BLUE,
                lw=5,
                alpha=0.25,
                solid_capstyle="butt",
            )
        if point.allowed >= 1:
            axes.plot(point.rate, missed, "o", color=_BLUE, ms=5)
            axes.annotate(
                f"{1 - point.value:.1%} missed",
                (point.rate, missed),
                textcoords="offset points",
                xytext=(9, 6),
                fontsize=9,
                color=_INK,
            )
    thin = 30 / v.impostor_compared
    low, high = min(points[-1]["fmr"], 1e-2) * 0.8, 0.2
    if thin > low:
        axes.axvspan(low, min(thin, high), color="#f3efe6", zorder=0)
        axes.text(
            low * 1.1,
            0.02,
            "fewer than 30 pairs:\nhardly resolved",
            fontsize=8,
            color=_QUIET,
            va="bottom",
            transform=axes.get_xaxis_transform(),
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(FuncFormatter(_rate))
    axes.minorticks_off()
    shown = [max(p["fnmr"], floor) for p in points]
    axes.set_ylim(min(shown) / 1.6, min(1.0, max(shown) * 2))
    marks = [m for e in range(-6, 1) for m in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if m <= 1]
    axes.yaxis.set_major_locator(FixedLocator(marks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y * 100:g}%"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _labels(
        axes,
        "False match rate: different people at or above the threshold (bars: 95% interval)",
        "Pairs of the same person missed",
    )
    return figure


def cmc(report: EvaluationReport) -> Figure | None:
    """Cumulative match characteristic: share of probes whose person is among the first k."""
    ranks = report.identification.mated.rank
    gallery = len(report.identification.split.gallery)
    if not len(ranks) or not gallery:
        return None
    most = min(100, gallery)
    ks = np.arange(1, most + 1)
    shares = np.searchsorted(np.sort(ranks), ks, side="right") / len(ranks)
    figure, axes = _figure(
        "How often the right person is among the first k candidates",
        f"Gallery of {gallery:,} people with one photo each · {len(ranks):,} probes of people who"
        " are in it",
    )
    axes.plot(ks, shares, color=_BLUE, lw=2)
    for k, interval in report.rank_intervals.items():
        if k > most:
            continue
        if interval is not None:
            axes.plot(
                [k, k],
                [interval.low, interval.high],
                color=_BLUE,
                lw=5,
                alpha=0.25,
                solid_capstyle="butt",
            )
        axes.plot(k, shares[k - 1], "o", color=_BLUE, ms=5)
        axes.annotate(
            f"{shares[k - 1]:.1%}",
            (k, float(shares[k - 1])),
            textcoords="offset points",
            xytext=(7, -14),
            fontsize=9,
            color=_INK,
        )
    axes.set_xscale("log")
    axes.set_xlim(0.9, most * 1.25)
    marks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= most]
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    lowest = min([float(shares[0])] + [i.low for i in report.rank_intervals.values() if i])
    axes.set_ylim(max(0.0, lowest - (1 - lowest) * 0.35 - 0.01), 1.004)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y * 100:g}%"))
    axes.minorticks_off()
    _labels(axes, "k (bars: 95% interval)", "Probes with their person among the first k")
    return figure


def scores(report: EvaluationReport) -> Figure | None:
    """Densities of genuine and impostor scores on a logarithmic axis."""
    genuine = report.pairs.genuine[np.isfinite(report.pairs.genuine)].astype(np.float64)
    counts = report.pairs.histogram
    if not len(genuine) or not counts.sum():
        return None
    used = np.flatnonzero(counts)
    low = min(float(bin_edges()[used[0]]), float(genuine.min()))
    high = max(float(bin_edges()[used[-1]]), float(genuine.max()))
    edges = np.linspace(low, high + 1e-6, 121)
    width = edges[1] - edges[0]
    places = np.searchsorted(edges, bin_edges()[used] + 1 / HISTOGRAM_BINS, side="right") - 1
    impostor = np.bincount(np.clip(places, 0, 119), weights=counts[used], minlength=120)
    same = np.histogram(genuine, edges)[0]
    missing = len(report.pairs.genuine) - len(genuine)
    figure, axes = _figure(
        "Scores of the same person and of different people",
        f"{len(genuine):,} pairs of the same person"
        + (f" ({missing:,} more without a face)" if missing else "")
        + f", {int(counts.sum()):,} of different people · logarithmic scale",
    )
    for values, total, colour, name in (
        (impostor, counts.sum(), _RED, "different people"),
        (same, len(genuine), _BLUE, "the same person"),
    ):
        density = values / total / width
        axes.stairs(density, edges, color=colour, lw=1.6, label=name)
        axes.stairs(density, edges, color=colour, alpha=0.13, fill=True)
    point = report.verification.tar_at_fmr["1e-3"]
    if point is not None and math.isfinite(point.threshold):
        axes.axvline(point.threshold, color=_QUIET, lw=1, ls=(0, (4, 3)))
        axes.text(
            point.threshold,
            1.01,
            "FMR 1 in 1,000",
            fontsize=8.5,
            color=_QUIET,
            ha="center",
            va="bottom",
            transform=axes.get_xaxis_transform(),
        )
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=9.5, labelcolor=_INK, loc="upper left")
    _labels(axes, "Score (cosine)", "Density")
    return figure


def quality(report: EvaluationReport) -> Figure | None:
    """Share of rank-1 misses by tenth of quality: left the worst pictures, right the best."""
    study = report.quality
    if study.area is None or study.probes < 50:
        return None
    changed = len(report.degraded)
    figure, axes = _figure(
        "Low quality foretells a miss",
        f"{study.probes:,} probes with a face"
        + (f", clean and under {changed} degradations" if changed else "")
        + f" · {study.misses:,} missed at rank 1\nA missed probe has the lower quality in"
        f" {study.area:.0%} of comparisons with a found one (50%: no relation)",
    )
    if study.area < 0.6:
        figure.texts[0].set_text("Quality and misses: hardly related here")
    shares = [b.misses / b.probes for b in study.bins]
    places = np.arange(len(shares))
    axes.bar(places, shares, color=_BLUE, width=0.72)
    top = 0.0
    for place, part, share in zip(places, study.bins, shares, strict=True):
        span = wilson(part.misses, part.probes)
        top = max(top, span.high)
        axes.plot([place, place], [span.low, span.high], color=_QUIET, lw=5, alpha=0.45)
        axes.annotate(
            f"{share:.1%}\nof {part.probes:,}",
            (float(place), span.high),
            textcoords="offset points",
            xytext=(0, 4),
            ha="center",
            fontsize=8.5,
            color=_INK,
        )
    axes.set_xticks(places, [f"{b.low:.2f} to\n{b.high:.2f}" for b in study.bins], fontsize=8)
    axes.set_ylim(0, top * 1.15 + 0.01)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="x")
    _labels(
        axes,
        "Quality score of the probe (bars: 95% interval)",
        "Missed at rank 1",
    )
    return figure


def by_group(report: EvaluationReport) -> Figure | None:
    """Rates by group, where labels were given."""
    return group_plots.groups(report.groups)


def degraded(report: EvaluationReport) -> Figure | None:
    """Rank 1 and rank 10 of degraded probes against the clean gallery."""
    results = report.degraded
    if not results:
        return None
    height = 2.3 + 0.34 * len(results)
    figure, axes = _figure(
        "What bad pictures cost",
        f"{results[0].probes:,} probes of {results[0].people:,} people, degraded, against a"
        f" clean gallery of {len(report.identification.split.gallery):,} people",
        height,
    )
    box = axes.get_position()
    axes.set_position((0.27, box.y0, 0.675, box.height))
    places = np.arange(len(results))[::-1]
    first: DoubleArray = np.array([d.rank_k[1] for d in results])
    tenth: DoubleArray = np.array([d.rank_k[10] for d in results])
    axes.barh(places, tenth, color=_PALE, height=0.68, label="among the first 10")
    axes.barh(places, first, color=_BLUE, height=0.68, label="rank 1")
    for place, result in zip(places, results, strict=True):
        lost = f" · no face {result.failure_to_enroll:.0%}" if result.failure_to_enroll else ""
        share = "" if result.share_of_clean is None else f"{result.share_of_clean:.0%} of clean"
        # Where there is room: in the dark bar, behind both bars, or in the pale one.
        inside = result.rank_k[1] > 0.34
        behind = result.rank_k[10] < 0.66
        axes.text(
            0.01 if inside else result.rank_k[10 if behind else 1] + 0.01,
            place,
            share + lost,
            fontsize=8.5,
            va="center",
            color="white" if inside else _INK,
        )
    axes.set_yticks(places, [d.title for d in results], fontsize=9)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="y")
    axes.legend(
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
        ncols=2,
        loc="lower right",
        bbox_to_anchor=(1.0, 0.995),
        borderaxespad=0.1,
    )
    _labels(axes, "Share of probes", "")
    return figure
