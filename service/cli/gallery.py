"""``homeward gallery``: where the vectors are, and moving them to another back end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer
from rich.text import Text

from indexer.files import make_folder
from indexer.galleries.opening import Migrated, drop, migrate
from indexer.workspace import Workspace, require_restored
from models.pipeline import Analyser
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
    workspace_for,
)
from service.config import Settings
from service.opening import open_pack, pack_in_use

app = typer.Typer(
    help="The galleries of face vectors: look at them, make them anew, move them.",
    no_args_is_help=True,
)


@app.command("show")
@expected_errors
def show(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Say where the vectors are and whether they agree with the catalog."""
    with _workspace(settings_for(context, data_dir)) as workspace:
        found = [
            Migrated(one.name, one.count(), one.about(), one.health())
            for one in (workspace.cases, workspace.ads)
        ]
    _tell(found, as_json)


@app.command("rebuild")
@expected_errors
def rebuild(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Throw both indexes away and make them anew from the catalog."""
    with _workspace(settings_for(context, data_dir)) as workspace:
        found = []
        for one in (workspace.cases, workspace.ads):
            one.rebuild()
            found.append(Migrated(one.name, one.count(), one.about(), one.health()))
    _tell(found, as_json)


@app.command("migrate")
@expected_errors
def move(
    context: typer.Context,
    to: Annotated[Literal["local", "gpu", "milvus"], typer.Option("--to", help="The back end.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Fill another back end from the catalog, beside the one that runs, and compare.

    Nothing that runs is changed: it uses the new one once HOMEWARD_VECTORS names it.
    """
    settings = settings_for(context, data_dir, vectors=to)
    with Reporter() as reporter:
        found = _migrated(settings, reporter)
    _tell(found, as_json)
    if not as_json:
        out.print(Text(f"Set HOMEWARD_VECTORS={to} and start Homeward anew to use it."))
        out.print(
            Text(
                "Deletions reach only what is in use: afterwards, or if you stay with what you "
                "have, remove the other with `homeward gallery drop`."
            )
        )


@app.command("drop")
@expected_errors
def drop_from(
    context: typer.Context,
    source: Annotated[Literal["local", "milvus"], typer.Argument(help="The back end.")],
    data_dir: DataDir = None,
) -> None:
    """Remove what a back end that is used no more holds of the vectors.

    Deletions do not reach a back end that nothing runs on. The catalog keeps everything.
    """
    settings = settings_for(context, data_dir)
    if (source == "milvus") == (settings.vectors == "milvus"):
        raise typer.BadParameter(f"HOMEWARD_VECTORS says that {source} is in use")
    wanted = settings_for(context, data_dir, vectors=source)
    with catalog_for(settings) as catalog:
        removed = drop(catalog, settings.data_dir / "index", wanted.vector_options)
    out.print(Text(f"Removed {len(removed)} parts from {source}."))


@contextmanager
def _workspace(settings: Settings) -> Iterator[Workspace]:
    # A folder that is not there is a slip, and is told: none is made.
    with catalog_for(settings):
        pass
    with workspace_for(settings, analysing=False) as workspace:
        yield workspace


def _migrated(settings: Settings, reporter: Reporter) -> list[Migrated]:
    index_dir = settings.data_dir / "index"
    with catalog_for(settings) as catalog:
        require_restored(settings.data_dir)
        analyser = Analyser(open_pack(settings, pack_in_use(settings)))
        make_folder(index_dir)
        return migrate(
            catalog,
            analyser.contract_id,
            analyser.dimension,
            index_dir,
            settings.vector_options,
            lambda step: reporter.step(step.stage, step.done, step.total),
        )


def _tell(found: list[Migrated], as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "galleries": [
                    {
                        "gallery": one.name,
                        "faces": one.faces,
                        "where": one.where,
                        "problem": one.problem,
                    }
                    for one in found
                ]
            }
        )
    else:
        for one in found:
            out.print(Text(f"{one.name}: {one.faces:,} faces; {one.where}"))
    for one in found:
        if one.problem is not None:
            err.print(Text(f"  the gallery of {one.name} differs from the catalog: {one.problem}"))
    if any(one.problem is not None for one in found):
        raise typer.Exit(FAILED)
