"""``homeward users``: the people who sign in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from indexer.times import rfc3339
from service.accounts import access, authority, browsers, people
from service.accounts.people import NewUser, UserRecord
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

app = typer.Typer(help="Make, list and end the accounts of people.", no_args_is_help=True)

Login = Annotated[str, typer.Argument(metavar="NAME", help="Name to sign in with.")]
Roles = Annotated[
    list[str],
    typer.Option("--role", help="Repeat for several: scraper, investigator, supervisor, auditor, "
                 "administrator."),
]  # fmt: skip
Agency = Annotated[
    str | None, typer.Option("--agency", help="Agency they work for; make it first.")
]
AllAgencies = Annotated[bool, typer.Option("--all-agencies", help="They work for all agencies.")]


@app.command("create")
@expected_errors
def create(
    context: typer.Context,
    login: Login,
    role: Roles,
    agency: Agency = None,
    all_agencies: AllAgencies = False,
    full_name: Annotated[str, typer.Option("--name", help="Full name.")] = "",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make an account and print its set-up code once.

    Without --agency, people who work on cases are of the unnamed agency, and the others work for
    all agencies.
    """
    settings = settings_for(context, data_dir)
    by = access.operator(operator())
    roles = authority.known_roles(role)
    place = agency if agency is not None else authority.chosen_agency(by, roles)
    with catalog_for(settings) as catalog:
        made = people.create(
            catalog,
            by,
            login,
            roles,
            agency=None if all_agencies else place,
            display_name=full_name,
        )
    _show_code(settings, made, as_json)


@app.command("list")
@expected_errors
def list_users(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the people, never a secret."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        found = people.all_of(catalog, access.operator(operator()))
    if as_json:
        print_json([_values(record) for record in found])
        return
    rows = [("name", "agency", "roles", "trained until", "account")]
    rows += [
        (
            record.login,
            _agency(record),
            ", ".join(record.roles),
            str(record.trained_until or ""),
            _state(record),
        )
        for record in found
    ]
    out.print(Text(columns(rows)))


@app.command("show")
@expected_errors
def show(
    context: typer.Context, login: Login, as_json: AsJson = False, data_dir: DataDir = None
) -> None:
    """Show one person."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        _show(people.get(catalog, access.operator(operator()), login), as_json)


@app.command("roles")
@expected_errors
def set_roles(
    context: typer.Context,
    login: Login,
    role: Roles,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Set the roles of a person, in place of those they have; it holds at once."""
    _change(context, data_dir, login, as_json, roles=role)


@app.command("train")
@expected_errors
def train(
    context: typer.Context,
    login: Login,
    until: Annotated[
        datetime | None,
        typer.Option("--until", formats=["%Y-%m-%d"], help="Last day on which they may judge."),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Record until when a reviewer is trained; without --until they are not."""
    day = until.date() if until is not None else None
    _change(context, data_dir, login, as_json, trained_until=day)


@app.command("disable")
@expected_errors
def disable(context: typer.Context, login: Login, data_dir: DataDir = None) -> None:
    """Let a person in no more; their sessions end at once."""
    _change(context, data_dir, login, False, disabled=True)


@app.command("enable")
@expected_errors
def enable(context: typer.Context, login: Login, data_dir: DataDir = None) -> None:
    """Let a person in again."""
    _change(context, data_dir, login, False, disabled=False)


@app.command("reset")
@expected_errors
def reset(
    context: typer.Context, login: Login, as_json: AsJson = False, data_dir: DataDir = None
) -> None:
    """Take back password and second factor, and print a fresh set-up code once."""
    settings = settings_for(context, data_dir)
    with catalog_for(settings) as catalog:
        made = people.reset(catalog, access.operator(operator()), login)
    _show_code(settings, made, as_json)


@app.command("sessions")
@expected_errors
def list_sessions(
    context: typer.Context,
    login: Login,
    end: Annotated[bool, typer.Option("--end", help="End them all.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List where a person is signed in, or end it."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        person = people.get(catalog, access.operator(operator()), login)
        if end:
            ended = browsers.end_all(catalog, person.user_id)
            out.print(Text(f"{ended} sessions of {person.login} are ended."))
            return
        found = browsers.sessions_of(catalog, person.user_id)
    if as_json:
        print_json(
            [
                {
                    "session_id": one.session_id,
                    "address": one.address,
                    "user_agent": one.user_agent,
                    "created_at": rfc3339(one.created_at),
                    "last_used_at": rfc3339(one.last_used_at),
                }
                for one in found
            ]
        )
        return
    rows = [("since", "last used", "address", "browser")]
    rows += [
        (rfc3339(one.created_at), rfc3339(one.last_used_at), one.address, one.user_agent)
        for one in found
    ]
    out.print(Text(columns(rows)))


def _change(
    context: typer.Context, data_dir: DataDir, login: str, as_json: bool, **changes: Any
) -> None:
    with catalog_for(settings_for(context, data_dir)) as catalog:
        by = access.operator(operator())
        person = people.get(catalog, by, login)
        _show(people.change(catalog, by, person.user_id, **changes), as_json)


def _show(record: UserRecord, as_json: bool) -> None:
    values = _values(record)
    if as_json:
        print_json(values)
        return
    shown = {**values, "agency": _agency(record), "roles": ", ".join(record.roles)}
    rows = [(name, "" if value is None else str(value)) for name, value in shown.items()]
    out.print(Text(columns(rows)))


def _show_code(settings: Settings, made: NewUser, as_json: bool) -> None:
    base = (settings.public_url or "").rstrip("/")
    address = f"{base}/welcome?code={made.code}"
    if as_json:
        values = _values(made.record)
        expires = rfc3339(made.expires_at)
        print_json({**values, "setup_code": made.code, "setup_expires_at": expires})
        return
    record = made.record
    out.print(Text(f"Account {record.login}: {', '.join(record.roles)}, {_agency(record)}."))
    out.print(Text(f"Set-up code (works once, until {rfc3339(made.expires_at)}, shown once):"))
    out.print(Text(f"    {made.code}"))
    where = "Address to open" if base else "Address to open, at that of this installation"
    out.print(Text(f"{where}:"))
    out.print(Text(f"    {address}"))


def _agency(record: UserRecord) -> str:
    if record.agency is None:
        return "all agencies"
    return record.agency or "the unnamed agency"


def _state(record: UserRecord) -> str:
    if record.disabled_at is not None:
        return "disabled"
    return "in use" if record.set_up else "not set up yet"


def _values(record: UserRecord) -> dict[str, Any]:
    return {
        "user_id": record.user_id,
        "login": record.login,
        "display_name": record.display_name,
        "agency": record.agency,
        "roles": list(record.roles),
        "trained_until": str(record.trained_until) if record.trained_until else None,
        "set_up": record.set_up,
        "elsewhere": record.elsewhere,
        "recovery_codes_left": record.recovery_codes_left,
        "created_at": rfc3339(record.created_at),
        "disabled_at": rfc3339(record.disabled_at) if record.disabled_at else None,
    }
