"""``homeward quarantine``: lines that could not be taken, with the reason."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from indexer import quarantine
from indexer.quarantine import QuarantineRecord
from indexer.times import rfc3339
from service.cli.console import (
    AsJson,
    DataDir,
    catalog_for,
    columns,
    err,
    expected_errors,
    out,
    print_json,
    record_read,
    settings_for,
)

app = typer.Typer(
    help="Look at lines of batches and files that could not be taken.", no_args_is_help=True
)

DETAIL_SHOWN = 80


@app.command("list")
@expected_errors
def list_items(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most items to list.")] = 1000,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List what is in the quarantine, newest first, without the lines themselves."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        records = quarantine.items(catalog, limit)
    if as_json:
        print_json([_values(record) for record in records])
        return
    if not records:
        out.print("The quarantine is empty.")
        return
    rows = [("id", "when", "where", "bytes", "code", "why")]
    rows += [
        (
            one.item_id,
            rfc3339(one.at),
            one.place,
            str(one.size),
            one.code,
            one.detail[:DETAIL_SHOWN],
        )
        for one in records
    ]
    out.print(Text(columns(rows)))


@app.command("show")
@expected_errors
def show(
    context: typer.Context,
    item_id: Annotated[str, typer.Argument(help="Id of the item.")],
    data_dir: DataDir = None,
) -> None:
    """Print one line as it was received; why it could not be taken goes to standard error."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        record, content = quarantine.show(catalog, item_id)
        record_read(catalog, "quarantine.read", subject=("quarantine", item_id))
    err.print(Text(f"{record.place}, {rfc3339(record.at)}: [{record.code}] {record.detail}"))
    if sys.stdout.isatty():
        # A stranger wrote it: nothing in it may steer the terminal.
        out.print(Text(printable(content.decode("utf-8", "backslashreplace"))))
    else:
        sys.stdout.buffer.write(content + b"\n")
        sys.stdout.flush()


@app.command("drop")
@expected_errors
def drop(
    context: typer.Context,
    item_ids: Annotated[list[str] | None, typer.Argument(help="Ids of items.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Drop all of them.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete lines from the quarantine for good."""
    if every == bool(item_ids):
        raise typer.BadParameter("name the items, or give --all")
    with catalog_for(settings_for(context, data_dir)) as catalog:
        dropped = quarantine.drop(catalog, None if every else item_ids)
    out.print(f"{dropped} dropped.")


def printable(text: str) -> str:
    """``text`` with everything that is not a visible character written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _values(record: QuarantineRecord) -> dict[str, object]:
    return {
        "item_id": record.item_id,
        "at": rfc3339(record.at),
        "actor": record.actor,
        "place": record.place,
        "code": record.code,
        "detail": record.detail,
        "bytes": record.size,
    }
