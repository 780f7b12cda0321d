"""The commands of ``homeward`` and how they end: 0 done, 1 failed, 2 usage, 3 some refused."""

from __future__ import annotations

import typer

from service import __version__
from service.cli import (
    agencies,
    approvals,
    audit,
    backup,
    calibrate,
    commands,
    encryption,
    evaluate,
    gallery,
    generations,
    hashes,
    hold,
    ingest,
    jobs,
    keys,
    linking,
    packs,
    profile,
    purge,
    quarantine,
    reindex,
    report,
    search,
    serve,
    users,
    webhooks,
    worker,
)
from service.cli.console import BareOptionCommand, DataDir, out

app = typer.Typer(
    name="homeward",
    help="Compare photos of missing people with pictures in ads; list candidates for review.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(value: bool) -> None:
    if value:
        out.print(f"homeward {__version__}")
        raise typer.Exit


@app.callback()
def _before(
    context: typer.Context,
    data_dir: DataDir = None,
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_version, is_eager=True
    ),
) -> None:
    context.obj = {"data_dir": data_dir}


app.command("serve")(serve.serve)
app.command("demo")(serve.demo)
app.add_typer(ingest.app, name="ingest")
app.command("worker")(worker.worker)
app.add_typer(jobs.app, name="jobs")
app.add_typer(quarantine.app, name="quarantine")
app.command("candidates")(search.candidates)
app.command("search")(search.search)
app.command("evaluate", cls=BareOptionCommand)(evaluate.evaluate)
app.command("calibrate", cls=BareOptionCommand)(calibrate.calibrate)
app.add_typer(gallery.app, name="gallery")
app.command("reindex")(reindex.reindex)
app.add_typer(generations.app, name="generations")
app.add_typer(hashes.app, name="hashes")
app.add_typer(profile.app, name="profile")
app.add_typer(purge.app, name="purge")
app.add_typer(packs.app, name="packs")
app.add_typer(users.app, name="users")
users.app.command("link")(linking.link)
users.app.command("unlink")(linking.unlink)
app.add_typer(agencies.app, name="agencies")
app.add_typer(keys.app, name="keys")
app.add_typer(approvals.app, name="approvals")
app.add_typer(hold.app, name="hold")
app.add_typer(report.app, name="report")
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(audit.app, name="audit")
app.add_typer(encryption.app, name="encryption")
app.command("doctor")(commands.doctor)
app.command("bench", cls=BareOptionCommand)(commands.bench)


def main() -> None:
    """Entry point of the console script."""
    app()
