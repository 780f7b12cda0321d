"""``homeward backup`` and ``homeward restore``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from indexer import restore as restoring
from indexer.audit import heads as audit_heads
from indexer.backup import Manifest, back_up, read_manifest, verify
from indexer.blobs import LocalBlobStore
from indexer.ledger import Ledger
from indexer.records import Progress
from indexer.times import rfc3339
from service import __version__
from service.cli.console import (
    SOME_REFUSED,
    USAGE,
    DataDir,
    Reporter,
    err,
    expected_errors,
    out,
    settings_for,
)
from service.opening import open_catalog_only, open_for, open_object_store, outer_keys

PURGES_WANTED = """\
What was deleted after this back-up was made would be there again. The file of purges
(purges.jsonl, or where HOMEWARD_PURGE_LEDGER says) lists it: give its newest copy with
--purges FILE. Only if there is none, say --no-purges, and delete by hand what has to be deleted."""


@expected_errors
def backup(
    context: typer.Context,
    words: Annotated[
        list[str], typer.Argument(metavar="[verify] FILE", help="File to write, or to verify.")
    ],
    data_dir: DataDir = None,
) -> None:
    """Write catalog and originals into one file while all runs; with `verify`, check one."""
    checks = len(words) == 2 and words[0] == "verify"
    if not checks and len(words) != 1:
        raise typer.BadParameter("give FILE, or verify FILE", param_hint="[verify] FILE")
    path = Path(words[-1])
    with Reporter() as reporter:

        def progress(step: Progress) -> None:
            reporter.step(step.stage, step.done, step.total)

        if checks:
            manifest = verify(path, progress)
        else:
            settings = settings_for(context, data_dir)
            catalog = open_catalog_only(settings)
            try:
                manifest = back_up(
                    catalog,
                    open_object_store(settings) or LocalBlobStore(settings.blobs_dir),
                    path,
                    homeward=__version__,
                    data_dir=settings.data_dir,
                    pg_dump=settings.pg_dump,
                    progress=progress,
                )
            finally:
                catalog.close()
    out.print(Text(f"{path} is whole: {_says(manifest)}"))
    if manifest.outer_keys:
        names = ", ".join(manifest.outer_keys)
        out.print(Text(f"It is encrypted, and cannot be restored without these keys: {names}."))
    if manifest.deleted:
        out.print(Text(f"{manifest.deleted} originals were deleted while it was made."))
    if manifest.missing:
        err.print(Text("Originals that are missing or damaged here, and so in the back-up:"))
        for sha256 in manifest.missing:
            err.print(Text(f"  {sha256}"))
        raise typer.Exit(SOME_REFUSED)


def _says(manifest: Manifest) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in manifest.counts.items())
    return (
        f"{counts}, {manifest.originals} originals ({manifest.originals_bytes / 1e9:.2f} GB), "
        f"made {rfc3339(manifest.created_at)} by Homeward {manifest.homeward}."
    )


@expected_errors
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Back-up to restore.")],
    purges: Annotated[
        Path | None,
        typer.Option("--purges", metavar="FILE", help="The file of purges.", show_default=False),
    ] = None,
    no_purges: Annotated[
        bool, typer.Option("--no-purges", help="There is no file of purges.")
    ] = False,
    heads: Annotated[
        Path | None,
        typer.Option(
            "--heads",
            metavar="FILE",
            help="The file of heads of the audit log (or HOMEWARD_AUDIT_HEADS).",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Restore a back-up into an empty data folder, and forget again what was deleted since."""
    if purges is not None and no_purges:
        raise typer.BadParameter("give --purges FILE or --no-purges, not both")
    settings = settings_for(context, data_dir)
    manifest = read_manifest(file)
    known = audit_heads.read(heads or settings.audit_heads_path)
    # Another's file of heads is not written to: this may be a drill beside what runs.
    own_heads = settings.audit_heads_path.resolve().is_relative_to(settings.data_dir.resolve())
    if purges is None and not no_purges:
        purges = _ask()
    listed = Ledger((), torn=False)
    if purges is not None:
        listed = restoring.require_ledger(purges, manifest)
        _say_listed(listed)
    with Reporter() as reporter:

        def progress(step: Progress) -> None:
            reporter.step(step.stage, step.done, step.total)

        blobs = open_object_store(settings)
        restoring.restore_files(
            file,
            settings.data_dir,
            blobs=blobs,
            catalog_url=settings.catalog_url,
            pg_dump=settings.pg_dump,
            head=known[-1] if known else None,
            heads=settings.audit_heads_path if own_heads else None,
            keys=outer_keys(settings),
            progress=progress,
        )
        workspace = open_for(settings, restoring=True, blobs=blobs, analysing=False)
        try:
            result = restoring.reapply(workspace, listed.purges, progress)
            restoring.finished(workspace)
            webhooks, keys = restoring.in_force(workspace)
            faces = f"{workspace.cases.count()} of cases, {workspace.ads.count()} of ads"
        finally:
            workspace.close()
    out.print(Text(f"Restored: {_says(manifest)}"))
    out.print(Text(f"Faces that are searched: {faces}."))
    again = ", ".join(f"{count} {kind}(s)" for kind, count in sorted(result.forgotten.items()))
    out.print(
        Text(
            f"Forgotten again by the {len(listed.purges)} purges listed: "
            f"{again or 'nothing had to be'}."
        )
    )
    for case_id in result.closed_cases:
        out.print(Text(f"Closed again: case {case_id}. Open it if the person is missing still."))
    out.print(
        Text(
            f"In force again, also if they were revoked or removed after the back-up: {keys} keys "
            f"and {webhooks} webhooks. See `homeward keys list` and `homeward webhooks list`."
        )
    )
    out.print(Text("Run `homeward doctor --blobs` now."))
    if known and not own_heads:
        out.print(
            Text(
                "If this is no drill, run `homeward audit verify` too: until it is told with "
                "--accept-restore that this restore was made, no heads are noted."
            )
        )
    for purge in result.unknown:
        err.print(Text(f"Not repeated, of unknown kind: {purge.kind} {purge.subject_id}"))
    if result.unknown or manifest.missing:
        raise typer.Exit(SOME_REFUSED)


def _say_listed(listed: Ledger) -> None:
    """What the file of purges holds: whether it is the newest is for a person to judge."""
    last = max((purge.at for purge in listed.purges), default=None)
    until = f", the last of {rfc3339(last)}" if last else ""
    out.print(Text(f"The file of purges lists {len(listed.purges)}{until}."))
    if listed.torn:
        err.print(Text("Its last line is cut off: one purge, or a few, may be missing in it."))


def _ask() -> Path | None:
    """The file of purges from whoever sits there; nobody there is a matter of usage."""
    err.print(Text(PURGES_WANTED))
    if not sys.stdin.isatty():
        raise typer.Exit(USAGE)
    given = typer.prompt("File of purges (- for none)").strip()
    return None if given == "-" else Path(given)
