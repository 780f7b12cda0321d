"""Where the files of a pack come from: a folder, an archive, a download, or a licence alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from models.errors import PackSourceInvalid
from models.packs.archive import unpack
from models.packs.fetch import download
from models.packs.licences import LICENCE_FILE, licence_place
from models.packs.record import InstallRecord, SourceKind, verify_files, without_licences


def materialise(
    name: str, source: Path | None, staging: Path, home: Path, before: InstallRecord | None
) -> tuple[Path, SourceKind]:
    """A local folder with the package; archives are unpacked below ``staging``.

    A licence alone (a file named ``MODEL.LICENSE``) is joined there with the models that are
    installed below ``home`` by the record ``before``.

    Raises:
        PackSourceInvalid: the source is not there, is unsafe, or a licence where none fits.
        PackDownloadFailed: it cannot be fetched.
        PackDigestMismatch: the installed models are not those of the record.
    """
    staging.mkdir(mode=0o700)
    unpacked = staging / "unpacked"
    if source is None:
        archive = download(name, staging)
        unpacked.mkdir()
        return unpack(archive, unpacked), "download"
    if source.is_dir():
        return source, "folder"
    if not source.is_file():
        raise PackSourceInvalid(
            f"There is neither a folder nor a file {source}.",
            remedy="Name a folder with the model files, or a zip archive of it, with --from.",
        )
    unpacked.mkdir()
    if source.name == LICENCE_FILE:
        return _with_licence(home, before, source, unpacked)
    return unpack(source, unpacked), "zip"


def _with_licence(
    home: Path, before: InstallRecord | None, licence: Path, folder: Path
) -> tuple[Path, SourceKind]:
    """The installed package in the empty ``folder``, with another signed licence."""
    if before is None:
        raise PackSourceInvalid(
            f"{home.name} is not installed, and a licence alone is no face pack.",
            remedy=f"Put {LICENCE_FILE} into the folder with the model files, and install that.",
        )
    installed = verify_files(home, before, licences=False)
    for file in without_licences(before.files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        copy_file(installed / file, folder / file)
    if before.kind != "insightface" or not (
        place := licence_place(folder, home.name, form=before.format)
    ):
        raise PackSourceInvalid(
            f"The face pack {home.name} takes no {LICENCE_FILE}.",
            remedy="Signed licences belong to packages of InsightFace.",
        )
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    copy_file(licence, folder / place)
    return folder, before.source


def copy_file(source: Path, target: Path) -> None:
    """Copy one file to where none is yet, made to last.

    Raises :class:`PackSourceInvalid` where it cannot be read, ``OSError`` where not written.
    """
    try:
        with source.open("rb") as read, target.open("xb") as write:
            shutil.copyfileobj(read, write, 1 << 20)
            write.flush()
            os.fsync(write.fileno())
    except OSError as error:
        if error.filename == str(source):
            raise PackSourceInvalid(
                f"{source} cannot be read: {error.strerror}.",
                remedy="Let the account that runs Homeward read it.",
            ) from error
        raise
