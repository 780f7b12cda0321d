"""Packs on disk: installed whole or not at all, pinned, checked, removed.

Under the folder of packs each pack has one of its own (``models.packs.record``). Files are staged
beside the installed ones, made to last, and come into force with the record; whoever is killed in
between leaves files that nothing points to, and the next installation takes them away.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from models.errors import (
    LicenceNotAccepted,
    PackDiffers,
    PackDigestMismatch,
    PackError,
    PackInUse,
    PackMissing,
    PackSourceInvalid,
)
from models.packs.base import FacePack
from models.packs.kinds import Contents, load_files, read_contents
from models.packs.known import KNOWN, confined, terms_of
from models.packs.licences import (
    LICENCE_FILE,
    OWN_RESPONSIBILITY,
    RESEARCH_ONLY,
    Acceptance,
    ModelLicence,
    Terms,
    inspect_licence,
    require_valid,
    stamp,
)
from models.packs.record import (
    RECORD,
    InstallRecord,
    models_among,
    read_record,
    sync_folder,
    verify_files,
    without_licences,
    write_record,
)
from models.packs.sources import copy_file, materialise
from models.runtime import ON_CPU, RuntimeOptions

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STAGING: Final = ".staging-"
_OURS: Final = re.compile(r"\.staging-[0-9a-f]{12}|(v1|v2|onnx)-[0-9a-f]{12}")
"""Folders that are made here, below the folder of a pack; no other is ever taken away."""

_REMOVED: Final = ".removed-"

Accept = Callable[[Terms], Acceptance]
"""Shows the terms to a person and returns their acceptance; raises ``LicenceNotAccepted``."""


def check_name(name: str) -> None:
    """Raises :class:`PackMissing` where ``name`` can be no pack's name."""
    if not _NAME.fullmatch(name):
        raise PackMissing(
            "That is no name of a face pack.",
            remedy="Use up to 64 letters, digits, dots, hyphens and underscores; a letter or a "
            "digit first.",
        )


def installed(packs_dir: Path) -> list[str]:
    """Names of the packs that are installed from files, sorted."""
    if not packs_dir.is_dir():
        return []
    names = (path.parent.name for path in packs_dir.glob(f"*/{RECORD}"))
    return sorted(name for name in names if _NAME.fullmatch(name))


def current_licence(
    packs_dir: Path, record: InstallRecord, *, public_keys: Iterable[Any] | None = None
) -> ModelLicence | None:
    """The signed licence of an installed pack as it is judged now; ``None``: it has none."""
    if record.model_license is None:
        return None
    folder = packs_dir / record.name / record.folder
    found = inspect_licence(folder, record.name, form=record.format, public_keys=public_keys)
    if found is None:
        return ModelLicence("invalid", f"{LICENCE_FILE} is not there any more")
    return confined(found, models_among(record.files).values())


def install(
    name: str,
    packs_dir: Path,
    *,
    source: Path | None,
    accept: Accept,
    replace_other: bool = False,
    held: str | None = None,
    public_keys: Iterable[Any] | None = None,
) -> InstallRecord:
    """Install a pack from a folder, a zip archive or (``source`` ``None``) by a download.

    The same files again change nothing. A signed licence, alone (a file named ``MODEL.LICENSE``) or
    with the same models, is put beside the installed ones at any time: it shapes no vector.
    ``accept`` is asked only where something binds the pack and these terms were not accepted for it
    before, for packs that are bound by their name before anything is fetched. ``held``: why other
    files may not take the place of the installed ones.

    Raises:
        PackMissing, PackError: ``name`` is none, or what is there is no package that works.
        PackSourceInvalid, PackDownloadFailed: the source is unsafe or cannot be had.
        PackDiffers: other files are installed under this name; ``replace_other`` allows it.
        PackInUse: they may not be replaced, since they are ``held``.
        LicenceNotAccepted, LicenceInvalid: terms not accepted; a signed licence does not hold.
    """
    check_name(name)
    keys = None if public_keys is None else tuple(public_keys)
    home = packs_dir / name
    with _storage(home), _alone(packs_dir):
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        staging = home / f"{_STAGING}{secrets.token_hex(6)}"
        try:
            return _install(name, home, staging, source, accept, replace_other, held, keys)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            with suppress(OSError):
                home.rmdir()  # only where nothing came to be installed


