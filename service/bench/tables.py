"""The figures of one run as plain text, no wider than 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.bench.report import BenchReport, Search


def tables(report: BenchReport) -> str:
    """The report as plain text, for a terminal or a note."""
    machine = report.machine
    parts = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}",
    ]
    for title, head, rows in (*_pictures(report), *_searches(report)):
        if rows:
            parts += ["", title, *_columns(head, rows)]
    parts += ["", *report.notes, f"{report.seconds:.0f} seconds."]
    return "\n".join(parts)


Table = tuple[str, list[str], list[list[str]]]


def _pictures(report: BenchReport) -> Iterable[Table]:
    yield (
        "Detect and embed",
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
    )
    yield (
        "Stages (median)",
        ["stage", "per", "threads", "ms"],
        [[s.name, s.unit, str(s.threads), f"{s.ms:.2f}"] for s in report.stages],
    )


def _searches(report: BenchReport) -> Iterable[Table]:
    yield (
        f"Search, one probe, the {report.neighbours} best",
        [
            "engine",
            "vectors",
            "threads",
            "p50 ms",
            "p99 ms",
            "cpu ms",
            "of Flat",
            "GB/s",
            "of memory",
        ],
        [_search(line) for line in report.search],
    )
    yield (
        "Exactness: the share of the best of float64 brute force that was found",
        ["vectors", "filter", "probes", "recall"],
        [
            [
                _size(line.vectors, line.dimension),
                line.filter,
                str(line.probes),
                f"{line.recall:.3f}" if line.recall == 1 else f"{line.recall:.6f} WRONG",
            ]
            for line in report.exactness
        ],
    )
    yield (
        "Many probes (probes a second)",
        ["vectors", "threads", "probes", "one by one", "at once", "gain"],
        [
            [
                _size(line.vectors, line.dimension),
                str(line.threads),
                str(line.probes),
                f"{line.single_per_s:,.0f}",
                f"{line.at_once_per_s:,.0f}",
                f"{line.gain:.1f} x",
            ]
            for line in report.bursts
        ],
    )
    yield (
        "Filters",
        ["vectors", "threads", "filter", "rows kept", "p50 ms", "of unfiltered"],
        [
            [
                _size(line.vectors, line.dimension),
                str(line.threads),
                line.filter,
                f"{line.kept:.2%}",
                f"{line.p50_ms:.2f}",
                f"{line.of_all:.2f} x",
            ]
            for line in report.filters
        ],
    )
    yield from _keeping(report)


def _keeping(report: BenchReport) -> Iterable[Table]:
    yield (
        "Changes: from their beginning to an answer that shows them (ms)",
        ["vectors", "where", "change", "times", "made", "seen", "longest"],
        [
            [
                _size(line.vectors, line.dimension),
                line.where,
                line.change,
                str(line.count),
                f"{line.made_ms:.2f}",
                f"{line.seen_ms:.2f}",
                f"{line.worst_ms:.2f}",
            ]
            for line in report.changes
        ],
    )
    yield (
        "Restart: codes checked when opened, vectors when first read (ms)",
        ["vectors", "files from", "open", "first search", "searches after it"],
        [
            [
                _size(line.vectors, line.dimension),
                "disk" if line.from_disk else "memory",
                f"{line.open_ms:,.0f}",
                f"{line.first_ms:.1f}",
                f"{line.early_ms:.1f} (the next {line.early})",
            ]
            for line in report.restarts
        ],
    )
    yield (
        "Bytes a vector",
        ["vectors", "segments", "codes", "with ids and tags", "on disk", "resident", "written in"],
        [
            [
                _size(line.vectors, line.dimension),
                str(line.segments),
                f"{line.scanned:.0f}",
                f"{line.mapped:.0f}",
                f"{line.disk:.0f}",
                "-" if line.resident is None else f"{line.resident:.0f}",
                f"{line.write_s:.0f} s",
            ]
            for line in report.footprints
        ],
    )
    yield (
        "Memory, high-water mark so far (MiB)",
        ["after", "MiB"],
        [[name, f"{mib:,.0f}"] for name, mib in report.memory_mib.items()],
    )


def _search(line: Search) -> list[str]:
    own = [line.engine, _size(line.vectors, line.dimension), str(line.threads)]
    if line.p50_ms is None:
        return [*own, line.skipped or "-"]
    return [
        *own,
        f"{line.p50_ms:.2f}",
        "-" if line.p99_ms is None else f"{line.p99_ms:.2f}",
        "-" if line.cpu_ms is None else f"{line.cpu_ms:.2f}",
        "" if line.against_flat is None else f"{line.against_flat:.2f} x",
        "" if line.gb_per_s is None else f"{line.gb_per_s:.1f}",
        "" if line.of_memory is None else f"{line.of_memory:.0%}",
    ]


def _size(vectors: int, dimension: int) -> str:
    return f"{vectors:,} x {dimension}"


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns; the last cell of a row that is short takes as much room as it needs."""
    full = [row for row in rows if len(row) == len(head)]
    widths = [len(cell) for cell in head]
    for row in [*full, *(row[:-1] for row in rows if len(row) < len(head))]:
        widths[: len(row)] = [max(len(c), w) for c, w in zip(row, widths, strict=False)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in [head, *rows]
    ]
