"""The one check: may this caller do this, to this record?

``roles`` says who holds which permission; here is whose each record is. Routes and pages do not
ask themselves: whatever they require a permission with also looks at every id in the address
(:func:`require_records`), so that a new route cannot forget to. What belongs to another agency is
answered as what does not exist, so that nobody learns of it by asking.

Lists are filtered in SQL by :attr:`Principal.agency`; the command line acts as :func:`operator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, exists, or_, select, true

from indexer import jobs
from indexer.catalog import Catalog
from indexer.catalog.casework_tables import Approval, LinkRequest
from indexer.catalog.tables import (
    Alert,
    Candidate,
    CaptureImage,
    Case,
    Face,
    Job,
    Photo,
    Webhook,
)
from indexer.errors import (
    AlertNotFound,
    ApprovalNotFound,
    CandidateNotFound,
    CaseNotFound,
    FaceNotFound,
    ImageNotFound,
    JobNotFound,
    LinkRequestNotFound,
    NotFound,
    PhotoNotFound,
    WebhookNotFound,
)
from indexer.ids import canonical_id
from indexer.records import JobKind
from models.errors import HomewardError
from service.accounts.principal import Principal
from service.accounts.roles import ALL_SCOPES, PERMISSIONS, ROLES


class Forbidden(HomewardError):
    """The caller is known but may not do this."""

    code = "forbidden"


class AgencyNotYours(HomewardError):
    """A case would be given to an agency that the caller does not work for."""

    code = "agency_not_yours"


# --- what somebody may do --------------------------------------------------------------------


def require(principal: Principal, permission: str) -> None:
    """Raises :class:`Forbidden` unless the caller holds the permission."""
    assert permission in PERMISSIONS, permission
    if not principal.may(permission):
        if permission in principal.scopes:
            raise Forbidden(
                f"The permission {permission!r} is for those who work for all agencies.",
                remedy="Ask an administrator of the whole installation.",
            )
        raise Forbidden(
            f"This key or account lacks the permission {permission!r}.",
            remedy="Ask an administrator for it.",
        )


def known(permission: str) -> str:
    """``permission``, which has to be in the table. Called as modules load, so that a name that
    is misspelt stops the program."""
    if permission not in PERMISSIONS:
        raise ValueError(f"no such permission: {permission}; see service/accounts/roles.py")
    return permission


def operator(actor: str) -> Principal:
    """Whoever works at the command line, by the account of the operating system, which can read
    the data folder anyway: for all agencies, with every permission of the table."""
    return Principal(actor[:100], actor, ALL_SCOPES, "cli", None, ROLES)


# --- whose a record is -----------------------------------------------------------------------


def sees(principal: Principal, agency: str) -> bool:
    """Whether the caller sees cases of ``agency``."""
    return principal.agency is None or principal.agency == agency


def own_agency(principal: Principal, wanted: str | None) -> str:
    """The agency in which a case of this caller is made or kept. ``wanted`` is what was asked
    for, None where nothing was; whoever works for all agencies names one, or none by "".

    Raises :class:`AgencyNotYours` for an agency that is not the caller's.
    """
    if principal.agency is None:
        return wanted or ""
    if wanted is not None and wanted != principal.agency:
        raise AgencyNotYours(
            "You can open and keep cases in your own agency only.",
            remedy="Leave the agency out. Only who works for all agencies can name another.",
        )
    return principal.agency


def job_kinds(principal: Principal) -> frozenset[JobKind]:
    """The kinds of jobs whose subject the caller may know of."""
    kinds = jobs.OF_ADS
    if principal.may("cases:read"):
        kinds |= jobs.OF_CASES
    if principal.may("webhooks:write"):
        kinds |= jobs.OF_WEBHOOKS
    return kinds


def _theirs(principal: Principal) -> ColumnElement[bool]:
    """True of cases that the caller sees."""
    return true() if principal.agency is None else Case.agency == principal.agency


def _case(principal: Principal, case_id: str) -> ColumnElement[bool]:
    return exists().where(Case.case_id == case_id, _theirs(principal))


def _photo(principal: Principal, photo_id: str) -> ColumnElement[bool]:
    mine = (Photo.photo_id == photo_id, Case.case_id == Photo.case_id, _theirs(principal))
    return select(Photo.photo_id).where(*mine).exists()


def _candidate(principal: Principal, candidate_id: str) -> ColumnElement[bool]:
    mine = (Case.case_id == Candidate.case_id, _theirs(principal))
    return (
        select(Candidate.candidate_id).where(Candidate.candidate_id == candidate_id, *mine).exists()
    )


def _alert(principal: Principal, alert_id: str) -> ColumnElement[bool]:
    mine = (Alert.alert_id == alert_id, Case.case_id == Alert.case_id, _theirs(principal))
    return select(Alert.alert_id).where(*mine).exists()


def _job(principal: Principal, job_id: str) -> ColumnElement[bool]:
    mine = jobs.visible(job_kinds(principal), principal.agency)
    return select(Job.job_id).where(Job.job_id == job_id, mine).exists()


def _image(principal: Principal, sha256: str) -> ColumnElement[bool]:
    """A picture of an ad is everybody's, also where it is a photo of a case as well."""
    mine = (Photo.sha256 == sha256, Case.case_id == Photo.case_id, _theirs(principal))
    return or_(
        exists().where(CaptureImage.sha256 == sha256),
        select(Photo.photo_id).where(*mine).exists(),
    )


