"""Rates by group as one picture: a point and its interval for each group and figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from indexer.evaluation.group_report import SHOWN_LEVEL, TITLES
from indexer.evaluation.groups import PEOPLE_NEEDED, GroupReport
from indexer.evaluation.groups import Figure as Rate

_INK = "#2b2f33"
_QUIET = "#7a828a"
_BLUE = "#2f6690"

Row = tuple[str, dict[str, Rate]]


def groups(report: GroupReport | None) -> Figure | None:
    """All groups of all attributes, one panel for each figure; ``None`` where none is large
    enough."""
    if report is None:
        return None
    rows: list[Row] = [
        (f"{one.attribute}: {group.value} ({group.people:,})", dict(group.figures))
        for one in report.attributes
        for group in one.groups
        if group.people >= PEOPLE_NEEDED
    ]
    names = [name for name in TITLES if any(_known(figures.get(name)) for _, figures in rows)]
    if not names:
        return None
    height = 1.9 + 0.3 * len(rows)
    figure = Figure(figsize=(2.6 + 1.9 * len(names), height), facecolor="white")
    FigureCanvasAgg(figure)
    width = figure.get_size_inches()[0]
    figure.text(
        0.2 / width,
        1 - 0.14 / height,
        f"Rates by group, at the threshold for FMR {SHOWN_LEVEL} over all people",
        fontsize=13,
        color=_INK,
        va="top",
        weight="bold",
    )
    figure.text(
        0.2 / width,
        0.1 / height,
        f"In brackets: people. Bars: 95% interval. Groups of fewer than {PEOPLE_NEEDED} people are"
        " left out. Labels as given.",
        fontsize=8,
        color=_QUIET,
    )
    step = (width - 2.6) / len(names)
    for number, name in enumerate(names):
        place = ((2.3 + number * step) / width, 0.75 / height, (step - 0.3) / width)
        axes = figure.add_axes((*place, 1 - 1.6 / height))
        _panel(axes, TITLES[name], [figures.get(name) for _, figures in rows])
        axes.set_yticks(
            range(len(rows)), [label for label, _ in rows] if not number else [], fontsize=8.5
        )
        axes.set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _known(rate: Rate | None) -> bool:
    return rate is not None and rate.value is not None


def _panel(axes: Axes, title: str, rates: Sequence[Rate | None]) -> None:
    """One figure of all groups; what has none stays empty."""
    for row, rate in enumerate(rates):
        if rate is None or rate.value is None:
            continue
        if rate.interval is not None:
            span = [rate.interval.low, rate.interval.high]
            axes.plot(span, [row, row], color=_BLUE, lw=5, alpha=0.25, solid_capstyle="butt")
        axes.plot(rate.value, row, "o", color=_BLUE, ms=5)
    axes.set_title(title, fontsize=9, color=_INK, loc="left")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=3)
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.tick_params(colors=_INK, labelsize=8)
    axes.grid(visible=True, axis="x", color="#e8ebee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _percent(value: float, _: object = None) -> str:
    return f"{value * 100:.3g}%" if math.isfinite(value) else ""
