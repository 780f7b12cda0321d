"""What can go wrong while storing, indexing and probing; each with a stable code and a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.errors import HomewardError

if TYPE_CHECKING:
    from indexer.records import FaceSummary


class NotFound(HomewardError):
    """Root of the errors that name a record which is not there."""

    code = "not_found"


class CaseNotFound(NotFound):
    code = "case_not_found"

    def __init__(self, case: str) -> None:
        super().__init__(
            f"There is no case {case!r}.", remedy="Check the id or number, or create the case."
        )


class PhotoNotFound(NotFound):
    code = "photo_not_found"

    def __init__(self, photo_id: str) -> None:
        super().__init__(
            f"This case has no photo {photo_id!r}.", remedy="List the photos of the case."
        )


class LinkRequestNotFound(NotFound):
    code = "link_request_not_found"

    def __init__(self, link_request_id: str) -> None:
        super().__init__(
            f"There is no question {link_request_id!r} between agencies.",
            remedy="Check the id, or list the questions.",
        )


class LinkNotFound(NotFound):
    """No other agency has this lead too."""

    code = "link_not_found"

    def __init__(self, candidate_id: str) -> None:
        super().__init__(
            f"Candidate {candidate_id!r} has no such link to another agency.",
            remedy="List the candidates of the case anew; links come and go with judgements.",
        )


class LinkNotYours(HomewardError):
    """Only the agency that was asked answers."""

    code = "link_not_yours"


class LinkStateInvalid(HomewardError):
    """A question was put or answered already."""

    code = "link_state_invalid"


class AdNotFound(NotFound):
    code = "ad_not_found"

    def __init__(self, ad_id: str) -> None:
        super().__init__(f"There is no ad {ad_id!r}.", remedy="Check the id, or list the ads.")


class ImageNotFound(NotFound):
    code = "image_not_found"

    def __init__(self, sha256: str) -> None:
        super().__init__(f"There is no image {sha256!r}.", remedy="Check the SHA-256.")


class FaceNotFound(NotFound):
    code = "face_not_found"

    def __init__(self, face_id: str) -> None:
        super().__init__(f"There is no face {face_id!r}.", remedy="Check the id.")


class GenerationNotFound(NotFound):
    code = "generation_not_found"

    def __init__(self, contract_id: str) -> None:
        super().__init__(
            f"There is no generation of vectors under {contract_id!r}.",
            remedy="See `homeward generations list`.",
        )


class GenerationUnavailable(HomewardError):
    """The face pack of a generation cannot be used here."""

    code = "generation_unavailable"

    def __init__(self, contract_id: str, reason: str) -> None:
        super().__init__(
            f"Nothing can be analysed under {contract_id} here: {reason}.",
            remedy="Install the face pack of that generation here (`homeward packs install`).",
        )


class GenerationDropped(GenerationUnavailable):
    """A generation was given up while something was being stored under it."""

    def __init__(self, contract_id: str) -> None:
        HomewardError.__init__(
            self,
            f"The generation {contract_id} was given up meanwhile; nothing was stored under it.",
            remedy="Send it again: it is then stored under the generation in use.",
        )


class GenerationStateInvalid(HomewardError):
    """What was asked for does not fit the state that a generation is in."""

    code = "generation_state_invalid"


class GenerationIncomplete(HomewardError):
    """Something stored is not in a generation yet."""

    code = "generation_incomplete"


class ComparisonNotFound(NotFound):
    code = "comparison_not_found"

    def __init__(self, contract_id: str) -> None:
        super().__init__(
            f"The generation {contract_id} was not compared with one that is there still.",
            remedy=f"Run `homeward generations compare {contract_id}`.",
        )


class JobNotFound(NotFound):
    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id!r}.", remedy="Check the id.")


class JobStateInvalid(HomewardError):
    """The job is in a state in which this cannot be done to it."""

    code = "job_state_invalid"

    def __init__(self, job_id: str, state: str, wanted: Sequence[str]) -> None:
        super().__init__(
            f"Job {job_id} is {state}; this is for jobs that are {' or '.join(wanted)}.",
            remedy="List the jobs with `homeward jobs list`.",
        )


class CandidateNotFound(NotFound):
    code = "candidate_not_found"

    def __init__(self, candidate_id: str) -> None:
        super().__init__(
            f"There is no candidate {candidate_id!r}.",
            remedy="List the candidates of the case again.",
        )


class AlertNotFound(NotFound):
    code = "alert_not_found"

    def __init__(self, alert_id: str) -> None:
        super().__init__(
            f"There is no alert {alert_id!r}.",
            remedy="Read the alerts again; those of a forgotten case are gone.",
        )


class WebhookNotFound(NotFound):
    code = "webhook_not_found"

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"There is no webhook {webhook_id!r}.", remedy="List the webhooks.")


class CaseClosed(HomewardError):
    """The case is found or closed: nothing may be enrolled or searched for it."""

    code = "case_closed"

    def __init__(self, case_id: str, status: str) -> None:
        super().__init__(
            f"Case {case_id} is {status}; only open cases are searched and enrolled.",
            remedy="Set its status to open first, if the person is missing again.",
        )


class ApprovalRequired(HomewardError):
    """The case is open, but a search for it was not approved, or the approval is over."""

    code = "approval_required"

    def __init__(self, case_id: str) -> None:
        super().__init__(
            f"Case {case_id} may not be searched: no approval is in force.",
            remedy="Ask for an approval of the search; a second person decides. Photos can be "
            "enrolled meanwhile.",
        )


class ApprovalNotFound(NotFound):
    code = "approval_not_found"

    def __init__(self, approval_id: str) -> None:
        super().__init__(
            f"There is no approval {approval_id!r}.", remedy="List the approvals of the case."
        )


class ApproverIsRequester(HomewardError):
    """Whoever asked may not decide, nor through a key that they made."""

    code = "approver_is_requester"

    def __init__(self) -> None:
        super().__init__(
            "Whoever asked for an approval cannot decide it, nor with a key that they made.",
            remedy="Have another supervisor decide.",
        )


class ApprovalStateInvalid(HomewardError):
    """What was asked for does not fit the approvals that the case has."""

    code = "approval_state_invalid"


class HoldNotFound(NotFound):
    code = "hold_not_found"

    def __init__(self, kind: str) -> None:
        super().__init__(f"This {kind} is under no legal hold.", remedy="List the holds.")


class LifterIsSetter(HomewardError):
    """Where searches need a second person, so does the lifting of a hold."""

    code = "lifter_is_setter"

    def __init__(self) -> None:
        super().__init__(
            "Whoever set a hold cannot lift it here, nor with a key that they made.",
            remedy="Have another supervisor lift it.",
        )


class DuplicateCaseNumber(HomewardError):
    code = "duplicate_case_number"

    def __init__(self, case_number: str, case_id: str) -> None:
        super().__init__(
            f"Case number {case_number!r} exists already in this agency.",
            remedy=f"Use the case that exists ({case_id}) or another number.",
        )
        self.case_id = case_id


class LegalHold(HomewardError):
    """The record is held, or waits for a decision; it may not be deleted."""

    code = "legal_hold"


class SearchNeedsEnrolment(HomewardError):
    """Faces of ads are not kept: a photo can only be compared with them by reading them again."""

    code = "search_needs_enrolment"

    def __init__(self) -> None:
        super().__init__(
            "Faces of ads are not kept here, so a photo that is not enrolled has nothing to be "
            "compared with.",
            remedy="Add the photo to the case: the stored pictures are then read again with it.",
        )


class PictureWithheld(HomewardError):
    """The pixels of the picture go to nobody."""

    code = "picture_withheld"

    def __init__(self) -> None:
        super().__init__(
            "This picture is withheld: it is shown to nobody. What it belongs to can be read.",
            remedy="Ask the designated role, who may settle what becomes of it.",
        )


class WithheldNotFound(NotFound):
    code = "withheld_not_found"

    def __init__(self, sha256: str) -> None:
        super().__init__(f"No picture {sha256!r} is withheld.", remedy="Check the SHA-256.")


class WithheldStateInvalid(HomewardError):
    """The picture is in a state in which this cannot be decided."""

    code = "withheld_state_invalid"

    def __init__(self, detail: str) -> None:
        super().__init__(
            detail,
            remedy="Look at the list again: a picture is first reported and preserved or released; "
            "bytes go only after they were preserved.",
        )


class SecondPersonNeeded(HomewardError):
    """Whoever flagged a picture neither releases nor deletes it, and nobody deletes alone."""

    code = "second_person_needed"

    def __init__(self) -> None:
        super().__init__(
            "Whoever flagged a picture may not release it; whoever flagged or preserved it may not "
            "delete it.",
            remedy="Have another person of the designated role decide.",
        )


class HashListNotFound(NotFound):
    code = "hash_list_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no list {name!r}.", remedy="See `homeward hashes list` for their names."
        )


class PurposeRequired(HomewardError):
    code = "purpose_required"


class NoFaceFound(HomewardError):
    code = "no_face_found"

    def __init__(self) -> None:
        super().__init__(
            "No face was found in this picture.",
            remedy="Use a picture in which the face is larger, sharper or less covered.",
        )


class SeveralFacesFound(HomewardError):
    """More than one face and no word which one is meant; ``faces`` lists them."""

    code = "several_faces_found"

    def __init__(self, faces: Sequence[FaceSummary]) -> None:
        super().__init__(
            f"{len(faces)} faces were found in this picture; which one is the missing person?",
            remedy="Send the picture again with face_index set to one of the faces listed.",
        )
        self.faces: tuple[FaceSummary, ...] = tuple(faces)


class FaceIndexInvalid(HomewardError):
    """``face_index`` names a face that the picture does not have."""

    code = "face_index_invalid"

    def __init__(self, face_index: int, faces: Sequence[FaceSummary]) -> None:
        super().__init__(
            f"face_index {face_index} was given, but the picture has {len(faces)} face(s).",
            remedy=f"Give a face_index from 0 to {len(faces) - 1}.",
        )
        self.faces: tuple[FaceSummary, ...] = tuple(faces)


class FaceTooSmall(HomewardError):
    code = "face_too_small"

    def __init__(self, side: float, minimum: float) -> None:
        super().__init__(
            f"The face is {side:.0f} pixels wide; at least {minimum:.0f} are needed to compare it.",
            remedy="Use a larger original of the picture; enlarging this one does not help.",
        )


class PhotoAlreadyEnrolled(HomewardError):
    """The same picture is enrolled in this case with another face."""

    code = "photo_already_enrolled"

    def __init__(self, photo_id: str, enrolled_face_index: int) -> None:
        super().__init__(
            f"This picture is enrolled already (photo {photo_id}) with face {enrolled_face_index}.",
            remedy="Delete that photo first if another face in it is the missing person.",
        )
        self.photo_id = photo_id


class TooManyFiles(HomewardError):
    """More images or page files than one ad may carry."""

    code = "too_many_files"


class FileTooLarge(HomewardError):
    """A page file is over the size limit."""

    code = "file_too_large"


class IdempotencyConflict(HomewardError):
    """The same Idempotency-Key came with another request."""

    code = "idempotency_conflict"


class InvalidCursor(HomewardError):
    code = "invalid_cursor"

    def __init__(self) -> None:
        super().__init__(
            "The cursor is not one that a list returned.",
            remedy="Use next_cursor as it was given, or leave it out to start at the beginning.",
        )


class QueueFull(HomewardError):
    """Too much work waits already; nothing was stored."""

    code = "queue_full"

    def __init__(self, waiting: int, bound: int) -> None:
        super().__init__(
            f"{waiting} jobs are waiting; the bound is {bound}. Nothing was stored.",
            remedy="Send it again later.",
        )


class TooManyWebhooks(HomewardError):
    """Each alert is sent to every webhook, so their number is bounded."""

    code = "too_many_webhooks"


class DeliveryFailed(HomewardError):
    """An alert could not be told outside.

    ``retry``: whether another try may succeed. ``retry_after``: seconds that the receiver asked
    to wait, where it did.
    """

    code = "delivery_failed"

    def __init__(
        self,
        detail: str,
        *,
        retry: bool,
        retry_after: float | None = None,
        remedy: str = "",
        code: str | None = None,
    ) -> None:
        super().__init__(detail, remedy=remedy, code=code)
        self.retry = retry
        self.retry_after = retry_after


class StagingFull(QueueFull):
    """Too many images wait for their ads already; nothing was stored."""

    def __init__(self, waiting: int, bound: int) -> None:
        HomewardError.__init__(
            self,
            f"{waiting} images wait for their ads; the bound is {bound}. Nothing was stored.",
            remedy="Send the ads that name them, then send it again.",
        )


class DigestMismatch(HomewardError):
    """Bytes were announced under a SHA-256 that is not theirs."""

    code = "digest_mismatch"

    def __init__(self, sha256: str) -> None:
        super().__init__(
            f"The SHA-256 of the bytes is {sha256}, which is not the one in the address. "
            "Nothing was stored.",
            remedy="Compute the SHA-256 of the very bytes that are sent, and send them whole.",
        )


class ImageUnknown(HomewardError):
    """An ad names images by SHA-256 that no ad has and that were not sent ahead of it."""

    code = "image_unknown"

    def __init__(self, sha256s: Sequence[str]) -> None:
        super().__init__(
            f"These images were not sent before: {', '.join(sha256s)}. Nothing was stored.",
            remedy="Send each with PUT /v1/images/{sha256}, then send this ad again.",
        )
        self.sha256s: tuple[str, ...] = tuple(sha256s)


class QuarantineItemNotFound(NotFound):
    code = "quarantine_item_not_found"

    def __init__(self, item_id: str) -> None:
        super().__init__(
            f"There is no item {item_id!r} in the quarantine.",
            remedy="List what is there with `homeward quarantine list`.",
        )


class SourceUnreadable(HomewardError):
    """A file or folder to ingest from cannot be read at all."""

    code = "source_unreadable"


class ItemRefused(HomewardError):
    """One item of a source (a line, a row, a file) cannot be taken; the rest goes on."""

    code = "item_invalid"


class StorageError(HomewardError):
    """Root of the errors of disk, folder and database."""

    code = "storage_error"


class StorageFull(StorageError):
    code = "storage_full"

    def __init__(self, where: str) -> None:
        super().__init__(
            f"The disk is full: {where} could not be written. Nothing was half-stored.",
            remedy="Free space or move the data folder to a larger disk, then send it again.",
        )


class StorageLow(StorageFull):
    """The free disk is below the watermark: nothing new is taken in, so that nothing breaks."""

    def __init__(self, free: int, wanted: int) -> None:
        StorageError.__init__(
            self,
            f"Only {free / 1e6:,.0f} MB of disk are free; below {wanted / 1e6:,.0f} MB nothing "
            "new is taken in. Nothing was stored.",
            remedy="Free space or move the data folder to a larger disk, then send it again.",
        )


class BackupFailed(StorageError):
    """A back-up cannot be made or restored as asked; nothing was overwritten."""

    code = "backup_failed"


class BackupDamaged(StorageError):
    """The file is no whole back-up: cut, changed, or something else."""

    code = "backup_damaged"


class RestoreUnfinished(StorageError):
    """A restore broke off in this data folder: deletions may not be repeated in it yet."""

    code = "restore_unfinished"


class LedgerDamaged(StorageError):
    """The file of purges was edited or cut; what it says cannot be relied on."""

    code = "ledger_damaged"


class CalibrationDamaged(StorageError):
    """The calibration that is in force for a contract cannot be used; nothing stands in for it."""

    code = "calibration_damaged"

    def __init__(self, calibration_id: str, contract_id: str, why: str) -> None:
        super().__init__(
            f"The calibration {calibration_id} of {contract_id} cannot be used: {why}.",
            remedy="Measure again with `homeward calibrate`: the newest is in force. Have the "
            "catalog checked with `homeward doctor`: something changed a row in it.",
        )


class StorageDenied(StorageError):
    code = "storage_denied"

    def __init__(self, where: str) -> None:
        super().__init__(
            f"No permission to read or write {where}.",
            remedy="Give the account that runs Homeward ownership of the data folder.",
        )


class StorageAway(StorageError):
    """The object store does not answer, or not as it should; it may later.

    ``reason``: the store's error code or status; nothing of its answer beyond that.
    """

    code = "storage_away"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            f"{where[:1].upper()}{where[1:]} does not do what is asked ({reason}).",
            remedy="Check that the store runs and can be reached, then try again.",
        )


class StoreUnusable(StorageError):
    """The object store answers, and cannot be used as it is set up."""

    code = "store_unusable"


class ExtraMissing(StorageError):
    """A setting asks for a library that is not installed."""

    code = "extra_missing"

    def __init__(self, library: str, extra: str, what: str) -> None:
        super().__init__(
            f"The library {library} is not installed, which is needed for {what}.",
            remedy=f"Install Homeward with the extra {extra!r}.",
        )


class BlobMissing(StorageError):
    """The catalog names an original that the blob store does not hold."""

    code = "blob_missing"

    def __init__(self, sha256: str) -> None:
        super().__init__(
            f"The original {sha256} is not in the blob store.",
            remedy="Restore the originals from the back-up, then run `homeward doctor`.",
        )


class BlobDamaged(StorageError):
    """The stored bytes no longer have the SHA-256 under which they were stored."""

    code = "blob_damaged"

    def __init__(self, sha256: str) -> None:
        super().__init__(
            f"The original {sha256} is damaged: its bytes no longer have that SHA-256.",
            remedy="Restore this file from the back-up, then run `homeward doctor`.",
        )


class CatalogBusy(StorageError):
    """Another process held the database for longer than the time-out."""

    code = "catalog_busy"

    def __init__(self) -> None:
        super().__init__(
            "The catalog is busy: another process holds its write lock.",
            remedy="Try again in a moment.",
        )


class CatalogAbsent(StorageError):
    """The database is empty, and whoever asked was not to make a catalog of it."""

    code = "catalog_absent"

    def __init__(self) -> None:
        super().__init__(
            "There is no catalog in the database yet.",
            remedy="Start `homeward serve` on it once, which makes one.",
        )


class CatalogAway(StorageError):
    """The database server cannot be reached, or the connection to it broke.

    ``reason``: the driver's words, for whoever starts Homeward; they name server and role.
    """

    code = "catalog_away"

    def __init__(self, reason: str = "") -> None:
        super().__init__(
            f"The database server does not answer{f': {reason}' if reason else '.'}",
            remedy="Check that the server runs and takes connections, then try again.",
        )


class CatalogUnusable(StorageError):
    """The database is damaged, of another program, or newer than this program."""

    code = "catalog_unusable"


class IndexDamaged(StorageError):
    """An index file fails its checksum or is for another contract; it is rebuilt."""

    code = "index_damaged"


class IndexAway(StorageError):
    """The server that holds the vectors cannot be reached, or does not answer in time.

    Nothing was answered, so nothing wrong was; the same may be asked again. ``reason``: what was
    seen, in words that hold neither address nor credentials.
    """

    code = "index_away"

    def __init__(self, reason: str = "") -> None:
        super().__init__(
            f"The vector index does not answer{f': {reason}.' if reason else '.'}",
            remedy="Check that Milvus runs and can be reached, then try again in a moment.",
        )


class AuditUnavailable(StorageError):
    """What was asked for cannot be recorded, so it is not shown."""

    code = "audit_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The audit log cannot be written, and nothing is shown that is not recorded.",
            remedy="Try again in a moment; if it stays, look at the disk and the database.",
        )


class AuditDamaged(StorageError):
    """A record of the audit log is not as it was written."""

    code = "audit_damaged"

    def __init__(self, seq: int) -> None:
        super().__init__(
            f"Record {seq} of the audit log is not as it was written.",
            remedy="Run `homeward audit verify`, and keep the catalog as it is for inspection.",
        )


class HeadsDamaged(StorageError):
    """A line of the file of heads is none of ours."""

    code = "heads_damaged"


class StampInvalid(HomewardError):
    """What a time-stamping authority answered is no stamp over what it was asked for."""

    code = "stamp_invalid"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, remedy="Check HOMEWARD_STAMP_URL and HOMEWARD_STAMP_CA_FILE.")


class SealBroken(StorageError):
    """Something sealed was changed, cut or moved, or lies open where all has to be sealed.

    ``where``: which column, file or segment; never what it holds.
    """

    code = "seal_broken"

    def __init__(self, where: str = "") -> None:
        super().__init__(
            f"Encrypted data {f'in {where} ' if where else ''}was changed or damaged.",
            remedy="Run `homeward encryption check` to find out how much, then restore a back-up.",
        )


class SealKeyMissing(StorageError):
    """The key that something was sealed with is not there."""

    code = "seal_key_missing"


class KeysUnusable(StorageError):
    """The encryption keys that are set cannot be used, or are not those of this data folder."""

    code = "encryption_keys"


class EncryptionOff(StorageError):
    """Something was asked of encryption where there is none."""

    code = "encryption_off"

    def __init__(self) -> None:
        super().__init__(
            "This data folder is not encrypted.",
            remedy="Set HOMEWARD_ENCRYPTION_KEY_FILE or HOMEWARD_ENCRYPTION_KEYS and run "
            "`homeward encryption on`.",
        )
