"""Cases and their photos."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from indexer.records import is_email
from service.api.schemas.common import (
    BoxOut,
    DateIn,
    Id,
    In,
    MomentIn,
    MomentOut,
    Number,
    Out,
    Purpose,
    QualityOut,
    Sha256,
    TimeOut,
)

CaseStatus = Literal["open", "found", "closed"]


def _plain_address(text: str) -> str:
    if not is_email(text):
        raise ValueError("give one plain address, such as team@agency.example")
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Line = Annotated[str, StringConstraints(max_length=500)]
Short = Annotated[str, StringConstraints(max_length=40)]
Word = Annotated[str, StringConstraints(max_length=80)]
Prose = Annotated[str, StringConstraints(max_length=100_000)]
CaseNumber = Annotated[str, StringConstraints(min_length=1, max_length=100)]
AlertLimit = Annotated[
    Number, Field(gt=0, le=1000, description="An alert is raised where so many strangers at most")
]
AlertBudget = Annotated[int, Field(ge=1, le=100_000, strict=True)]
EmailIn = Annotated[
    str, StringConstraints(min_length=3, max_length=254), AfterValidator(_plain_address)
]
Agency = Annotated[str, StringConstraints(max_length=100)]


class PersonIn(In):
    """Who is missing, as far as known."""

    name: Name | None = None
    aliases: list[Name] = Field(default_factory=list, max_length=50)
    date_of_birth: DateIn | None = None
    sex: Short | None = None
    race: Word | None = None
    height_cm: Number | None = Field(default=None, ge=20, le=280)
    weight_kg: Number | None = Field(default=None, ge=1, le=500)
    eye_color: Word | None = None
    hair_color: Word | None = None
    marks: Prose | Annotated[list[Line], Field(max_length=100)] | None = None


class LastSeenIn(In):
    """Where and when the person was last seen."""

    place: Line | None = None
    lat: Number | None = Field(default=None, ge=-90, le=90)
    lon: Number | None = Field(default=None, ge=-180, le=180)
    at: MomentIn | None = None


class CaseIn(In):
    """A new case. ``case_number`` is unique within ``agency``."""

    case_number: CaseNumber
    agency: Agency = Field("", description="Empty for the only agency of an installation")
    person: PersonIn = Field(default_factory=PersonIn)
    missing_since: MomentIn | None = None
    last_seen: LastSeenIn | None = None
    default_purpose: Purpose | None = None
    notes: Prose | None = None
    alert_expected_false: AlertLimit | None = None
    alert_budget: AlertBudget | None = None
    alert_emails: list[EmailIn] = Field(
        default_factory=list,
        max_length=20,
        description="Owner and team; told of alerts without personal data",
    )


def _open() -> CaseStatus:
    return "open"


class CasePatch(In):
    """Only the fields that are sent change; ``person`` and ``last_seen`` are replaced whole."""

    case_number: CaseNumber = Field(default_factory=str)
    agency: Agency = Field(default_factory=str)
    person: PersonIn = Field(default_factory=PersonIn)
    missing_since: MomentIn | None = None
    last_seen: LastSeenIn | None = None
    default_purpose: Purpose | None = None
    notes: Prose | None = None
    alert_expected_false: AlertLimit | None = None
    alert_budget: AlertBudget | None = None
    alert_emails: list[EmailIn] = Field(default_factory=list, max_length=20)
    status: CaseStatus = Field(
        default_factory=_open,
        description="found and closed take the case out of every search at once",
    )


class PersonOut(Out):
    name: str | None
    aliases: list[str]
    date_of_birth: date | None
    sex: str | None
    race: str | None
    height_cm: float | None
    weight_kg: float | None
    eye_color: str | None
    hair_color: str | None
    marks: str | list[str] | None


class LastSeenOut(Out):
    place: str | None
    lat: float | None
    lon: float | None
    at: MomentOut | None


class PhotoOut(Out):
    """One photo of a case; ``enrolled`` says whether its face is searched with now."""

    photo_id: Id
    sha256: Sha256
    filename: str | None
    taken_on: date | None
    width: int
    height: int
    enrolled_face_index: int
    face_id: Id
    box: BoxOut
    enrolled: bool
    job_id: Id | None
    created_at: TimeOut


class CaseOut(Out):
    case_id: Id
    agency: str
    case_number: str
    status: CaseStatus
    person: PersonOut
    missing_since: MomentOut | None
    last_seen: LastSeenOut | None
    default_purpose: Purpose | None
    notes: str | None
    alert_expected_false: float | None = Field(description="null: the installation's value")
    alert_budget: int | None = Field(description="Alerts a week; null: the installation's value")
    alert_emails: list[str]
    created_at: TimeOut
    updated_at: TimeOut
    legal_hold: bool
    suspended: bool = Field(description="Open, but not searched for lack of an approval")
    search_until: TimeOut | None = Field(description="When the approval ends; null: it does not")
    photos: list[PhotoOut]


class CaseList(Out):
    items: list[CaseOut]
    next_cursor: str | None


class FaceFound(Out):
    """One face in the picture; faces are numbered by area, largest first, then left to right."""

    face_index: int
    box: BoxOut
    detection_score: float
    quality: QualityOut


class PhotoReceiptOut(Out):
    """``job_id`` names the search of the ads that the photo started."""

    photo_id: Id
    job_id: Id
    sha256: Sha256
    width: int
    height: int
    faces: list[FaceFound]
    enrolled_face_index: int
    created: bool = Field(description="false where the case had this photo already")
    notes: list[str] = Field(description="What was noted about the file, such as trailing_data")
