"""Images: their originals, their analysis, their faces, who owns them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from indexer import removals
from indexer.batches import chunks
from indexer.catalog.tables import (
    Candidate,
    Capture,
    CaptureImage,
    CapturePage,
    Case,
    Enrolment,
    FaceCluster,
    GalleryMember,
    ImageAnalysis,
    ImageHash,
    Photo,
)
from indexer.catalog.tables import Face as FaceRow
from indexer.catalog.tables import Image as ImageRow
from indexer.errors import BlobDamaged, BlobMissing, FaceNotFound, ImageNotFound
from indexer.faces import box_of, face_record, face_row, overlap
from indexer.galleries import drop_idle_vectors, refresh_faces, remove_faces
from indexer.hashes import keep_hash
from indexer.leads import drop_empty_leads
from indexer.records import AnalysisState, FaceRecord, Failure, ImageRecord
from indexer.times import utc_now
from indexer.withheld import shown
from indexer.workspace import Workspace
from models.decode import ImageHeader, decode
from models.errors import GpuLost, HomewardError, ImageRejected
from models.pdq import pdq
from models.types import DecodedImage, Face, RgbImage

_log = logging.getLogger(__name__)

SAME_FACE = 0.5
"""Intersection over union from which two boxes in one image are the same face."""


@dataclass(frozen=True, slots=True)
class ImageOwners:
    """Who has an image: cases by their photos, ads by their captures."""

    case_ids: frozenset[str]
    ad_ids: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Analysed:
    """One image after decoding and analysis; ``pdq`` is its perceptual hash."""

    sha256: str
    image: DecodedImage
    faces: list[Face]
    pdq: bytes
    pdq_quality: int


# --- reading ---------------------------------------------------------------------------------


def examine(ws: Workspace, data: bytes) -> tuple[DecodedImage, list[Face]]:
    """Decode and analyse bytes from outside; nothing is stored. Raises ``ImageRejected``."""
    image = decode(data, ws.limits)
    return image, ws.analyser.analyse([image.pixels])[0]


def get_face(ws: Workspace, face_id: str) -> FaceRecord:
    """One face. Raises :class:`FaceNotFound`."""
    with ws.catalog.read() as session:
        row = session.get(FaceRow, face_id)
        if row is None:
            raise FaceNotFound(face_id)
        return face_record(row)


def faces_of(ws: Workspace, sha256: str) -> tuple[FaceRecord, ...]:
    """The faces of an image under the present contract, by number."""
    with ws.catalog.read() as session:
        return faces_in(session, ws.contract_id, [sha256]).get(sha256, ())


def original(ws: Workspace, sha256: str) -> tuple[bytes, ImageRecord]:
    """The bytes as received, verified, and what is known of them.

    Raises :class:`ImageNotFound`, :class:`PictureWithheld`, :class:`BlobMissing`,
    :class:`BlobDamaged`.
    """
    with ws.catalog.read() as session:
        found = image_records(session, ws.contract_id, [sha256])
    if not found:
        raise ImageNotFound(sha256)
    return shown.bytes_to_show(ws, sha256), found[sha256]


def owners(ws: Workspace, sha256: str) -> ImageOwners:
    """Which cases and ads have this image; both empty for an unknown one."""
    with ws.catalog.read() as session:
        cases = session.scalars(select(Photo.case_id).where(Photo.sha256 == sha256))
        ads = session.scalars(
            select(Capture.ad_id)
            .join(CaptureImage, CaptureImage.capture_id == Capture.capture_id)
            .where(CaptureImage.sha256 == sha256)
        )
        return ImageOwners(frozenset(cases), frozenset(ads))


def crop(ws: Workspace, face_id: str, size: int = 224) -> RgbImage:
    """The aligned crop of a face: uint8 RGB (size, size, 3), derived from the original.

    Raises :class:`FaceNotFound`, :class:`PictureWithheld`, :class:`BlobMissing`,
    :class:`BlobDamaged`, ``ImageRejected``.
    """
    face = get_face(ws, face_id)
    image = decode(shown.bytes_to_show(ws, face.sha256), ws.limits)
    return ws.analyser.crop(image.pixels, face.landmarks, size)


def faces_in(
    session: Session, contract_id: str, sha256s: Collection[str]
) -> dict[str, tuple[FaceRecord, ...]]:
    """The faces of several images under a contract."""
    found: dict[str, list[FaceRecord]] = {}
    for some in chunks(dict.fromkeys(sha256s)):
        rows = session.scalars(
            select(FaceRow)
            .where(FaceRow.sha256.in_(some), FaceRow.contract_id == contract_id)
            .order_by(FaceRow.sha256, FaceRow.face_index)
        )
        for row in rows:
            found.setdefault(row.sha256, []).append(face_record(row))
    return {sha256: tuple(faces) for sha256, faces in found.items()}


def image_records(
    session: Session, contract_id: str, sha256s: Collection[str], *, of_ads: bool = False
) -> dict[str, ImageRecord]:
    """Several images with their faces; unknown ones are left out.

    ``of_ads``: only what the jobs of ads made known. An image that was analysed as the photo of a
    case is pending until then, or an ad would tell that a case has the same photo.
    """
    faces = faces_in(session, contract_id, sha256s)
    records: dict[str, ImageRecord] = {}
    for some in chunks(dict.fromkeys(sha256s)):
        hidden: set[str] = set()
        if of_ads:
            in_ads = set(
                session.scalars(
                    select(GalleryMember.face_id)
                    .join(FaceRow, FaceRow.face_id == GalleryMember.face_id)
                    .where(
                        GalleryMember.gallery == "ads",
                        GalleryMember.contract_id == contract_id,
                        FaceRow.sha256.in_(some),
                    )
                )
            )
            for sha256 in some:
                known = faces.get(sha256, ())
                faces[sha256] = tuple(face for face in known if face.face_id in in_ads)
                # A photo of a case has a face; so an analysis that found none is of an ad.
                if known and not faces[sha256]:
                    hidden.add(sha256)
        analyses = {
            row.sha256: row
            for row in session.scalars(
                select(ImageAnalysis).where(
                    ImageAnalysis.sha256.in_(some), ImageAnalysis.contract_id == contract_id
                )
            )
        }
        told = _header_sizes(session, hidden)
        for row in session.scalars(select(ImageRow).where(ImageRow.sha256.in_(some))):
            analysis = None if row.sha256 in hidden else analyses.get(row.sha256)
            # What decoding found out is hidden as well: a turned photo has its sides exchanged.
            width, height = told.get(row.sha256, (row.width, row.height))
            records[row.sha256] = ImageRecord(
                sha256=row.sha256,
                format=row.format,
                width=width,
                height=height,
                size=row.size,
                notes=() if row.sha256 in hidden else tuple(row.notes),
                analysis=cast("AnalysisState", analysis.state) if analysis else "pending",
                code=analysis.code if analysis else None,
                faces=faces.get(row.sha256, ()),
            )
    return records


def _header_sizes(session: Session, sha256s: Collection[str]) -> dict[str, tuple[int, int]]:
    """Width and height as the headers of uploaded images say."""
    rows = session.execute(
        select(CaptureImage.sha256, CaptureImage.header_width, CaptureImage.header_height).where(
            CaptureImage.sha256.in_(sha256s), CaptureImage.header_width.is_not(None)
        )
    )
    return {
        sha256: (width, height)
        for sha256, width, height in rows
        if sha256 is not None and width is not None and height is not None
    }


# --- writing ---------------------------------------------------------------------------------


def ensure_row(session: Session, sha256: str, size: int, seen: ImageHeader | DecodedImage) -> None:
    """Make the row of an image unless it is there; what decoding told replaces the header's."""
    row = session.get(ImageRow, sha256)
    if row is None:
        row = ImageRow(sha256=sha256, size=size, notes=[], created_at=utc_now())
        session.add(row)
    elif isinstance(seen, ImageHeader):
        return
    row.format, row.width, row.height = seen.format, seen.width, seen.height
    if isinstance(seen, DecodedImage):
        row.notes = list(seen.notes)
    session.flush()


