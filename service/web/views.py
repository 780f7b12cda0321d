"""What the pages show, gathered from the records and put into words. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

from indexer import candidates, cases, images, jobs
from indexer.errors import ApprovalRequired, CandidateNotFound, FaceNotFound
from indexer.links import Link
from indexer.records import (
    AdSummary,
    CandidateRecord,
    CaseRecord,
    CaseStatus,
    FaceRecord,
    JobRecord,
    JobState,
    LeadRecord,
    Page,
    PhotoRecord,
    SearchState,
)
from indexer.searched import search_state
from indexer.workspace import Workspace
from models.packs.base import PackInfo
from models.packs.licences import Rights
from models.packs.registry import find_pack
from models.types import Quality
from service.accounts.access import job_kinds
from service.accounts.principal import Principal
from service.config import Settings
from service.packs import rights_to
from service.search.rank import Candidate, CandidateList, case_candidates
from service.web import texts

LIST_LENGTH: Final = 20
_PARTS: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "opencv-python",
    "pillow",
    "sqlalchemy",
)


@dataclass(frozen=True, slots=True)
class PhotoView:
    """A photo of a case with what limits the search with it."""

    photo: PhotoRecord
    quality: Quality | None


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One candidate in words. ``person_crop`` is the address of the crop beside it."""

    candidate_id: str
    rank: int
    band: str
    expectation: str
    rate_notes: tuple[str, ...]
    person_crop: str | None
    face: FaceRecord
    image_sha256: str
    ad: AdSummary
    lead: LeadRecord
    links: tuple[Link, ...]
    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ListView:
    """A candidate list in words."""

    items: tuple[CandidateView, ...]
    state: SearchState
    gallery_size: int
    k: int
    calibration: str
    uncalibrated: bool


@dataclass(frozen=True, slots=True)
class CaseRow:
    """One line of the list of cases."""

    case: CaseRecord
    state: Literal["not_searched", "searching", "searched", "ended"]


@dataclass(frozen=True, slots=True)
class CaseView:
    """A case with its photos and, while it may be searched, its candidates. ``waits``: for an
    approval."""

    case: CaseRecord
    photos: tuple[PhotoView, ...]
    listed: ListView | None
    waits: ApprovalRequired | None


@dataclass(frozen=True, slots=True)
class AboutView:
    """What answers come from."""

    pack: PackInfo | None
    rights: tuple[tuple[str, str], ...]
    contract_id: str
    provenance: tuple[tuple[str, str], ...]
    calibrated: bool
    ad_faces: int
    case_faces: int
    versions: tuple[tuple[str, str], ...]


def case_rows(
    ws: Workspace,
    *,
    status: CaseStatus | None,
    text: str | None,
    cursor: str | None,
    agency: str | None,
) -> Page[CaseRow]:
    """Cases of one agency or of all, newest first. Raises InvalidCursor."""
    page = cases.list_cases(ws, status=status, text=text, cursor=cursor, within=agency)
    with ws.catalog.read() as session:
        rows = tuple(
            CaseRow(
                case,
                search_state(
                    session,
                    ws.contract_id,
                    case.case_id,
                    sum(photo.enrolled for photo in case.photos),
                ).state
                if case.status == "open"
                else "ended",
            )
            for case in page.items
        )
    return Page(rows, page.next_cursor)


def case_view(ws: Workspace, case_id: str, *, with_candidates: bool) -> CaseView:
    """Everything the page of a case shows; the search is made now. Raises CaseNotFound."""
    case = cases.get_case(ws, case_id)
    listed = None
    waits = None
    if with_candidates and case.status == "open":
        try:
            listed = list_view(case_candidates(ws, case_id, LIST_LENGTH))
        except ApprovalRequired as error:
            waits = error
    return CaseView(case, tuple(_photo_view(ws, photo) for photo in case.photos), listed, waits)


def _photo_view(ws: Workspace, photo: PhotoRecord) -> PhotoView:
    try:
        return PhotoView(photo, images.get_face(ws, photo.face_id).quality)
    except FaceNotFound:
        return PhotoView(photo, None)


def list_view(found: CandidateList, *, person_crop: str | None = None) -> ListView:
    """A candidate list in words. ``person_crop``: where the crop of a photo is that is not
    enrolled."""
    return ListView(
        items=tuple(_candidate_view(item, found, person_crop) for item in found.items),
        state=found.search_state,
        gallery_size=found.gallery_size,
        k=found.k,
        calibration=found.calibration,
        uncalibrated=not found.calibrated,
    )


def _candidate_view(
    item: Candidate, found: CandidateList, person_crop: str | None
) -> CandidateView:
    if item.person_face_id is not None:
        person_crop = f"/faces/{item.person_face_id}"
    return CandidateView(
        candidate_id=item.candidate_id,
        rank=item.rank,
        band=item.band or "uncalibrated",
        expectation=expectation(item),
        rate_notes=item.rate_notes,
        person_crop=person_crop,
        face=item.face,
        image_sha256=item.image_sha256,
        ad=item.ad,
        lead=item.lead,
        links=item.links,
        figures=_figures(item, found),
    )


