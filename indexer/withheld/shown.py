"""The one place where stored bytes become pixels for people, and where a flag is raised.

Everything that shows a picture reads it here; nothing else outside of the machinery reads
originals (a test holds every module to that).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from indexer.blobs import sha256_hex
from indexer.catalog.picture_tables import WithheldImage
from indexer.catalog.tables import Image
from indexer.errors import ImageNotFound, PictureWithheld
from indexer.withheld import checks, rows
from indexer.withheld.lists import Rules, rules
from indexer.withheld.rows import FLAG_REASONS, Why, WithheldRecord
from models.errors import HomewardError

if TYPE_CHECKING:
    from indexer.workspace import Workspace


class FlagReasonInvalid(HomewardError):
    """A flag names a reason of the list."""

    code = "flag_reason_invalid"

    def __init__(self) -> None:
        super().__init__(
            "A picture is flagged for a reason from the list.",
            remedy=f"Give one of: {', '.join(FLAG_REASONS)}.",
        )


def bytes_to_show(ws: Workspace, sha256: str) -> bytes:
    """The bytes of a stored picture, to be shown to somebody.

    Asked of the catalog each time, so that a flag holds in every process at once; a picture that
    was not compared with the newest lists yet is compared now. Raises :class:`PictureWithheld`,
    :class:`BlobMissing`, :class:`BlobDamaged`.
    """
    with ws.catalog.read() as session:
        # First, because one that is withheld may have no bytes any more.
        rows.require_visible(session, sha256)
    data = ws.blobs.get(sha256)
    checks.check(ws, [sha256], data)
    checks.check_pending(ws, sha256)
    with ws.catalog.read() as session:
        rows.require_visible(session, sha256)
    return data


def is_withheld_upload(ws: Workspace, data: bytes) -> bool:
    """Whether bytes that are not stored, a photo somebody just sent, may not be shown."""
    return is_withheld_by(ws, sha256_hex(data), digests_of_upload(ws, data))


def digests_of_upload(ws: Workspace, data: bytes) -> checks.Digests:
    """What bytes that are not stored may be withheld by, lists that are loaded later included."""
    return checks.digests_of(ws, data, Rules(0, frozenset({"md5", "sha1", "pdq"})))


def is_withheld_by(ws: Workspace, sha256: str, digests: checks.Digests) -> bool:
    """As :func:`is_withheld_upload`, by what was kept of the bytes."""
    with ws.catalog.read() as session:
        row = session.get(WithheldImage, sha256)
        if row is not None and row.outcome != rows.RELEASED:
            return True
        needs = rules(session)
        if not checks.anything_withheld(session, needs):
            return False
        listed = checks.listed_why(session, ws, sha256, digests, needs)
        why = listed or checks.copy_why(session, sha256, digests)
        return why is not None and (row is None or rows.renews(row, why))


def flag(ws: Workspace, sha256: str, *, case_id: str, reason: str, actor: str) -> WithheldRecord:
    """Withhold a picture and its copies from everybody, on the word of one person.

    One that is flagged stays as it is when it is flagged again. Raises :class:`ImageNotFound`,
    :class:`FlagReasonInvalid`.
    """
    if reason not in FLAG_REASONS:
        raise FlagReasonInvalid
    with ws.catalog.read() as session:
        if session.get(Image, sha256) is None:
            raise ImageNotFound(sha256)
    digests = checks.pdq_to_find_copies(ws, sha256)
    why = Why(
        reason="flagged",
        actor=actor,
        flag_reason=reason,
        case_id=case_id,
        pdq=digests.pdq,
        pdq_quality=digests.pdq_quality,
    )
    with ws.catalog.write() as session:
        if session.get(Image, sha256) is None:
            raise ImageNotFound(sha256)
        rows.withhold(session, ws, sha256, why)
    return rows.get_withheld(ws, sha256)


__all__ = [
    "FlagReasonInvalid",
    "PictureWithheld",
    "bytes_to_show",
    "digests_of_upload",
    "flag",
    "is_withheld_by",
    "is_withheld_upload",
]