def store_faces(
    session: Session,
    contract_id: str,
    sha256: str,
    faces: Sequence[Face],
    *,
    keep: Collection[int] | None = None,
) -> list[FaceRow]:
    """Write the faces of an analysed image, in the caller's transaction; one row for each face,
    in the order given.

    ``keep`` names the faces whose vector is kept (``None``: all). Where the image was analysed
    before, a face that is there keeps its row and id (told by its box, should the detector's
    settings have changed); only a vector that is missing and wanted is filled in.
    """
    known = list(
        session.scalars(
            select(FaceRow)
            .where(FaceRow.sha256 == sha256, FaceRow.contract_id == contract_id)
            .order_by(FaceRow.face_index)
        )
    )
    next_index = max((row.face_index for row in known), default=-1) + 1
    rows: list[FaceRow] = []
    for i, face in enumerate(faces):
        wanted = keep is None or i in keep
        row = max(known, key=lambda row: overlap(box_of(row), face.box), default=None)
        if row is None or overlap(box_of(row), face.box) < SAME_FACE:
            row = face_row(sha256, contract_id, next_index, face, vector=wanted)
            next_index += 1
            session.add(row)
        else:
            known.remove(row)
            if wanted and row.vector is None:
                row.vector = face.embedding.vector
        rows.append(row)
    _note_analysis(session, contract_id, sha256, None, found=len(faces))
    session.flush()
    return rows


