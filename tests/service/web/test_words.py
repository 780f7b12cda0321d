"""The texts: all there, all used, and saying no more than was measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import service.web
from service.search.rank import Candidate
from service.web import texts
from service.web.held import Held, HeldPhoto, HeldPhotoGone
from service.web.texts.pages import TEXTS
from service.web.texts.problems import PROBLEMS
from service.web.views import expectation
from tests.house import words

ROOT = Path(service.web.__file__).parent
SOURCES = [*ROOT.rglob("*.html"), *(p for p in ROOT.rglob("*.py") if "texts" not in p.parts)]
GROUPS = ("status", "row", "purpose", "band", "band.about", "reason", "end", "job", "job.state",
          "done", "generation.state", "generation.event", "finding", "place", "place.band",
          "place.short", "side", "role", "link", "links.kind", "links.state", "links.side",
          "approval.state", "hold.reason", "hold.kind",
          "flag_reason", "withheld_outcome", "report.table", "report.by", "report.cell",
          "report.size", "report.reconciled")  # fmt: skip


def test_every_text_that_is_asked_for_is_there_and_every_text_is_used() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    asked = set(re.findall(r"\bt\('([\w.]*\w)'", code))
    asked |= set(re.findall(r"texts\.text\(\s*\"([\w.]+)\"", code))
    asked |= set(re.findall(r"\"(figure\.\w+)\"", code))
    for plural in re.findall(r"\btn\('([\w.]+)'", code):
        asked |= {f"{plural}.one", f"{plural}.other"}
    asked |= {"choose.title", "app.name"}
    assert asked - set(TEXTS) == set()
    in_groups = {key for key in TEXTS if key.rpartition(".")[0] in GROUPS}
    # The acts that a report counts have a dot in their names.
    in_groups |= {key for key in TEXTS if key.startswith("report.cell.")}
    assert set(TEXTS) - asked - in_groups == set()


def test_no_text_claims_identity() -> None:
    assert {key: words.offences(text) for key, text in TEXTS.items() if words.offences(text)} == {}
    assert [key for key, text in TEXTS.items() if text.strip() != text] == []


def test_no_problem_claims_identity_and_each_has_a_title() -> None:
    for code, parts in PROBLEMS.items():
        assert words.offences("\n".join(parts)) == [], code
        assert parts[0], code


def test_unknown_problems_are_told_in_the_words_of_the_error() -> None:
    found = texts.problem("storage_full", "The disk is full.", "Free space.")
    assert (found.title, found.detail, found.remedy) == (
        "Storage full",
        "The disk is full.",
        "Free space.",
    )


@pytest.fixture
def candidate() -> Any:
    from datetime import UTC, datetime

    from indexer.records import AdSummary, LeadRecord

    ad = AdSummary(
        ad_id="a", site="s", external_id="1", url=None, title=None,
        posted_at=datetime(2026, 1, 1, tzinfo=UTC), city=None, region=None,
    )  # fmt: skip
    lead = LeadRecord(lead_id="l", ads=1, images=1, first_seen=None, last_seen=None)
    face: Any = None
    return Candidate(
        candidate_id="c", rank=1, score=0.9, false_match_rate=1e-4, false_match_rate_upper=2e-4,
        false_match_rate_resolved=True, expected_false_candidates=0.025,
        expected_false_candidates_upper=0.05, band="strong", limited_pictures=0,
        rate_notes=(), status="unreviewed", photos_fused=1,
        person_face_id=None, face=face, image_sha256="0" * 64, ad=ad, lead=lead,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "resolved", "says"),
    [
        (0.025, True, "At least 1 stranger in about 40 searches"),
        (0.0003, True, "in about 3,300 searches"),
        (0.4, True, "in about 2 searches"),
        (0.7, True, "in about 1.4 searches"),
        (1.0, True, "about 1 stranger in each search"),
        (36.4, True, "about 36 strangers in each search"),
        (12345.0, True, "about 12,000 strangers"),
        (0.01, False, "the cautious bound is 1 stranger in 100 searches"),
        (7.2, False, "the cautious bound is 7 strangers"),
    ],
)
def test_strangers_to_expect_in_plain_words(
    candidate: Candidate, expected: float, resolved: bool, says: str
) -> None:
    item = replace(
        candidate, expected_false_candidates=expected, false_match_rate_resolved=resolved
    )
    assert says in expectation(item)


def test_without_a_calibration_nothing_is_claimed(candidate: Candidate) -> None:
    item = replace(candidate, expected_false_candidates=None, band=None)
    assert expectation(item) == TEXTS["expect.unknown"]


def test_where_the_rate_does_not_hold_no_number_of_strangers_is_named(
    candidate: Candidate,
) -> None:
    assert expectation(replace(candidate, limited_pictures=1)) == expectation(candidate)
    assert expectation(replace(candidate, limited_pictures=2)) == TEXTS["expect.outside"]


def held(held_id: str, session_id: str = "s", data: bytes = b"x") -> HeldPhoto:
    return HeldPhoto(
        held_id=held_id, session_id=session_id, case_id="c", aim="enrol", data=data,
        filename=None, faces=(), preview=b"", crops=(), sha256="0" * 64,
    )  # fmt: skip


def test_held_photos_go_after_a_while_and_give_way() -> None:
    now = [0.0]
    store = Held(max_bytes=100, clock=lambda: now[0])
    store.put(held("a"))
    assert store.get("a", "s").data == b"x"
    with pytest.raises(HeldPhotoGone):
        store.get("a", "another session")
    now[0] = 15 * 60
    with pytest.raises(HeldPhotoGone):
        store.get("a", "s")
    for number in range(9):
        store.put(held(f"b{number}"))
    with pytest.raises(HeldPhotoGone):
        store.get("b0", "s")
    store.put(held("large", "t", b"x" * 95))
    assert store.get("large", "t").size == 95
    with pytest.raises(HeldPhotoGone):
        store.get("b1", "s")
    store.drop_where(session_id="t")
    with pytest.raises(HeldPhotoGone):
        store.get("large", "t")


def _colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6});", block))


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(scheme: str) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for text, 3 to 1 for the edges of controls and the focus."""
    sheet = (ROOT / "static" / "homeward.css").read_text(encoding="utf-8")
    bright, dark = re.findall(r":root \{(.*?)\n *\}", sheet, flags=re.S)[:2]
    colour = {**_colours(bright), **(_colours(dark) if scheme == "dark" else {})}
    grounds = ("paper", "sheet", "accent-soft")
    text = [(ink, ground) for ink in ("ink", "soft", "accent", "good") for ground in grounds]
    text += [("warn", "warn-soft"), ("bad", "bad-soft"), ("good", "good-soft"), ("warn", "sheet")]
    text += [("bad", "sheet"), ("bad", "paper"), ("accent-ink", "accent"), ("sheet", "bad")]
    text += [("band-strong-ink", "band-4"), ("band-strong-ink", "band-3")]
    text += [("band-soft-ink", "band-2"), ("band-soft-ink", "band-1")]
    edges = [(line, ground) for line in ("line-strong", "focus") for ground in grounds[:2]]
    poor = {pair for pair in text if _contrast(colour[pair[0]], colour[pair[1]]) < 4.5}
    poor |= {pair for pair in edges if _contrast(colour[pair[0]], colour[pair[1]]) < 3}
    assert poor == set()
