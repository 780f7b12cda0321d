"""``homeward keys``: make, list and revoke API keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from indexer.times import rfc3339
from service.accounts import access, authority
from service.accounts.keys import (
    ADMINISTRATOR,
    KeyRecord,
    KeyStore,
    checked_scopes,
    expiry_in_days,
)
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
from service.config import Settings

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command("create")
@expected_errors
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What or whom the key is for.")],
    role: Annotated[
        list[str] | None, typer.Option("--role", help="A role; repeat for several.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="A single permission, such as ads:write; repeat for several."),
    ] = None,
    agency: Annotated[
        str | None, typer.Option("--agency", help="Only the cases of this agency.")
    ] = None,
    all_agencies: Annotated[
        bool, typer.Option("--all-agencies", help="The cases of all agencies.")
    ] = False,
    expires_days: Annotated[
        int | None, typer.Option("--expires-days", help="It ends after so many days.")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it once; without roles and scopes it may do everything.

    Without --agency, a key with a role that works on cases is of the unnamed agency, and any other
    works for all agencies.
    """
    by = access.operator(operator())
    scopes = checked_scopes(role or (), scope or ())
    place = agency if agency is not None else authority.chosen_agency(by, role or ())
    with _store(settings_for(context, data_dir)) as store:
        made = store.create(
            name[:100],
            scopes,
            agency=None if all_agencies else place,
            expires_at=expiry_in_days(expires_days),
            by=by,
        )
    if as_json:
        print_json({**_values(made.record), "key": made.text})
        return
    kind = "Administrator key" if scopes == (ADMINISTRATOR,) else "Key"
    out.print(Text(f"{kind} {made.record.key_id} (shown once, keep it):"))
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
    rows = [("id", "name", "begins with", "may", "agency", "made", "ends", "last used", "revoked")]
    rows += [
        (
            r.key_id,
            r.name,
            r.prefix,
            " ".join(r.scopes),
            "all agencies" if r.agency is None else r.agency,
            rfc3339(r.created_at),
            _moment(r.expires_at) or "",
            _moment(r.last_used_at) or "",
            _moment(r.revoked_at) or "",
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
        "agency": record.agency,
        "created_by": record.created_by,
        "expires_at": _moment(record.expires_at),
        "last_used_at": _moment(record.last_used_at),
        "revoked_at": _moment(record.revoked_at),
    }


def _moment(moment: datetime | None) -> str | None:
    return rfc3339(moment) if moment else None
