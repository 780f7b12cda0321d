"""``homeward reindex``: everything stored, read again for another face pack or a new version."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from indexer.generations import switching
from indexer.generations.comparison import Comparison
from indexer.generations.rows import Generation
from indexer.generations.views import Unloaded
from indexer.reindex import ReindexReport
from indexer.reindex import reindex as run_reindex
from indexer.workspace import Workspace
from models.pipeline import Analyser
from service.cli import compared
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
from service.config import Settings
from service.opening import open_pack

ACTOR = "command line"
COMPARED = 20
"""Candidates of each case that are compared at the end, as many as a list shows."""


@expected_errors
def reindex(
    context: typer.Context,
    pack: Annotated[
        str | None, typer.Option("--pack", metavar="NAME", help="Face pack; default: that in use.")
    ] = None,
    switch: Annotated[
        bool, typer.Option("--switch", help="Bring it into use as soon as it is whole.")
    ] = False,
    keep_days: Annotated[
        float, typer.Option("--keep-days", min=0, help="How long the one before is kept.")
    ] = switching.KEEP_DAYS,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Read stored images again for another pack or version, beside the one in use.

    Searches and ingest go on. Can be stopped, killed and run again, and shared by any number of
    `homeward worker`. At the end it says what would change for the open cases.
    """
    settings = settings_for(context, data_dir)
    with workspace_for(settings, analysing=False) as workspace:
        with Reporter() as reporter:
            generation = _generation(workspace, settings, pack)
            report = run_reindex(
                workspace.views.of(generation.contract_id),
                lambda step: reporter.step(step.stage, step.done, step.total),
            )
            found = None
            if switch and generation.state != "active":
                generation = switching.activate(
                    workspace, generation.contract_id, actor=ACTOR, keep_days=keep_days
                )
            elif generation.state != "active":
                contract_id = generation.contract_id
                found = compared.run(workspace, contract_id, COMPARED, ACTOR, reporter)
        if as_json:
            print_json(_values(workspace, generation, report, found))
        else:
            _show(generation, report)
        if found is not None and not as_json:
            out.print()
            compared.show(workspace, found)
    if report.failures:
        raise typer.Exit(SOME_REFUSED)


def _generation(ws: Workspace, settings: Settings, pack: str | None) -> Generation:
    """The generation of the pack, begun where there is none."""
    name = pack or ws.pack or settings.pack
    if name == ws.pack and not isinstance(ws.analyser, Unloaded):
        contract = ws.contract_id, name, ws.analyser.dimension
    else:
        # Another pack, or one that makes other vectors in this version than it did before.
        loaded = Analyser(open_pack(settings, name))
        contract = loaded.contract_id, name, loaded.dimension
    return switching.begin(ws, *contract, actor=ACTOR)


def _values(
    ws: Workspace, generation: Generation, report: ReindexReport, found: Comparison | None
) -> dict[str, Any]:
    return {
        "contract_id": generation.contract_id,
        "pack": generation.pack,
        "state": generation.state,
        "jobs": report.jobs,
        "images": report.images,
        "seconds": round(report.seconds, 3),
        "failures": [{"item": f.item, "code": f.code, "detail": f.detail} for f in report.failures],
        "comparison": None if found is None else compared.as_json(ws, found),
    }


def _show(generation: Generation, report: ReindexReport) -> None:
    rate = report.images / report.seconds if report.seconds else 0.0
    out.print(
        Text(
            f"Everything stored is under {generation.contract_id}; {report.jobs} jobs were done, "
            f"{report.images:,} pictures at {rate:.1f}/s."
        )
    )
    if generation.state != "active":
        out.print(
            Text(
                "It is not in use yet: look at what would change, then `homeward generations "
                f"switch {generation.contract_id}`."
            )
        )
    for failure in report.failures:
        err.print(Text(f"  left out {failure.item}: [{failure.code}] {failure.detail}"))