def _face(principal: Principal, face_id: str) -> ColumnElement[bool]:
    mine = (
        Face.face_id == face_id,
        Photo.sha256 == Face.sha256,
        Case.case_id == Photo.case_id,
        _theirs(principal),
    )
    return or_(
        select(Face.face_id)
        .where(Face.face_id == face_id, CaptureImage.sha256 == Face.sha256)
        .exists(),
        select(Face.face_id).where(*mine).exists(),
    )


def _webhook(principal: Principal, webhook_id: str) -> ColumnElement[bool]:
    mine = true() if principal.agency is None else Webhook.agency == principal.agency
    return exists().where(Webhook.webhook_id == webhook_id, mine)


def _approval(principal: Principal, approval_id: str) -> ColumnElement[bool]:
    mine = (Case.case_id == Approval.case_id, _theirs(principal))
    return select(Approval.approval_id).where(Approval.approval_id == approval_id, *mine).exists()


def _link_request(principal: Principal, request_id: str) -> ColumnElement[bool]:
    """Who asks and who is asked both see the question."""
    mine = (
        LinkRequest.request_id == request_id,
        or_(
            Case.case_id == LinkRequest.case_id,
            Case.case_id == LinkRequest.other_case_id,
        ),
        _theirs(principal),
    )
    return select(LinkRequest.request_id).where(*mine).exists()


@dataclass(frozen=True, slots=True)
class Owned:
    """``visible``: SQL that is true where the caller sees the record; ``missing``: the answer
    where it is not there, and where it is another agency's."""

    visible: Callable[[Principal, str], ColumnElement[bool]]
    missing: Callable[[str], NotFound]
    form: Callable[[str], str | None] = canonical_id


OWNED: Final[Mapping[str, Owned]] = {
    "case_id": Owned(_case, CaseNotFound),
    "photo_id": Owned(_photo, PhotoNotFound),
    "candidate_id": Owned(_candidate, CandidateNotFound),
    "alert_id": Owned(_alert, AlertNotFound),
    "job_id": Owned(_job, JobNotFound),
    "sha256": Owned(_image, ImageNotFound, str.lower),
    "face_id": Owned(_face, FaceNotFound),
    "approval_id": Owned(_approval, ApprovalNotFound),
    "webhook_id": Owned(_webhook, WebhookNotFound),
    "link_request_id": Owned(_link_request, LinkRequestNotFound),
}
"""The names of ids in addresses that stand for what belongs to an agency."""

FREE: Final[Mapping[str, str]] = {
    "ad_id": "ads are shared",
    "contract_id": "generations belong to the installation",
    "held_id": "held for one session, which alone can name it",
    "index": "the number of a face in a held photo",
    "name": "a file of our own, or an agency, which only managers of all agencies change",
    "user_id": "looked at where people are managed: service/accounts/people.py",
    "key_id": "looked at where keys are managed: service/accounts/keys.py",
    "session_id": "of the person in the same address, or of the caller",
    "year": "the year of a report, which names nobody",
}
"""The names of parts of addresses that are not looked at here, and why."""


def require_records(
    catalog: Catalog, principal: Principal, permission: str, path: Mapping[str, str]
) -> None:
    """Look at every id in an address. Raises the error of the first that the caller does not
    see, which is the one that names what does not exist.

    Only for permissions that reach ``own_agency``: with the others nothing of a case is reached.
    Ids that are no ids are left to the route, which refuses them for everybody.
    """
    if PERMISSIONS[permission].reach != "own_agency":
        return
    if principal.agency is None and principal.may("cases:read"):
        return
    asked = [
        (name, record_id)
        for name, text in path.items()
        if name in OWNED and (record_id := OWNED[name].form(text)) is not None
    ]
    if not asked:
        return
    with catalog.read() as session:
        for name, record_id in asked:
            owned = OWNED[name]
            if not session.scalar(select(owned.visible(principal, record_id))):
                raise owned.missing(record_id)


def require_case(catalog: Catalog, principal: Principal, case_id: str) -> None:
    """Raises :class:`CaseNotFound` unless the case is there and of the caller's agency; for a
    case that is not named in the address."""
    require_records(catalog, principal, "cases:read", {"case_id": case_id})
    with catalog.read() as session:
        if not session.scalar(select(_case(principal, case_id))):
            raise CaseNotFound(case_id)
