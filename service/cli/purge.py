"""``homeward purge``: forget ads and cases for good, and the ledger of what was forgotten."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.text import Text

from indexer import ads, cases, forget, purges, removals, retention
from indexer.errors import AdNotFound
from indexer.ids import is_id
from indexer.records import PurgeRecord
from indexer.times import rfc3339
from indexer.workspace import Workspace
from service.cli.console import (
    USAGE,
    AsJson,
    DataDir,
    Reporter,
    columns,
    err,
    expected_errors,
    out,
    print_json,
    settings_for,
    workspace_for,
)

ACTOR = "command line"
SHOWN = 50

app = typer.Typer(help="Forget ads and cases for good; list what was.", no_args_is_help=True)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Site = Annotated[str | None, typer.Option("--site", help="Site of the ad.", show_default=False)]


@app.command("ads")
@expected_errors
def purge_ads(
    context: typer.Context,
    older_than: Annotated[
        int, typer.Option("--older-than", min=1, metavar="DAYS", help="Not received for so long.")
    ],
    site: Site = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
) -> None:
    """Forget the ads that were not received for DAYS days; those under legal hold stay."""
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        found = retention.look(workspace, older_than, site)
        where = f" of {site}" if site else ""
        text = f"{found.due} of {found.total} ads{where} were not received for {older_than} days"
        if found.held_back:
            err.print(Text(f"Look twice: {found.held_back}.", "yellow"))
        if dry_run or not found.due:
            out.print(Text(f"{text}."))
            return
        _confirm(f"{text}. Forget them for good?", yes)
        gone = 0
        with Reporter() as reporter:
            for batch in retention.forget_older(workspace, older_than, site=site, actor=ACTOR):
                gone += len(batch)
                reporter.step("ads forgotten", gone, max(found.due, gone))
        _finish(workspace)
    out.print(Text(f"{gone} ads are forgotten."))


@app.command("ad")
@expected_errors
def purge_ad(
    context: typer.Context,
    ad_id: Annotated[str | None, typer.Argument(metavar="AD_ID", show_default=False)] = None,
    site: Site = None,
    external_id: Annotated[
        str | None, typer.Option("--external-id", help="What the site calls it.")
    ] = None,
    yes: Yes = False,
    data_dir: DataDir = None,
) -> None:
    """Forget one ad, by its id or by site and external id."""
    by_name = site is not None and external_id is not None
    if (ad_id is None) != by_name:
        raise typer.BadParameter("give AD_ID, or --site and --external-id")
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        if ad_id is None:
            assert site is not None and external_id is not None
            record = ads.find_ad(workspace, site, external_id)
        elif is_id(ad_id):
            record = ads.get_ad(workspace, ad_id)
        else:
            raise AdNotFound(ad_id)
        _confirm(f"Forget ad {record.external_id} of {record.site} for good?", yes)
        _forget(workspace, lambda: forget.forget_ad(workspace, record.ad_id, actor=ACTOR))


@app.command("case")
@expected_errors
def purge_case(
    context: typer.Context,
    case_number: Annotated[str, typer.Argument(metavar="CASE_NUMBER")],
    agency: Annotated[str, typer.Option("--agency", help="Agency of the case.")] = "",
    yes: Yes = False,
    data_dir: DataDir = None,
) -> None:
    """Forget one case with its photos, candidates and judgements."""
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        record = cases.find_case(workspace, case_number, agency)
        photos = len(record.photos)
        _confirm(f"Forget case {case_number} with {photos} photo(s) for good?", yes)
        _forget(workspace, lambda: forget.forget_case(workspace, record.case_id, actor=ACTOR))


@app.command("list")
@expected_errors
def list_purges(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """The ledger of purges, newest first: ids and counts, never content."""
    records: list[PurgeRecord] = []
    more: str | None = None
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        while True:
            page = purges.list_purges(workspace, limit=500, cursor=more)
            records += page.items
            more = page.next_cursor
            if more is None or (not as_json and len(records) >= SHOWN):
                break
    if as_json:
        print_json([_values(record) for record in records])
        return
    rows = [("at", "kind", "id", "by", "what")]
    rows += [
        (
            rfc3339(record.at),
            record.kind,
            record.subject_id,
            record.actor,
            ", ".join(f"{count} {name}" for name, count in record.counts.items() if count),
        )
        for record in records[:SHOWN]
    ]
    out.print(Text(columns(rows)))
    if more is not None or len(records) > SHOWN:
        err.print(Text("There are more; --json lists all of them."))


def _confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere only ``--yes`` is an answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        err.print(Text(f"{question} Nothing was done: say --yes where nobody can be asked."))
        raise typer.Exit(USAGE)
    if not typer.confirm(question):
        raise typer.Exit(0)


def _forget(workspace: Workspace, work: Callable[[], PurgeRecord]) -> None:
    record = work()
    _finish(workspace)
    counts = ", ".join(f"{count} {name}" for name, count in record.counts.items() if count)
    out.print(Text(f"Forgotten: {record.kind} {record.subject_id} ({counts or 'nothing else'})."))


def _finish(workspace: Workspace) -> None:
    """Nothing is left for others to clear, if that is possible now."""
    if not removals.finish(workspace):
        err.print(Text("Something still reads the catalog; upkeep clears the rest in a minute."))


def _values(record: PurgeRecord) -> dict[str, Any]:
    return {
        "purge_id": record.purge_id,
        "at": rfc3339(record.at),
        "actor": record.actor,
        "kind": record.kind,
        "subject_id": record.subject_id,
        "counts": dict(record.counts),
    }
