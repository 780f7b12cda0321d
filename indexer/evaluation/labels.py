"""A file of labels: which person, or which photo, belongs to which group.

CSV with a header. The first column says what a row speaks of: ``identity`` (a folder's name) or
``photo`` ("folder/file", for what changes from photo to photo, as the age does); a file may have
both columns, each row then fills one. The others are any of ``sex``, ``race`` and ``age_band``, in
words of one's own; an empty cell is not known. What a photo's row says goes before what its
person's row says. Everything that is not understood is an error that names line and column: a label
that is silently dropped would make a group look better or worse than it is.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.evaluation.photos import PhotoSet
from indexer.evaluation.protocol import IntArray
from models.errors import HomewardError

ATTRIBUTES: tuple[str, ...] = ("sex", "race", "age_band")
KEYS: tuple[str, ...] = ("identity", "photo")
LIFELONG: tuple[str, ...] = ("sex", "race")
"""What the photos of one person may not contradict each other in."""

MOST_VALUES = 50
_MOST_BYTES = 100_000_000
_LONGEST_VALUE = 60
_LONGEST_NAME = 1_000


class LabelsInvalid(HomewardError):
    """The file of labels cannot be used; the message names line and column."""

    code = "labels_invalid"


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Labels of photos: for each attribute its values, and a code for each photo.

    ``codes``: int64 (photos,) by attribute, a place in ``values[attribute]`` (sorted) or -1 where
    nothing is known.
    """

    values: dict[str, tuple[str, ...]]
    codes: dict[str, IntArray]

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(self.values)


def read_labels(path: Path, photos: PhotoSet) -> Labels:
    """Read the labels of ``photos``. Raises :class:`LabelsInvalid`."""
    rows = _rows(path)
    columns = _header(path, next(rows, (1, [])))
    known = {
        "identity": {name: place for place, name in enumerate(photos.identity_names)},
        "photo": {photo.name: place for place, photo in enumerate(photos.photos)},
    }
    given: dict[str, dict[int, tuple[int, dict[str, str]]]] = {key: {} for key in KEYS}
    for line, cells in rows:
        if len(cells) != len(columns):
            column = min(len(cells), len(columns)) + 1
            raise _invalid(
                path, line, column, f"there are {len(cells)} cells, the header has {len(columns)}"
            )
        key, place, values = _row(path, line, columns, cells, known)
        if place in given[key]:
            raise _invalid(
                path,
                line,
                columns.index(key) + 1,
                f"this {key} stands in line {given[key][place][0]} already",
            )
        given[key][place] = line, values
    attributes = [name for name in columns if name in ATTRIBUTES]
    return _labels(path, photos, columns, attributes, given)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row that is not empty."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise LabelsInvalid(
            f"{path} cannot be read: {error.strerror}.",
            remedy="Name a CSV file that this account may read.",
        ) from None
    if len(data) > _MOST_BYTES:
        raise LabelsInvalid(
            f"{path} is larger than {_MOST_BYTES // 1_000_000} MB.",
            remedy="Name a CSV file of labels, with one line for each person or photo.",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        column = data[: error.start].rpartition(b"\n")[2].count(b",") + 1
        raise _invalid(path, line, column, "this is not UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _invalid(path, line, 1, f"this is no CSV ({error})") from None
        if cells is None:
            return
        if cells:
            yield line, [cell.strip() for cell in cells]


def _header(path: Path, first: tuple[int, list[str]]) -> list[str]:
    line, names = first
    for column, name in enumerate(names, 1):
        if name not in KEYS + ATTRIBUTES:
            wanted = ", ".join(KEYS + ATTRIBUTES)
            raise _invalid(
                path,
                line,
                column,
                f"the header names {name[:_LONGEST_VALUE]!r}; known are {wanted}",
            )
        if name in names[: column - 1]:
            raise _invalid(path, line, column, f"the header names {name!r} twice")
    if not set(names) & set(KEYS) or not set(names) & set(ATTRIBUTES):
        raise _invalid(
            path,
            line,
            1,
            f"the header needs {' or '.join(KEYS)}, and one of {', '.join(ATTRIBUTES)}",
        )
    return names


def _row(
    path: Path,
    line: int,
    columns: list[str],
    cells: list[str],
    known: dict[str, dict[str, int]],
) -> tuple[str, int, dict[str, str]]:
    row = dict(zip(columns, cells, strict=True))
    for column, (name, cell) in enumerate(row.items(), 1):
        longest = _LONGEST_NAME if name in KEYS else _LONGEST_VALUE
        if len(cell) > longest:
            raise _invalid(path, line, column, f"more than {longest} characters")
        if not cell.isprintable():
            raise _invalid(path, line, column, "characters that cannot be printed")
    keys = [key for key in KEYS if row.get(key)]
    if len(keys) != 1:
        both = "it names both a person and a photo" if keys else "it names no person and no photo"
        column = columns.index(keys[-1] if keys else next(k for k in KEYS if k in columns)) + 1
        raise _invalid(path, line, column, both)
    key = keys[0]
    place = known[key].get(row[key])
    if place is None:
        raise _invalid(
            path, line, columns.index(key) + 1, f"there is no {key} {row[key]!r} in the folder"
        )
    return key, place, {name: row[name].casefold() for name in columns if name in ATTRIBUTES}


def _labels(
    path: Path,
    photos: PhotoSet,
    columns: list[str],
    attributes: list[str],
    given: dict[str, dict[int, tuple[int, dict[str, str]]]],
) -> Labels:
    values: dict[str, tuple[str, ...]] = {}
    codes: dict[str, IntArray] = {}
    for name in attributes:
        column = columns.index(name) + 1
        found: list[str] = []
        # What each person was said to be, and where.
        said: dict[int, tuple[str, int]] = {}
        for place, photo in enumerate(photos.photos):
            text = ""
            for key, at in (("photo", place), ("identity", photo.identity)):
                line, row = given[key].get(at, (0, {}))
                if not text and row.get(name):
                    text = row[name]
                    before, there = said.setdefault(photo.identity, (text, line))
                    if name in LIFELONG and before != text:
                        raise _invalid(
                            path,
                            max(line, there),
                            column,
                            f"{photo.name} contradicts line {min(line, there)}",
                        )
            found.append(text)
        values[name] = tuple(sorted(set(found) - {""}))
        if len(values[name]) > MOST_VALUES:
            raise _invalid(path, 1, column, f"more than {MOST_VALUES} different values")
        number = {text: code for code, text in enumerate(values[name])} | {"": -1}
        codes[name] = np.array([number[text] for text in found], dtype=np.int64)
    return Labels(values, codes)


def _invalid(path: Path, line: int, column: int, what: str) -> LabelsInvalid:
    return LabelsInvalid(
        f"{path.name}, line {line}, column {column}: {what}.",
        remedy="Correct the file: a header such as identity,sex,race,age_band and one line for "
        "each person, or for each photo with the column photo (folder/file).",
    )
