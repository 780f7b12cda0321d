"""Comparisons of generations as files: one for each pair, in ``comparisons`` of the data folder.

They hold ids and figures: no pictures, no digests of pictures, nothing about a person. What is
deleted afterwards leaves an id there that leads nowhere; whoever shows a report looks each id up
and leaves out what is gone. A report goes with either of its generations.

A file is one JSON document of a line for the whole and a line for each case, so that neither
writing nor reading holds more than one case.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from pydantic import TypeAdapter

from indexer.files import TEMP_SUFFIX, make_folder, storage_errors, write_atomic
from indexer.generations.comparison import CaseComparison, Comparison

_log = logging.getLogger(__name__)

FOLDER: Final = "comparisons"
FORMAT: Final = 1
_CHUNK: Final = 1 << 20
_PART_AFTER_S: Final = 3600.0

_WHOLE: Final[TypeAdapter[Comparison]] = TypeAdapter(Comparison)
_CASE: Final[TypeAdapter[CaseComparison]] = TypeAdapter(CaseComparison)


class Draft:
    """A report that is being made: cases one by one, then the whole."""

    def __init__(self, data_dir: Path, file: IO[bytes]) -> None:
        self._folder = data_dir / FOLDER
        self._file = file

    def add(self, one: CaseComparison) -> None:
        """Append a case."""
        with storage_errors(str(self._folder)):
            if self._file.tell():
                self._file.write(b",\n")
            self._file.write(_CASE.dump_json(one, exclude_none=True))

    def publish(self, whole: Comparison) -> Path:
        """Put the report in the place of the one before, whole or not at all."""
        path = self._folder / _name(whole.old.contract_id, whole.new.contract_id)
        write_atomic(path, self._lines(whole))
        return path

    def _lines(self, whole: Comparison) -> Iterator[bytes]:
        head = _WHOLE.dump_json(whole)
        yield b'{"format":%d,"comparison":%s,"cases":[\n' % (FORMAT, head)
        self._file.seek(0)
        while part := self._file.read(_CHUNK):
            yield part
        yield b"\n]}\n"


@contextmanager
def draft(data_dir: Path) -> Generator[Draft]:
    """A draft that leaves nothing behind, whatever ends it: its file has no name.

    Raises the StorageError tree.
    """
    make_folder(data_dir / FOLDER)
    with storage_errors(str(data_dir / FOLDER)):
        file = tempfile.TemporaryFile(dir=data_dir / FOLDER)  # noqa: SIM115 - closed below
    with file:
        yield Draft(data_dir, file)


def latest(data_dir: Path, contract_id: str, others: Iterable[str]) -> Comparison | None:
    """The newest comparison that was made of a generation with one of ``others`` in use."""
    found = [_read(data_dir / FOLDER / _name(other, contract_id)) for other in others]
    return max((one for one in found if one is not None), key=lambda one: one.at, default=None)


def cases(data_dir: Path, whole: Comparison) -> Iterator[CaseComparison]:
    """The cases of a report, one by one, in the order of their ids. None where it is gone."""
    path = data_dir / FOLDER / _name(whole.old.contract_id, whole.new.contract_id)
    try:
        with path.open("rb") as file:
            # The file may have been replaced since ``whole`` was read: what belongs together only.
            if _head(file.readline()) != whole:
                return
            for line in file:
                text = line.strip().removesuffix(b",")
                if text and text != b"]}":
                    yield _CASE.validate_json(text)
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        _log.exception("the rest of the report %s cannot be read", path.name)


def keep_only(data_dir: Path, contract_ids: Collection[str]) -> None:
    """Remove the reports of generations that are not among these, and what a power cut left."""
    folder = data_dir / FOLDER
    if not folder.is_dir():
        return
    wanted = {_name(old, new) for old in contract_ids for new in contract_ids}
    with storage_errors(str(folder)):
        for path in folder.iterdir():
            left = path.name.startswith(".") and path.name.endswith(TEMP_SUFFIX)
            if left:
                old = time.time() - path.stat().st_mtime > _PART_AFTER_S
            else:
                old = path.suffix == ".json" and path.name not in wanted
            if old:
                path.unlink(missing_ok=True)


def _read(path: Path) -> Comparison | None:
    try:
        with path.open("rb") as file:
            return _head(file.readline())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        _log.warning("the report %s cannot be read; compare again", path.name)
        return None


def _head(line: bytes) -> Comparison:
    """The whole from the first line. Raises ``ValueError`` for anything else."""
    found: dict[str, Any] = json.loads(line + b"]}")
    if found.get("format") != FORMAT:
        raise ValueError("another format")
    return _WHOLE.validate_python(found["comparison"])


def _name(old: str, new: str) -> str:
    # A contract bears the name of its pack, which may be that of any folder.
    return f"{quote(old, safe='')}--{quote(new, safe='')}.json"
