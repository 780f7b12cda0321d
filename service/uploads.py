"""Multipart bodies, read part by part under limits: nothing is kept that a rule does not allow.

The framework's own form parsing limits neither the size of a single file nor what a part may be
called, and takes a body that ends in the middle for a whole one; evidence needs all three.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import unicodedata
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from indexer.blobs import BlobStore, Received, Receiving
from indexer.files import translated
from indexer.sealing.spool import SealedSpool
from service.errors import BadRequestBody, InvalidFields

SPOOL_BYTES = 1_000_000
Spool = SpooledTemporaryFile[bytes] | SealedSpool
MAX_FILENAME = 200
MAX_REFUSED_PARTS = 100


@dataclass(frozen=True, slots=True)
class PartRule:
    """What one name in a form may hold.

    ``original``: the file is written once, into the blob store, and is never held in memory.
    """

    max_bytes: int
    max_count: int = 1
    required: bool = False
    is_file: bool = False
    is_page: bool = False
    original: bool = False


@dataclass(slots=True)
class Part:
    """One part as it came; ``received`` is the file in the blob store of an original."""

    name: str
    filename: str | None
    content_type: str
    file: Spool | Receiving
    size: int = 0
    sha256: str = ""
    received: Received | None = None

    def read(self) -> bytes:
        if isinstance(self.file, Receiving):
            return b"" if self.received is None else self.received.read()
        self.file.seek(0)
        return self.file.read()

    def close(self) -> None:
        """Let go of the file; what was kept of it stays."""
        if isinstance(self.file, Receiving):
            self.file.abort()
        else:
            self.file.close()


@dataclass(slots=True)
class Form:
    """The parts of a body in the order in which they came."""

    parts: list[Part] = field(default_factory=list)

    def files(self, name: str) -> list[Part]:
        return [part for part in self.parts if part.name == name]

    def file(self, name: str) -> Part:
        return self.files(name)[0]

    def text(self, name: str) -> str | None:
        """The text of a single part, or None where it is absent or empty.

        Raises :class:`InvalidFields` where it is not UTF-8 or holds a NUL character.
        """
        found = self.files(name)
        if not found:
            return None
        try:
            text = found[0].read().decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidFields([{"field": name, "message": "The text is not UTF-8."}]) from None
        if "\0" in text:
            raise InvalidFields([{"field": name, "message": "A NUL character is not allowed."}])
        return text.strip() or None

    def fingerprint(self) -> str:
        """SHA-256 over names and contents, whatever boundary or part headers were used."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(f"{part.name}\0{part.filename or ''}\0{part.sha256}\n".encode())
        return digest.hexdigest()

    def close(self) -> None:
        for part in self.parts:
            part.close()


def clean_filename(name: str) -> str:
    """The last component of ``name`` without control or direction characters, cut to length.

    Only shown and recorded; no path is ever made from it.
    """
    base = re.split(r"[/\\]", name)[-1]
    kept = "".join(c for c in base if not unicodedata.category(c).startswith("C"))
    return kept.strip()[:MAX_FILENAME] or "unnamed"


def spool(folder: Path, *, sealed: bool) -> Spool:
    """A file for what waits; beyond a megabyte it is in ``folder``, ``sealed`` if asked for."""
    return SealedSpool(folder) if sealed else SpooledTemporaryFile(SPOOL_BYTES, dir=str(folder))


