"""What came with an ad, looked at before anything of it is stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import select

from indexer import staging
from indexer.blobs import Received
from indexer.catalog.tables import Image
from indexer.errors import BlobDamaged, BlobMissing, FileTooLarge, ItemRefused, TooManyFiles
from indexer.records import AdInput, SentBefore, Upload
from indexer.workspace import Workspace
from models.decode import ImageHeader, inspect
from models.errors import ImageRejected

_INPUT: TypeAdapter[AdInput] = TypeAdapter(AdInput)
_MAX_CONTENT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """One ad with the files that came with it."""

    ad: AdInput
    images: Sequence[Upload] = ()
    pages: Sequence[Upload] = ()


@dataclass(frozen=True, slots=True)
class ExaminedImage:
    """One image: its digest, and what its header says or why it was rejected.

    ``missing``: it was named by its digest, and nobody has sent it.
    """

    filename: str | None
    sha256: str
    size: int = 0
    header: ImageHeader | None = None
    rejected: ImageRejected | None = None
    sent_before: bool = False
    missing: bool = False


@dataclass(frozen=True, slots=True)
class PageFile:
    """One page file as its row will tell."""

    filename: str | None
    media_type: str | None
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """An ad that may be stored. ``files`` are those to keep, by digest."""

    ad: AdInput
    content: dict[str, Any]
    digest: str
    images: Sequence[ExaminedImage]
    pages: Sequence[PageFile]
    files: Mapping[str, Received] = field(repr=False)

    @property
    def accepted(self) -> dict[str, ExaminedImage]:
        """The images that are usable by what their headers say, by digest."""
        return {image.sha256: image for image in self.images if image.header is not None}


def prepare(ws: Workspace, delivery: Delivery, waiting: ExitStack) -> Prepared:
    """Look at an ad and its files, one file at a time; nothing becomes an original yet.

    What is received here goes away with ``waiting``. Raises :class:`TooManyFiles`,
    :class:`FileTooLarge` (a page), :class:`ItemRefused` (fields) and the StorageError tree.
    """
    _check_counts(ws, delivery)
    content = _content(delivery.ad)
    sent = [image.data.sha256 for image in delivery.images if isinstance(image.data, SentBefore)]
    headers = _headers(ws, sent) if sent else {}
    files: dict[str, Received] = {}
    images = []
    for upload in delivery.images:
        if isinstance(upload.data, SentBefore):
            images.append(_sent_before(ws, upload, upload.data.sha256, headers))
            continue
        received = _received(ws, upload.data, waiting)
        image = _examined(ws, upload, received)
        if image.header is not None:
            files[image.sha256] = received
        images.append(image)
    pages = []
    for upload in delivery.pages:
        assert not isinstance(upload.data, SentBefore)
        received = _received(ws, upload.data, waiting)
        files[received.sha256] = received
        pages.append(PageFile(upload.filename, upload.media_type, received.sha256, received.size))
    digest = _digest(content, [image.sha256 for image in images], [page.sha256 for page in pages])
    return Prepared(delivery.ad, content, digest, images, pages, files)


def _check_counts(ws: Workspace, delivery: Delivery) -> None:
    options = ws.options
    if len(delivery.images) > options.max_images_per_ad:
        raise TooManyFiles(
            f"The ad has {len(delivery.images)} images; "
            f"at most {options.max_images_per_ad} are taken.",
            remedy="Send the rest as another capture of the same ad.",
        )
    if len(delivery.pages) > options.max_pages_per_ad:
        raise TooManyFiles(
            f"The ad has {len(delivery.pages)} page files; "
            f"at most {options.max_pages_per_ad} are taken.",
            remedy="Send the rest as another capture of the same ad.",
        )
    for page in delivery.pages:
        size = _size(page)
        if size > options.max_page_bytes:
            raise FileTooLarge(
                f"The page file {page.filename or ''} has {size} bytes; "
                f"at most {options.max_page_bytes} are taken.",
                remedy="Send a smaller page file, such as the HTML without what it embeds.",
            )


def _size(page: Upload) -> int:
    if isinstance(page.data, SentBefore):
        raise ItemRefused("A page file comes with its ad; it cannot be named by its digest.")
    return page.data.size if isinstance(page.data, Received) else len(page.data)


def _received(ws: Workspace, data: bytes | Received, waiting: ExitStack) -> Received:
    if isinstance(data, Received):
        return data
    receiving = ws.blobs.receive()
    waiting.callback(receiving.abort)
    receiving.write(data)
    return receiving.done()


def _examined(ws: Workspace, upload: Upload, received: Received) -> ExaminedImage:
    data = upload.data if isinstance(upload.data, bytes) else received.read()
    header, rejected = look(ws, data)
    return ExaminedImage(upload.filename, received.sha256, received.size, header, rejected)


def look(ws: Workspace, data: bytes) -> tuple[ImageHeader | None, ImageRejected | None]:
    """What the header of an image says, or why the image is rejected."""
    try:
        return inspect(data, ws.limits), None
    except ImageRejected as rejected:
        return None, rejected


def _headers(ws: Workspace, sha256s: Sequence[str]) -> dict[str, tuple[int, ImageHeader] | None]:
    """Size and header of images that were sent before; no header where only the bytes tell."""
    with ws.catalog.read() as session:
        found: dict[str, tuple[int, ImageHeader] | None] = dict.fromkeys(
            staging.staged(session, sha256s)
        )
        of_ads = staging.of_ads(session, sha256s)
        for row in session.scalars(select(Image).where(Image.sha256.in_(of_ads))):
            # The formats in the catalog are those that the header readers know.
            header = ImageHeader(row.format, row.width, row.height)  # type: ignore[arg-type]
            found[row.sha256] = (row.size, header)
    return found


def _sent_before(
    ws: Workspace,
    upload: Upload,
    sha256: str,
    headers: Mapping[str, tuple[int, ImageHeader] | None],
) -> ExaminedImage:
    missing = ExaminedImage(upload.filename, sha256, sent_before=True, missing=True)
    if sha256 not in headers:
        return missing
    known = headers[sha256]
    if known is not None:
        return ExaminedImage(upload.filename, sha256, known[0], known[1], sent_before=True)
    try:
        data = ws.blobs.get(sha256)
    except (BlobMissing, BlobDamaged):
        return missing
    header, rejected = look(ws, data)
    return ExaminedImage(upload.filename, sha256, len(data), header, rejected, sent_before=True)


def _content(ad: AdInput) -> dict[str, Any]:
    """The fields as JSON; refuses what JSON or a database cannot carry."""
    try:
        # The free parts are looked at as they came: dumping would turn a NaN into null.
        for free in (ad.attributes, ad.capture and ad.capture.response_headers):
            json.dumps(free, allow_nan=False)
        content: dict[str, Any] = _INPUT.dump_python(ad, mode="json", exclude_none=True)
        size = len(json.dumps(content, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise ItemRefused(
            "A field of the ad holds a number that is none, or text that is not Unicode.",
            remedy="Leave the value out or send it as plain text.",
        ) from error
    if size > _MAX_CONTENT_BYTES:
        raise ItemRefused(
            f"The fields of the ad have {size} bytes; at most {_MAX_CONTENT_BYTES} are taken.",
            remedy="Send long texts as a page file.",
        )
    return content


def _digest(content: Mapping[str, Any], images: Sequence[str], pages: Sequence[str]) -> str:
    """What makes two captures the same: the ad's fields and files, not when and how it was got."""
    told = {key: value for key, value in content.items() if key not in ("captured_at", "capture")}
    text = json.dumps([told, list(images), list(pages)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
