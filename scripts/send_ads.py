"""Send the ads of a JSON-lines file to a running Homeward, with their images; can be resumed.

    HOMEWARD_API_KEY=... python -m scripts.send_ads ads.jsonl --images images/ --url http://...

Each line is an ad as ``homeward ingest ads`` takes it: the fields of ``POST /v1/ads`` and
``images`` (and perhaps ``pages``), the names of its files in the folder. Run the same command again
to go on where it broke off. Ends with 0 if all is in, 3 if some of it was refused, 1 if it has to
be run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scripts.homeward_client import Client, GaveUp, ImageFile, NotAllowed, OutgoingAd

SAYS_EVERY_SECONDS = 5.0


@dataclass(slots=True)
class Summary:
    """What was done in this run."""

    created: int = 0
    known: int = 0
    refused: int = 0
    refused_images: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One line and where it begins; ``end`` is where the next begins."""

    number: int
    start: int
    end: int
    text: bytes


class Progress:
    """Up to which byte a file has been acknowledged, in a small file beside it."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        with source.open("rb") as file:
            # Another file under the same name begins anew; a file that grew goes on.
            self._head = hashlib.sha256(file.readline(1_000_000)).hexdigest()
        self.line, self.offset = 0, 0
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["head"] == self._head and kept["offset"] <= source.stat().st_size:
                self.line, self.offset = int(kept["line"]), int(kept["offset"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass

    def save(self, line: int, offset: int) -> None:
        """Keep it so that it is there whole, whatever happens."""
        self.line, self.offset = line, offset
        temporary = self.path.with_name(self.path.name + ".part")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"head": self._head, "line": line, "offset": offset}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)


def send(
    client: Client, source: Path, images: Path, progress: Progress, batch: int = 100
) -> Summary:
    """Send what is left of ``source``. Raises GaveUp where it has to be gone on with later.

    No ad goes without a picture that cannot be read: the sending stops before it.
    """
    summary = Summary()
    said = time.monotonic()
    lines = read_lines(source, progress)
    while some := list(islice(lines, batch)):
        good: list[tuple[Line, OutgoingAd]] = []
        unread: _Unread | None = None
        for at, line in enumerate(some):
            try:
                one = _outgoing(line, images, summary)
            except _Unread as error:
                some, unread = some[:at], error
                break
            if one is not None:
                good.append((line, one))
        try:
            outcomes = client.deliver([one for _, one in good])
        except OSError as error:
            raise GaveUp(f"A file cannot be read any more: {error}") from error
        for (line, _), outcome in zip(good, outcomes, strict=True):
            if outcome.status == "waiting":
                # What comes after it may be in; sent again it is known.
                progress.save(line.number - 1, line.start)
                raise GaveUp(f"line {line.number}: {outcome.code}: {outcome.detail}")
            if outcome.status == "refused":
                summary.refused += 1
                _say(f"line {line.number} refused: [{outcome.code}] {outcome.detail}")
            else:
                summary.created += outcome.status == "created"
                summary.known += outcome.status == "known"
            for image, why in outcome.refused_images:
                summary.refused_images += 1
                _say(f"line {line.number}: {image.filename} refused: {why}")
        if some:
            progress.save(some[-1].number, some[-1].end)
        if unread is not None:
            raise GaveUp(str(unread)) from unread
        if time.monotonic() - said > SAYS_EVERY_SECONDS:
            said = time.monotonic()
            _say(f"{progress.line} lines are through")
    return summary


def read_lines(source: Path, progress: Progress) -> Iterator[Line]:
    """The lines that were not acknowledged yet."""
    with source.open("rb") as file:
        file.seek(progress.offset)
        number, start = progress.line, progress.offset
        for text in file:
            number += 1
            yield Line(number, start, start + len(text), text)
            start += len(text)


class _Unread(Exception):
    """A picture of an ad cannot be read."""


def _outgoing(line: Line, folder: Path, summary: Summary) -> OutgoingAd | None:
    if not line.text.strip():
        return None
    try:
        ad: Any = json.loads(line.text.decode("utf-8-sig"))
        names = list(ad.pop("images", None) or ())
        pages = [folder / str(name) for name in ad.pop("pages", None) or ()]
    except (ValueError, AttributeError, TypeError):
        summary.refused += 1
        _say(f"line {line.number} refused: it is no JSON object in UTF-8 with a list of images")
        return None
    if unread := [page.name for page in pages if not page.is_file()]:
        summary.refused += 1
        _say(f"line {line.number} refused: there is no page file {', '.join(unread)}")
        return None
    found = []
    for name in names:
        path = folder / str(name)
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            raise _Unread(
                f"line {line.number}: {name} cannot be read: {error}. Put it there, or take its "
                "name out of the line."
            ) from error
        found.append(ImageFile(path, sha256, path.name))
    return OutgoingAd(ad, found, pages)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="send_ads", description="Send ads to Homeward.")
    parser.add_argument("source", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--batch", type=int, default=100, help="ads in one request")
    parser.add_argument("--attempts", type=int, default=8, help="tries of one request")
    parser.add_argument("--progress", type=Path, metavar="FILE", help="FILE.jsonl.progress")
    given = parser.parse_args(words)
    key = os.environ.get("HOMEWARD_API_KEY", "")
    if not key:
        parser.error("set HOMEWARD_API_KEY to a key with the scope ads:write")
    if not given.source.is_file() or not given.images.is_dir():
        parser.error("there is no such file, or no such folder of images")
    beside = given.source.with_name(given.source.name + ".progress")
    progress = Progress(given.progress or beside, given.source)
    if progress.line:
        _say(f"Going on after line {progress.line}.")
    client = Client(given.url, key, attempts=given.attempts)
    try:
        summary = send(client, given.source, given.images, progress, given.batch)
    except GaveUp as error:
        _say(f"Not all is in; run the same command again to go on. {error}")
        return 1
    except NotAllowed as error:
        _say(f"The key is not accepted. {error}")
        return 1
    finally:
        client.close()
    print(
        f"{summary.created} ads created, {summary.known} known already, {summary.refused} refused; "
        f"{client.images_sent} images sent, {summary.refused_images} refused."
    )
    return 3 if summary.refused or summary.refused_images else 0


if __name__ == "__main__":
    sys.exit(main())
