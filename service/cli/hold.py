"""``homeward hold``: legal holds on cases and ads."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from indexer import ads, cases, holds
from indexer.holds import HoldKind, HoldReason, HoldRecord
from indexer.times import rfc3339
from indexer.workspace import Workspace
from service.cli.console import (
    AsJson,
    DataDir,
    columns,
    every_item,
    expected_errors,
    out,
    print_json,
    settings_for,
    workspace_for,
)

app = typer.Typer(help="Set, lift and list legal holds.", no_args_is_help=True)

Case = Annotated[str | None, typer.Option("--case", metavar="CASE_NUMBER", show_default=False)]
Agency = Annotated[str, typer.Option("--agency", help="Agency of the case.")]
Site = Annotated[str | None, typer.Option("--site", help="Site of the ad.", show_default=False)]
External = Annotated[
    str | None,
    typer.Option("--external-id", help="What the site calls it.", show_default=False),
]


@app.command("set")
@expected_errors
def set_hold(
    context: typer.Context,
    reason: Annotated[HoldReason, typer.Option("--reason", help="Why it is held.")],
    case: Case = None,
    agency: Agency = "",
    site: Site = None,
    external_id: External = None,
    note: Annotated[str | None, typer.Option("--note", help="Kept with the hold.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Hold a case (--case) or an ad (--site and --external-id): it cannot be deleted."""
    _one_of(case, site, external_id)
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        kind, subject_id = _subject(workspace, case, agency, site, external_id)
        made = holds.set_hold(
            workspace, kind, subject_id, reason, note=note[:2_000] if note else None
        )
    out.print(Text(f"Held since {rfc3339(made.set_at)}: {kind} {subject_id} ({made.reason})."))


@app.command("lift")
@expected_errors
def lift_hold(
    context: typer.Context,
    case: Case = None,
    agency: Agency = "",
    site: Site = None,
    external_id: External = None,
    data_dir: DataDir = None,
) -> None:
    """Lift every hold on a case or an ad; where approvals are required, not one's own."""
    _one_of(case, site, external_id)
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        kind, subject_id = _subject(workspace, case, agency, site, external_id)
        holds.lift_hold(workspace, kind, subject_id)
    out.print(Text(f"No longer held: {kind} {subject_id}."))


@app.command("list")
@expected_errors
def list_holds(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Also those that are lifted.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List the holds in force, newest first."""
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        found = every_item(
            lambda cursor: holds.list_holds(workspace, lifted=every, limit=200, cursor=cursor)
        )
    if as_json:
        print_json([_values(one) for one in found])
        return
    rows = [("what", "id", "agency", "reason", "set by", "since", "lifted")]
    rows += [
        (
            one.kind,
            one.subject_id,
            one.agency or "",
            one.reason,
            one.set_by,
            rfc3339(one.set_at),
            rfc3339(one.lifted_at) if one.lifted_at else "",
        )
        for one in found
    ]
    out.print(Text(columns(rows)))


def _one_of(case: str | None, site: str | None, external_id: str | None) -> None:
    by_name = site is not None and external_id is not None
    if (case is None) != by_name or (site is None) != (external_id is None):
        raise typer.BadParameter("give --case, or --site and --external-id")


def _subject(
    workspace: Workspace, case: str | None, agency: str, site: str | None, external_id: str | None
) -> tuple[HoldKind, str]:
    if case is not None:
        return "case", cases.find_case(workspace, case, agency).case_id
    assert site is not None and external_id is not None
    return "ad", ads.find_ad(workspace, site, external_id).ad_id


def _values(one: HoldRecord) -> dict[str, Any]:
    return {
        "hold_id": one.hold_id,
        "kind": one.kind,
        "subject_id": one.subject_id,
        "agency": one.agency,
        "reason": one.reason,
        "note": one.note,
        "set_by": one.set_by,
        "set_at": rfc3339(one.set_at),
        "lifted_by": one.lifted_by,
        "lifted_at": rfc3339(one.lifted_at) if one.lifted_at else None,
    }
