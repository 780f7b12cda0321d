"""``homeward packs``: which face packs there are, what binds them, and whether they are whole."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from indexer.audit import record
from models.errors import HomewardError, LicenceNotAccepted, PackInUse, PackMissing
from models.packs import store
from models.packs.base import PackInfo
from models.packs.known import DLIB, KNOWN
from models.packs.licences import Acceptance, Terms, accept
from models.packs.registry import (
    DEFAULT_PACK,
    find_pack,
    list_packs,
    load_pack,
    record_of,
    rights_of,
)
from service.cli.console import (
    AsJson,
    DataDir,
    catalog_for,
    columns,
    err,
    expected_errors,
    out,
    print_json,
    settings_for,
)
from service.config import Settings
from service.opening import NoDataFolder, calibration_for
from service.packs import (
    held_by,
    is_calibrated,
    is_installed,
    measured_here,
    name_in_use,
    why_in_use,
)
from service.search.explain import NO_ALERTS, calibration_text

app = typer.Typer(help="Face packs: detector, embedder and licence.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]


class NothingToInstallFrom(HomewardError):
    """The default pack takes no files from elsewhere."""

    code = "pack_source_invalid"


@app.command("list")
@expected_errors
def list_all(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the packs that Homeward knows, and those that were installed."""
    settings = settings_for(context, data_dir)
    in_use = name_in_use(settings)
    measured = measured_here(settings)
    found = [_summary(settings, info, in_use, measured) for info in list_packs(settings.packs_dir)]
    if as_json:
        print_json(found)
        return
    rows = [("name", "dimension", "licence", "police use", "installed", "calibrated", "in use")]
    for item in found:
        rows.append(
            (
                item["name"],
                str(item["dimension"]),
                item["licence"],
                "free" if item["free_for_police_use"] else "needs a licence",
                _yes(item["installed"]),
                "unknown" if item["calibrated"] is None else _yes(item["calibrated"]),
                _yes(item["in_use"]),
            )
        )
    out.print(Text(columns(rows)))
    for item in found:
        if item["warning"] and (item["installed"] or item["in_use"]):
            err.print(Text(f"Note: {item['warning']}", "yellow"))


