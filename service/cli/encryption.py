"""``homeward encryption``: keys of data at rest, and everything sealed anew."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text
from sqlalchemy import select

from indexer.audit.chain import record
from indexer.catalog.sealing_tables import DataKey
from indexer.errors import EncryptionOff
from indexer.sealing import keys, work
from indexer.sealing.outer import OuterKeys, new_line
from indexer.times import moment_text, rfc3339
from indexer.workspace import Workspace
from service.cli.console import (
    SOME_REFUSED,
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
from service.config import Settings
from service.opening import open_catalog_only, outer_keys

app = typer.Typer(help="Encryption of data at rest.", no_args_is_help=True)

Later = Annotated[
    bool, typer.Option("--later", help="Leave the sealing to the service or a worker.")
]


def _outer(settings: Settings) -> OuterKeys:
    found = outer_keys(settings)
    if found is None:
        raise EncryptionOff
    return found


@app.command("key")
@expected_errors
def new_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, a year perhaps.")],
) -> None:
    """Print a line with a new random key, for the file of keys. It is stored nowhere."""
    print(new_line(name))


@app.command("on")
@expected_errors
def turn_on(context: typer.Context, later: Later = False, data_dir: DataDir = None) -> None:
    """Encrypt a data folder that is in use, under the keys that are set."""
    settings = settings_for(context, data_dir)
    _outer(settings)
    open_catalog_only(settings, turn_on=True).close()
    err.print(Text("Without the key the data cannot be read any more. Keep a copy elsewhere."))
    _finish(settings, later)


@app.command("rotate")
@expected_errors
def rotate(context: typer.Context, later: Later = False, data_dir: DataDir = None) -> None:
    """Make a new data key and seal everything with it, while the service runs."""
    settings = settings_for(context, data_dir)
    outer = _outer(settings)
    with workspace_for(settings, analysing=False) as ws:
        key_id = work.rotate(ws, outer)
        out.print(Text(f"The data key {key_id} seals from now on."))
        if not later:
            _run(ws)


@app.command("rewrap")
@expected_errors
def rewrap(context: typer.Context, data_dir: DataDir = None) -> None:
    """Wrap the data keys by the first of the keys that are set; the data itself stays as it is."""
    settings = settings_for(context, data_dir)
    outer = _outer(settings)
    with catalog_for(settings) as catalog:
        with catalog.write() as session:
            changed = keys.rewrap(session, outer)
            if changed:
                record(session, "encryption.rewrap", details={"keys": changed, "by": outer.current})
        catalog.scrub()
    out.print(Text(f"Wrapped by {outer.current}: {changed} keys that were wrapped by another."))
    out.print(Text("Back-ups that were made before still need the key that they were made under."))


@app.command("status")
@expected_errors
def status(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Say whether the data folder is encrypted, with which keys, and what is still being sealed."""
    settings = settings_for(context, data_dir)
    with catalog_for(settings) as catalog, catalog.read() as session:
        order = (DataKey.created_at, DataKey.data_key_id)
        rows = session.scalars(select(DataKey).order_by(*order)).all()
        going = work.going_on(session)
        current = keys.newest(session)[0] if rows else None
    found = [
        {
            "data_key_id": row.data_key_id,
            "purpose": row.purpose,
            "wrapped_by": row.wrapped_by,
            "seals": row.seals,
            "created_at": rfc3339(row.created_at),
            "retired_at": None if row.retired_at is None else rfc3339(row.retired_at),
            "current": row.data_key_id == current,
        }
        for row in rows
    ]
    if as_json:
        progress = None if going is None else _progress(going)
        print_json({"encrypted": bool(rows), "keys": found, "sealing": progress})
        return
    if not rows:
        out.print(Text("This data folder is not encrypted."))
        return
    lines = [("data key", "for", "wrapped by", "values sealed", "made", "retired")]
    lines += [
        (
            f"{row.data_key_id}{' *' if row.data_key_id == current else ''}",
            row.purpose,
            row.wrapped_by,
            f"{row.seals:,}",
            moment_text(row.created_at) or "",
            moment_text(row.retired_at) or "",
        )
        for row in rows
    ]
    out.print(Text(columns(lines)))
    if going is None:
        out.print(Text("Everything is sealed with the key marked *."))
    else:
        out.print(
            Text(
                f"Being sealed with the key marked *: {going.part}, part {going.number + 1} of "
                f"{going.parts}, {going.done:,} rows and files so far."
            )
        )


@app.command("check")
@expected_errors
def check(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Open everything that is sealed, and say what is broken, plain or under an older key."""
    settings = settings_for(context, data_dir)
    with workspace_for(settings, analysing=False) as ws:
        with Reporter() as reporter:
            found = work.check(ws, lambda part, done: reporter.step(part, done, None))
        current = work.keyring_of(ws).current_id
    if as_json:
        print_json({"by_key": found.by_key, "broken": found.broken, "current": current})
    else:
        for key_id, count in sorted(found.by_key.items()):
            word = "plain" if not key_id else f"sealed with {key_id}"
            out.print(Text(f"{count:,} values {word}{', which is current' * (key_id == current)}"))
        for where, count in sorted(found.broken.items()):
            err.print(Text(f"{count:,} broken: {where}"))
        out.print(Text("Nothing is broken." if not found.broken else "Restore what is broken."))
    if found.broken:
        raise typer.Exit(SOME_REFUSED)


def _finish(settings: Settings, later: bool) -> None:
    if later:
        out.print(
            Text("The service and workers seal what is there. See `homeward encryption status`.")
        )
        return
    with workspace_for(settings, analysing=False) as ws:
        _run(ws)


def _run(ws: Workspace) -> None:
    with Reporter() as reporter:
        work.finish(ws, lambda going: reporter.step("sealing", going.number, going.parts))
    out.print(Text("Everything is sealed with the newest key."))


def _progress(going: work.Going) -> dict[str, Any]:
    return {
        "part": going.part,
        "number": going.number + 1,
        "parts": going.parts,
        "done": going.done,
        "started_at": rfc3339(going.started_at),
    }
