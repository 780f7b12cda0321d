"""Files sealed part by part, so that none has to be held whole.

``MAGIC``, the id of the data key (8 bytes), a random salt (16), then parts of a megabyte, each with
a tag of 16 bytes, by AES-256-GCM under a key of this file alone, made of the data key and the salt.
The nonce of a part is its number and whether it is the last, as in the STREAM construction (Hoang,
Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance, 2015): parts that are cut off, left out or moved do not open.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from indexer.errors import SealBroken
from indexer.sealing.keyring import ID_BYTES, MAGIC, TAG_BYTES, Keyring, key_id_of

PART_BYTES = 1 << 20
SALT_BYTES = 16
HEAD_BYTES = len(MAGIC) + ID_BYTES + SALT_BYTES

_WHAT = b"homeward file"


def sealed_size(size: int) -> int:
    """Bytes of a sealed file whose plain one has ``size``."""
    parts = max(1, -(-size // PART_BYTES))
    return HEAD_BYTES + size + parts * TAG_BYTES


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


class FileSealer:
    """Seals one file with the newest data key as its bytes come."""

    def __init__(self, keyring: Keyring) -> None:
        salt = os.urandom(SALT_BYTES)
        key_id = keyring.current_id
        self._head = MAGIC + bytes.fromhex(key_id) + salt
        self._key = keyring.file_key(key_id, salt)
        self._waiting = bytearray()
        self._number = 0

    def add(self, chunk: bytes | memoryview) -> bytes:
        """What is to be written for ``chunk``; some of it waits for the next."""
        self._waiting += chunk
        out = [self._head] if self._number == 0 and len(self._waiting) > PART_BYTES else []
        while len(self._waiting) > PART_BYTES:
            out.append(self._part(last=False))
        return b"".join(out)

    def end(self) -> bytes:
        """The rest of the file."""
        head = self._head if self._number == 0 else b""
        return head + self._part(last=True)

    def _part(self, *, last: bool) -> bytes:
        part = bytes(self._waiting[:PART_BYTES])
        del self._waiting[:PART_BYTES]
        nonce = _nonce(self._number, last)
        self._number += 1
        return self._key.encrypt(nonce, part, self._head + _WHAT)


class FileOpener:
    """Opens one sealed file as its bytes come. Raises :class:`SealBroken`, SealKeyMissing."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._head = b""
        self._key: AESGCM | None = None
        self._waiting = bytearray()
        self._number = 0

    def add(self, chunk: bytes | memoryview) -> bytes:
        """The plain bytes that are whole by now."""
        self._waiting += chunk
        if self._key is None and len(self._waiting) >= HEAD_BYTES:
            self._head = bytes(self._waiting[:HEAD_BYTES])
            del self._waiting[:HEAD_BYTES]
            key_id = key_id_of(self._head)
            if key_id is None:
                raise SealBroken("an original")
            self._key = self._keyring.file_key(key_id, self._head[-SALT_BYTES:])
        out = []
        while len(self._waiting) > PART_BYTES + TAG_BYTES:
            out.append(self._part(last=False))
        return b"".join(out)

    def end(self) -> bytes:
        """The last plain bytes."""
        return self._part(last=True)

    def _part(self, *, last: bool) -> bytes:
        if self._key is None:
            raise SealBroken("an original")
        part = bytes(self._waiting[: PART_BYTES + TAG_BYTES])
        del self._waiting[: PART_BYTES + TAG_BYTES]
        try:
            plain = self._key.decrypt(_nonce(self._number, last), part, self._head + _WHAT)
        except InvalidTag:
            raise SealBroken("an original") from None
        self._number += 1
        return plain


def seal_file(keyring: Keyring, data: bytes) -> bytes:
    """``data`` as a sealed file."""
    sealer = FileSealer(keyring)
    return b"".join((sealer.add(data), sealer.end()))


def open_file(keyring: Keyring, data: bytes) -> bytes:
    """What a sealed file holds. Raises :class:`SealBroken` and SealKeyMissing."""
    return b"".join(opened(keyring, [data]))


def opened(keyring: Keyring, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The plain bytes of a sealed file that comes in ``chunks``.

    Each is verified; that the file was not cut off is known at the end. Raises as
    :class:`FileOpener`.
    """
    opener = FileOpener(keyring)
    for chunk in chunks:
        plain = opener.add(chunk)
        if plain:
            yield plain
    yield opener.end()
