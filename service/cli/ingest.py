"""``homeward ingest``: ads and cases from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from indexer.ingest import MAX_LISTED, ingest_ads, ingest_cases
from indexer.records import IngestReport, Progress
from indexer.workspace import Workspace
from service.cli.console import (
    SOME_REFUSED,
    AsJson,
    DataDir,
    Reporter,
    err,
    expected_errors,
    out,
    print_json,
    settings_for,
    workspace_for,
)

SHOWN_REFUSALS = 50

app = typer.Typer(help="Take in ads or cases from files.", no_args_is_help=True)


@app.command("ads")
@expected_errors
def ads(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="One ad on each line.")],
    images: Annotated[
        Path, typer.Option("--images", metavar="DIR", help="Folder that `images` are relative to.")
    ],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Take in ads and search for every open case. Can be stopped and run again."""

    def work(workspace: Workspace, progress: Callable[[Progress], None]) -> IngestReport:
        return ingest_ads(workspace, file, images, progress=progress)

    _ingest(context, data_dir, "ads", work, as_json)


@app.command("cases")
@expected_errors
def cases(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Cases as CSV or JSONL.")],
    photos: Annotated[
        Path, typer.Option("--photos", metavar="DIR", help="Folder that `photos` are relative to.")
    ],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Take in cases with their photos and search the ads for them."""

    def work(workspace: Workspace, progress: Callable[[Progress], None]) -> IngestReport:
        return ingest_cases(workspace, file, photos, progress=progress)

    _ingest(context, data_dir, "cases", work, as_json)


def _ingest(
    context: typer.Context,
    data_dir: Path | None,
    noun: str,
    work: Callable[[Workspace, Callable[[Progress], None]], IngestReport],
    as_json: bool,
) -> None:
    with workspace_for(settings_for(context, data_dir)) as workspace, Reporter() as reporter:
        report = work(workspace, lambda step: reporter.step(step.stage, step.done, step.total))
    if as_json:
        print_json(_values(report))
    else:
        rate = report.done / report.seconds if report.seconds else 0.0
        out.print(
            Text(
                f"{report.done} {noun} are in ({report.created} new), "
                f"{report.refused_total} items refused, {report.seconds:.1f} s ({rate:.1f}/s)."
            )
        )
        for failure in report.refused[:SHOWN_REFUSALS]:
            err.print(Text(f"  refused {failure.item}: [{failure.code}] {failure.detail}"))
        if report.refused_total > SHOWN_REFUSALS:
            more = report.refused_total - SHOWN_REFUSALS
            err.print(Text(f"  and {more} more; --json lists the first {MAX_LISTED}."))
    if report.refused_total:
        raise typer.Exit(SOME_REFUSED)


def _values(report: IngestReport) -> dict[str, Any]:
    return {
        "done": report.done,
        "created": report.created,
        "refused_total": report.refused_total,
        "refused": [{"item": f.item, "code": f.code, "detail": f.detail} for f in report.refused],
        "seconds": round(report.seconds, 3),
    }
