"""``homeward evaluate``: measure the face pack on labelled photos."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from models.pipeline import Analyser
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
from service.opening import calibration_for, open_pack, pack_in_use

PackName = Annotated[
    str | None,
    typer.Option("--pack", metavar="NAME", help="Face pack (the one in use).", show_default=""),
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="CSV of groups (identity or photo; sex, race, age_band): also report by group.",
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Keep the faces found in DIR, so that a stopped run goes on. It holds face vectors: "
        "delete it with the photos.",
    ),
]


@expected_errors
def evaluate(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="One folder per identity.")],
    pack_name: PackName = None,
    json_file: JsonFile = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="DIR", help="Write DET, CMC and more as PNG.")
    ] = None,
    degrade: Annotated[
        str | None,
        typer.Option(
            "--degrade",
            metavar="NAMES",
            help="Also measure degraded probes: names separated by commas, or all.",
        ),
    ] = None,
    degrade_probes: Annotated[
        int, typer.Option("--degrade-probes", min=0, help="Probes to degrade; 0 takes all.")
    ] = 300,
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="FILE", help="Write a calibration of these photos."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="Name of the photos, kept in the calibration."),
    ] = None,
    clusters: Annotated[
        bool, typer.Option("--clusters", help="Also measure clusters of unknown faces.")
    ] = False,
    fusion: Annotated[
        bool,
        typer.Option(
            "--fusion",
            help="Also measure what more photos, norms, quality and clusters do for a search.",
        ),
    ] = False,
    labels: LabelsFile = None,
    cache: CacheDir = None,
    data_dir: DataDir = None,
) -> None:
    """Measure the face pack on a folder with one folder of photos for each identity."""
    # Here, not above: these bring in SciPy and matplotlib, which no other command needs.
    from indexer.evaluation.beyond import beyond_study, render_beyond
    from indexer.evaluation.cache import FaceCache
    from indexer.evaluation.calibrate import calibrate as make_calibration
    from indexer.evaluation.clusters import measure_clusters, render_clusters
    from indexer.evaluation.degrade import DEGRADATIONS, STANDARD
    from indexer.evaluation.fusion import fusion_study, render_fusion
    from indexer.evaluation.plots import write_plots
    from indexer.evaluation.poor import poor_faces
    from indexer.evaluation.rates import rate_study, render_rates
    from indexer.evaluation.report import render_table
    from indexer.evaluation.run import evaluate as measure

    for path in (json_file, calibrate):
        check_writable(path)
    settings = settings_for(context, data_dir, pack=pack_name)
    groups = {"standard": STANDARD, "all": tuple(DEGRADATIONS)}
    chosen = groups.get(degrade or "") or (degrade or "").split(",")
    pack = open_pack(settings, pack_name or pack_in_use(settings))
    analyser = Analyser(pack)
    with Reporter() as reporter:
        report = measure(
            analyser,
            directory,
            degrade=[name.strip() for name in chosen if name.strip()],
            degrade_probes=degrade_probes or None,
            limits=settings.decode_limits,
            cache_dir=cache,
            labels_file=labels,
            progress=reporter.step,
        )
        if calibrate is not None:
            made = make_calibration(
                report.faces,
                source=source or f"{directory.name}, {len(report.faces.faces):,} photos",
                progress=reporter.step,
            )
            made.save(calibrate)
        if fusion:
            poor = poor_faces(
                analyser,
                report.faces,
                limits=settings.decode_limits,
                cache=FaceCache(cache, analyser.contract_id) if cache else None,
                progress=reporter.step,
            )
    rules = fusion_study(report.faces.sample) if fusion else []
    beyond = beyond_study(report.faces, poor) if fusion else []
    rates = rate_study(report.faces, poor) if fusion else []
    gathered = []
    if clusters:
        gathered = measure_clusters(report.faces.sample, calibration_for(settings, pack))
    figures = report.to_json()
    if clusters:
        figures["clusters"] = [line.to_json() for line in gathered]
    if fusion:
        figures["fusion"] = {
            "rules": [asdict(row) for row in rules],
            "beyond": [line.to_json() for line in beyond],
            "rates": [line.to_json() for line in rates],
        }
    write_json(json_file, figures)
    if plots is not None:
        for path in write_plots(report, plots):
            err.print(Text(f"Wrote {path}"))
    if json_file != STDOUT:
        out.print(Text(render_table(report)))
        if clusters:
            out.print(Text(render_clusters(gathered)))
        if fusion:
            out.print(Text(render_fusion(rules)))
            out.print(Text(render_beyond(beyond)))
            out.print(Text(render_rates(rates)))
