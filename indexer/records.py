"""The values that pass in and out of the indexer: frozen, typed, without a database behind them.

Inputs carry their bounds as annotations, so that a border (HTTP, a file of cases) can validate
them with ``pydantic.TypeAdapter``; unknown fields are refused. Times are aware UTC datetimes cut
to milliseconds; what is unknown is ``None``, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar

from annotated_types import Ge, Gt, Le, MaxLen, MinLen, Predicate
from pydantic import AfterValidator, BeforeValidator

from indexer.blobs import Received
from indexer.times import date_in_range, date_or_text, moment_in_range, time_in_range
from models.types import Box, Landmarks, Quality


def is_email(text: str) -> bool:
    """Whether ``text`` looks like one plain address: ``local@domain``, no spaces, no control
    characters, nothing that could start another header or recipient."""
    local, at, domain = text.rpartition("@")
    plain = text.isascii() and text.isprintable() and not set(text) & set(' ,;:<>()[]"\\')
    return bool(plain and at and local and "@" not in local and "." in domain.strip("."))


CaseStatus: TypeAlias = Literal["open", "found", "closed"]
JobState: TypeAlias = Literal["queued", "running", "done", "failed", "dropped"]
JobKind: TypeAlias = Literal[
    "ingest_ad",
    "probe_case",
    "enrol_case",
    "embed_images",
    "embed_case",
    "check_pictures",
    "read_again",
    "tidy_faces",
    "deliver_webhook",
    "deliver_email",
    "stamp_head",
]
ImageStatus: TypeAlias = Literal["queued", "known", "rejected"]
AnalysisState: TypeAlias = Literal["pending", "done", "failed"]
SearchStateName: TypeAlias = Literal["not_searched", "searching", "searched"]
GalleryName: TypeAlias = Literal["cases", "ads"]
UNREVIEWED: Final = "unreviewed"
"""The status of a candidate that nobody has judged."""
Purpose: TypeAlias = Literal[
    "locate_missing_person", "identify_victim", "verify_sighting", "training"
]
Time: TypeAlias = Annotated[datetime, BeforeValidator(date_or_text), AfterValidator(time_in_range)]
"""A time with its zone (without one it would be a guess); kept in UTC, cut to milliseconds."""
Day: TypeAlias = Annotated[date, BeforeValidator(date_or_text), AfterValidator(date_in_range)]
"""A date; never made from a number."""
Moment: TypeAlias = Annotated[date | datetime, BeforeValidator(moment_in_range)]
"""A date alone, or a time with its zone: whichever was stated."""

Name: TypeAlias = Annotated[str, MinLen(1), MaxLen(200)]
Line: TypeAlias = Annotated[str, MaxLen(500)]
Text: TypeAlias = Annotated[str, MaxLen(100_000)]
Email: TypeAlias = Annotated[str, MinLen(3), MaxLen(254), Predicate(is_email)]
Latitude: TypeAlias = Annotated[float, Ge(-90), Le(90)]
Longitude: TypeAlias = Annotated[float, Ge(-180), Le(180)]

_STRICT: dict[str, Any] = {"extra": "forbid", "str_strip_whitespace": True}

T = TypeVar("T")


# --- cases -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who is missing, as far as known."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: Name | None = None
    aliases: Annotated[tuple[Name, ...], MaxLen(50)] = ()
    date_of_birth: Day | None = None
    sex: Annotated[str, MaxLen(40)] | None = None
    race: Annotated[str, MaxLen(80)] | None = None
    height_cm: Annotated[float, Ge(20), Le(280)] | None = None
    weight_kg: Annotated[float, Ge(1), Le(500)] | None = None
    eye_color: Annotated[str, MaxLen(80)] | None = None
    hair_color: Annotated[str, MaxLen(80)] | None = None
    marks: Text | tuple[Line, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSeen:
    """Where and when the person was last seen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    place: Line | None = None
    lat: Latitude | None = None
    lon: Longitude | None = None
    at: Moment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseInput:
    """What a new case states. ``agency`` is empty for the only agency of an installation.

    ``alert_expected_false`` (strangers to expect at which an alert is still raised) and
    ``alert_budget`` (alerts a week before that is tightened) are the installation's where they
    are ``None``; ``alert_emails`` are the addresses of the case's owner and team.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    case_number: Annotated[str, MinLen(1), MaxLen(100)]
    agency: Annotated[str, MaxLen(100)] = ""
    person: Person = Person()
    missing_since: Moment | None = None
    last_seen: LastSeen | None = None
    default_purpose: Purpose | None = None
    notes: Text | None = None
    alert_expected_false: Annotated[float, Gt(0), Le(1000)] | None = None
    alert_budget: Annotated[int, Ge(1), Le(100_000)] | None = None
    alert_emails: Annotated[tuple[Email, ...], MaxLen(20)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """One case as stored; ``photos`` are its photos, oldest first.

    ``suspended`` and ``search_until``: whether and until when it may be searched (approvals).
    """

    case_id: str
    agency: str
    case_number: str
    status: CaseStatus
    person: Person
    missing_since: Moment | None
    last_seen: LastSeen | None
    default_purpose: Purpose | None
    notes: str | None
    alert_expected_false: float | None
    alert_budget: int | None
    alert_emails: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    legal_hold: bool
    suspended: bool = False
    search_until: datetime | None = None
    photos: tuple[PhotoRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRecord:
    """One photo of a case. ``face_id`` names the enrolled face; its ``box`` is kept with the photo.

    ``enrolled``: whether the face is in the gallery of cases now (it is not while the case is
    closed, nor while a re-enrolment is queued).
    """

    photo_id: str
    case_id: str
    sha256: str
    filename: str | None
    taken_on: date | None
    width: int
    height: int
    enrolled_face_index: int
    face_id: str
    box: Box
    enrolled: bool
    job_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceSummary:
    """One face found in a picture, numbered by area (largest first, then left to right)."""

    face_index: int
    box: Box
    detection_score: float
    quality: Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceRecord:
    """One stored face. ``landmarks`` are in pixels of the upright image."""

    face_id: str
    sha256: str
    contract_id: str
    face_index: int
    box: Box
    landmarks: Landmarks
    turn: int
    detection_score: float
    quality: Quality

    def summary(self) -> FaceSummary:
        """The part that is shown before anything is stored."""
        return FaceSummary(
            face_index=self.face_index,
            box=self.box,
            detection_score=self.detection_score,
            quality=self.quality,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoReceipt:
    """What ``add_photo`` did. ``created`` is false where the case had the photo already.

    ``job_id`` names the search of the ads that the photo started.
    """

    photo_id: str
    job_id: str
    sha256: str
    width: int
    height: int
    faces: tuple[FaceRecord, ...]
    enrolled_face_index: int
    created: bool
    notes: tuple[str, ...] = ()


# --- ads -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureInfo:
    """How the scraper got the ad; kept with the capture as it was given."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    tool: Line | None = None
    tool_version: Line | None = None
    response_headers: Mapping[str, Any] | None = None
    image_urls: Annotated[tuple[Annotated[str, MaxLen(4000)], ...], MaxLen(200)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdInput:
    """One advertisement as the scraper read it. ``(site, external_id)`` says which ad it is."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    site: Annotated[str, MinLen(1), MaxLen(200)]
    external_id: Annotated[str, MinLen(1), MaxLen(300)]
    url: Annotated[str, MaxLen(4000)] | None = None
    posted_at: Time | None = None
    captured_at: Time | None = None
    title: Annotated[str, MaxLen(2000)] | None = None
    body: Text | None = None
    phones: Annotated[tuple[Annotated[str, MinLen(1), MaxLen(60)], ...], MaxLen(100)] = ()
    emails: Annotated[tuple[Annotated[str, MinLen(1), MaxLen(320)], ...], MaxLen(100)] = ()
    handles: Annotated[tuple[Annotated[str, MinLen(1), MaxLen(200)], ...], MaxLen(100)] = ()
    age_stated: Annotated[int, Ge(0), Le(150)] | Annotated[str, MaxLen(60)] | None = None
    city: Line | None = None
    region: Line | None = None
    country: Line | None = None
    location_text: Annotated[str, MaxLen(2000)] | None = None
    lat: Latitude | None = None
    lon: Longitude | None = None
    language: Annotated[str, MaxLen(40)] | None = None
    capture: CaptureInfo | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SentBefore:
    """An image that is named by its SHA-256, because its bytes were sent before."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as received: its bytes, where they are, and the name and type the sender gave."""

    data: bytes | Received | SentBefore = field(repr=False)
    filename: str | None = None
    media_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOutcome:
    """What became of one uploaded image; ``code`` and ``detail`` only where it was rejected.

    ``known`` means that another ad (or an earlier capture) already has these bytes; whether a
    case photo has them is never told.
    """

    filename: str | None
    sha256: str
    status: ImageStatus
    code: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdReceipt:
    """What ``receive_ad`` did. ``created`` is false where this very content was there already."""

    ad_id: str
    capture_id: str
    job_id: str
    created: bool
    images: tuple[ImageOutcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRecord:
    """A page file (HTML, screenshot, WARC) kept as evidence, never rendered."""

    sha256: str
    filename: str | None
    media_type: str | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRecord:
    """One sighting of an ad. ``content`` is what was received, field by field.

    ``last_captured_at`` is later than ``captured_at`` where the same content was sent again.
    """

    capture_id: str
    captured_at: datetime | None
    last_captured_at: datetime | None
    received_at: datetime
    job_id: str
    content: Mapping[str, Any]
    images: tuple[ImageOutcome, ...]
    pages: tuple[PageRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One image of an ad with the faces found in it under the present contract."""

    sha256: str
    format: str
    width: int
    height: int
    size: int
    notes: tuple[str, ...]
    analysis: AnalysisState
    code: str | None
    faces: tuple[FaceRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdSummary:
    """The part of an ad that is shown beside a candidate."""

    ad_id: str
    site: str
    external_id: str
    url: str | None
    title: str | None
    posted_at: datetime | None
    city: str | None
    region: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdRecord(AdSummary):
    """One ad as its newest capture states it, with all its captures and images."""

    body: str | None
    phones: tuple[str, ...]
    emails: tuple[str, ...]
    handles: tuple[str, ...]
    age_stated: int | str | None
    country: str | None
    location_text: str | None
    lat: float | None
    lon: float | None
    language: str | None
    attributes: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    captures: tuple[CaptureRecord, ...] = ()
    images: tuple[ImageRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdFilter:
    """Which ads a list shows; ``place`` is looked for in city, region, country and location."""

    site: str | None = None
    phone: str | None = None
    place: str | None = None
    posted_after: datetime | None = None
    posted_before: datetime | None = None


# --- jobs ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that failed or was refused, and why. ``item`` names it (file, line, SHA-256)."""

    item: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One piece of queued work. ``done`` of ``total`` steps; failures do not stop the rest.

    ``failed`` ones are the dead letters; ``alone``: a process died at it. ``run_after``: when it
    is tried again after it broke off.
    """

    job_id: str
    kind: JobKind
    subject_id: str
    contract_id: str | None
    state: JobState
    done: int
    total: int
    attempts: int
    alone: bool
    run_after: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    failures: tuple[Failure, ...]


# --- candidates ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFilter:
    """Which ads a search looks at. ``posted_after`` is inclusive, ``posted_before`` exclusive.

    An ad without a posted time is left out as soon as one of the two is set.
    """

    site: str | None = None
    region: str | None = None
    posted_after: datetime | None = None
    posted_before: datetime | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is filtered."""
        return self == SearchFilter()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchState:
    """``up_to``: ads received up to this moment are in the comparison."""

    state: SearchStateName
    up_to: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadRecord:
    """A lead gathers the candidates of one case that share an ad or the very same image.

    ``ads`` and ``images`` count what it holds; ``first_seen`` and ``last_seen`` span the posted
    and captured times that are known.
    """

    lead_id: str
    ads: int
    images: int
    first_seen: datetime | None
    last_seen: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCandidate:
    """One ranked candidate: the best face of its lead.

    ``score`` is the fused cosine of ``photos_fused`` enrolled photos with this face;
    ``person_face_id`` names the enrolled face that is nearest (``None`` for a photo that is not
    enrolled), ``person_quality`` says how well that face can be compared (``None`` where it has
    been forgotten since). ``ad`` is the ad that showed the image first.
    """

    candidate_id: str
    rank: int
    score: float
    photos_fused: int
    status: str
    person_face_id: str | None
    person_quality: Quality | None
    face: FaceRecord
    image_sha256: str
    ad: AdSummary
    lead: LeadRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertLimit:
    """What is told for a case now: at most ``expected_false`` strangers to expect.

    ``raised`` alerts were raised in the last seven days, of a ``budget``; ``tightened`` where
    that has lowered the limit below the case's own, ``base``.
    """

    expected_false: float
    base: float
    raised: int
    budget: int

    @property
    def tightened(self) -> bool:
        """Whether the budget of the week has lowered the limit."""
        return self.raised >= self.budget


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCandidates:
    """The k best leads of one case, from an exact search made now."""

    case_id: str
    contract_id: str
    gallery_size: int
    k: int
    photos_fused: int
    alert_limit: AlertLimit
    search_state: SearchState
    items: tuple[RankedCandidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """One stored candidate: this face may be the person of this case; a person has to judge it."""

    candidate_id: str
    case_id: str
    lead_id: str
    face_id: str
    contract_id: str
    score: float
    photos_fused: int
    status: str
    created_at: datetime


# --- search, purge, files --------------------------------------------------------------------


SearchKind: TypeAlias = Literal["photo", "list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRecord:
    """One search as recorded: who, when, for which case, why, over what, with which outcome."""

    search_id: str
    at: datetime
    actor: str
    case_id: str
    purpose: str
    purpose_note: str | None
    kind: SearchKind
    gallery_size: int
    contract_id: str
    k: int
    candidate_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeRecord:
    """Proof of a deletion: what kind of record, which id, when, by whom, how much; no content."""

    purge_id: str
    at: datetime
    actor: str
    kind: str
    subject_id: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What became of a file of ads or cases.

    ``done`` items are in (``created`` of them newly, the others were there already).
    ``refused_total`` counts every item that was not taken and every image that could not be
    analysed; ``refused`` lists the first 1,000 of them.
    """

    done: int
    created: int
    refused: tuple[Failure, ...]
    refused_total: int = 0
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of long work: ``done`` of ``total`` (``None`` where the end is not known yet)."""

    stage: str
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. ``next_cursor`` is ``None`` on the last."""

    items: tuple[T, ...]
    next_cursor: str | None