def _note_analysis(
    session: Session,
    contract_id: str,
    sha256: str,
    failure: Failure | None,
    *,
    found: int | None = None,
) -> None:
    session.merge(
        ImageAnalysis(
            sha256=sha256,
            contract_id=contract_id,
            state="failed" if failure else "done",
            code=failure.code if failure else None,
            detail=failure.detail if failure else None,
            analysed_at=utc_now(),
            faces=found,
        )
    )


def release(session: Session, sha256s: Iterable[str]) -> dict[str, int]:
    """Take away, in the caller's transaction, what no owner needs any more.

    An image without a photo and a capture goes with its faces, candidates and bytes; a face of
    an image that stays loses its place in the galleries in which nobody has it any more, and its
    vector if that was the last. Returns counts by kind.
    """
    counts = {"faces": 0, "vectors": 0, "images": 0, "blobs": 0}
    gone: list[str] = []
    concerned: set[str] = set()
    for sha256 in dict.fromkeys(sha256s):
        faces = session.scalars(select(FaceRow).where(FaceRow.sha256 == sha256)).all()
        in_ads = _exists(session, CaptureImage, sha256)
        enrolled = set(
            session.scalars(
                select(Enrolment.face_id)
                .join(Photo, Photo.photo_id == Enrolment.photo_id)
                .join(Case, Case.case_id == Photo.case_id)
                .where(
                    Photo.sha256 == sha256, Case.status == "open", Enrolment.face_id.is_not(None)
                )
            )
        )
        for contract in {face.contract_id for face in faces}:
            ids = [face.face_id for face in faces if face.contract_id == contract]
            if in_ads:
                refresh_faces(session, "ads", contract, ids)
            else:
                remove_faces(session, "ads", contract, ids)
            remove_faces(session, "cases", contract, [i for i in ids if i not in enrolled])
            refresh_faces(session, "cases", contract, [i for i in ids if i in enrolled])
        if not in_ads:
            # What speaks of ads goes with them, though a case may keep the picture.
            ids = [face.face_id for face in faces]
            session.execute(delete(FaceCluster).where(FaceCluster.face_id.in_(ids)))
            session.execute(delete(ImageHash).where(ImageHash.sha256 == sha256))
        counts["vectors"] += drop_idle_vectors(session, [face.face_id for face in faces])
        if not in_ads:
            # No ad shows these faces any more, even where a case keeps the picture.
            for some in chunks(face.face_id for face in faces):
                candidates = Candidate.face_id.in_(some)
                concerned |= set(session.scalars(select(Candidate.case_id).where(candidates)))
                session.execute(delete(Candidate).where(candidates))
        if not in_ads and not _exists(session, Photo, sha256):
            counts["faces"] += len(faces)
            counts["images"] += 1
            session.execute(delete(FaceRow).where(FaceRow.sha256 == sha256))
            session.execute(delete(ImageRow).where(ImageRow.sha256 == sha256))
            if not _exists(session, CapturePage, sha256):
                gone.append(sha256)
    drop_empty_leads(session, concerned)
    counts["blobs"] = len(gone)
    removals.request(session, gone)
    return counts


def _exists(
    session: Session, table: type[Photo] | type[CaptureImage] | type[CapturePage], sha256: str
) -> bool:
    return session.scalar(select(table.sha256).where(table.sha256 == sha256).limit(1)) is not None


