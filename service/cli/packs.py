"""``homeward packs``: which face packs there are, and whether their files are whole."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from models.errors import PackMissing
from models.packs.base import PackInfo
from models.packs.registry import DEFAULT_PACK, list_packs, load_pack
from service.cli.console import (
    AsJson,
    DataDir,
    columns,
    expected_errors,
    out,
    print_json,
    settings_for,
)
from service.config import Settings
from service.opening import calibration_for
from service.search.explain import NO_ALERTS, calibration_text

app = typer.Typer(help="Face packs: detector, embedder and licence.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]


@app.command("list")
@expected_errors
def list_all(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the packs that Homeward knows."""
    settings = settings_for(context, data_dir)
    infos = list_packs()
    if as_json:
        print_json([_summary(settings, info) for info in infos])
        return
    rows = [("name", "dimension", "licence", "police use", "installed", "in use")]
    for info in infos:
        rows.append(
            (
                info.name,
                str(info.dimension),
                info.licence,
                "free" if info.free_for_police_use else "needs a licence",
                "yes" if _installed(settings, info) else "no",
                "yes" if info.name == settings.pack else "no",
            )
        )
    out.print(Text(columns(rows)))


@app.command("show")
@expected_errors
def show(
    context: typer.Context,
    name: Name = DEFAULT_PACK,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show what a pack is made of, its licence and where it comes from."""
    settings = settings_for(context, data_dir)
    info = _known(name)
    values = {
        **_summary(settings, info),
        "provenance": info.provenance,
        "digests": dict(info.digests),
    }
    if as_json:
        print_json(values)
        return
    rows = [(label.replace("_", " "), str(v)) for label, v in values.items() if label != "digests"]
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
    _load(settings_for(context, data_dir), name, "is whole")


@app.command("install")
@expected_errors
def install(context: typer.Context, name: Name = DEFAULT_PACK, data_dir: DataDir = None) -> None:
    """Build a pack in the data folder and check it."""
    _load(settings_for(context, data_dir), name, "is installed")


def _load(settings: Settings, name: str | None, said: str) -> None:
    pack = load_pack(name or settings.pack, packs_dir=settings.packs_dir, runtime=settings.runtime)
    out.print(Text(f"Pack {pack.info.name} {said}: {len(pack.info.digests)} files checked."))
    out.print(Text(f"Contract {pack.contract.id}, licence {pack.info.licence}."))
    calibration = calibration_for(settings, pack)
    out.print(Text(calibration_text(calibration)))
    if calibration is None:
        out.print(Text(NO_ALERTS))


def _known(name: str) -> PackInfo:
    for info in list_packs():
        if info.name == name:
            return info
    known = ", ".join(info.name for info in list_packs())
    raise PackMissing(f"There is no face pack named {name!r}.", remedy=f"Known packs: {known}.")


def _installed(settings: Settings, info: PackInfo) -> bool:
    folder = settings.packs_dir / info.name
    return folder.is_dir() and any(folder.iterdir())


def _summary(settings: Settings, info: PackInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "title": info.title,
        "dimension": info.dimension,
        "licence": info.licence,
        "licence_url": info.licence_url,
        "free_for_police_use": info.free_for_police_use,
        "installed": _installed(settings, info),
        "in_use": info.name == settings.pack,
    }
