"""``homeward audit``: verify the audit log, note its head elsewhere, export and stamp it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from indexer.audit import heads, stamps
from indexer.audit import record as record_act
from indexer.audit.export import MANIFEST, Range, export
from indexer.audit.heads import Head
from indexer.audit.reading import head as current_head
from indexer.audit.verify import Verdict, verify
from indexer.catalog import Catalog
from indexer.times import rfc3339
from service import __version__
from service.cli.console import (
    FAILED,
    AsJson,
    DataDir,
    Reporter,
    catalog_for,
    err,
    expected_errors,
    out,
    print_json,
    settings_for,
)
from service.stamping import Stamper, StampingOff, stamp_now

app = typer.Typer(help="Verify, export and stamp the audit log.", no_args_is_help=True)

HeadOption = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        metavar="FILE|SEQ:HASH",
        help="A head that was kept elsewhere, or a file of heads; may be given again.",
        show_default=False,
    ),
]


@app.command("verify")
@expected_errors
def verify_log(
    context: typer.Context,
    head: HeadOption = None,
    accept_restore: Annotated[
        list[int] | None,
        typer.Option(
            metavar="SEQ",
            help="The record of a restore that was really made; may be given again.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Read the whole log and say whether it is as it was written; the first bad record if not."""
    settings = settings_for(context, data_dir)
    known = [*heads.read(settings.audit_heads_path), *_given(head or [])]
    bad_lines = heads.bad_lines(settings.audit_heads_path)
    with catalog_for(settings) as catalog:
        checked = stamps.check_all(catalog, stamps.certificates(settings.stamp_ca_file))
        known += checked.heads
        with Reporter() as reporter:
            verdict = verify(
                catalog,
                known,
                lambda done: reporter.step("records", done, None),
                accepted=accept_restore or (),
            )
        sound = verdict.problem is None and not checked.bad
        if sound and accept_restore:
            _note_accepted(catalog, settings.audit_heads_path, verdict, set(accept_restore))
        _record(
            catalog,
            "audit.verify",
            outcome="done" if sound else "audit_damaged",
            details={
                "records": verdict.records,
                "heads": verdict.heads,
                "found": verdict.problem.kind if verdict.problem else None,
                "at": verdict.problem.seq if verdict.problem else None,
                "stamps": len(checked.heads),
                "stamps_bad": len(checked.bad),
                "heads_bad": len(bad_lines),
                "restores_accepted": len(accept_restore or ()),
            },
        )
    if as_json:
        print_json(
            {
                "ok": sound,
                **asdict(verdict),
                "heads_bad_lines": bad_lines,
                "stamps": {
                    "hold": len(checked.heads),
                    "pending": checked.pending,
                    "bad": list(checked.bad),
                    "signatures_checked": checked.signed,
                },
            }
        )
    else:
        for number in bad_lines:
            name = settings.audit_heads_path.name
            err.print(Text(f"Line {number} of {name} is no head of an audit log.", "yellow"))
        _show(verdict, checked)
    if not sound:
        raise typer.Exit(FAILED)


def _note_accepted(catalog: Catalog, path: Path, verdict: Verdict, accepted: set[int]) -> None:
    """Note what was accepted in the file of heads, so that it has to be said once only."""
    there = {(head.seq, head.hash) for head in heads.read(path)}
    for gap in verdict.gaps:
        if gap.seq in accepted:
            for seq, digest in ((gap.last, gap.last_hash), (gap.seq, gap.hash)):
                if (seq, digest) not in there:
                    heads.append(path, seq, digest)
    heads.append(path, *current_head(catalog))


def _show(verdict: Verdict, checked: stamps.Checked) -> None:
    for gap in (gap for gap in verdict.gaps if gap.confirmed):
        out.print(
            Text(
                f"Explained: records {gap.first} to {gap.last} were given up when an older back-up "
                f"was restored (record {gap.seq})."
            )
        )
    if checked.pending:
        out.print(Text(f"{checked.pending} stamps are pending."))
    if checked.heads:
        how = "" if checked.signed else " (signatures not checked: no HOMEWARD_STAMP_CA_FILE)"
        out.print(Text(f"{len(checked.heads)} stamps hold{how}."))
    for text in checked.bad:
        err.print(Text(f"WRONG: {text}", "bold red"))
    if verdict.problem is not None:
        err.print(Text(f"WRONG: {verdict.problem.text}", "bold red"))
        return
    out.print(
        Text(
            f"{verdict.records} records follow from each other; {verdict.heads} heads kept "
            f"elsewhere were compared. Head: {verdict.seq}:{verdict.hash}"
        )
    )


@app.command("head")
@expected_errors
def show_head(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Print the head, to be kept where nobody of this machine can change it."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        seq, digest = current_head(catalog)
        _record(catalog, "audit.head", details={"head": seq})
    if as_json:
        print_json({"seq": seq, "hash": digest})
    else:
        out.print(f"{seq}:{digest}")


@app.command("export")
@expected_errors
def export_log(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="File to write.")],
    since: Annotated[
        str | None, typer.Option("--from", metavar="SEQ|TIME", help="First record.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="SEQ|TIME", help="Last record.")
    ] = None,
    case_id: Annotated[
        str | None, typer.Option("--case", metavar="CASE_ID", help="Only those of one case.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write records as JSON lines, with a manifest beside them; stock tools verify both."""
    wanted = Range(_place(since, "--from"), _place(until, "--to"), case_id)
    with catalog_for(settings_for(context, data_dir)) as catalog:
        _record(catalog, "audit.export", case_id=case_id, details={"begun": True})
        made = export(catalog, file, wanted, homeward=__version__)
    out.print(Text(f"{made.records} records, {made.first} to {made.last}, are in {file}."))
    out.print(Text(f"Manifest: {file}{MANIFEST}. SHA-256 of the file: {made.sha256}"))


@app.command("stamp")
@expected_errors
def stamp(context: typer.Context, data_dir: DataDir = None) -> None:
    """Ask the time-stamping authority for a stamp over the head now."""
    settings = settings_for(context, data_dir)
    if settings.stamp_url is None:
        raise StampingOff
    with catalog_for(settings) as catalog:
        done = stamp_now(catalog, Stamper.of(settings))
    if done is None:
        out.print("The head is stamped already, or its stamp is pending.")
    elif done.stamped_at is not None:
        out.print(Text(f"Record {done.seq} is stamped: {rfc3339(done.stamped_at)}."))
    else:
        out.print(Text(f"Record {done.seq}: pending, the authority is away; it is asked again."))


def _given(words: list[str]) -> list[Head]:
    found: list[Head] = []
    for word in words:
        one = heads.parsed(word)
        if one is not None:
            found.append(one)
        elif Path(word).is_file():
            text = Path(word).read_text(encoding="utf-8", errors="replace")
            single = heads.parsed(text)
            found += [single] if single is not None else heads.read(Path(word))
        else:
            raise typer.BadParameter(f"{word} is neither SEQ:HASH nor a file", param_hint="--head")
    return found


def _place(text: str | None, option: str) -> int | datetime | None:
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("give a number or a time", param_hint=option) from None
    return moment if moment.tzinfo is not None else moment.astimezone()


def _record(catalog: Catalog, action: str, **words: Any) -> None:
    with catalog.write() as session:
        record_act(session, action, **words)
