"""``homeward hashes``: lists of hashes that an agency supplies; pictures they name are withheld."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from indexer.acting import acting
from indexer.errors import SourceUnreadable
from indexer.times import rfc3339
from indexer.withheld import lists
from service.cli.console import (
    SOME_REFUSED,
    AsJson,
    DataDir,
    catalog_for,
    columns,
    err,
    expected_errors,
    out,
    print_json,
    settings_for,
    workspace_for,
)

app = typer.Typer(
    help="Lists of hashes that an agency supplies: pictures they name are shown to nobody.",
    no_args_is_help=True,
)

SHOWN = 20
Name = Annotated[
    str, typer.Option("--list", metavar="NAME", help="What the list is called.", show_default=False)
]


@app.command("load")
@expected_errors
def load(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One hash on each line.")],
    list_name: Name,
    data_dir: DataDir = None,
) -> None:
    """Add the hashes of FILE to a list, and have what is stored compared with it.

    A line holds an MD5, SHA-1 or SHA-256 in hexadecimal, or `pdq:` and a PDQ hash.
    """
    if not 0 < len(list_name) <= 100:
        raise typer.BadParameter("the name of a list has 1 to 100 characters")
    if not file.is_file():
        raise SourceUnreadable(f"There is no file {file}.", remedy="Name a file of hashes.")
    with (
        workspace_for(settings_for(context, data_dir), analysing=False) as workspace,
        file.open("rb") as lines,
    ):
        report = lists.load(workspace, lines, list_name, actor=acting().actor)
    out.print(Text(f"{report.added} hashes added to {list_name!r}, {report.known} were in it."))
    for failure in report.refused[:SHOWN]:
        err.print(Text(f"{failure.item}: {failure.detail}"))
    if report.refused_total:
        err.print(Text(f"{report.refused_total} lines are no hash and were left out."))
        raise typer.Exit(SOME_REFUSED)


@app.command("list")
@expected_errors
def list_lists(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """The lists, how many hashes each holds, and how many pictures wait to be compared."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        found, waiting = lists.list_lists(catalog)
    if as_json:
        print_json(
            {
                "lists": [
                    {
                        "list_name": one.list_name,
                        "loaded_at": rfc3339(one.loaded_at),
                        "actor": one.actor,
                        "hashes": one.hashes,
                    }
                    for one in found
                ],
                "pictures_waiting": waiting,
            }
        )
        return
    rows = [("list", "loaded", "hashes")]
    rows += [
        (
            one.list_name,
            rfc3339(one.loaded_at),
            ", ".join(f"{count} {kind}" for kind, count in sorted(one.hashes.items())),
        )
        for one in found
    ]
    out.print(Text(columns(rows) if found else "There is no list."))
    if waiting:
        out.print(Text(f"{waiting} pictures wait to be compared."))


@app.command("drop")
@expected_errors
def drop(
    context: typer.Context,
    list_name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the list.")],
    data_dir: DataDir = None,
) -> None:
    """Take a list away. What it had withheld stays withheld until somebody settles it."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        gone = lists.drop(catalog, list_name)
    out.print(Text(f"{gone} hashes of {list_name!r} are gone."))
