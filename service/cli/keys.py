"""``homeward keys``: make, list and revoke API keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.text import Text

from indexer.times import rfc3339
from service.accounts.keys import KeyRecord, KeyStore
from service.cli.console import (
    AsJson,
    DataDir,
    catalog_for,
    columns,
    expected_errors,
    out,
    print_json,
    settings_for,
)
from service.config import Settings

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command("create")
@expected_errors
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What or whom the key is for.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make an administrator key and print it once."""
    with _store(settings_for(context, data_dir)) as store:
        made = store.create(name[:100])
    if as_json:
        print_json({**_values(made.record), "key": made.text})
        return
    out.print(Text(f"Administrator key {made.record.key_id} (shown once, keep it):"))
    out.print(Text(f"    {made.text}"))


@app.command("list")
@expected_errors
def list_keys(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the keys, never their text."""
    with _store(settings_for(context, data_dir)) as store:
        records = store.list()
    if as_json:
        print_json([_values(record) for record in records])
        return
    rows = [("id", "name", "begins with", "made", "revoked")]
    rows += [
        (
            r.key_id,
            r.name,
            r.prefix,
            rfc3339(r.created_at),
            rfc3339(r.revoked_at) if r.revoked_at else "",
        )
        for r in records
    ]
    out.print(Text(columns(rows)))


@app.command("revoke")
@expected_errors
def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(help="Id of the key.")],
    data_dir: DataDir = None,
) -> None:
    """Take a key back; whoever uses it is refused from now on."""
    with _store(settings_for(context, data_dir)) as store:
        record = store.revoke(key_id)
    out.print(Text(f"Key {record.key_id} ({record.name}) is revoked."))


@contextmanager
def _store(settings: Settings) -> Iterator[KeyStore]:
    with catalog_for(settings) as catalog:
        yield KeyStore(catalog)


def _values(record: KeyRecord) -> dict[str, object]:
    return {
        "key_id": record.key_id,
        "name": record.name,
        "prefix": record.prefix,
        "scopes": list(record.scopes),
        "created_at": rfc3339(record.created_at),
        "revoked_at": rfc3339(record.revoked_at) if record.revoked_at else None,
    }
