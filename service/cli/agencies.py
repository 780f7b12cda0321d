"""``homeward agencies``: whose cases are whose."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from indexer.times import rfc3339
from service.accounts import access, agencies
from service.accounts.agencies import AgencyRecord
from service.cli.console import (
    AsJson,
    DataDir,
    catalog_for,
    columns,
    expected_errors,
    operator,
    out,
    print_json,
    settings_for,
)

app = typer.Typer(help="Make, list and retire agencies.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Short name, as cases carry it.")]


@app.command("create")
@expected_errors
def create(
    context: typer.Context,
    name: Name,
    title: Annotated[str, typer.Option("--title", help="How the agency calls itself.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Make an agency."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        made = agencies.create(catalog, access.operator(operator()), name, title)
    out.print(Text(f"Agency {made.name} is made."))


@app.command("list")
@expected_errors
def list_all(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the agencies; the unnamed one is always there."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        found = agencies.all_of(catalog, access.operator(operator()))
    if as_json:
        print_json([_values(record) for record in found])
        return
    rows = [("name", "title", "made", "retired")]
    rows += [
        (
            record.name or "(unnamed)",
            record.title,
            rfc3339(record.created_at),
            rfc3339(record.retired_at) if record.retired_at else "",
        )
        for record in found
    ]
    out.print(Text(columns(rows)))


@app.command("retire")
@expected_errors
def retire(
    context: typer.Context,
    name: Name,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back into use.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Let nobody of an agency in any more, people and keys alike; its cases stay."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        by = access.operator(operator())
        record = agencies.change(catalog, by, name, retired=not undo)
    state = "retired" if record.retired_at else "in use"
    out.print(Text(f"Agency {record.name} is {state}."))


def _values(record: AgencyRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "title": record.title,
        "created_at": rfc3339(record.created_at),
        "retired_at": rfc3339(record.retired_at) if record.retired_at else None,
    }
