"""Reading ads and cases from files: JSON lines, CSV, folders. A bad item never stops the rest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn

from annotated_types import Ge, MaxLen, MinLen
from pydantic import TypeAdapter, ValidationError

from indexer.blobs import CHUNK_BYTES
from indexer.errors import ItemRefused, SourceUnreadable
from indexer.records import AdInput, CaseInput, Day, Failure

MAX_LINE_BYTES = 4_000_000

_FileName = Annotated[str, MinLen(1), MaxLen(1000)]
_CASE_FIELDS = (
    *("case_number", "agency", "missing_since", "default_purpose", "notes"),
    *("alert_expected_false", "alert_budget", "alert_emails"),
)
_PERSON_FIELDS = (
    *("name", "aliases", "date_of_birth", "sex", "race", "height_cm", "weight_kg"),
    *("eye_color", "hair_color", "marks"),
)
_LAST_SEEN_FIELDS = ("place", "lat", "lon", "at")
_LISTS = ("aliases", "photos", "alert_emails")


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A photo of a case by its file name, and which face in it is the person."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    file: _FileName
    face_index: Annotated[int, Ge(0)] | None = None
    taken_on: Day | None = None


@dataclass(frozen=True, slots=True)
class CaseItem:
    """One case of a source; ``where`` says which (``line 3``)."""

    where: str
    case: CaseInput
    photos: tuple[PhotoFile, ...] = ()


@dataclass(frozen=True, slots=True)
class AdItem:
    """One ad of a source with the names of its image and page files, and the line as it stood."""

    where: str
    ad: AdInput
    images: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()
    line: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class BadLine(Failure):
    """A line that is no item at all; ``line`` has its first 4,000,000 bytes."""

    line: bytes = field(default=b"", repr=False)


_AD: TypeAdapter[AdInput] = TypeAdapter(AdInput)
_CASE: TypeAdapter[CaseInput] = TypeAdapter(CaseInput)
_PHOTOS: TypeAdapter[tuple[str | PhotoFile, ...]] = TypeAdapter(tuple[_FileName | PhotoFile, ...])
_NAMES: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[_FileName, ...])


def read_ads(path: Path) -> Iterator[AdItem | BadLine]:
    """The ads of a JSON-lines file, each with ``images: [...]`` and perhaps ``pages: [...]``.

    Raises :class:`SourceUnreadable` if there is no such file.
    """
    for where, line, value in _json_lines(path):
        failure = value if isinstance(value, Failure) else None
        if not isinstance(value, Failure):
            fields = dict(value)
            try:
                yield AdItem(
                    where,
                    images=_NAMES.validate_python(fields.pop("images", None) or ()),
                    pages=_NAMES.validate_python(fields.pop("pages", None) or ()),
                    ad=_AD.validate_python(fields),
                    line=line,
                )
            except ValidationError as error:
                failure = _invalid(where, error)
        if failure is not None:
            yield BadLine(failure.item, failure.code, failure.detail, line)


def read_cases(path: Path) -> Iterator[CaseItem | Failure]:
    """The cases of a JSON-lines or CSV file, or of a folder with one folder of photos per case.

    JSON lines follow the HTTP contract with ``photos: [...]`` (file names, or objects with
    ``file``, ``face_index``, ``taken_on``). A CSV has the columns ``case_number``, ``agency``,
    ``missing_since``, ``default_purpose``, ``notes``, ``alert_expected_false``, ``alert_budget``,
    ``alert_emails``, those of the person, ``last_seen_place``,
    ``last_seen_lat``, ``last_seen_lon``, ``last_seen_at`` and ``photos``; several aliases or
    photos are separated by ``;``. In a folder the name of each subfolder is the case number.
    Raises :class:`SourceUnreadable` if there is no such file or it has other columns.
    """
    if path.is_dir():
        yield from _case_folders(path)
        return
    if path.suffix.lower() == ".csv":
        reader = _csv_rows(path)
    else:
        reader = ((where, value) for where, _, value in _json_lines(path))
    for where, value in reader:
        if isinstance(value, Failure):
            yield value
            continue
        fields = dict(value)
        try:
            photos = tuple(
                PhotoFile(photo) if isinstance(photo, str) else photo
                for photo in _PHOTOS.validate_python(fields.pop("photos", None) or ())
            )
            yield CaseItem(where, _CASE.validate_python(fields), photos)
        except ValidationError as error:
            yield _invalid(where, error)


def count_lines(path: Path) -> int | None:
    """How many lines a file has, for progress; ``None`` for a folder or an unreadable file."""
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError:
        return None


def read_file(root: Path, name: str, max_bytes: int) -> bytes:
    """All of :func:`file_chunks` at once."""
    return b"".join(file_chunks(root, name, max_bytes))


def file_chunks(root: Path, name: str, max_bytes: int) -> Iterator[bytes]:
    """The bytes of a file named in a source, piece by piece, at most ``max_bytes + 1`` of them.

    One byte too many tells the next check that the file is too large, without reading it whole.
    Raises :class:`ItemRefused` for a file that is missing, unreadable, or outside of ``root``.
    """
    try:
        top = root.resolve()
        path = (top / name).resolve()
        if not path.is_relative_to(top):
            raise ItemRefused(
                f"The file {name!r} lies outside of the folder.",
                remedy="Name files relative to the folder given.",
                code="path_outside_folder",
            )
        with path.open("rb", buffering=0) as file:
            left = max_bytes + 1
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                left -= len(chunk)
                yield chunk
    except FileNotFoundError as error:
        raise ItemRefused(
            f"The file {name!r} is not there.",
            remedy="Put it into the folder and run the same command again.",
            code="file_missing",
        ) from error
    except (OSError, ValueError) as error:
        raise ItemRefused(
            f"The file {name!r} cannot be read: {getattr(error, 'strerror', None) or error}.",
            remedy="Check its permissions and run the same command again.",
            code="file_unreadable",
        ) from error


# --- formats ---------------------------------------------------------------------------------


def _json_lines(path: Path) -> Iterator[tuple[str, bytes, Mapping[str, Any] | Failure]]:
    """Where each line is, its bytes, and the object in it."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"line {number}"
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                long = Failure(where, "line_too_long", f"It has over {MAX_LINE_BYTES} bytes.")
                yield where, line, long
                continue
            if line.strip():
                yield where, line, _json_object(where, line)


