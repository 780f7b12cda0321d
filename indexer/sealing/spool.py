"""A place for bytes that come in and are read once: in memory up to a part, beyond that in a file
without a name, sealed by a key that this process alone has and forgets."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from indexer.sealing.keyring import KEY_BYTES, NONCE_BYTES, TAG_BYTES

PART_BYTES = 1 << 20


class SealedSpool:
    """As much of a binary file as the reading of bodies needs: written to its end, then read.

    Not for several threads at once. Raises ``OSError`` as a file does.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._key = AESGCM(os.urandom(KEY_BYTES))
        self._parts = 0
        self._tail = bytearray()
        self._at = 0
        self._held: tuple[int, bytes] = (-1, b"")

    def write(self, data: bytes | memoryview) -> int:
        """Add bytes at the end."""
        self._tail += data
        while len(self._tail) > PART_BYTES:
            if self._file is None:
                self._file = TemporaryFile(dir=str(self._folder))  # noqa: SIM115 - see close
            part = bytes(self._tail[:PART_BYTES])
            sealed = self._key.encrypt(self._nonce(self._parts), part, None)
            self._file.seek(self._parts * (PART_BYTES + TAG_BYTES))
            self._file.write(sealed)
            del self._tail[:PART_BYTES]
            self._parts += 1
        return len(data)

    def seek(self, position: int) -> int:
        """Read from ``position`` on."""
        self._at = position
        return position

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, or all that is left."""
        found = bytearray()
        while size < 0 or len(found) < size:
            piece = self._piece()
            if not piece:
                break
            taken = piece if size < 0 else piece[: size - len(found)]
            self._at += len(taken)
            found += taken
        return bytes(found)

    def readline(self, size: int = -1) -> bytes:
        """The bytes up to a line feed, at most ``size``."""
        found = bytearray()
        while size < 0 or len(found) < size:
            piece = self._piece()
            if not piece:
                break
            taken = piece if size < 0 else piece[: size - len(found)]
            end = taken.find(b"\n")
            if end >= 0:
                taken = taken[: end + 1]
            self._at += len(taken)
            found += taken
            if end >= 0:
                break
        return bytes(found)

    def close(self) -> None:
        """Let go of the file, which is gone with that, and of the bytes."""
        if self._file is not None:
            self._file.close()
        self._tail.clear()
        self._held = (-1, b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _piece(self) -> bytes:
        """What is left of the part that reading is in."""
        number, offset = divmod(self._at, PART_BYTES)
        if number >= self._parts:
            return bytes(self._tail[offset if number == self._parts else len(self._tail) :])
        if self._held[0] != number:
            assert self._file is not None
            self._file.seek(number * (PART_BYTES + TAG_BYTES))
            sealed = self._file.read(PART_BYTES + TAG_BYTES)
            self._held = number, self._key.decrypt(self._nonce(number), sealed, None)
        return self._held[1][offset:]

    def _nonce(self, number: int) -> bytes:
        # The key seals the parts of this spool alone, each once.
        return number.to_bytes(NONCE_BYTES, "big")
