"""``homeward reindex``: everything stored, under the present embedding contract."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from indexer.reindex import reindex as run_reindex
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


@expected_errors
def reindex(
    context: typer.Context,
    pack: Annotated[
        str | None, typer.Option("--pack", metavar="NAME", help="Face pack; default: as set.")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Read stored images again for another pack or version. Can be stopped and run again."""
    settings = settings_for(context, data_dir)
    if pack is not None:
        settings = settings.model_copy(update={"pack": pack})
    with workspace_for(settings) as workspace, Reporter() as reporter:
        report = run_reindex(
            workspace, lambda step: reporter.step(step.stage, step.done, step.total)
        )
        contract_id = workspace.contract_id
    if as_json:
        print_json(
            {
                "contract_id": contract_id,
                "jobs": report.jobs,
                "failures": [
                    {"item": f.item, "code": f.code, "detail": f.detail} for f in report.failures
                ],
            }
        )
    else:
        out.print(Text(f"Everything stored is under {contract_id}; {report.jobs} jobs were done."))
        for failure in report.failures:
            err.print(Text(f"  left out {failure.item}: [{failure.code}] {failure.detail}"))
    if report.failures:
        raise typer.Exit(SOME_REFUSED)
