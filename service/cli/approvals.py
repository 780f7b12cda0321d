"""``homeward approvals``: what waits for a second person, and deciding it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from indexer import approvals
from indexer.approvals import LONGEST_DAYS, ApprovalRecord
from indexer.errors import ApprovalNotFound
from indexer.ids import is_id
from indexer.times import rfc3339
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

app = typer.Typer(help="List and decide approvals of searches.", no_args_is_help=True)


@app.command("list")
@expected_errors
def list_waiting(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Also what is decided or over.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List the approvals that wait for a decision, newest first."""
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        found = every_item(
            lambda cursor: approvals.list_approvals(
                workspace, waiting=not every, limit=200, cursor=cursor
            )
        )
    if as_json:
        print_json([_values(one) for one in found])
        return
    rows = [("id", "case", "agency", "purpose", "state", "asked by", "asked", "ends")]
    rows += [
        (
            one.approval_id,
            one.case_number,
            one.agency,
            one.purpose,
            f"{one.state}{', emergency' if one.emergency else ''}",
            one.asked_by,
            rfc3339(one.asked_at),
            _moment(one.valid_until or one.ratify_by) or "",
        )
        for one in found
    ]
    out.print(Text(columns(rows)))


@app.command("decide")
@expected_errors
def decide(
    context: typer.Context,
    approval_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the approval.")],
    approve: Annotated[bool, typer.Option("--approve", help="The case may be searched.")] = False,
    refuse: Annotated[
        bool, typer.Option("--refuse", help="It may not; ends an approval in force too.")
    ] = False,
    days: Annotated[
        int | None, typer.Option("--days", min=1, max=LONGEST_DAYS, help="How long it holds.")
    ] = None,
    note: Annotated[str | None, typer.Option("--note", help="Kept with the approval.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Approve or refuse a search, as the account of this machine; not what that account asked."""
    if approve == refuse:
        raise typer.BadParameter("give one of --approve and --refuse")
    if not is_id(approval_id):
        raise ApprovalNotFound(approval_id)
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        one = approvals.decide(
            workspace,
            approval_id,
            "approve" if approve else "refuse",
            note=note[:2_000] if note else None,
            valid_days=days,
        )
    if as_json:
        print_json(_values(one))
        return
    until = f" until {rfc3339(one.valid_until)}" if one.valid_until else ""
    out.print(Text(f"Case {one.case_number}: {one.state}{until}."))


def _moment(value: Any) -> str | None:
    return rfc3339(value) if value is not None else None


def _values(one: ApprovalRecord) -> dict[str, Any]:
    return {
        "approval_id": one.approval_id,
        "case_id": one.case_id,
        "case_number": one.case_number,
        "agency": one.agency,
        "purpose": one.purpose,
        "note": one.note,
        "emergency": one.emergency,
        "state": one.state,
        "asked_by": one.asked_by,
        "asked_at": rfc3339(one.asked_at),
        "ratify_by": _moment(one.ratify_by),
        "decided_by": one.decided_by,
        "decided_at": _moment(one.decided_at),
        "valid_until": _moment(one.valid_until),
    }
