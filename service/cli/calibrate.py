"""``homeward calibrate``: measure a face pack on labelled photos and keep its rates."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from indexer.calibrations import keep
from indexer.times import rfc3339, utc_now
from indexer.workspace import make_catalog
from models.pipeline import Analyser
from service import __version__
from service.cli.console import (
    STDOUT,
    DataDir,
    JsonFile,
    Reporter,
    check_writable,
    err,
    expected_errors,
    out,
    settings_for,
    write_json,
)
from service.cli.evaluate import CacheDir, LabelsFile, PackName
from service.opening import open_pack, outer_keys, pack_in_use

ACTOR = "command line"


@expected_errors
def calibrate(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="One folder per identity.")],
    pack_name: PackName = None,
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="TEXT", help="Name of the photos, kept with the rates."),
    ] = None,
    labels: LabelsFile = None,
    json_file: JsonFile = None,
    cache: CacheDir = None,
    data_dir: DataDir = None,
) -> None:
    """Measure how often strangers reach a score, and use that for every rate from now on."""
    # Here, not above: these bring in SciPy, which few other commands need.
    from indexer.evaluation.calibrate import (
        calibrate as make_calibration,
    )
    from indexer.evaluation.calibrate import (
        calibration_json,
        render_calibration,
        require_people,
        small_sample,
    )
    from indexer.evaluation.photos import find_photos
    from indexer.evaluation.report import render_table
    from indexer.evaluation.run import evaluate as measure

    check_writable(json_file)
    settings = settings_for(context, data_dir, pack=pack_name)
    require_people(len(find_photos(directory).identity_names))
    name = pack_name or pack_in_use(settings)
    pack = open_pack(settings, name)
    # Before hours of work, not after them: what cannot be kept is said now.
    data_keys = outer_keys(settings)
    make_catalog(settings.data_dir, settings.catalog_url, keys=data_keys).close()
    with Reporter() as reporter:
        report = measure(
            Analyser(pack),
            directory,
            limits=settings.decode_limits,
            cache_dir=cache,
            labels_file=labels,
            progress=reporter.step,
        )
        require_people(len({*report.faces.sample.identities[report.faces.sample.found].tolist()}))
        facts: dict[str, Any] = {
            "pack": name,
            "measured_at": rfc3339(utc_now()),
            "version": __version__,
        }
        if report.groups is not None:
            # People, not rates: the rates stand in the report, with their intervals.
            facts["people_by_group"] = {
                one.attribute: {group.value: group.people for group in one.groups}
                for one in report.groups.attributes
            }
        made = make_calibration(
            report.faces,
            source=source or f"{directory.name}, {len(report.faces.faces):,} photos",
            facts=facts,
            progress=reporter.step,
        )
    with closing(make_catalog(settings.data_dir, settings.catalog_url, keys=data_keys)) as catalog:
        calibration_id = keep(catalog, made, actor=ACTOR)
    warning = small_sample(made)
    figures = report.to_json()
    figures["calibration"] = {
        "calibration_id": calibration_id,
        "warning": warning or None,
        **calibration_json(made),
    }
    write_json(json_file, figures)
    if json_file != STDOUT:
        out.print(Text(render_table(report)))
        out.print(Text(render_calibration(made)))
    if warning:
        err.print(Text(warning))
    err.print(
        Text(
            f"Kept in the catalog as {calibration_id}. It is in force for {made.contract_id} from "
            "now on, also in what runs already."
        )
    )