# --- analysis of what is stored --------------------------------------------------------------


def analyse_stored(ws: Workspace, sha256s: Iterable[str]) -> Generator[Analysed | Failure]:
    """Decode and analyse stored images in bounded batches; one that fails does not stop the rest.

    ``Failure.item`` is the SHA-256. Images are decoded by a few threads while the batch before
    them is analysed; at most ``options.batch_size`` images and about ``options.batch_pixels``
    pixels are held for each batch.
    """
    with ThreadPoolExecutor(ws.options.decode_threads, thread_name_prefix="decode") as pool:
        batches = _batches(ws, sha256s)
        following = _start(ws, pool, next(batches, None))
        while following is not None:
            current, following = following, _start(ws, pool, next(batches, None))
            decoded: list[tuple[str, DecodedImage]] = []
            for sha256, future in current:
                try:
                    decoded.append((sha256, future.result()))
                except (ImageRejected, BlobMissing, BlobDamaged) as error:
                    yield Failure(item=sha256, code=error.code, detail=error.detail)
            yield from _analyse_batch(ws, decoded)


_Decoding = list[tuple[str, "Future[DecodedImage]"]]


def _start(ws: Workspace, pool: ThreadPoolExecutor, batch: list[str] | None) -> _Decoding | None:
    if batch is None:
        return None
    return [(sha256, pool.submit(_decode_stored, ws, sha256)) for sha256 in batch]


def _decode_stored(ws: Workspace, sha256: str) -> DecodedImage:
    return decode(ws.blobs.get(sha256), ws.limits)


def _batches(ws: Workspace, sha256s: Iterable[str]) -> Iterator[list[str]]:
    """Cut into batches by number and by the pixels that the headers promise."""
    batch: list[str] = []
    pixels = 0
    for some in chunks(sha256s):
        with ws.catalog.read() as session:
            sizes = {
                sha256: width * height
                for sha256, width, height in session.execute(
                    select(ImageRow.sha256, ImageRow.width, ImageRow.height).where(
                        ImageRow.sha256.in_(some)
                    )
                )
            }
        for sha256 in some:
            size = sizes.get(sha256, 0)
            full = len(batch) >= ws.options.batch_size
            if batch and (full or pixels + size > ws.options.batch_pixels):
                yield batch
                batch, pixels = [], 0
            batch.append(sha256)
            pixels += size
    if batch:
        yield batch


def _analyse_batch(
    ws: Workspace, decoded: list[tuple[str, DecodedImage]]
) -> Iterator[Analysed | Failure]:
    if not decoded:
        return
    try:
        found = ws.analyser.analyse([image.pixels for _, image in decoded])
    except GpuLost:
        # It says nothing about the images: none may count as looked at.
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is kept with the image
        if len(decoded) == 1:
            sha256 = decoded[0][0]
            _log.exception("image %s could not be analysed", sha256)
            yield Failure(
                item=sha256,
                code=error.code if isinstance(error, HomewardError) else "analysis_failed",
                detail=f"The analysis failed: {error}",
            )
            return
        # One poisoned image must not take its neighbours with it.
        for one in decoded:
            yield from _analyse_batch(ws, [one])
        return
    for (sha256, image), faces in zip(decoded, found, strict=True):
        yield Analysed(sha256, image, faces, *pdq(image.pixels))


def keep_analysis(
    session: Session, contract_id: str, one: Analysed, *, only: Sequence[int] | None = None
) -> list[FaceRow]:
    """Store the faces of an image of an ad with their vectors, and its hash, in the caller's
    transaction; returns their rows. ``only``: the numbers of those that are kept."""
    row = session.get_one(ImageRow, one.sha256)
    ensure_row(session, one.sha256, row.size, one.image)
    faces = one.faces if only is None else [one.faces[i] for i in only]
    rows = store_faces(session, contract_id, one.sha256, faces)
    session.get_one(ImageAnalysis, (one.sha256, contract_id)).faces = len(one.faces)
    keep_hash(session, one.sha256, one.pdq, one.pdq_quality)
    return rows


def note_failure(session: Session, contract_id: str, failure: Failure) -> None:
    """Keep, in the caller's transaction, why the image ``failure.item`` has no faces."""
    _note_analysis(session, contract_id, failure.item, failure)
