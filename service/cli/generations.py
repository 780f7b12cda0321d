"""``homeward generations``: the vectors of each face pack, and which of them are in use."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from indexer.generations import figures, missing, rows, switching
from indexer.generations.rows import Change, Generation
from indexer.times import moment_text
from indexer.workspace import Workspace
from service.cli import compared
from service.cli.console import (
    AsJson,
    DataDir,
    Reporter,
    catalog_for,
    columns,
    err,
    expected_errors,
    out,
    print_json,
    settings_for,
    workspace_for,
)
from service.cli.reindex import ACTOR
from service.cli.search import K

app = typer.Typer(help="Vectors of each face pack, and which are in use.", no_args_is_help=True)

Contract = Annotated[str, typer.Argument(metavar="CONTRACT")]
KeepDays = Annotated[
    float, typer.Option("--keep-days", min=0, help="How long the one before is kept.")
]


@app.command("list")
@expected_errors
def list_all(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the generations, what is missing in each, and which was in use when."""
    settings = settings_for(context, data_dir)
    with catalog_for(settings) as catalog, catalog.read() as session:
        found = [
            (one, missing.look(session, one.contract_id)) for one in rows.all_generations(session)
        ]
        history = rows.changes(session)
    if as_json:
        print_json(
            {
                "generations": [_generation(one, left) for one, left in found],
                "history": [_change(change) for change in history],
            }
        )
        return
    lines = [("contract", "pack", "state", "missing", "in use since", "kept until")]
    for one, left in found:
        whole = f"{left.ad_images:,} images, {left.photos:,} photos" if left else "nothing"
        lines.append(
            (
                one.contract_id,
                one.pack,
                one.state,
                whole,
                moment_text(one.activated_at) or "",
                moment_text(one.keep_until) or "",
            )
        )
    out.print(Text(columns(lines)))
    out.print()
    out.print(
        Text(columns([(moment_text(c.at) or "", c.event, c.contract_id, c.actor) for c in history]))
    )


@app.command("compare")
@expected_errors
def compare(
    context: typer.Context,
    contract_id: Contract,
    k: K = 20,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Say what would change for the open cases if a generation came into use. Changes nothing."""
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        with Reporter() as reporter:
            found = compared.run(workspace, contract_id, k, ACTOR, reporter)
        if as_json:
            print_json(compared.as_json(workspace, found))
        else:
            compared.show(workspace, found)


@app.command("switch")
@expected_errors
def switch(
    context: typer.Context,
    contract_id: Contract,
    keep_days: KeepDays = switching.KEEP_DAYS,
    data_dir: DataDir = None,
) -> None:
    """Bring a whole generation into use. The one before is kept, and still receives what is new."""
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        found = switching.activate(workspace, contract_id, actor=ACTOR, keep_days=keep_days)
        _say_in_use(workspace, found)


@app.command("rollback")
@expected_errors
def rollback(
    context: typer.Context,
    keep_days: KeepDays = switching.KEEP_DAYS,
    data_dir: DataDir = None,
) -> None:
    """Bring back the generation that was in use before."""
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        found = switching.roll_back(workspace, actor=ACTOR, keep_days=keep_days)
        _say_in_use(workspace, found)


@app.command("take-over")
@expected_errors
def take_over(context: typer.Context, data_dir: DataDir = None) -> None:
    """Have the installed version answer at once, with whatever is read so far.

    For an upgrade that makes other vectors, where searches may wait for `homeward reindex`.
    """
    with workspace_for(settings_for(context, data_dir), take_over=True) as workspace:
        found, pack = workspace.contract_id, workspace.pack
    out.print(
        Text(
            f"{found} (pack {pack}) is in use. Run `homeward reindex`: until it is through, "
            "searches see only what is read."
        )
    )


@app.command("drop")
@expected_errors
def drop(context: typer.Context, contract_id: Contract, data_dir: DataDir = None) -> None:
    """Give up a generation that is not in use, and take its vectors away."""
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        switching.drop(workspace, contract_id, actor=ACTOR)
        switching.clear(workspace, contract_id, most=None)
        workspace.maintain()
    out.print(Text(f"Nothing is left of {contract_id}."))


def _say_in_use(ws: Workspace, generation: Generation) -> None:
    out.print(
        Text(
            f"{generation.contract_id} (pack {generation.pack}) is in use. Every open case is "
            "compared with the ads once more. `homeward generations rollback` brings back the one "
            "that was in use until now."
        )
    )
    with ws.catalog.read() as session:
        lost = sum(figures.read_in_vain(session, generation.contract_id).values())
    if lost:
        photos = "1 photo of an open case is" if lost == 1 else f"{lost:,} photos of open cases are"
        err.print(
            Text(
                f"{photos} not enrolled in it: no face was found where it lay. Enrol anew what is "
                "missing; `homeward generations compare` names the cases.",
                "yellow",
            )
        )


def _generation(one: Generation, left: missing.Missing) -> dict[str, Any]:
    return {
        "contract_id": one.contract_id,
        "pack": one.pack,
        "dimension": one.dimension,
        "state": one.state,
        "missing": {"ad_images": left.ad_images, "photos": left.photos},
        "created_at": moment_text(one.created_at),
        "activated_at": moment_text(one.activated_at),
        "keep_until": moment_text(one.keep_until),
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "at": moment_text(change.at),
        "event": change.event,
        "contract_id": change.contract_id,
        "pack": change.pack,
        "actor": change.actor,
    }