def _install(
    name: str,
    home: Path,
    staging: Path,
    source: Path | None,
    accept: Accept,
    replace_other: bool,
    held: str | None,
    public_keys: tuple[Any, ...] | None,
) -> InstallRecord:
    known = KNOWN.get(name)
    accepted: Acceptance | None = None
    before = _record_or_none(home, replace_other)
    if source is None and known is not None and known.download and known.terms and before is None:
        accepted = _accepted(accept, known.terms)
    given, kind_of_source = materialise(name, source, staging, home, before)
    contents, files_dir = _stage(name, given, staging)
    same = before is not None and (
        without_licences(before.files) == without_licences(contents.files)
    )
    if before is not None and same and _nothing_new(home, before, contents, replace_other):
        return before
    if before is not None and not same and not replace_other:
        raise PackDiffers(
            f"Other files are installed as {name}.",
            remedy="Give it another name, or add --replace where nothing works with the old files.",
        )
    if before is not None and not same and held is not None:
        raise PackInUse(
            f"The files of the face pack {name} may not be replaced: {held}.",
            remedy="Install these files under another name, and change to that pack.",
        )
    licence = confined(
        inspect_licence(files_dir, name, form=contents.format, public_keys=public_keys),
        contents.models.values(),
    )
    require_valid(licence)
    terms = terms_of(name, contents.models.values())
    if licence is not None and terms is OWN_RESPONSIBILITY:
        terms = RESEARCH_ONLY  # a signed licence says whose models these are
    if accepted is None and before is not None and same:
        accepted = before.acceptance
    if terms is not None and (accepted is None or accepted.terms_sha256 != terms.sha256):
        accepted = _accepted(accept, terms)
    record = InstallRecord(
        name=name,
        kind=contents.kind,
        format=contents.format,
        model_id=contents.model_id,
        dimension=contents.dimension,
        contract_id="",
        folder=f"{_content_id(contents)}/{name}",
        files=contents.files,
        source=kind_of_source,
        installed_at=stamp(datetime.now(UTC)),
        terms=terms.key if terms else None,
        acceptance=accepted if terms else None,
        model_license=licence,
    )
    # What cannot be loaded is not installed.
    record = replace(record, contract_id=load_files(files_dir, record, ON_CPU).contract.id)
    _into_force(home, files_dir, record)
    return record


def _nothing_new(
    home: Path, before: InstallRecord, contents: Contents, replace_other: bool
) -> bool:
    """Whether a package with the same models changes nothing; without a licence it takes none away
    unless it is to replace what is there."""
    no_licence = not replace_other and contents.files == without_licences(contents.files)
    accepted = before.bound_by is None or before.acceptance is not None
    return accepted and (before.files == contents.files or no_licence) and _whole(home, before)


def _accepted(accept: Accept, terms: Terms) -> Acceptance:
    given = accept(terms)
    if given.terms_sha256 != terms.sha256:
        raise LicenceNotAccepted(
            "Other terms were accepted than those that bind this pack.",
            remedy="Read the terms that are shown and accept them.",
        )
    return given


def _record_or_none(home: Path, replace_other: bool) -> InstallRecord | None:
    try:
        return read_record(home)
    except PackError:
        if replace_other:
            return None
        raise


def _whole(home: Path, record: InstallRecord) -> bool:
    try:
        verify_files(home, record)
    except PackDigestMismatch:
        return False
    return True


def _stage(name: str, given: Path, staging: Path) -> tuple[Contents, Path]:
    """Copy what is needed from ``given`` and read it again where it will be used from.

    Only the copy counts: whatever happens to the source meanwhile, the pinned digests are those of
    the bytes that are kept.
    """
    wanted = read_contents(name, given)
    folder = staging / "files" / name
    folder.mkdir(parents=True)
    for file in wanted.files:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(given / file, target)
    contents = read_contents(name, folder)
    if contents.files != wanted.files:
        raise PackSourceInvalid(
            "The files changed while they were copied.",
            remedy="Wait until nothing writes to them, then install the pack again.",
        )
    return contents, folder


