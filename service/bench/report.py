"""The figures of one run, and how they are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Throughput:
    """Detection and embedding of one set of pictures.

    ``doublings``: how often each picture is doubled in size first (``None``: as its size asks).
    ``speedup``: against dlib on the same set.
    """

    engine: str
    pictures: str
    doublings: int | None
    threads: int
    images_per_s: float
    faces: int
    speedup: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """Median milliseconds of one stage, for ``unit``."""

    name: str
    unit: str
    threads: int
    ms: float


@dataclass(frozen=True, slots=True)
class Search:
    """Milliseconds for the ``k`` best of ``vectors``; ``skipped`` says why there are none."""

    engine: str
    vectors: int
    dimension: int
    threads: int
    probes: int
    k: int
    p50_ms: float | None
    p95_ms: float | None
    same_answers: bool | None = None
    skipped: str | None = None


@dataclass(slots=True)
class BenchReport:
    """All figures of one run. Memory figures are high-water marks of the process, in MiB."""

    machine: dict[str, Any]
    throughput: list[Throughput] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    search: list[Search] = field(default_factory=list)
    memory_mib: dict[str, float] = field(default_factory=dict)
    neighbours: int = 50
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def tables(report: BenchReport) -> str:
    """The report as plain text, for a terminal or a note."""
    machine = report.machine
    parts = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}",
        "",
        "Detect and embed",
        *_columns(
            ["engine", "pictures", "upsampled", "threads", "images/s", "faces", "against dlib"],
            [
                [
                    line.engine,
                    line.pictures,
                    "by size" if line.doublings is None else f"x{2**line.doublings}",
                    str(line.threads),
                    f"{line.images_per_s:.2f}",
                    str(line.faces),
                    "" if line.speedup is None else f"{line.speedup:.1f} x",
                ]
                for line in report.throughput
            ],
        ),
        "",
        "Stages (median)",
        *_columns(
            ["stage", "per", "threads", "ms"],
            [[s.name, s.unit, str(s.threads), f"{s.ms:.2f}"] for s in report.stages],
        ),
        "",
        f"Search, the {report.neighbours} best, exact (milliseconds a probe)",
        *_columns(
            ["engine", "vectors", "components", "threads", "probes", "p50", "p95", "same answers"],
            [
                [
                    s.engine,
                    f"{s.vectors:,}",
                    str(s.dimension),
                    str(s.threads),
                    str(s.probes),
                    "-" if s.p50_ms is None else f"{s.p50_ms:.2f}",
                    "-" if s.p95_ms is None else f"{s.p95_ms:.2f}",
                    s.skipped or {True: "yes", False: "NO", None: ""}[s.same_answers],
                ]
                for s in report.search
            ],
        ),
        "",
        "Memory, high-water mark so far (MiB)",
        *_columns(
            ["after", "MiB"], [[name, f"{mib:,.0f}"] for name, mib in report.memory_mib.items()]
        ),
        "",
        *report.notes,
        f"{report.seconds:.0f} seconds.",
    ]
    return "\n".join(parts)


def _columns(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
