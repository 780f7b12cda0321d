"""Zip archives of model packages, unpacked with nothing taken on trust.

Every bound is checked against the directory of the archive before a byte is written, and again
while the bytes come, since a directory may say anything.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from models.errors import PackSourceInvalid

MAX_ENTRIES: Final = 200
MAX_BYTES: Final = 4_000_000_000
"""All files of an archive, unpacked; the largest known package has about 0.4 GB."""

MAX_RATIO: Final = 100
"""Unpacked to packed, for a file of more than ``RATIO_FROM_BYTES``. Weights hardly shrink."""

RATIO_FROM_BYTES: Final = 1_000_000
_CHUNK: Final = 1 << 20
_REMEDY: Final = "Fetch the package again from its publisher; nothing was installed."


def unpack(archive: Path, target: Path) -> Path:
    """Unpack ``archive`` into the empty folder ``target``; the folder in which the models lie.

    That is ``target``, or the one folder that holds everything.

    Raises:
        PackSourceInvalid: it is no zip archive, is damaged or encrypted, holds links, paths that
            leave the folder, one name twice, too many files or too many bytes.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked(opened.infolist())
            left = MAX_BYTES
            for entry, path in entries:
                left -= _write(opened, entry, target / path, left)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PackSourceInvalid(
            f"{archive.name} is no zip archive that can be read: {error}.", remedy=_REMEDY
        ) from error
    except (FileExistsError, NotADirectoryError, RuntimeError, ValueError) as error:
        raise PackSourceInvalid(
            f"{archive.name} cannot be unpacked: {error}.", remedy=_REMEDY
        ) from error
    return root_of(target)


def root_of(folder: Path) -> Path:
    """``folder``, or its only folder where there is nothing else in it."""
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _checked(
    entries: list[zipfile.ZipInfo],
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    if len(entries) > MAX_ENTRIES:
        raise _refused(f"it holds {len(entries)} files; {MAX_ENTRIES} are the most")
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise _refused(f"its files take more than {MAX_BYTES // 10**9} GB")
    found: dict[str, PurePosixPath] = {}
    kept = []
    for entry in entries:
        path = _safe(entry)
        if entry.is_dir():
            continue
        if str(path).casefold() in found:
            raise _refused(f"it holds {path} twice")
        found[str(path).casefold()] = path
        packed = max(entry.compress_size, 1)
        if entry.file_size > RATIO_FROM_BYTES and entry.file_size > MAX_RATIO * packed:
            raise _refused(f"{path} would grow to more than {MAX_RATIO} times its size")
        kept.append((entry, path))
    return kept


def _safe(entry: zipfile.ZipInfo) -> PurePosixPath:
    """The path of an entry below the target. ``orig_filename`` is what the archive really says."""
    name = entry.orig_filename
    path = PurePosixPath(name)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or any(character in name for character in "\\:\0")
        or not name.isprintable()
        or len(name) > 200
        or len(path.parts) > 8
    ):
        raise _refused("it holds a path that leads out of its folder, or is no plain name")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(f"{path} is a link or a device, not a file")
    if entry.flag_bits & 0x1 or entry.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        raise _refused(f"{path} is encrypted, or packed in an unusual way")
    return path


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Write one file; its size. Stops where more comes than the directory said, or than is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(entry) as source, path.open("xb") as file:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > min(entry.file_size, left):
                raise _refused(f"{entry.filename} holds more than it says")
            file.write(chunk)
    return written


def _refused(reason: str) -> PackSourceInvalid:
    return PackSourceInvalid(f"The archive is refused: {reason}.", remedy=_REMEDY)
