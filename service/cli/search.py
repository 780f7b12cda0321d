"""``homeward candidates`` and ``homeward search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from indexer.cases import find_case
from indexer.errors import SeveralFacesFound, SourceUnreadable
from indexer.records import SearchFilter
from service.cli.console import (
    AsJson,
    DataDir,
    columns,
    err,
    expected_errors,
    operator,
    out,
    print_json,
    record_read,
    settings_for,
    workspace_for,
)
from service.search.explain import NO_ALERTS
from service.search.rank import (
    MAX_CANDIDATES,
    Candidate,
    CandidateList,
    case_candidates,
    photo_candidates,
    require_purpose,
)
from service.search.render import candidates_json

K = Annotated[
    int, typer.Option("-k", "--k", min=1, max=MAX_CANDIDATES, help="How many leads at most.")
]
Agency = Annotated[
    str, typer.Option("--agency", help="Agency of the case, where there are several.")
]


@expected_errors
def candidates(
    context: typer.Context,
    case_number: Annotated[str, typer.Argument(metavar="CASE_NUMBER")],
    k: K = 20,
    agency: Agency = "",
    purpose: Annotated[
        str | None,
        typer.Option("--purpose", help="As for `homeward search`; by default the case's own."),
    ] = None,
    note: Annotated[str | None, typer.Option("--note", help="More on the purpose.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List the best candidates for the photos of a case. The search is recorded."""
    if purpose is not None:
        require_purpose(purpose)
    with workspace_for(settings_for(context, data_dir)) as workspace:
        case = find_case(workspace, case_number, agency)
        found = case_candidates(workspace, case.case_id, k, purpose=purpose, purpose_note=note)
        record_read(
            workspace.catalog,
            "candidates.read",
            subject=("case", case.case_id),
            case_id=case.case_id,
        )
    _show(found, as_json)


@expected_errors
def search(
    context: typer.Context,
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A picture of the person.")],
    case: Annotated[str, typer.Option("--case", metavar="CASE_NUMBER")],
    purpose: Annotated[
        str,
        typer.Option(
            "--purpose",
            help="locate_missing_person, identify_victim, verify_sighting or training; recorded.",
        ),
    ],
    note: Annotated[str | None, typer.Option("--note", help="More on the purpose.")] = None,
    face_index: Annotated[
        int | None, typer.Option("--face-index", min=0, help="Which face, if there are several.")
    ] = None,
    k: K = 20,
    site: Annotated[str | None, typer.Option("--site", help="Only ads of this site.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="Only ads of this region.")] = None,
    agency: Agency = "",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Search the ads with a photo that is not enrolled. The search is recorded."""
    require_purpose(purpose)
    settings = settings_for(context, data_dir)
    with workspace_for(settings) as workspace:
        record = find_case(workspace, case, agency)
        try:
            found = photo_candidates(
                workspace,
                record.case_id,
                _read(photo, settings.max_image_bytes),
                purpose=purpose,
                purpose_note=note,
                actor=operator(),
                face_index=face_index,
                k=k,
                filters=SearchFilter(site=site, region=region),
            )
        except SeveralFacesFound as error:
            _show_faces(error)
            raise
    _show(found, as_json)


def _read(photo: Path, limit: int) -> bytes:
    """The bytes of a picture; one byte beyond ``limit`` is enough for it to be refused."""
    try:
        with photo.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise SourceUnreadable(
            f"{photo} cannot be read: {error.strerror}.",
            remedy="Name a picture that this account may read.",
        ) from None


def _show_faces(error: SeveralFacesFound) -> None:
    rows = [("face_index", "x", "y", "width", "height", "quality")]
    rows += [
        (
            str(face.face_index),
            f"{face.box.x:.0f}",
            f"{face.box.y:.0f}",
            f"{face.box.width:.0f}",
            f"{face.box.height:.0f}",
            f"{face.quality.score:.2f}",
        )
        for face in error.faces
    ]
    err.print(Text(columns(rows)))


def _show(found: CandidateList, as_json: bool) -> None:
    if as_json:
        print_json(candidates_json(found))
        return
    if not found.items:
        out.print(Text(f"No candidates: {found.gallery_size} faces in ads were compared."))
    else:
        rows = [("rank", "band", "score", "strangers to expect", "ads", "site", "ad", "posted")]
        rows += [_row(item) for item in found.items]
        out.print(Text(columns(rows)))
        out.print(Text(f"{found.gallery_size} faces in ads were compared."))
        for line in _rate_notes(found):
            out.print(Text(line))
    out.print(Text(found.calibration))
    if not found.calibrated:
        out.print(Text(NO_ALERTS))
    out.print(Text(found.notice))


def _row(item: Candidate) -> tuple[str, str, str, str, str, str, str, str]:
    posted = item.ad.posted_at
    return (
        str(item.rank),
        item.band or "uncalibrated",
        f"{item.score:.3f}",
        _strangers(item),
        str(item.lead.ads),
        item.ad.site,
        item.ad.external_id,
        "unknown" if posted is None else f"{posted:%Y-%m-%d}",
    )


def _rate_notes(found: CandidateList) -> list[str]:
    """Each note on rates once, with the ranks that it is about."""
    ranks: dict[str, list[str]] = {}
    for item in found.items:
        for note in item.rate_notes:
            ranks.setdefault(note, []).append(str(item.rank))
    return [f"Rank {', '.join(about)}: {note}" for note, about in ranks.items()]


def _strangers(item: Candidate) -> str:
    if item.expected_false_candidates is None:
        return "uncalibrated"
    sign = "" if item.false_match_rate_resolved else "up to "
    return f"{sign}{item.expected_false_candidates:.2g}"