def _json_object(where: str, line: bytes) -> Mapping[str, Any] | Failure:
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return Failure(where, "malformed_line", f"It is no JSON in UTF-8: {error}")
    if not isinstance(value, dict):
        return Failure(where, "malformed_line", "It is no JSON object.")
    if not _storable(value):
        return Failure(
            where, "malformed_line", "It holds a NUL character or half a surrogate pair."
        )
    return value


def _storable(value: object) -> bool:
    """Whether every text in it can be stored: not all databases hold NUL, none half a pair."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, str):
            if "\0" in inner or any("\ud800" <= letter <= "\udfff" for letter in inner):
                return False
        elif isinstance(inner, dict):
            waiting += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list):
            waiting += inner
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | Failure]]:
    # Bytes that are no UTF-8 come through as surrogates, so that only their row is refused.
    with (
        _opened(path) as raw,
        io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as file,
    ):
        reader = csv.DictReader(file)
        _check_columns(path, reader)
        while True:
            where = f"line {reader.line_num + 1}"
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield where, Failure(where, "malformed_line", f"It is no CSV row: {error}")
                continue
            if row is None:
                return
            yield where, _csv_case(where, row)


def _check_columns(path: Path, reader: csv.DictReader[str]) -> None:
    known = {*_CASE_FIELDS, *_PERSON_FIELDS, *(f"last_seen_{n}" for n in _LAST_SEEN_FIELDS)}
    try:
        columns = list(reader.fieldnames or ())
    except csv.Error as error:
        raise SourceUnreadable(f"{path} is no CSV file: {error}.") from error
    unknown = sorted(set(columns) - known - {"photos"})
    if unknown or "case_number" not in columns or len(set(columns)) != len(columns):
        what = f"unknown columns {', '.join(unknown)}" if unknown else "no column case_number"
        raise SourceUnreadable(
            f"{path} has {what} (or a column twice).",
            remedy=f"Use these columns: {', '.join([*sorted(known), 'photos'])}.",
        )


def _csv_case(where: str, row: dict[str, Any]) -> Mapping[str, Any] | Failure:
    if None in row:
        return Failure(where, "malformed_line", "It has more cells than the header.")
    cells = {name: cell.strip() for name, cell in row.items() if cell and cell.strip()}
    if not _storable(cells):
        return Failure(where, "malformed_line", "It is not UTF-8, or holds a NUL character.")
    values: dict[str, Any] = {
        name: [part.strip() for part in cell.split(";") if part.strip()] if name in _LISTS else cell
        for name, cell in cells.items()
    }
    case = {name: values[name] for name in (*_CASE_FIELDS, "photos") if name in values}
    case["person"] = {name: values[name] for name in _PERSON_FIELDS if name in values}
    seen = {n: values[f"last_seen_{n}"] for n in _LAST_SEEN_FIELDS if f"last_seen_{n}" in values}
    if seen:
        case["last_seen"] = seen
    return case


def _case_folders(path: Path) -> Iterator[CaseItem | Failure]:
    try:
        folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    except OSError as error:
        raise _unreadable(path, error) from error
    for folder in folders:
        if folder.name.startswith("."):
            continue
        try:
            names = sorted(
                f"{folder.name}/{file.name}"
                for file in folder.iterdir()
                if file.is_file() and not file.name.startswith(".")
            )
            case = _CASE.validate_python({"case_number": folder.name})
        except OSError as error:
            yield Failure(folder.name, "file_unreadable", str(error.strerror or error))
        except ValidationError as error:
            yield _invalid(folder.name, error)
        else:
            yield CaseItem(folder.name, case, tuple(PhotoFile(name) for name in names))


def _opened(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> SourceUnreadable:
    return SourceUnreadable(
        f"{path} cannot be read: {error.strerror or error}.",
        remedy="Check the path and its permissions.",
    )


def _invalid(where: str, error: ValidationError) -> Failure:
    """All that is wrong with an item, by field; never the values, which may be personal."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'item'}: {problem['msg']}"
        for problem in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    return Failure(where, "invalid_fields", "; ".join(problems))
