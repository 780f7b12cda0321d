"""``homeward report``: the yearly transparency report, and whether its figures agree."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from indexer.transparency.report import Report, make_report, reconcile
from service.cli.console import (
    STDOUT,
    AsJson,
    BareOptionCommand,
    DataDir,
    JsonFile,
    catalog_for,
    check_writable,
    columns,
    expected_errors,
    out,
    print_json,
    settings_for,
    workspace_for,
    write_json,
)

app = typer.Typer(help="The yearly transparency report.", no_args_is_help=True)

Year = Annotated[
    int, typer.Option("--year", min=2000, max=9998, help="A year that is over, in UTC.")
]
HIDDEN = "hidden"


@app.command("transparency", cls=BareOptionCommand)
@expected_errors
def transparency(
    context: typer.Context, year: Year, json_file: JsonFile = None, data_dir: DataDir = None
) -> None:
    """What was done in a year, for publication: no personal data, no number under 11."""
    check_writable(json_file)
    with workspace_for(settings_for(context, data_dir), analysing=False) as workspace:
        report = make_report(workspace.catalog, year, workspace.calibration)
    write_json(json_file, asdict(report))
    if json_file != STDOUT:
        _show(report)


@app.command("reconcile")
@expected_errors
def reconcile_year(
    context: typer.Context, year: Year, as_json: AsJson = False, data_dir: DataDir = None
) -> None:
    """Each figure from the audit log and from the rows; not for publication, nothing is hidden."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        found = reconcile(catalog, year)
    if as_json:
        print_json([asdict(one) | {"state": one.state} for one in found])
    else:
        rows = [("what", "audit log", "rows", "")]
        rows += [(one.name, str(one.audit), str(one.rows), one.state) for one in found]
        out.print(Text(columns(rows)))
    if any(one.state == "differs" for one in found):
        raise typer.Exit(1)


def _show(report: Report) -> None:
    rows: list[tuple[str, ...]] = [("what", "by", "", "number")]
    for table in report.tables:
        rows.append((table.name, "", "", _number(table.total)))
        for name, cells in table.divisions.items():
            rows += [("", name, cell or "(none)", _number(n)) for cell, n in cells.items()]
    size = report.gallery
    rows += [
        ("faces in ads", "least", "", _number(size.least)),
        ("", "median", "", _number(size.median)),
        ("", "most", "", _number(size.most)),
    ]
    out.print(Text(columns(rows)))
    for one in report.contracts:
        known: Any = ", ".join(
            f"{rate} at {score}" for rate, score in one.thresholds.items() if score is not None
        )
        out.print(Text(f"{one.contract_id}: {known if one.calibrated else 'uncalibrated'}"))
    out.print(Text(f"Numbers under {report.least}, and those that would tell them, are hidden."))


def _number(value: int | None) -> str:
    return HIDDEN if value is None else f"{value:,}"
