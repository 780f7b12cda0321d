"""A comparison of two generations in words and figures, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from rich.text import Text

from indexer.generations.compare import compare
from indexer.generations.comparison import BANDS, FINDINGS, Band, Comparison, Finding, Side
from indexer.generations.shown import ShownWorst, worst
from indexer.times import rfc3339
from indexer.workspace import Workspace
from service.cli.console import Reporter, columns, out

_WHOLE: TypeAdapter[Comparison] = TypeAdapter(Comparison)

_BAND_WORDS: Mapping[Band, str] = {
    "first": "1",
    "top_5": "2-{top}",
    "listed": "6-{k}",
    "lower": "to {depth}",
    "beyond": "below",
    "absent": "not there",
}
_STATE_WORDS: Mapping[str, str] = {
    "lower": "further down",
    "beyond": "below place {depth}",
    "no_face": "face not found",
    "unread": "picture not read",
    "no_photo": "no photo of the case enrolled",
}
_FINDING_WORDS: Mapping[Finding, str] = {
    "confirmed": "judged to support the same person",
    "refused": "judged to support different people",
    "inconclusive": "judged inconclusive",
}


def run(ws: Workspace, contract_id: str, k: int, actor: str, reporter: Reporter) -> Comparison:
    """Compare, and show how far that is."""
    return compare(
        ws,
        contract_id,
        k=k,
        actor=actor,
        progress=lambda step: reporter.step(step.stage, step.done, step.total),
    )


def as_json(ws: Workspace, found: Comparison) -> dict[str, Any]:
    """The summary for programs; the cases are in the report, and in the interface."""
    values: dict[str, Any] = _WHOLE.dump_python(found, mode="json")
    values["at"] = rfc3339(found.at)
    numbers = {one.worst.case_id: one.case_number for one in worst(ws, found)}
    for one in values["worst"]:
        one["case_number"] = numbers.get(one["case_id"])
    return values


def show(ws: Workspace, found: Comparison) -> None:
    """Print the summary."""
    for line in lines(found, worst(ws, found)):
        out.print(Text(line))


def lines(found: Comparison, worst_cases: Sequence[ShownWorst]) -> Iterator[str]:
    """The summary, line by line; ``worst_cases`` with their numbers."""
    yield f"{found.new.contract_id}, compared with {found.old.contract_id}, which is in use."
    yield ""
    if found.overlap is None or found.face_overlap is None:
        yield f"Open cases with a photo: {found.cases:,}. Nothing is listed for them in either."
    else:
        yield (
            f"Open cases: {found.cases:,}, the first {found.k} candidates of each. Of the entries "
            f"of both lists {found.overlap:.1%} are in the other too, {found.face_overlap:.1%} "
            "with the same face in front (means of the cases)."
        )
    for word, count, states in (
        ("lost", found.lost, found.lost_to),
        ("gained", found.gained, found.gained_from),
    ):
        yield f"Candidates {word}: {count:,}{_states(states, word, found.depth)}."
    yield ""
    for finding in FINDINGS:
        yield from _judged(found, finding)
    if worst_cases:
        yield "Cases that change most:"
        table = [("case", "agency", "overlap", "lost", "gained")]
        table += [
            (
                one.case_number,
                one.agency,
                f"{one.worst.overlap:.0%}",
                str(one.worst.lost),
                str(one.worst.gained),
            )
            for one in worst_cases
        ]
        yield columns(table)
        yield ""
    yield columns(list(_sides(found.old, found.new)))
    if found.search_ratio is not None:
        yield f"A search takes {found.search_ratio:.2f} times as long, measured in this run."
    yield ""
    yield (
        "Scores of two models are on two scales and are not compared. The pictures are on the page "
        f"/generations/{found.new.contract_id}/comparison of the running service."
    )


def _states(states: Mapping[str, int], word: str, depth: int) -> str:
    if not states:
        return ""
    told = ", ".join(
        f"{_STATE_WORDS[state].format(depth=depth)} {count:,}" for state, count in states.items()
    )
    return f" (now: {told})" if word == "lost" else f" (before: {told})"


def _judged(found: Comparison, finding: Finding) -> Iterator[str]:
    """Where the pairs with a finding were, by row, and are, by column."""
    total = found.pairs(finding)
    yield f"Pairs {_FINDING_WORDS[finding]}: {total:,}."
    if not total:
        yield ""
        return
    pairs = {(m.old, m.new): m.pairs for m in found.moves if m.finding == finding}
    least = {"top_5": 1, "listed": 5}
    bands = [band for band in BANDS if found.k > least.get(band, 0)]
    values = {"top": min(5, found.k), "k": found.k, "depth": found.depth}
    words = [_BAND_WORDS[band].format(**values) for band in bands]
    table: list[tuple[str, ...]] = [("place before \\ after", *words)]
    for word, before in zip(words, bands, strict=True):
        row = [pairs.get((before, after), 0) for after in bands]
        if any(row):
            table.append((word, *(str(count) if count else "." for count in row)))
    yield columns(table)
    yield ""


def _sides(old: Side, new: Side) -> Iterator[tuple[str, str, str]]:
    def row(name: str, *values: object) -> tuple[str, str, str]:
        first, second = ("not known" if v is None else str(v) for v in values)
        return name, first, second

    yield "", "in use", "the other"
    yield row("face pack", old.pack, new.pack)
    for name, field in (
        ("faces in ads", "faces"),
        ("pictures in ads", "ad_images"),
        ("  of them without a face", "without_face"),
        ("  that could not be read", "failed"),
        ("  not read yet", "unread"),
        ("photos of open cases", "photos"),
        ("  of them not enrolled", "not_enrolled"),
        ("  not read yet", "photos_unread"),
        ("cases without an enrolled photo", "cases_without_photo"),
    ):
        yield row(name, f"{getattr(old, field):,}", f"{getattr(new, field):,}")
    yield row("pictures a second when built", *map(_rounded, _pair(old, new, "images_per_second")))
    yield row("milliseconds for a list", *map(_rounded, _pair(old, new, "search_ms")))


def _pair(old: Side, new: Side, field: str) -> tuple[float | None, float | None]:
    return getattr(old, field), getattr(new, field)


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"
