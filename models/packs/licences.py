"""The terms of packs, who accepted them, and signed model licences.

A pack whose terms do not allow police work can be installed only by a named person who accepted
them; what was accepted is recorded by its SHA-256. InsightFace sells licences as a signed file,
``MODEL.LICENSE``; its own code checks the signature, the model and the time
(``insightface.model_zoo.model_license``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from models.errors import LicenceInvalid, LicenceNotAccepted

LICENCE_FILE: Final = "MODEL.LICENSE"
OTHER_MODEL: Final = "other_model"
"""The status of a licence that names a model with other files than those that it lies beside."""

_LONGEST_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class Terms:
    """What a person accepts before a pack is installed; ``text`` is shown in full."""

    key: str
    title: str
    text: str
    url: str

    @property
    def sha256(self) -> str:
        """Names the very text that was accepted."""
        return hashlib.sha256(f"{self.title}\n{self.text}\n{self.url}".encode()).hexdigest()


RESEARCH_ONLY: Final = Terms(
    key="research-only",
    title="InsightFace models: non-commercial research only",
    text=(
        "InsightFace publishes its program code under the MIT licence, but its trained models "
        "under other terms: they may be used for non-commercial research only, whether they are "
        "fetched by a program or by hand.\n"
        "\n"
        "1. Work on real cases is not research. Police, other authorities, companies and charities "
        "that look for missing people with these models need a licence for the models from "
        "InsightFace first (contact@insightface.ai).\n"
        "2. Such a licence comes as a signed file named MODEL.LICENSE. It names the model, the "
        "customer and the time for which it holds. Put it beside the model files before the pack "
        "is installed: Homeward checks it and then shows no warning until it ends.\n"
        "3. Without it, install this pack only to evaluate it or for research, on photos that you "
        "may use for that. Homeward then says so at every start and on every page.\n"
        "4. The terms do not pass to others: who receives the model files from you needs to accept "
        "them, or hold a licence, too.\n"
        "5. The models were trained on photos of people who were not asked. What the law of your "
        "country says about that is not settled by any licence.\n"
        "\n"
        "By giving your name you confirm that you have read this and the terms at the address "
        "below, and that you answer for the use of the pack in this installation. Your name, the "
        "date and the SHA-256 of this text are kept with the pack."
    ),
    url="https://github.com/deepinsight/insightface/tree/master/model_zoo",
)

AURAFACE: Final = Terms(
    key="auraface",
    title="AuraFace: a free recogniser, with a detector whose terms are in doubt",
    text=(
        "AuraFace-v1 is published under the Apache License 2.0, which allows any use, police work "
        "included. Its recogniser (glintr100.onnx) is its publisher's own work, trained on data "
        "that the publisher describes as commercially and publicly available.\n"
        "\n"
        "1. Its detector (scrfd_10g_bnkps.onnx) has the same bytes as the one in InsightFace's "
        "buffalo_l (det_10g.onnx), which InsightFace publishes for non-commercial research "
        "only. Whether AuraFace's publisher may pass it on under Apache-2.0 is not known to "
        "Homeward.\n"
        "2. Ask your legal adviser before you work on real cases with it, or ask InsightFace for a "
        "licence for the detector. Until a MODEL.LICENSE for this pack is there, Homeward says so "
        "at every start and on every page.\n"
        "\n"
        "By giving your name you confirm that you have read this and the licence at the address "
        "below, and that you answer for the use of the pack in this installation. Your name, the "
        "date and the SHA-256 of this text are kept with the pack."
    ),
    url="https://huggingface.co/fal/AuraFace-v1",
)

OWN_RESPONSIBILITY: Final = Terms(
    key="own-responsibility",
    title="Model files whose licence Homeward does not know",
    text=(
        "Homeward does not know these model files by their SHA-256, so that it cannot say what "
        "their licence allows. Many face models that can be found on the internet may be used for "
        "non-commercial research only, whatever the page says from which they were fetched.\n"
        "\n"
        "1. Install the pack only if you know where its files come from and hold the right to use "
        "them for this work.\n"
        "2. Homeward goes on saying, at every start and on every page, that the right to use the "
        "pack rests on your word.\n"
        "\n"
        "By giving your name you confirm that you hold that right and answer for the use of the "
        "pack in this installation. Your name, the date and the SHA-256 of this text are kept with "
        "the pack."
    ),
    url="",
)

TERMS: Final[Mapping[str, Terms]] = {
    terms.key: terms for terms in (RESEARCH_ONLY, AURAFACE, OWN_RESPONSIBILITY)
}


def stricter(one: Terms | None, other: Terms | None) -> Terms | None:
    """Of two terms those that allow less; ``None`` allows any use."""
    order = (None, AURAFACE, OWN_RESPONSIBILITY, RESEARCH_ONLY)
    return max(one, other, key=order.index)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Who accepted which text, and when (UTC, ISO 8601)."""

    accepted_by: str
    accepted_at: str
    terms: str
    terms_sha256: str

    @property
    def sound(self) -> bool:
        """Whether it says all that it has to; what was read from a file may be anything."""
        return all(isinstance(part, str) and part for part in astuple(self))


def accept(terms: Terms, name: str, now: datetime | None = None) -> Acceptance:
    """The record of ``name`` accepting ``terms``.

    Raises :class:`LicenceNotAccepted` where ``name`` can be no person's name:
    printable, 200 characters at most, with two letters or more.
    """
    name = " ".join(name.split())
    letters = sum(character.isalpha() for character in name)
    if not name.isprintable() or len(name) > _LONGEST_NAME or letters < 2:
        raise LicenceNotAccepted(
            "The terms have to be accepted by a person with their full name.",
            remedy='Give first and last name: --accept-licence-as "First Last".',
        )
    return Acceptance(name, stamp(now or datetime.now(UTC)), terms.key, terms.sha256)


