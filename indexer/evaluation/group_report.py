"""What was measured by group, as JSON and as plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from indexer.evaluation.groups import (
    LEVELS,
    PEOPLE_NEEDED,
    AttributeReport,
    Figure,
    GroupReport,
    Spread,
)
from indexer.evaluation.protocol import Interval

SHOWN_LEVEL = "1e-3"
"""The rate over all people whose threshold the table shows; JSON has all of ``LEVELS``."""

NOTE = (
    "One threshold holds for all. Strangers of one group resemble each other more than strangers "
    "at large. Labels are as given, a person may have been put wrongly; groups differ in their "
    "photos too, so a difference says what happens here, not why. The worst and the best group "
    "are chosen after the fact: read `at_least`, not the ratio."
)

TITLES: Mapping[str, str] = {
    f"same_fmr@{SHOWN_LEVEL}": "strangers of this group",
    f"cross_fmr@{SHOWN_LEVEL}": "strangers of other groups",
    f"fnmr@{SHOWN_LEVEL}": "pairs of one person missed",
    "rank_1_miss": "not at rank 1",
    "rank_10_miss": "not among the first 10",
    "failure_to_enroll": "no face found",
}
"""The figures that the table and the picture show, and how they are called there."""


def groups_json(report: GroupReport, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """The report as JSON values; ``thresholds`` by level, as scores that are to be exceeded."""
    return {
        "people_needed": PEOPLE_NEEDED,
        "thresholds": {name: round(thresholds[name], 6) for name in LEVELS if name in thresholds},
        "attributes": {one.attribute: _attribute(one) for one in report.attributes},
        "same_in_all": {f"fmr@{level}": _figure(f) for level, f in report.alike.items()},
        "notice": NOTE,
    }


def _attribute(one: AttributeReport) -> dict[str, Any]:
    return {
        "unlabelled_photos": one.unlabelled,
        "same_group": {f"fmr@{level}": _figure(f) for level, f in one.same.items()},
        "cross_group": {f"fmr@{level}": _figure(f) for level, f in one.cross.items()},
        "values": {
            group.value: {
                "people": group.people,
                "photos": group.photos,
                **{name: _figure(figure) for name, figure in group.figures.items()},
            }
            for group in one.groups
        },
        "worst_to_best": {name: _spread(spread) for name, spread in one.spread.items()},
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return {
        "value": _significant(figure.value),
        "interval": _pair(figure.interval),
        "events": figure.events,
        "trials": figure.trials,
        "people": figure.people,
        "reason": figure.reason,
    }


def _spread(spread: Spread) -> dict[str, Any]:
    return {
        "worst": spread.worst,
        "best": spread.best,
        "ratio": _significant(spread.ratio),
        "at_least": _significant(spread.at_least),
        "reason": None if spread.ratio is not None else "nothing was seen in the best group",
    }


def _significant(value: float | None) -> float | None:
    # Rates of strangers are small: decimal places would cut them off.
    return None if value is None else float(f"{value:.6g}")


def _pair(interval: Interval | None) -> list[float] | None:
    if interval is None:
        return None
    return [float(f"{interval.low:.6g}"), float(f"{interval.high:.6g}")]


def render_groups(report: GroupReport) -> str:
    """The figures at the threshold of ``SHOWN_LEVEL`` as lines of plain text."""
    lines = [f"By group, at the threshold for FMR {SHOWN_LEVEL} over all people"]
    for one in report.attributes:
        lines += ["", f"{one.attribute} ({one.unlabelled:,} photos without)"]
        for title, figures in (("same group", one.same), ("different groups", one.cross)):
            if SHOWN_LEVEL in figures:
                lines.append(_line(f"strangers, {title}", figures[SHOWN_LEVEL]))
        for group in one.groups:
            lines.append(f"  {group.value}: {group.people:,} people, {group.photos:,} photos")
            if group.people < PEOPLE_NEEDED:
                lines.append(f"    insufficient data: {PEOPLE_NEEDED} people are needed")
                continue
            lines += [
                "  " + _line(title, group.figures[name])
                for name, title in TITLES.items()
                if name in group.figures
            ]
        lines += [
            f"  {title}: {_spread_text(one.spread[name])}"
            for name, title in TITLES.items()
            if name in one.spread
        ]
    if len(report.attributes) > 1 and SHOWN_LEVEL in report.alike:
        lines += ["", _line("strangers alike in all labels", report.alike[SHOWN_LEVEL])]
    return "\n".join([*lines, "", NOTE])


def _line(title: str, figure: Figure) -> str:
    if figure.value is None:
        return f"  {title:<30}{figure.reason}"
    span = "-"
    if figure.interval is not None:
        span = f"{_short(figure.interval.low)} to {_short(figure.interval.high)}"
    return (
        f"  {title:<30}{_short(figure.value):>8}  ({span}; {figure.events:,} of {figure.trials:,})"
    )


def _short(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 or not value else f"{value:.1e}"


def _spread_text(spread: Spread) -> str:
    named = f"worst {spread.worst}, best {spread.best}"
    if spread.ratio is None:
        return f"{named}; nothing was seen in the best group"
    least = "" if spread.at_least is None else f" (at least {spread.at_least:.1f})"
    return f"{named}: {spread.ratio:.1f} times{least}"