@app.command("show")
@expected_errors
def show(
    context: typer.Context,
    name: Name = DEFAULT_PACK,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show what a pack is made of, its licence, who accepted it and where it comes from."""
    settings = settings_for(context, data_dir)
    info = find_pack(name, settings.packs_dir)
    known = KNOWN.get(name)
    values = {
        **_summary(settings, info, name_in_use(settings), measured_here(settings)),
        "provenance": info.provenance,
        "fetch": known.fetch if known else "",
        "digests": dict(info.digests),
    }
    if as_json:
        print_json(values)
        return
    lists = ("digests", "files", "model_license")
    rows = [(key.replace("_", " "), _plain(v)) for key, v in values.items() if key not in lists]
    if licence := values["model_license"]:
        rows += [(f"MODEL.LICENSE {key}", _plain(v)) for key, v in licence.items() if v]
    rows += [("sha256", f"{digest}  {file}") for file, digest in info.digests.items()]
    out.print(Text(columns(rows)))


@app.command("verify")
@expected_errors
def verify(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME")] = None,
    data_dir: DataDir = None,
) -> None:
    """Check every file of a pack against its digest and load it."""
    settings = settings_for(context, data_dir)
    _load(settings, name or name_in_use(settings), "is whole")


@app.command("install")
@expected_errors
def install(
    context: typer.Context,
    name: Name = DEFAULT_PACK,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="Folder or zip archive with the model files; without it they are fetched.",
            show_default=False,
        ),
    ] = None,
    accepted_by: Annotated[
        str | None,
        typer.Option(
            "--accept-licence-as",
            metavar="FULL NAME",
            help="Accept the terms of the pack, which are shown, by your full name.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of other files of this name.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Install a pack in the data folder and check it; the default one is built there."""
    settings = settings_for(context, data_dir)
    if name == DLIB:
        if source is not None:
            raise NothingToInstallFrom(
                "The default pack is built from an installed package, not from files.",
                remedy="Leave --from out.",
            )
    else:

        def ask(terms: Terms) -> Acceptance:
            return _ask(terms, accepted_by)

        store.install(
            name,
            settings.packs_dir,
            source=source,
            accept=ask,
            replace_other=replace,
            held=held_by(settings, name) if replace else None,
        )
    _load(settings, name, "is installed")
    _record(settings, "pack.install", name)


@app.command("remove")
@expected_errors
def remove(context: typer.Context, name: Name, data_dir: DataDir = None) -> None:
    """Take a pack and its files away."""
    settings = settings_for(context, data_dir)
    if (reason := why_in_use(settings, name)) is not None:
        raise PackInUse(
            f"The face pack {name} is in use: {reason}.",
            remedy="Change to another pack first (`homeward reindex --pack NAME`), and drop the "
            "generation with `homeward generations drop`.",
        )
    if not store.remove(name, settings.packs_dir):
        raise PackMissing(f"No face pack {name} is installed.", remedy="See `homeward packs list`.")
    _record(settings, "pack.remove", name)
    out.print(Text(f"Pack {name} is removed."))


def _record(settings: Settings, action: str, name: str) -> None:
    """Where there is no catalog yet the record of the pack itself has to do."""
    with suppress(NoDataFolder), catalog_for(settings) as catalog, catalog.write() as session:
        record(session, action, subject=("pack", name))


def _ask(terms: Terms, accepted_by: str | None) -> Acceptance:
    """Show the terms in full; the acceptance from the option, or asked for on a terminal."""
    out.print(Text(terms.title, "bold"))
    out.print(Text(f"\n{terms.text}\n"))
    if terms.url:
        out.print(Text(f"Source: {terms.url}"))
    out.print(Text(f"SHA-256 of this text: {terms.sha256}\n"))
    if accepted_by is None and sys.stdin.isatty():
        accepted_by = typer.prompt(
            "Your full name, to accept (leave empty to stop)", default="", show_default=False
        )
    if not (accepted_by or "").strip():
        raise LicenceNotAccepted(
            "The terms above were not accepted; nothing was installed.",
            remedy='Read them; then accept them by name: --accept-licence-as "First Last".',
        )
    return accept(terms, accepted_by or "")


def _load(settings: Settings, name: str, said: str) -> None:
    pack = load_pack(name, packs_dir=settings.packs_dir, runtime=settings.runtime)
    out.print(Text(f"Pack {pack.info.name} {said}: {len(pack.info.digests)} files checked."))
    out.print(Text(f"Contract {pack.contract.id}, licence {pack.info.licence}."))
    calibration = calibration_for(settings, pack)
    out.print(Text(calibration_text(calibration)))
    if calibration is None:
        out.print(Text(NO_ALERTS))
    if warning := rights_of(name, settings.packs_dir).warning():
        err.print(Text(f"Note: {warning}", "yellow"))


def _summary(
    settings: Settings, info: PackInfo, in_use: str, measured: set[str] | None
) -> dict[str, Any]:
    record = record_of(info.name, settings.packs_dir)
    rights = rights_of(info.name, settings.packs_dir)
    accepted = rights.acceptance
    known = KNOWN.get(info.name)
    return {
        "name": info.name,
        "title": info.title,
        "dimension": info.dimension,
        "licence": info.licence,
        "licence_url": info.licence_url,
        "free_for_police_use": info.free_for_police_use,
        "installed": is_installed(settings, info.name),
        "in_use": info.name == in_use,
        "kind": record.kind if record else known.kind if known else "",
        "format": record.format if record else "",
        "files": dict(record.files) if record else dict(info.digests),
        "installed_at": record.installed_at if record else None,
        "licence_accepted_by": accepted.accepted_by if accepted else None,
        "licence_accepted_at": accepted.accepted_at if accepted else None,
        "model_license": asdict(rights.licence) if rights.licence else None,
        "calibrated": is_calibrated(settings, info.name, measured),
        "contract_id": record.contract_id if record else None,
        "warning": rights.warning(),
    }


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return _yes(value)
    return "" if value is None else str(value)
