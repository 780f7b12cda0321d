"""Bodies that are one file: an image as it is, or one JSON object on each line."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from indexer.blobs import BlobStore, Received
from indexer.files import storage_errors
from service.errors import BadRequestBody
from service.uploads import SPOOL_BYTES, Spool, spool

NDJSON = "application/x-ndjson"
_BOM = b"\xef\xbb\xbf"


@contextlib.asynccontextmanager
async def receive_image(
    request: Request, store: BlobStore, max_bytes: int
) -> AsyncIterator[Received]:
    """The body as a file in ``store``, which goes away afterwards unless it is kept.

    Raises :class:`BadRequestBody` as soon as it has more than ``max_bytes``, and the StorageError
    tree.
    """
    receiving = await run_in_threadpool(store.receive)
    try:
        async for chunk in request.stream():
            if receiving.size + len(chunk) > max_bytes:
                raise BadRequestBody(
                    f"The image is larger than {max_bytes} bytes.",
                    remedy="Send a smaller copy of the image.",
                    code="image_too_large",
                )
            if chunk:
                await run_in_threadpool(receiving.write, chunk)
        yield await run_in_threadpool(receiving.done)
    finally:
        receiving.abort()


@dataclass(slots=True)
class Lines:
    """The lines of a whole body, and the SHA-256 of all of it."""

    file: Spool
    sha256: str

    def read(self, max_line_bytes: int) -> Iterator[tuple[int, bytes, bool]]:
        """Number, bytes and whether that is all, for each line that is not empty.

        Of a longer line only its first ``max_line_bytes`` are read into memory.
        """
        self.file.seek(0)
        number = 0
        while line := self.file.readline(max_line_bytes + 2):
            number += 1
            whole = line.endswith(b"\n") or len(line) <= max_line_bytes
            if not whole:
                self._skip()
            text = line.removeprefix(_BOM) if number == 1 else line
            if text.strip():
                yield number, text.rstrip(b"\r\n")[:max_line_bytes], whole

    def _skip(self) -> None:
        while (rest := self.file.readline(SPOOL_BYTES)) and not rest.endswith(b"\n"):
            pass


@contextlib.asynccontextmanager
async def receive_lines(
    request: Request, folder: Path, *, max_bytes: int, max_lines: int, sealed: bool = False
) -> AsyncIterator[Lines]:
    """The body as lines, once all of it is there; beyond a megabyte it waits in ``folder``,
    ``sealed`` where the data folder is encrypted.

    Raises :class:`BadRequestBody` where it is no NDJSON or has more bytes or lines than that.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != NDJSON:
        raise BadRequestBody(
            f"The body must be {NDJSON}: one JSON object on each line.",
            remedy=f"Send it with the header 'Content-Type: {NDJSON}'.",
            code="unsupported_media_type",
        )
    digest = hashlib.sha256()
    size = lines = 0
    last = b"\n"
    with spool(folder, sealed=sealed) as file:
        async for chunk in request.stream():
            size += len(chunk)
            # A line begins with what follows a line feed.
            lines += chunk.count(b"\n", 0, -1) + (last == b"\n" and chunk != b"")
            last = chunk[-1:] or last
            if size > max_bytes or lines > max_lines:
                raise BadRequestBody(
                    f"At most {max_lines} lines and {max_bytes} bytes are taken in one batch; "
                    "nothing was stored.",
                    remedy="Send it in several batches.",
                    code="body_too_large",
                )
            digest.update(chunk)
            with storage_errors(str(folder)):
                await run_in_threadpool(file.write, chunk)
        yield Lines(file, digest.hexdigest())
