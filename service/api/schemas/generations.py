"""Generations and the comparison of two of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.api.schemas.common import BoxOut, Id, Out, Sha256, TimeOut

PlaceState = Literal["listed", "lower", "beyond", "no_face", "unread", "no_photo"]
Band = Literal["first", "top_5", "listed", "lower", "beyond", "absent"]
Finding = Literal["confirmed", "refused", "inconclusive"]


class MissingOut(Out):
    ad_images: int = Field(description="Images of ads that are not searched under the contract")
    photos: int = Field(description="Photos of open cases that are not enrolled under it")


class GenerationOut(Out):
    """All vectors under one embedding contract."""

    contract_id: str
    pack: str
    dimension: int
    state: Literal["building", "active", "kept", "dropping"]
    missing: MissingOut
    loaded: bool = Field(description="Whether this process has its face pack")
    created_at: TimeOut
    activated_at: TimeOut | None
    keep_until: TimeOut | None = Field(description="When one that is kept is dropped")
    compared_at: TimeOut | None = Field(
        description="When it was last compared with one that was in use"
    )


class ChangeOut(Out):
    at: TimeOut
    event: Literal["begun", "activated", "superseded", "dropped"]
    contract_id: str
    pack: str
    actor: str


class GenerationList(Out):
    items: list[GenerationOut]
    history: list[ChangeOut] = Field(description="What happened to generations, oldest first")
    next_cursor: str | None = None


class SideOut(Out):
    """One of the two generations as a whole, when they were compared."""

    contract_id: str
    pack: str
    faces: int = Field(description="Faces in ads")
    ad_images: int
    without_face: int = Field(description="Images of ads that were read and show no face")
    failed: int = Field(description="Images of ads that could not be read")
    unread: int = Field(description="Images of ads that were not read yet")
    photos: int = Field(description="Photos of open cases")
    not_enrolled: int = Field(description="Photos that were read and could not be enrolled")
    photos_unread: int
    reasons: dict[str, int] = Field(description="Why photos could not be enrolled, by code")
    cases_without_photo: int = Field(description="Open cases with photos of which none is enrolled")
    images_per_second: float | None = Field(description="When it was built; null: not known")
    search_ms: float | None = Field(description="Mean time of one list")


class MoveOut(Out):
    """So many judged pairs went from one group of places to another."""

    finding: Finding
    old: Band
    new: Band
    pairs: int


class WorstOut(Out):
    case_id: Id
    agency: str
    case_number: str
    overlap: float = Field(ge=0, le=1)
    lost: int
    gained: int


class FaceThere(Out):
    face_id: Id
    image_sha256: Sha256
    box: BoxOut


class PlaceOut(Out):
    """Where a face is in the list of a case under one contract."""

    state: PlaceState = Field(
        description="listed: among the first k; lower: further down; beyond: in the gallery, below "
        "the depth that was looked at; no_face: not found in the picture; unread: the picture is "
        "not read; no_photo: no photo of the case is enrolled"
    )
    rank: int | None = Field(description="Counts leads from 1")
    score: float | None = Field(
        ge=-1, le=1, description="On the scale of its contract: never compare it with the other"
    )
    face: FaceThere | None


class MovedOut(Out):
    old: PlaceOut
    new: PlaceOut


class JudgedOut(Out):
    judgement_id: Id
    conclusion: str
    image_sha256: Sha256
    old: PlaceOut
    new: PlaceOut


class ComparedCaseOut(Out):
    """One open case. What was deleted since is left out. Pairs of figures are (old, new)."""

    case_id: Id
    agency: str
    case_number: str
    photos: tuple[int, int] = Field(description="Enrolled photos")
    listed: tuple[int, int] = Field(description="Leads among the first k")
    overlap: float | None = Field(
        description="Share of the entries of both lists that the other list has too"
    )
    face_overlap: float | None = Field(description="The same of the faces that lead the entries")
    order: float | None = Field(description="Kendall's tau-b of the ranks of what both list")
    lost: list[MovedOut]
    gained: list[MovedOut]
    judged: list[JudgedOut]


class ComparisonOut(Out):
    """What would change for the open cases, as of `at`. `old` was in use then."""

    at: TimeOut
    actor: str
    k: int
    depth: int
    old: SideOut
    new: SideOut
    cases: int
    overlap: float | None
    face_overlap: float | None
    lost: int
    gained: int
    lost_to: dict[str, int] = Field(description="Where lost candidates are now, by state")
    gained_from: dict[str, int] = Field(description="Where gained candidates were, by state")
    moves: list[MoveOut]
    worst: list[WorstOut] = Field(description="The cases whose lists differ most")
    search_ratio: float | None = Field(description="Time of a search, new over old, in one run")
    items: list[ComparedCaseOut]
    next_cursor: str | None
