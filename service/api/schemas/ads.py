"""Ads, their captures and images, and jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from service.api.schemas.common import (
    BoxOut,
    FieldError,
    Id,
    In,
    Number,
    Out,
    QualityOut,
    Sha256,
    Sha256In,
    TimeIn,
    TimeOut,
)

Line = Annotated[str, StringConstraints(max_length=500)]
Url = Annotated[str, StringConstraints(max_length=4_000)]
FreeObject = dict[str, Any]


class CaptureIn(In):
    """How the scraper got the ad; kept as it is given."""

    tool: Line | None = None
    tool_version: Line | None = None
    response_headers: FreeObject | None = None
    image_urls: list[Url] = Field(default_factory=list, max_length=200)


class AdIn(In):
    """One advertisement as the scraper read it. ``site`` and ``external_id`` say which one."""

    site: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    external_id: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    url: Url | None = None
    posted_at: TimeIn | None = None
    captured_at: TimeIn | None = None
    title: Annotated[str, StringConstraints(max_length=2_000)] | None = None
    body: Annotated[str, StringConstraints(max_length=100_000)] | None = None
    phones: list[Annotated[str, StringConstraints(min_length=1, max_length=60)]] = Field(
        default_factory=list, max_length=100
    )
    emails: list[Annotated[str, StringConstraints(min_length=1, max_length=320)]] = Field(
        default_factory=list, max_length=100
    )
    handles: list[Annotated[str, StringConstraints(min_length=1, max_length=200)]] = Field(
        default_factory=list, max_length=100
    )
    age_stated: (
        Annotated[int, Field(ge=0, le=150, strict=True)]
        | Annotated[str, StringConstraints(max_length=60)]
        | None
    ) = Field(default=None, description="As the ad states it")
    city: Line | None = None
    region: Line | None = None
    country: Line | None = None
    location_text: Annotated[str, StringConstraints(max_length=2_000)] | None = None
    lat: Number | None = Field(default=None, ge=-90, le=90)
    lon: Number | None = Field(default=None, ge=-180, le=180)
    language: Annotated[str, StringConstraints(max_length=40)] | None = None
    capture: CaptureIn | None = None
    attributes: FreeObject = Field(
        default_factory=dict, description="Whatever else the scraper has, kept as it is"
    )


class ImageRefIn(In):
    """An image that was sent before, with the name that its file had."""

    sha256: Sha256In
    filename: Line | None = None


class BatchAdIn(AdIn):
    """One line of a batch: an ad, with its images by their SHA-256."""

    images: list[Sha256In | ImageRefIn] = Field(default_factory=list, max_length=20)


class StagedOut(Out):
    """``known``: an ad has the bytes or they wait for one; they need not be sent again."""

    sha256: Sha256
    status: Literal["stored", "known"]


class ImageOutcomeOut(Out):
    """``known``: an ad already has these bytes. Case photos are never spoken of."""

    filename: str | None
    sha256: Sha256
    status: Literal["queued", "known", "rejected"]
    code: str | None = None
    detail: str | None = None


class AdReceiptOut(Out):
    ad_id: Id
    capture_id: Id
    job_id: Id
    created: bool = Field(description="false where this very content was there already")
    images: list[ImageOutcomeOut]


class BatchItemOut(Out):
    """What became of one line. ``known``: this very content was there already.

    A refused line has a ``code``; nothing of it was stored.
    """

    line: int = Field(description="Number of the line in the body, from 1")
    status: Literal["created", "known", "refused"]
    ad_id: Id | None = None
    capture_id: Id | None = None
    job_id: Id | None = None
    images: list[ImageOutcomeOut] | None = None
    code: str | None = None
    detail: str | None = None
    remedy: str | None = None
    errors: list[FieldError] | None = None


class BatchOut(Out):
    """The lines in their order, and how many of each kind there were."""

    items: list[BatchItemOut]
    created: int
    known: int
    refused: int


class PageFileOut(Out):
    """A page kept as evidence, never rendered."""

    sha256: Sha256
    filename: str | None
    media_type: str | None
    size: int


class CaptureOut(Out):
    capture_id: Id
    captured_at: TimeOut | None
    last_captured_at: TimeOut | None
    received_at: TimeOut
    job_id: Id
    content: dict[str, Any] = Field(description="The fields as they were received")
    images: list[ImageOutcomeOut]
    pages: list[PageFileOut]


class FaceOut(Out):
    face_id: Id
    box: BoxOut
    quality: QualityOut


class AdFaceOut(FaceOut):
    face_index: int
    detection_score: float


class ImageOut(Out):
    """One image of an ad. ``analysis`` is pending until its job has looked for faces."""

    sha256: Sha256
    format: str
    width: int
    height: int
    size: int
    notes: list[str]
    analysis: Literal["pending", "done", "failed"]
    code: str | None
    faces: list[AdFaceOut]


class AdBrief(Out):
    """The part of an ad that is shown beside a candidate."""

    ad_id: Id
    site: str
    external_id: str
    url: str | None
    title: str | None
    posted_at: TimeOut | None
    city: str | None
    region: str | None


class AdOut(AdBrief):
    body: str | None
    phones: list[str]
    emails: list[str]
    handles: list[str]
    age_stated: int | str | None
    country: str | None
    location_text: str | None
    lat: float | None
    lon: float | None
    language: str | None
    attributes: dict[str, Any]
    created_at: TimeOut
    updated_at: TimeOut
    captures: list[CaptureOut]
    images: list[ImageOut]


class AdList(Out):
    items: list[AdOut]
    next_cursor: str | None


class FailureOut(Out):
    item: str
    code: str
    detail: str


class JobOut(Out):
    """Dead-lettered and dropped jobs count as failed."""

    job_id: Id
    kind: str
    subject_id: str
    state: Annotated[
        Literal["queued", "running", "done", "failed"],
        BeforeValidator(lambda state: "failed" if state == "dropped" else state),
    ]
    done: int
    total: int
    created_at: TimeOut
    started_at: TimeOut | None
    finished_at: TimeOut | None
    failures: list[FailureOut]