def expectation(item: Candidate) -> str:
    """How many strangers are to be expected at this score or above, in plain words."""
    expected = item.expected_false_candidates
    if expected is None:
        return texts.text("expect.unknown")
    if item.limited_pictures == 2:
        return texts.text("expect.outside")
    if item.false_match_rate_resolved is False:
        if expected < 1:
            return texts.text("expect.bound_one_in", searches=rounded(1 / max(expected, 1e-9)))
        return texts.text("expect.bound_many", strangers=rounded(expected))
    if expected < 0.95:
        return texts.text("expect.one_in", searches=rounded(1 / max(expected, 1e-9)))
    if expected < 1.5:
        return texts.text("expect.one")
    return texts.text("expect.many", strangers=rounded(expected))


def rounded(value: float) -> str:
    """Two significant figures: the sample does not support more."""
    if value >= 10:
        digits = len(str(int(value))) - 2
        return f"{int(round(value, -digits)):,}"
    return f"{value:.0f}" if value >= 2 else f"{value:.1f}".removesuffix(".0")


def rate_text(value: float | None) -> str:
    """A rate as people read it: 1 in so many, where it is small."""
    if not value:
        return "0"
    return texts.text("figure.one_in", n=rounded(1 / value)) if value < 0.1 else f"{value:.2g}"


def _figures(item: Candidate, found: CandidateList) -> tuple[tuple[str, str], ...]:
    rows = [("figure.score", f"{item.score:.4f}")]
    if item.false_match_rate is not None:
        resolved = item.false_match_rate_resolved
        rows += [
            (
                "figure.fmr",
                rate_text(item.false_match_rate) if resolved else texts.text("figure.unresolved"),
            ),
            ("figure.fmr_upper", rate_text(item.false_match_rate_upper)),
            ("figure.expected_upper", rate_text(item.expected_false_candidates_upper)),
        ]
    rows += [
        ("figure.gallery", f"{found.gallery_size:,}"),
        ("figure.photos", str(item.photos_fused)),
        ("figure.contract", found.contract_id),
    ]
    return tuple((texts.text(name), value) for name, value in rows)


def candidate_of(
    ws: Workspace, case_id: str, candidate_id: str
) -> tuple[CandidateRecord, FaceRecord]:
    """A candidate of this case and its face. Raises CandidateNotFound and FaceNotFound."""
    record = candidates.get_candidate(ws, candidate_id)
    if record.case_id != case_id:
        raise CandidateNotFound(candidate_id)
    return record, images.get_face(ws, record.face_id)


def job_page(
    ws: Workspace, principal: Principal, *, state: JobState | None, cursor: str | None
) -> Page[JobRecord]:
    """The jobs that somebody may know of, newest first. Raises InvalidCursor."""
    only = jobs.visible(job_kinds(principal), principal.agency)
    return jobs.list_jobs(ws, state=state, cursor=cursor, only=only)


def about_view(ws: Workspace, settings: Settings) -> AboutView:
    """Pack, licence, calibration, galleries and versions."""
    calibration = ws.calibration
    name = ws.pack or settings.pack
    rights = rights_to(settings, name)
    return AboutView(
        pack=find_pack(name, settings.packs_dir) if rights.unreadable is None else None,
        rights=tuple(_rights(rights)),
        contract_id=ws.contract_id,
        provenance=tuple(_flat(dict(calibration.provenance))) if calibration else (),
        calibrated=calibration is not None,
        ad_faces=ws.ads.count(),
        case_faces=ws.cases.count(),
        versions=tuple(_versions()),
    )


def _rights(rights: Rights) -> Iterator[tuple[str, str]]:
    """Who accepted which terms of the pack, and what a signed licence grants."""
    if accepted := rights.acceptance:
        text = f"{accepted.accepted_by}, {accepted.accepted_at} ({accepted.terms}"
        yield texts.text("about.accepted"), f"{text}, SHA-256 {accepted.terms_sha256})"
    if licence := rights.licence:
        granted = [licence.license_id, licence.customer, licence.valid_from, licence.valid_until]
        said = [licence.message, *(part for part in granted if part)]
        yield texts.text("about.signed"), "; ".join(said)


def _flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as rows; what lies two levels down shares one row."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        key = f"{prefix}{name}".replace("_", " ")
        key = key[:1].upper() + key[1:]
        if isinstance(value, dict) and prefix:
            rows.append(
                (key, "; ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in value.items()))
            )
        elif isinstance(value, dict):
            rows += _flat(value, f"{key}, ")
        else:
            rows.append((key, _plain(value)))
    return rows


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _PARTS:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found