def stamp(moment: datetime) -> str:
    """A moment as UTC in ISO 8601 with milliseconds."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class ModelLicence:
    """A ``MODEL.LICENSE`` as insightface judged it; times in UTC, ISO 8601."""

    status: str
    message: str
    license_id: str | None = None
    customer: str | None = None
    valid_from: str | None = None
    valid_until: str | None = None
    model_id: str | None = None

    def commercial_at(self, now: datetime) -> bool:
        """Whether it permits commercial use at ``now``."""
        if self.status != "verified_commercial":
            return False
        return self.valid_until is None or now < datetime.fromisoformat(self.valid_until)

    @property
    def refused(self) -> bool:
        """Whether there is a file that does not hold."""
        return self.status not in ("verified_commercial", "verified_non_commercial")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect_licence(
    folder: Path,
    name: str,
    *,
    form: str = "v1",
    now: datetime | None = None,
    public_keys: Iterable[Any] | None = None,
) -> ModelLicence | None:
    """The signed licence in the package ``folder`` of the pack ``name``; ``None``: there is none.

    ``public_keys``: Ed25519 keys that are trusted instead of those that insightface carries.
    A package of the format ``"v2"`` names its model in its manifest and is judged by that. Every
    other is judged by ``name``: what an older manifest beside it says binds nobody.
    """
    if not any(True for _ in folder.rglob(LICENCE_FILE)):
        return None
    # Here, not above: it brings all of insightface, and few packs carry a licence.
    from insightface.model_zoo import model_license

    found = model_license.inspect_model_package_license(
        folder,
        expected_model_id=None if form == "v2" else name,
        now=now,
        public_keys=public_keys,
    )
    if found.defaulted:
        return None
    signed = found.license
    return ModelLicence(
        status=found.status,
        message=found.message,
        license_id=signed.license_id if signed else None,
        customer=signed.customer if signed else None,
        valid_from=stamp(signed.valid_from) if signed else None,
        valid_until=stamp(signed.valid_until) if signed and signed.valid_until else None,
        model_id=signed.model_id if signed else None,
    )


def licence_place(folder: Path, name: str, *, form: str = "v1") -> str | None:
    """Where the package ``folder`` keeps its signed licence, relative to it and with ``/``.

    ``None``: a manifest is there that insightface does not understand.
    """
    from insightface.model_zoo import model_license

    found = model_license.inspect_model_package_license(
        folder, expected_model_id=None if form == "v2" else name, public_keys=()
    )
    if found.license_path is None:
        return None
    return str(found.license_path.relative_to(folder.resolve()).as_posix())


def require_valid(licence: ModelLicence | None) -> None:
    """Raises :class:`LicenceInvalid` where there is a signed licence that does not hold."""
    if licence is None or not licence.refused:
        return
    raise LicenceInvalid(
        f"The {LICENCE_FILE} in this package does not hold: {_plain(licence)}.",
        remedy="Ask InsightFace for a licence for this very model, or install the package without "
        f"the file {LICENCE_FILE}, under its public terms.",
    )


def _plain(licence: ModelLicence) -> str:
    """insightface's message in one line that speaks of no path on this machine."""
    if licence.status == "dependency_missing":
        return "it cannot be checked, since the packages cryptography and rfc8785 are not installed"
    texts = {
        "expired": "its time is over",
        "not_active": "its time has not come yet",
        OTHER_MODEL: "it is for another model",
        "invalid_manifest": "the manifest beside it is not sound",
    }
    reason = texts.get(licence.status, "")
    message = licence.message.rstrip(".")
    if "/" in message:
        return reason or "it cannot be read"
    return f"{reason} ({message})" if reason else message


@dataclass(frozen=True, slots=True)
class Rights:
    """What may be said about the right to use a pack.

    ``terms``: the key of the terms that bind it, ``None`` where it is free for police use.
    ``unreadable``: why nothing can be said, which is never the same as free.
    """

    pack: str
    terms: str | None = None
    acceptance: Acceptance | None = None
    licence: ModelLicence | None = None
    unreadable: str | None = None

    def warning(self, now: datetime | None = None, *, named: bool = True) -> str | None:
        """One sentence or two for whoever runs or uses the service; ``None``: nothing to say.

        ``named``: with the name of the person who accepted the terms, which is not for everyone.
        """
        now = now or datetime.now(UTC)
        if self.unreadable is not None:
            return f"The right to use the face pack {self.pack} cannot be told: {self.unreadable}"
        if self.terms is None or (self.licence and self.licence.commercial_at(now)):
            return None
        accepted = ""
        if named and self.acceptance:
            on = self.acceptance.accepted_at[:10]
            accepted = f" The terms were accepted by {self.acceptance.accepted_by} on {on}."
        return f"{self._reason(now)}{accepted}"

    def _reason(self, now: datetime) -> str:
        licence = self.licence
        if licence and licence.status == "verified_commercial":
            ended = (licence.valid_until or "")[:10]
            return (
                f"The licence of the face pack {self.pack} ended on {ended}: "
                "it may not be used for police work until it is renewed."
            )
        if licence and licence.refused:
            return (
                f"The licence of the face pack {self.pack} does not hold: {_plain(licence)}. "
                "It may not be used for police work."
            )
        if self.terms == OWN_RESPONSIBILITY.key:
            return f"The licence of the face pack {self.pack} is not known to Homeward."
        if self.terms == AURAFACE.key:
            return (
                f"The face pack {self.pack} contains a detector that its maker publishes for "
                "non-commercial research only; whether police may use it is in doubt."
            )
        return (
            f"The face pack {self.pack} is for non-commercial research only: "
            "police work needs a licence from its makers."
        )
