"""Profiles: what is set by default for a place and its law. One table, and no other code asks
which profile is in use.

A profile gives settings their defaults. A setting that is given wins; where it is laxer than the
profile, ``homeward profile show`` and ``homeward doctor`` say so. Sources marked "to be verified"
are from general knowledge; none of it is legal advice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Profile = Literal["standard", "eu", "washington", "virginia"]
PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)


@dataclass(frozen=True, slots=True)
class Rule:
    """``values``: by profile, in the order of ``PROFILES``; ``laxer``: whether a value asks for
    less than that of the profile."""

    setting: str
    values: tuple[Any, Any, Any, Any]
    laxer: Callable[[Any, Any], bool]
    about: str
    source: str

    def value(self, profile: str) -> Any:
        """What the profile sets."""
        return self.values[PROFILES.index(profile)]


def _longer(value: float, limit: float) -> bool:
    return value > limit


def _longer_or_never(value: float, limit: float) -> bool:
    """0 stands for no limit."""
    return limit > 0 and (value == 0 or value > limit)


def _unlike(strict: str) -> Callable[[Any, Any], bool]:
    def laxer(value: Any, wanted: Any) -> bool:
        return bool(wanted == strict and value != strict)

    return laxer


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "ad_faces",
        ("standard", "transient", "standard", "standard"),
        _unlike("transient"),
        "which faces of ads are kept",
        "EU AI Act, Article 5(1)(e), on untargeted scraping for databases of faces",
    ),
    Rule(
        "ad_max_age_days",
        (0, 180, 365, 365),
        _longer_or_never,
        "days after which ads that are no longer seen are forgotten (0: never)",
        "Directive (EU) 2016/680, Article 5, on time limits for erasure; elsewhere a choice of "
        "this project (to be verified)",
    ),
    Rule(
        "approval",
        ("off", "required", "required", "off"),
        _unlike("required"),
        "whether a second person approves a case before it is searched",
        "EU AI Act, Article 26(10); RCW 43.386.080 (to be verified)",
    ),
    Rule(
        "approval_days",
        (90, 30, 90, 90),
        _longer,
        "days for which an approval holds",
        "a choice of this project: no longer than a search is needed",
    ),
    Rule(
        "withheld_hours",
        (24.0, 24.0, 24.0, 24.0),
        _longer,
        "hours in which a withheld picture has to be settled",
        "18 USC 2258A, 'as soon as reasonably possible' (to be verified)",
    ),
)
"""Every setting that a profile may set."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """What holds under every profile, because it cannot be set."""

    what: str
    value: str
    source: str


FIXED: Final[tuple[Fixed, ...]] = (
    Fixed(
        "searches",
        "of open cases only, with a purpose of the list",
        "EU AI Act, Article 26(10); Va. Code 15.2-1723.2 (to be verified)",
    ),
    Fixed("audit log", "never purged, so kept for more than a year", "CJIS AU-11; AI Act 12, 19"),
    Fixed("sessions", "end after 30 minutes without use", "CJIS AC-11"),
    Fixed(
        "answers",
        "candidates for a person to review, never a verdict",
        "EU AI Act, Article 14; RCW 43.386.070 (to be verified)",
    ),
)


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as given, and the profile's for those that are not; an unknown profile adds
    nothing, and is refused by whoever reads the settings."""
    profile = given.get("profile", "standard")
    values = dict(given)
    if profile in PROFILES:
        for rule in RULES:
            values.setdefault(rule.setting, rule.value(profile))
    return values


@dataclass(frozen=True, slots=True)
class State:
    """A setting as it is, what the profile says, and whether it is laxer."""

    rule: Rule
    value: Any
    wanted: Any
    laxer: bool


def states(profile: str, settings: Mapping[str, Any]) -> list[State]:
    """How the settings, by name, stand to the profile."""
    return [
        State(
            rule,
            settings[rule.setting],
            rule.value(profile),
            rule.laxer(settings[rule.setting], rule.value(profile)),
        )
        for rule in RULES
    ]


def table() -> str:
    """The table of the documentation, in Markdown."""
    lines = [f"| Setting | {' | '.join(PROFILES)} | Means | Source |", "|---|" + "---|" * 6]
    for rule in RULES:
        values = " | ".join(f"`{_plain(value)}`" for value in rule.values)
        lines.append(
            f"| `HOMEWARD_{rule.setting.upper()}` | {values} | {rule.about} | {rule.source} |"
        )
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
