"""``homeward users link`` and ``unlink``: whose account a person at the provider has."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from service.accounts import access, elsewhere
from service.cli.console import (
    DataDir,
    catalog_for,
    expected_errors,
    operator,
    out,
    settings_for,
)
from service.cli.users import Login


@expected_errors
def link(
    context: typer.Context,
    login: Login,
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", help="As the provider writes it; HOMEWARD_OIDC_ISSUER if left."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="What the provider calls the person.")
    ] = None,
    email: Annotated[
        str | None,
        typer.Option("--email", help="Or the address that it has verified; it serves once."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Have a person sign in with the provider from now on, and no longer with a password."""
    settings = settings_for(context, data_dir)
    where = issuer or settings.oidc_issuer or ""
    with catalog_for(settings) as catalog:
        done = elsewhere.link(
            catalog, access.operator(operator()), login, where, subject=subject, email=email
        )
    out.print(Text(f"{done.login} signs in with {where} from now on; open sessions have ended."))


@expected_errors
def unlink(context: typer.Context, login: Login, data_dir: DataDir = None) -> None:
    """Take that back; `homeward users reset` then lets the person choose a password."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        done = elsewhere.unlink(catalog, access.operator(operator()), login)
    out.print(Text(f"{done.login} is linked to no provider any more."))
