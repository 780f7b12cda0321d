"""What is written down when a pack is installed: ``pack.json`` in the folder of the pack.

The folder of the pack NAME holds the record and one folder of files that the record names. The
record is replaced in one step, so that it points to a whole set of files at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, cast

from models.errors import PackDigestMismatch, PackError
from models.packs.known import Kind, terms_of
from models.packs.licences import (
    LICENCE_FILE,
    TERMS,
    Acceptance,
    ModelLicence,
    Rights,
    Terms,
    stricter,
)

RECORD: Final = "pack.json"
MANIFEST: Final = "manifest.json"
_VERSION: Final = 1
_MAX_BYTES: Final = 1_000_000
_CONTRACT: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,199}", re.ASCII)

SourceKind = Literal["folder", "zip", "download"]


@dataclass(frozen=True, slots=True)
class InstallRecord:
    """One installed pack.

    ``format``: ``"v1"`` or ``"v2"`` (InsightFace), ``"onnx"`` (OpenCV Zoo). ``folder``: where its
    files lie, relative to the folder of the pack. ``files``: relative name to SHA-256, pinned when
    it was installed. ``terms``: the key of what binds it (``models.packs.licences.TERMS``), or
    ``None``. ``model_license``: the signed licence as it was found then.
    """

    name: str
    kind: Kind
    format: str
    model_id: str
    dimension: int
    contract_id: str
    folder: str
    files: Mapping[str, str]
    source: SourceKind
    installed_at: str
    terms: str | None = None
    acceptance: Acceptance | None = None
    model_license: ModelLicence | None = None

    @property
    def bound_by(self) -> Terms | None:
        """The terms that bind it: those of the record, or of its bytes where those are stricter.

        The record can be edited, and what is known about the bytes grows from version to version.
        """
        return stricter(
            TERMS[self.terms] if self.terms else None,
            terms_of(self.name, models_among(self.files).values()),
        )

    def rights(self, licence: ModelLicence | None) -> Rights:
        """What may be said about its use, with its signed licence as it is judged now."""
        terms = self.bound_by
        return Rights(self.name, terms.key if terms else None, self.acceptance, licence)


def read_record(home: Path) -> InstallRecord | None:
    """The record in the folder ``home`` of a pack; ``None``: nothing is installed there.

    Raises :class:`PackError` where there is one that cannot be read.
    """
    path = home / RECORD
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        return _from_json(json.loads(path.read_text(encoding="utf-8")), home.name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackError(
            f"The record of the face pack {home.name} cannot be read: {error}.",
            remedy=f"Install it again: `homeward packs install {home.name} --replace`.",
        ) from error


def _from_json(data: Mapping[str, Any], name: str) -> InstallRecord:
    if data["version"] != _VERSION or data["name"] != name:
        raise ValueError("it is of another version or another pack")
    if unknown := data.keys() - {"version", *(field.name for field in fields(InstallRecord))}:
        raise ValueError(f"it says something that is not known: {', '.join(sorted(unknown))}")
    accepted, signed = data["acceptance"], data["model_license"]
    record = InstallRecord(
        name=name,
        kind=cast("Kind", str(data["kind"])),
        format=str(data["format"]),
        model_id=str(data["model_id"]),
        dimension=int(data["dimension"]),
        contract_id=str(data["contract_id"]),
        folder=str(data["folder"]),
        files={str(file): str(digest) for file, digest in data["files"].items()},
        source=cast("SourceKind", str(data["source"])),
        installed_at=str(data["installed_at"]),
        terms=None if data["terms"] is None else str(data["terms"]),
        acceptance=Acceptance(**accepted) if accepted else None,
        model_license=ModelLicence(**signed) if signed else None,
    )
    if record.kind not in ("insightface", "opencv") or not record.files:
        raise ValueError("it names no files, or a kind that is not known")
    if record.terms is not None and record.terms not in TERMS:
        raise ValueError("it names terms that are not known")
    if record.acceptance is not None and not record.acceptance.sound:
        raise ValueError("it names nobody who accepted the terms")
    if not _CONTRACT.fullmatch(record.contract_id):
        raise ValueError("it names no contract")
    for path in (record.folder, *record.files):
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or PurePosixPath(path).is_absolute():
            raise ValueError("it names a path outside of the pack")
    return record


def write_record(home: Path, record: InstallRecord) -> None:
    """Put the record in place in one step that lasts through a power cut. Raises ``OSError``."""
    data = {"version": _VERSION, **asdict(record)}
    handle, temporary = tempfile.mkstemp(dir=home, prefix=".record-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, home / RECORD)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(home)


def models_among(files: Mapping[str, str]) -> dict[str, str]:
    """Those of the ``files`` of a package that its models are made of, whatever they are called.

    Manifests and signed licences lie beside them and bind nobody to terms by their SHA-256.
    """
    return {name: digest for name, digest in files.items() if not _lies_beside(name)}


def without_licences(files: Mapping[str, str]) -> dict[str, str]:
    """Those of the ``files`` of a package that shape what it computes: all but signed licences."""
    return {name: digest for name, digest in files.items() if not _is_licence(name)}


def _lies_beside(name: str) -> bool:
    return name == MANIFEST or _is_licence(name)


def _is_licence(name: str) -> bool:
    return PurePosixPath(name).name == LICENCE_FILE


def sync_folder(folder: Path) -> None:
    """Make what was put into ``folder`` or renamed in it last. Raises ``OSError``."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits. Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(home: Path, record: InstallRecord, *, licences: bool = True) -> Path:
    """Check every file against the SHA-256 that was pinned; the folder they lie in.

    ``licences``: signed licences as well, not only what shapes vectors.
    Raises :class:`PackDigestMismatch` that names the first file that is missing, is another, or
    was not installed with the others.
    """
    folder = home / record.folder
    files = record.files if licences else without_licences(record.files)
    for name, digest in files.items():
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            raise _changed(record, name, f"cannot be read: {error.strerror}") from error
        if found != digest:
            raise _changed(record, name, f"has the SHA-256 {found}, not the one pinned then")
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        # A manifest or a model that was put there later could change what the others compute.
        if name not in record.files and (path.is_symlink() or not path.is_dir()):
            raise _changed(record, name, "was not installed with it")
    return folder


def _changed(record: InstallRecord, file: str, what: str) -> PackDigestMismatch:
    again = f"`homeward packs install {record.name} --from"
    return PackDigestMismatch(
        f"The face pack {record.name} is not as it was installed: {file} {what}.",
        remedy=f"A licence is renewed with {again} {LICENCE_FILE}`."
        if _is_licence(file)
        else "Find out who changed it; then install it again from a source you trust: "
        f"{again} PATH`.",
    )