class _Collector:
    """Callbacks of the parser; keeps each part under its rule."""

    def __init__(
        self,
        rules: Mapping[str, PartRule],
        folder: Path,
        store: BlobStore | None,
        sealed: bool,
    ) -> None:
        self.rules = rules
        self.folder = folder
        self.store = store
        self.sealed = sealed
        self.form = Form()
        self.ended = False
        self.errors: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._refused = 0
        self._name = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._part: Part | None = None
        self._rule: PartRule | None = None
        self._hash = hashlib.sha256()

    def on_part_begin(self) -> None:
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise BadRequestBody("A part of the form has no name.")
        name = options[b"name"].decode("utf-8", "replace")
        self._part = self._rule = None
        self._hash = hashlib.sha256()
        rule = self.rules.get(name)
        if rule is None:
            shown = clean_filename(name)[:50]
            self._refuse(shown, "This field is not known here.")
            return
        self._counts[name] = self._counts.get(name, 0) + 1
        if self._counts[name] > rule.max_count:
            self._refuse(name, f"At most {rule.max_count} of these are taken in one request.")
            return
        given = options.get(b"filename")
        self._rule = rule
        self._part = Part(
            name=name,
            filename=None if given is None else clean_filename(given.decode("utf-8", "replace")),
            content_type=self._headers.get(b"content-type", b"").decode("latin-1")[:200],
            file=self._begin(rule),
        )
        self.form.parts.append(self._part)

    def _begin(self, rule: PartRule) -> Spool | Receiving:
        # Closed by the form, which outlives this callback.
        if rule.original:
            assert self.store is not None
            return self.store.receive()
        return spool(self.folder, sealed=self.sealed)

    def _refuse(self, name: str, message: str) -> None:
        """Note a part that is not taken; so many of them end the reading of the body."""
        self.errors.setdefault(name, message)
        self._refused += 1
        if self._refused > MAX_REFUSED_PARTS:
            raise _invalid(self.errors)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part, rule = self._part, self._rule
        if part is None or rule is None:
            return
        chunk = data[start:end]
        part.size += len(chunk)
        if part.size > rule.max_bytes:
            if rule.is_page:
                raise BadRequestBody(
                    f"The page in {part.name!r} is larger than {rule.max_bytes} bytes; "
                    "nothing was stored.",
                    remedy="Send the page without what it embeds, or the ad without the page.",
                    code="page_too_large",
                )
            raise BadRequestBody(
                f"The part {part.name!r} is larger than {rule.max_bytes} bytes.",
                remedy="Send a smaller file; originals up to the limit are taken as they are.",
                code="image_too_large" if rule.is_file else "body_too_large",
            )
        if not isinstance(part.file, Receiving):  # which hashes what it writes
            self._hash.update(chunk)
        part.file.write(chunk)

    def on_part_end(self) -> None:
        part = self._part
        if part is None:
            return
        if isinstance(part.file, Receiving):
            part.received = part.file.done()
            part.sha256 = part.received.sha256
        else:
            part.sha256 = self._hash.hexdigest()
            part.file.seek(0)

    def on_end(self) -> None:
        self.ended = True


@contextlib.asynccontextmanager
async def receive_form(
    request: Request,
    rules: Mapping[str, PartRule],
    folder: Path,
    store: BlobStore | None = None,
    *,
    sealed: bool = False,
) -> AsyncIterator[Form]:
    """Read the multipart body of ``request`` and close its files afterwards.

    Originals go into ``store``; other files beyond a megabyte wait in ``folder``, and
    ``sealed`` where the data folder is encrypted. Raises
    :class:`BadRequestBody` for a body that is no whole form and :class:`InvalidFields` that names
    every part that is missing, unknown or too many; after a hundred of the latter two the rest is
    not read.
    """
    collector = _Collector(rules, folder, store, sealed)
    try:
        await _parse(request, collector)
        for name, rule in rules.items():
            found = collector.form.files(name)
            if rule.required and not found:
                collector.errors.setdefault(name, "This field is needed.")
        if collector.errors:
            raise _invalid(collector.errors)
        yield collector.form
    finally:
        collector.form.close()


def _invalid(errors: Mapping[str, str]) -> InvalidFields:
    return InvalidFields([{"field": name, "message": text} for name, text in errors.items()])


async def _parse(request: Request, collector: _Collector) -> None:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise BadRequestBody(
            "The body must be multipart/form-data.",
            remedy="Send the file as a form part; most HTTP clients do so when given a file.",
            code="unsupported_media_type",
        )
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise BadRequestBody("The content type names no usable boundary.")
    callbacks = {
        name: getattr(collector, name)
        for name in (
            "on_part_begin",
            "on_part_data",
            "on_part_end",
            "on_header_field",
            "on_header_value",
            "on_header_end",
            "on_headers_finished",
            "on_end",
        )
    }
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        async for chunk in request.stream():
            for piece in _pieces(chunk):
                # Off the loop: a full spool writes to disk.
                await run_in_threadpool(parser.write, piece)
    except FormParserError:
        raise BadRequestBody(
            "The multipart body is malformed.", remedy="Let an HTTP library build the body."
        ) from None
    except OSError as error:
        raise translated(error, str(collector.folder)) from error
    if not collector.ended:
        raise BadRequestBody(
            "The multipart body ends before its last boundary; nothing was stored.",
            remedy="Send it again in full.",
        )


def _pieces(chunk: bytes, size: int = 1 << 20) -> Iterator[bytes]:
    for start in range(0, len(chunk), size):
        yield chunk[start : start + size]
