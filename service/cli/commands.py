"""``homeward doctor`` and ``homeward bench``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from service.cli.console import (
    FAILED,
    STDOUT,
    AsJson,
    DataDir,
    JsonFile,
    check_writable,
    err,
    expected_errors,
    out,
    print_json,
    settings_for,
    write_json,
)
from service.doctor import examine


@expected_errors
def doctor(
    context: typer.Context,
    blobs: Annotated[
        bool, typer.Option("--blobs", help="Also read every original and check its digest.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Check what is installed, the pack, the disk, and that catalog and index agree."""
    healthy = True
    found = []
    for item in examine(settings_for(context, data_dir), verify_blobs=blobs):
        healthy = healthy and item.ok
        if as_json:
            found.append(
                {"name": item.name, "ok": item.ok, "detail": item.detail, "remedy": item.remedy}
            )
            continue
        mark = ("ok    ", "green") if item.ok else ("WRONG ", "bold red")
        out.print(Text.assemble(mark, f"{item.name}: {item.detail}"))
        if item.remedy and not item.ok:
            out.print(Text(f"      What to do: {item.remedy}"))
    if as_json:
        print_json({"ok": healthy, "items": found})
    if not healthy:
        raise typer.Exit(FAILED)


@expected_errors
def bench(
    context: typer.Context,
    json_file: JsonFile = None,
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="N,N", help="Galleries to search, in vectors.")
    ] = "100000",
    dimensions: Annotated[
        str, typer.Option("--dimensions", metavar="N,N", help="Components of their vectors.")
    ] = "128,512",
    pictures: Annotated[
        bool, typer.Option(help="Measure detecting and embedding too, not only searching.")
    ] = True,
    dlib: Annotated[
        bool, typer.Option(help="Compare with dlib's own detector and embedder, if installed.")
    ] = True,
    data_dir: DataDir = None,
) -> None:
    """Measure this machine: images a second, milliseconds a stage, memory, searches."""
    # Here, not above: this brings in the index and, where it is installed, dlib.
    from service.bench import BenchOptions, run_bench, tables

    check_writable(json_file)
    settings = settings_for(context, data_dir)
    options = BenchOptions(
        sizes=_numbers(sizes, "--sizes"),
        dimensions=_numbers(dimensions, "--dimensions"),
        pictures=pictures,
        dlib=dlib,
        scratch=settings.data_dir,
    )
    report = run_bench(options, settings.packs_dir, say=lambda text: err.print(Text(text)))
    write_json(json_file, report.to_json())
    if json_file != STDOUT:
        out.print(Text(tables(report)))
    if not report.exact:
        raise typer.Exit(FAILED)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    """Positive whole numbers separated by commas; anything else is a matter of usage."""
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise typer.BadParameter("give numbers such as 1000,2000", param_hint=option)
    return found
