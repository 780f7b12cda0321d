"""The tables of the catalog.

Ids are UUIDv7 text, so ordering by id is ordering by creation. A record that is deleted takes
its dependants with it through the foreign keys; the records of searches and purges have none,
because they outlive what they speak of.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from indexer.catalog.base import AutoId, Base, Contract, Id, Json, Sha
from indexer.catalog.sealed import SealedBytes, SealedJson, SealedText, Vector
from indexer.catalog.types import UtcDateTime
from models.types import FloatArray


class Case(Base):
    """``listed_floor``: the score of the last lead that its list of the best would show now;
    null while the list is not full, or not known.

    ``suspended``: it is open, but may not be searched for lack of an approval; ``search_until``:
    it may be until then (``indexer.searchable`` reads both).
    ``alert_expected_false`` and ``alert_budget`` are null where the installation's own values
    hold. ``alert_emails`` are the addresses of the case's owner and team.
    """

    __tablename__ = "cases"
    __table_args__ = (
        UniqueConstraint("agency", "case_number"),
        CheckConstraint("status IN ('open', 'found', 'closed')", name="status"),
    )

    case_id: Mapped[str] = mapped_column(Id, primary_key=True)
    agency: Mapped[str] = mapped_column(String(100), default="")
    case_number: Mapped[str] = mapped_column(String(100))
    status: Mapped[str] = mapped_column(String(10), default="open", index=True)
    person: Mapped[dict[str, Any]] = mapped_column(SealedJson("cases.person"))
    missing_since: Mapped[str | None] = mapped_column(SealedText("cases.missing_since", length=40))
    last_seen: Mapped[dict[str, Any] | None] = mapped_column(SealedJson("cases.last_seen"))
    default_purpose: Mapped[str | None] = mapped_column(String(40))
    notes: Mapped[str | None] = mapped_column(SealedText("cases.notes"))
    legal_hold: Mapped[bool] = mapped_column(default=False)
    suspended: Mapped[bool] = mapped_column(default=False)
    search_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    listed_floor: Mapped[float | None]
    alert_expected_false: Mapped[float | None]
    alert_budget: Mapped[int | None]
    alert_emails: Mapped[list[str]] = mapped_column(SealedJson("cases.alert_emails"), default=list)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Image(Base):
    """One original by its SHA-256, whoever owns it (photos of cases, captures of ads)."""

    __tablename__ = "images"

    sha256: Mapped[str] = mapped_column(Sha, primary_key=True)
    format: Mapped[str] = mapped_column(String(20))
    width: Mapped[int]
    height: Mapped[int]
    size: Mapped[int] = mapped_column(BigInteger)
    notes: Mapped[list[str]] = mapped_column(Json, default=list)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ImageAnalysis(Base):
    """Whether an image was analysed under a contract, and why not where it failed. ``faces``: how
    many were found, whether they are kept or not; null where that was not noted."""

    __tablename__ = "image_analyses"
    __table_args__ = (CheckConstraint("state IN ('done', 'failed')", name="state"),)

    sha256: Mapped[str] = mapped_column(
        ForeignKey("images.sha256", ondelete="CASCADE"), primary_key=True
    )
    contract_id: Mapped[str] = mapped_column(Contract, primary_key=True)
    state: Mapped[str] = mapped_column(String(10))
    code: Mapped[str | None] = mapped_column(String(60))
    detail: Mapped[str | None] = mapped_column(Text)
    analysed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    faces: Mapped[int | None]


class ImageTrial(Base):
    """How often a process died while it analysed this image; written before each such attempt."""

    __tablename__ = "image_trials"

    sha256: Mapped[str] = mapped_column(
        ForeignKey("images.sha256", ondelete="CASCADE"), primary_key=True
    )
    contract_id: Mapped[str] = mapped_column(Contract, primary_key=True)
    crashes: Mapped[int]


class ImageHash(Base):
    """The PDQ hash of an image of an ad (32 bytes) and its quality, 0 to 100."""

    __tablename__ = "image_hashes"

    sha256: Mapped[str] = mapped_column(
        ForeignKey("images.sha256", ondelete="CASCADE"), primary_key=True
    )
    pdq: Mapped[bytes] = mapped_column(SealedBytes("image_hashes.pdq"))
    quality: Mapped[int]


class StagedImage(Base):
    """Bytes that a scraper sent ahead of the ad that will name them; kept for a while."""

    __tablename__ = "staged_images"

    sha256: Mapped[str] = mapped_column(Sha, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str] = mapped_column(String(100))
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class Quarantined(Base):
    """One item of a batch or a file that could not be taken, as received, with the reason."""

    __tablename__ = "quarantine"

    item_id: Mapped[str] = mapped_column(Id, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    actor: Mapped[str] = mapped_column(String(100))
    place: Mapped[str] = mapped_column(String(200))
    code: Mapped[str] = mapped_column(String(60))
    detail: Mapped[str] = mapped_column(SealedText("quarantine.detail"))
    content: Mapped[bytes] = mapped_column(SealedBytes("quarantine.content"))


class Face(Base):
    """One face in one image under one contract.

    ``vector`` is there only while the face is in a gallery: a bystander in a case photo and the
    faces of a case that is found or closed have none.
    """

    __tablename__ = "faces"
    __table_args__ = (UniqueConstraint("sha256", "contract_id", "face_index"),)

    face_id: Mapped[str] = mapped_column(Id, primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("images.sha256", ondelete="CASCADE"))
    contract_id: Mapped[str] = mapped_column(Contract)
    face_index: Mapped[int]
    x: Mapped[float]
    y: Mapped[float]
    width: Mapped[float]
    height: Mapped[float]
    landmarks: Mapped[list[list[float]]] = mapped_column(SealedJson("faces.landmarks"))
    scheme: Mapped[str] = mapped_column(String(20))
    turn: Mapped[int]
    detection_score: Mapped[float]
    quality: Mapped[dict[str, Any]] = mapped_column(Json)
    vector: Mapped[FloatArray | None] = mapped_column(Vector("faces.vector"))


class FaceCluster(Base):
    """Which faces of ads are thought to show one unknown person; for display only."""

    __tablename__ = "face_clusters"

    face_id: Mapped[str] = mapped_column(
        ForeignKey("faces.face_id", ondelete="CASCADE"), primary_key=True
    )
    contract_id: Mapped[str] = mapped_column(Contract)
    cluster_id: Mapped[str] = mapped_column(Id, index=True)


class Photo(Base):
    """A photo of a case. Face index and box are of the face that was chosen, whatever contract
    finds it again."""

    __tablename__ = "photos"
    __table_args__ = (UniqueConstraint("case_id", "sha256"),)

    photo_id: Mapped[str] = mapped_column(Id, primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id", ondelete="CASCADE"))
    sha256: Mapped[str] = mapped_column(ForeignKey("images.sha256"), index=True)
    filename: Mapped[str | None] = mapped_column(SealedText("photos.filename", length=500))
    taken_on: Mapped[date | None]
    enrolled_face_index: Mapped[int]
    x: Mapped[float]
    y: Mapped[float]
    width: Mapped[float]
    height: Mapped[float]
    job_id: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Enrolment(Base):
    """The enrolled face of a photo under one contract, or why there is none."""

    __tablename__ = "enrolments"

    photo_id: Mapped[str] = mapped_column(
        ForeignKey("photos.photo_id", ondelete="CASCADE"), primary_key=True
    )
    contract_id: Mapped[str] = mapped_column(Contract, primary_key=True)
    face_id: Mapped[str | None] = mapped_column(
        ForeignKey("faces.face_id", ondelete="CASCADE"), index=True
    )
    code: Mapped[str | None] = mapped_column(String(60))


class Ad(Base):
    """One advertisement; its fields are those of the newest capture.

    ``last_received_at``: when it was last sent, by this machine's clock; ads age by it.
    """

    __tablename__ = "ads"
    __table_args__ = (UniqueConstraint("site", "external_id"),)

    ad_id: Mapped[str] = mapped_column(Id, primary_key=True)
    site: Mapped[str] = mapped_column(String(200), index=True)
    external_id: Mapped[str] = mapped_column(String(300))
    url: Mapped[str | None] = mapped_column(SealedText("ads.url"))
    posted_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    title: Mapped[str | None] = mapped_column(SealedText("ads.title"))
    body: Mapped[str | None] = mapped_column(SealedText("ads.body"))
    phones: Mapped[list[str]] = mapped_column(SealedJson("ads.phones"), default=list)
    emails: Mapped[list[str]] = mapped_column(SealedJson("ads.emails"), default=list)
    handles: Mapped[list[str]] = mapped_column(SealedJson("ads.handles"), default=list)
    age_stated: Mapped[int | str | None] = mapped_column(SealedJson("ads.age_stated"))
    city: Mapped[str | None] = mapped_column(String(500))
    region: Mapped[str | None] = mapped_column(String(500), index=True)
    country: Mapped[str | None] = mapped_column(String(500))
    location_text: Mapped[str | None] = mapped_column(SealedText("ads.location_text"))
    lat: Mapped[float | None]
    lon: Mapped[float | None]
    language: Mapped[str | None] = mapped_column(String(40))
    attributes: Mapped[dict[str, Any]] = mapped_column(SealedJson("ads.attributes"), default=dict)
    legal_hold: Mapped[bool] = mapped_column(default=False)
    last_received_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AdContact(Base):
    """Phones, e-mails and handles of an ad, in the form in which they are looked up."""

    __tablename__ = "ad_contacts"

    ad_id: Mapped[str] = mapped_column(
        ForeignKey("ads.ad_id", ondelete="CASCADE"), primary_key=True
    )
    kind: Mapped[str] = mapped_column(String(10), primary_key=True)
    key: Mapped[str] = mapped_column(String(320), primary_key=True)

    __table_args__ = (Index("ix_ad_contacts_kind_key", "kind", "key"),)


class Capture(Base):
    """One sighting of an ad with what was received; ``digest`` is that of its content."""

    __tablename__ = "captures"
    __table_args__ = (UniqueConstraint("ad_id", "digest"),)

    capture_id: Mapped[str] = mapped_column(Id, primary_key=True)
    ad_id: Mapped[str] = mapped_column(ForeignKey("ads.ad_id", ondelete="CASCADE"))
    digest: Mapped[str] = mapped_column(Sha)
    captured_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_captured_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    job_id: Mapped[str] = mapped_column(Id, index=True)
    content: Mapped[dict[str, Any]] = mapped_column(SealedJson("captures.content"))


class CaptureImage(Base):
    """One uploaded image of a capture, in order. A rejected one has no row in ``images``.

    ``header_width`` and ``header_height``: what its header says, which is shown until the image
    was analysed as one of an ad.
    """

    __tablename__ = "capture_images"

    capture_id: Mapped[str] = mapped_column(
        ForeignKey("captures.capture_id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    upload_sha256: Mapped[str] = mapped_column(Sha)
    header_width: Mapped[int | None]
    header_height: Mapped[int | None]
    sha256: Mapped[str | None] = mapped_column(ForeignKey("images.sha256"), index=True)
    filename: Mapped[str | None] = mapped_column(
        SealedText("capture_images.filename", keys=2, length=500)
    )
    code: Mapped[str | None] = mapped_column(String(60))
    detail: Mapped[str | None] = mapped_column(SealedText("capture_images.detail", keys=2))


class CapturePage(Base):
    """A page file of a capture (HTML, screenshot, WARC): evidence, never rendered."""

    __tablename__ = "capture_pages"

    capture_id: Mapped[str] = mapped_column(
        ForeignKey("captures.capture_id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(Sha, index=True)
    filename: Mapped[str | None] = mapped_column(
        SealedText("capture_pages.filename", keys=2, length=500)
    )
    media_type: Mapped[str | None] = mapped_column(String(200))
    size: Mapped[int] = mapped_column(BigInteger)


class GalleryMember(Base):
    """Which faces are in a gallery now; changed only together with ``gallery_log``."""

    __tablename__ = "gallery_members"

    gallery: Mapped[str] = mapped_column(String(10), primary_key=True)
    contract_id: Mapped[str] = mapped_column(Contract, primary_key=True)
    face_id: Mapped[str] = mapped_column(
        ForeignKey("faces.face_id", ondelete="CASCADE"), primary_key=True, index=True
    )
    # Of the tags it was last logged with; null where that was before there were tags.
    tags_digest: Mapped[str | None] = mapped_column(String(32))


class Generation(Base):
    """All vectors under one contract, made by the face pack ``pack``.

    ``building``: beside the one in use; ``active``: in use, one at most; ``kept``: for going back,
    until ``keep_until``; ``dropping``: nobody uses it, what it holds is being taken away.
    ``generation_id`` is the subject of its jobs.
    """

    __tablename__ = "generations"
    __table_args__ = (
        CheckConstraint("state IN ('building', 'active', 'kept', 'dropping')", name="state"),
        Index(
            "uq_generations_active",
            "state",
            unique=True,
            sqlite_where=text("state = 'active'"),
            postgresql_where=text("state = 'active'"),
        ),
    )

    contract_id: Mapped[str] = mapped_column(Contract, primary_key=True)
    generation_id: Mapped[str] = mapped_column(Id, unique=True)
    pack: Mapped[str] = mapped_column(String(100))
    dimension: Mapped[int]
    state: Mapped[str] = mapped_column(String(10))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    activated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    keep_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class GenerationEvent(Base):
    """Append-only: which contract was in use when, and who decided it."""

    __tablename__ = "generation_events"
    __table_args__ = ({"sqlite_autoincrement": True},)

    seq: Mapped[int] = mapped_column(AutoId, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    contract_id: Mapped[str] = mapped_column(Contract)
    pack: Mapped[str] = mapped_column(String(100))
    event: Mapped[str] = mapped_column(String(20))
    actor: Mapped[str] = mapped_column(String(100))


class Calibration(Base):
    """Append-only: how often strangers reach a score under a contract, as measured here.

    The newest of a contract is in force. ``content`` is the JSON text of
    ``models.calibration``; ``sha256`` is that of its UTF-8.
    """

    __tablename__ = "calibrations"
    __table_args__ = (
        Index("ix_calibrations_contract_id_calibration_id", "contract_id", "calibration_id"),
    )

    calibration_id: Mapped[str] = mapped_column(Id, primary_key=True)
    contract_id: Mapped[str] = mapped_column(Contract)
    made_at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(100))
    sha256: Mapped[str] = mapped_column(Sha)
    content: Mapped[str] = mapped_column(Text)


class CatalogIdentity(Base):
    """The one row tells this catalog from all others, a restored copy of it among them."""

    __tablename__ = "catalog_identity"

    catalog_id: Mapped[str] = mapped_column(Id, primary_key=True)


class GalleryShelf(Base):
    """How far the segments of one index folder go: to entry ``seq`` of the gallery's log, which
    names ``seq_face_id``. ``version`` rises with every change of the set of segments."""

    __tablename__ = "gallery_shelves"

    store_id: Mapped[str] = mapped_column(Id, primary_key=True)
    gallery: Mapped[str] = mapped_column(String(10), primary_key=True)
    contract_id: Mapped[str] = mapped_column(Contract, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    seq_face_id: Mapped[str] = mapped_column(String(36))
    version: Mapped[int] = mapped_column(BigInteger)
    published_at: Mapped[datetime] = mapped_column(UtcDateTime)


class GallerySegment(Base):
    """A published segment of a shelf; a file that no row names is nobody's. A file with fewer
    than ``dead`` dead rows is an old copy."""

    __tablename__ = "gallery_segments"
    __table_args__ = (
        ForeignKeyConstraint(
            ["store_id", "gallery", "contract_id"],
            [
                "gallery_shelves.store_id",
                "gallery_shelves.gallery",
                "gallery_shelves.contract_id",
            ],
            ondelete="CASCADE",
        ),
        Index(None, "store_id", "gallery", "contract_id"),
    )

    segment_id: Mapped[str] = mapped_column(Id, primary_key=True)
    store_id: Mapped[str] = mapped_column(Id)
    gallery: Mapped[str] = mapped_column(String(10))
    contract_id: Mapped[str] = mapped_column(Contract)
    rows: Mapped[int] = mapped_column(BigInteger)
    dead: Mapped[int] = mapped_column(BigInteger, default=0)


class GalleryLog(Base):
    """Every change of a gallery, append-only; the views of all processes catch up from it."""

    __tablename__ = "gallery_log"
    __table_args__ = (
        Index("ix_gallery_log_gallery_contract_id_seq", "gallery", "contract_id", "seq"),
        CheckConstraint("op IN ('add', 'remove')", name="op"),
        {"sqlite_autoincrement": True},
    )

    seq: Mapped[int] = mapped_column(AutoId, primary_key=True, autoincrement=True)
    gallery: Mapped[str] = mapped_column(String(10))
    contract_id: Mapped[str] = mapped_column(Contract)
    face_id: Mapped[str] = mapped_column(Id)
    op: Mapped[str] = mapped_column(String(6))


class Lead(Base):
    __tablename__ = "leads"

    lead_id: Mapped[str] = mapped_column(Id, primary_key=True)
    case_id: Mapped[str] = mapped_column(
        ForeignKey("cases.case_id", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Candidate(Base):
    """A face in an ad that may be the person of a case.

    ``sighting_id`` is the candidate that showed this very picture of a face first (its own id,
    unless the picture is a copy); ``held_at``: when its alert was held back by the weekly budget.
    """

    __tablename__ = "candidates"
    __table_args__ = (UniqueConstraint("case_id", "face_id"),)

    candidate_id: Mapped[str] = mapped_column(Id, primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id", ondelete="CASCADE"))
    lead_id: Mapped[str] = mapped_column(
        ForeignKey("leads.lead_id", ondelete="CASCADE"), index=True
    )
    face_id: Mapped[str] = mapped_column(
        ForeignKey("faces.face_id", ondelete="CASCADE"), index=True
    )
    contract_id: Mapped[str] = mapped_column(Contract)
    score: Mapped[float]
    photos_fused: Mapped[int]
    origin: Mapped[str] = mapped_column(String(12))
    status: Mapped[str] = mapped_column(String(40), default="unreviewed")
    sighting_id: Mapped[str] = mapped_column(Id, index=True)
    held_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Judgement(Base):
    """Append-only: what a person concluded about one pair, a case and a face in a picture.

    The pair is remembered by picture and box, so that it outlives the candidate: the ad may be
    forgotten and sent again, the faces read anew under another contract.
    """

    __tablename__ = "judgements"
    __table_args__ = (Index("ix_judgements_case_id_image_sha256", "case_id", "image_sha256"),)

    judgement_id: Mapped[str] = mapped_column(Id, primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id", ondelete="CASCADE"))
    candidate_id: Mapped[str] = mapped_column(Id, index=True)
    image_sha256: Mapped[str] = mapped_column(Sha)
    x: Mapped[float]
    y: Mapped[float]
    width: Mapped[float]
    height: Mapped[float]
    conclusion: Mapped[str] = mapped_column(String(40))
    reason: Mapped[str] = mapped_column(SealedText("judgements.reason"))
    components: Mapped[dict[str, str]] = mapped_column(
        SealedJson("judgements.components"), default=dict
    )
    actor: Mapped[str] = mapped_column(String(100))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    contract_id: Mapped[str] = mapped_column(Contract)
    supersedes: Mapped[str | None] = mapped_column(Id)


class Alert(Base):
    """One alert, raised once for a sighting in a case; holds ids and figures, no content.

    ``seq`` rises in the order of commits: whoever has seen one has seen all before it.
    ``expected_false`` is the upper bound at the score, ``expected_false_limit`` what was allowed
    when it was raised; ``tightened`` where the weekly budget had lowered that.
    """

    __tablename__ = "alerts"
    __table_args__ = (
        UniqueConstraint("case_id", "sighting_id"),
        {"sqlite_autoincrement": True},
    )

    seq: Mapped[int] = mapped_column(AutoId, primary_key=True, autoincrement=True)
    alert_id: Mapped[str] = mapped_column(Id, unique=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id", ondelete="CASCADE"))
    candidate_id: Mapped[str] = mapped_column(Id)
    sighting_id: Mapped[str] = mapped_column(Id)
    lead_id: Mapped[str] = mapped_column(Id)
    face_id: Mapped[str] = mapped_column(Id, index=True)
    contract_id: Mapped[str] = mapped_column(Contract)
    score: Mapped[float]
    photos_fused: Mapped[int]
    gallery_size: Mapped[int]
    expected_false: Mapped[float]
    expected_false_limit: Mapped[float]
    tightened: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class Webhook(Base):
    """An address that an administrator wants alerts sent to; ``secret`` signs what is sent.

    ``agency``: whose alerts are sent there; null for those of all agencies.
    """

    __tablename__ = "webhooks"

    webhook_id: Mapped[str] = mapped_column(Id, primary_key=True)
    url: Mapped[str] = mapped_column(SealedText("webhooks.url"))
    description: Mapped[str] = mapped_column(
        SealedText("webhooks.description", length=200), default=""
    )
    secret: Mapped[str] = mapped_column(SealedText("webhooks.secret", length=200))
    agency: Mapped[str | None] = mapped_column(String(100))
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class RunnerRow(Base):
    """A process that does jobs. ``beat`` rises every few seconds as long as it lives: whoever
    sees it stand still, by a clock of its own, may take its jobs."""

    __tablename__ = "runners"

    runner_id: Mapped[str] = mapped_column(Id, primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    beat: Mapped[int] = mapped_column(BigInteger, default=0)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Job(Base):
    """``alone``: a process died at it, so it is done by itself, image by image. ``run_after``:
    when it may be tried again after it broke off. ``contract_id``: under which contract it is
    done, where that is not the one in use."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_state_priority_job_id", "state", "priority", "job_id"),
        Index("ix_jobs_subject_id_kind", "subject_id", "kind"),
        Index("ix_jobs_contract_id_state", "contract_id", "state"),
        CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'dropped')", name="state"
        ),
    )

    job_id: Mapped[str] = mapped_column(Id, primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    subject_id: Mapped[str] = mapped_column(Id)
    contract_id: Mapped[str | None] = mapped_column(Contract)
    payload: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    state: Mapped[str] = mapped_column(String(10), default="queued")
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    priority: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    alone: Mapped[bool] = mapped_column(default=False)
    run_after: Mapped[datetime | None] = mapped_column(UtcDateTime)
    runner: Mapped[str | None] = mapped_column(Id, index=True)
    failures: Mapped[list[dict[str, str]]] = mapped_column(Json, default=list)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class IdempotentResponse(Base):
    """The answer to a request that carried an Idempotency-Key, to be given again."""

    __tablename__ = "idempotency"

    owner: Mapped[str] = mapped_column(String(100), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_digest: Mapped[str] = mapped_column(Sha)
    status: Mapped[int]
    media_type: Mapped[str] = mapped_column(String(100))
    body: Mapped[bytes] = mapped_column(SealedBytes("idempotency.body", keys=2))
    subject_id: Mapped[str | None] = mapped_column(Id, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class Search(Base):
    """Append-only: who searched for which case, when, why, over what, with which outcome.

    ``kind``: ``photo`` for one with a photo that is not enrolled, ``list`` for the candidate list
    of a case.
    """

    __tablename__ = "searches"

    search_id: Mapped[str] = mapped_column(Id, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(100))
    case_id: Mapped[str] = mapped_column(Id, index=True)
    purpose: Mapped[str] = mapped_column(String(40))
    purpose_note: Mapped[str | None] = mapped_column(SealedText("searches.purpose_note"))
    gallery_size: Mapped[int]
    contract_id: Mapped[str] = mapped_column(Contract)
    k: Mapped[int]
    filters: Mapped[dict[str, Any]] = mapped_column(SealedJson("searches.filters"), default=dict)
    candidate_ids: Mapped[list[str]] = mapped_column(Json)
    kind: Mapped[str] = mapped_column(String(10), default="photo")


class Purge(Base):
    """Append-only proof of deletions; holds ids and counts, never content. The subject is an id, or
    the SHA-256 of a picture.

    ``written_at``: when the entry went into the ledger file outside of the catalog.
    """

    __tablename__ = "purge_ledger"

    purge_id: Mapped[str] = mapped_column(Id, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(20))
    subject_id: Mapped[str] = mapped_column(Sha, index=True)
    counts: Mapped[dict[str, int]] = mapped_column(Json)
    written_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)


class PendingRemoval(Base):
    """Bytes and remains that a committed deletion still has to take from the disk."""

    __tablename__ = "pending_removals"

    item: Mapped[str] = mapped_column(String(120), primary_key=True)
    requested_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ApiKey(Base):
    """A key by the SHA-256 of its text; ``prefix`` is the part that may be shown.

    ``scopes`` holds names of scopes, ``role:<name>``, or ``administrator``, which is every scope.
    ``agency`` is null for a key that works for all agencies.
    """

    __tablename__ = "api_keys"

    key_id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(20))
    sha256: Mapped[str] = mapped_column(Sha, unique=True)
    scopes: Mapped[list[str]] = mapped_column(Json)
    agency: Mapped[str | None] = mapped_column(String(100))
    created_by: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class WebSession(Base):
    """A signed-in browser by the SHA-256 of its cookie: a person's, or a key's as long as nobody
    has an account."""

    __tablename__ = "web_sessions"

    session_id: Mapped[str] = mapped_column(Id, primary_key=True)
    token_sha256: Mapped[str] = mapped_column(Sha, unique=True)
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.key_id", ondelete="CASCADE"))
    user_id: Mapped[str | None] = mapped_column(
        ForeignKey("users.user_id", ondelete="CASCADE"), index=True
    )
    address: Mapped[str | None] = mapped_column(String(64))
    user_agent: Mapped[str | None] = mapped_column(String(200))
    data: Mapped[dict[str, Any]] = mapped_column(SealedJson("web_sessions.data"), default=dict)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