def _content_id(contents: Contents) -> str:
    return f"{contents.format}-{secrets.token_hex(6)}"


def _into_force(home: Path, files_dir: Path, record: InstallRecord) -> None:
    """Rename the staged files to where the record says, then the record; then sweep the old."""
    place = home / record.folder
    for folder in sorted({path.parent for path in files_dir.rglob("*")}, reverse=True):
        sync_folder(folder)
    os.rename(files_dir.parent, place.parent)
    sync_folder(home)
    write_record(home, record)
    _sweep(home, keep=place.parent.name)


def _sweep(home: Path, keep: str | None = None) -> None:
    """Take away what nothing points to: remains of an installation that was cut short."""
    if keep is None:
        try:
            record = read_record(home)
        except PackError:
            return
        keep = record.folder.partition("/")[0] if record else None
    for path in home.iterdir():
        if _OURS.fullmatch(path.name) and path.name != keep:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(".record-"):
            path.unlink(missing_ok=True)


def load(
    name: str,
    packs_dir: Path,
    *,
    runtime: RuntimeOptions = ON_CPU,
) -> FacePack:
    """Check every file of an installed pack against its pinned SHA-256 and load it.

    Raises:
        PackMissing: no such pack is installed.
        PackDigestMismatch: a file is missing or not the one that was installed.
        LicenceNotAccepted: its bytes are bound by terms, and its record names nobody who accepted.
        PackError, ProviderUnavailable: it cannot be used as it is, or not on this provider.
    """
    check_name(name)
    home = packs_dir / name
    record = read_record(home)
    while record is not None:
        try:
            _require_accepted(record)
            return load_files(verify_files(home, record), record, runtime)
        except PackError:
            # Another installation may have come into force, and these files been swept.
            again = read_record(home)
            if again == record:
                raise
            record = again
    raise not_installed(name)


def _require_accepted(record: InstallRecord) -> None:
    terms = record.bound_by
    if terms is not None and record.acceptance is None:
        raise LicenceNotAccepted(
            f"The face pack {record.name} is bound by terms that nobody accepted: {terms.title}.",
            remedy=f"Install it again and accept them: `homeward packs install {record.name} "
            '--from PATH --accept-licence-as "First Last"`.',
        )


def not_installed(name: str) -> PackMissing:
    """What to say about a pack that is known by name and not there, or not known at all."""
    if name not in KNOWN:
        return PackMissing(
            f"There is no face pack named {name!r}.",
            remedy=f"Known packs: {', '.join(KNOWN)}. Model files of your own are installed with "
            "`homeward packs install NAME --from PATH`.",
        )
    return PackMissing(
        f"The face pack {name} is not installed.",
        remedy=f"Install it: `homeward packs install {name}`, with `--from PATH` where there is no "
        "network.",
    )


def remove(name: str, packs_dir: Path) -> bool:
    """Take a pack away; whether there was one. It is gone in one step."""
    check_name(name)
    home = packs_dir / name
    if not home.is_dir():
        return False
    with _storage(home), _alone(packs_dir):
        away = packs_dir / f"{_REMOVED}{secrets.token_hex(6)}"
        os.rename(home, away)
        sync_folder(packs_dir)
        shutil.rmtree(away, ignore_errors=True)
    return True


@contextmanager
def _alone(packs_dir: Path) -> Generator[None]:
    """One installation or removal at a time; the kernel frees the lock of a process that dies."""
    # Whichever command comes first makes the data folder; only this account may look inside.
    packs_dir.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    packs_dir.mkdir(exist_ok=True, mode=0o700)
    with (packs_dir / ".lock").open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in packs_dir.glob(f"{_REMOVED}*"):
            shutil.rmtree(path, ignore_errors=True)
        yield


@contextmanager
def _storage(home: Path) -> Generator[None]:
    """A full disk and a missing permission are told as errors of the pack."""
    try:
        yield
    except OSError as error:
        raise PackError(
            f"The face pack {home.name} could not be written to {home.parent}: "
            f"{error.strerror or error}.",
            remedy="Make the folder writable or free some disk space, then try again.",
        ) from error
