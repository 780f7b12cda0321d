"""The data keys of one catalog, opened: sealing and opening of fields, segments and files.

A sealed value is ``MAGIC``, the id of the data key (8 bytes), a random nonce (12), the ciphertext
and the tag (16), by AES-256-GCM; everything before the nonce and the caller's context are
authenticated. Under one key at most 2^32 values may be sealed with random nonces (NIST SP 800-38D,
section 8.3). ``indexer.sealing.keys`` counts them in the catalog and makes a new key at half of
that.
"""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from indexer.errors import SealBroken, SealKeyMissing

MAGIC = b"\x00HW\x01"
KEY_BYTES = 32
ID_BYTES = 8
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD = len(MAGIC) + ID_BYTES + NONCE_BYTES + TAG_BYTES
"""Bytes that a sealed value is longer than the plain one."""
MAX_SEALS = 2**32
"""Values that one data key may seal with random nonces (NIST SP 800-38D, section 8.3)."""

_HEAD = len(MAGIC) + ID_BYTES


def derive(key: bytes, purpose: bytes, salt: bytes | None = None, length: int = KEY_BYTES) -> bytes:
    """A key for one purpose from another key (HKDF with SHA-256, RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=purpose).derive(key)


def key_id_of(sealed: bytes | memoryview) -> str | None:
    """The id of the data key that ``sealed`` names (16 hexadecimal digits); ``None``: not sealed.

    Only the first 12 bytes are looked at, and nothing is verified.
    """
    head = bytes(sealed[:_HEAD])
    if len(head) < _HEAD or not head.startswith(MAGIC):
        return None
    return head[len(MAGIC) :].hex()


@dataclass(frozen=True, slots=True)
class DataKeys:
    """What the catalog holds, unwrapped: ``keys`` by id, the one that seals, and the lookup key.

    ``plain``: whether what is not sealed is read as well, because it is being sealed.
    """

    keys: Mapping[str, bytes] = field(repr=False)
    current: str
    lookup: bytes = field(repr=False)
    plain: bool


class _Key:
    def __init__(self, key_id: str, key: bytes) -> None:
        self.head = MAGIC + bytes.fromhex(key_id)
        self.values = AESGCM(derive(key, b"homeward values"))
        self.files = derive(key, b"homeward files")


class Keyring:
    """Seals with the newest data key and opens with any that is there. Safe between threads.

    ``reload`` reads the keys from the catalog anew; it is called where a value names a key that is
    not known yet, which another process may have made.
    """

    def __init__(self, keys: DataKeys, reload: Callable[[], DataKeys] | None = None) -> None:
        self._lock = threading.Lock()
        self._reload = reload
        self._seals = 0
        self.take(keys)

    def take(self, keys: DataKeys) -> None:
        """Have these keys from now on."""
        # One assignment each, and the current key last: a thread between them sees a whole set.
        self._keys = {key_id: _Key(key_id, key) for key_id, key in keys.keys.items()}
        self._contacts = derive(keys.lookup, b"homeward contacts")
        self._names = AESSIV(derive(keys.lookup, b"homeward names", length=64))
        self.accepts_plain = keys.plain
        self._current = keys.current

    @property
    def current_id(self) -> str:
        """The id of the data key that seals now: 16 hexadecimal digits."""
        return self._current

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of all data keys that can be opened with."""
        return frozenset(self._keys)

    def knows(self, key_id: str) -> bool:
        """Whether the catalog has this data key, maybe made by another process just now.

        Raises as the opening of a catalog does.
        """
        if key_id not in self._keys:
            self.refresh()
        return key_id in self._keys

    def is_current(self, sealed: bytes | memoryview) -> bool:
        """Whether ``sealed`` names the key that seals now; its first 12 bytes are enough."""
        return key_id_of(sealed) == self._current

    def seal(self, context: bytes, data: bytes | memoryview) -> bytes:
        """``data`` sealed by the newest data key, :data:`OVERHEAD` bytes longer.

        ``context`` says what it is and where it belongs; it is not stored, and :meth:`open` has to
        be given the same. At most 2^31 - 1 bytes at once.
        """
        key = self._keys[self._current]
        nonce = os.urandom(NONCE_BYTES)
        with self._lock:
            self._seals += 1
        return b"".join((key.head, nonce, key.values.encrypt(nonce, data, key.head + context)))

    def open(self, context: bytes, sealed: bytes | memoryview) -> bytes:
        """What was sealed under ``context``.

        Raises :class:`SealBroken` where a bit of it or the context is another, and
        :class:`SealKeyMissing` where the catalog has no such key.
        """
        key_id = key_id_of(sealed)
        if key_id is None or len(sealed) < OVERHEAD:
            raise SealBroken(_word(context))
        key = self._key(key_id)
        body = memoryview(sealed)[_HEAD:]
        try:
            return key.values.decrypt(
                bytes(body[:NONCE_BYTES]), body[NONCE_BYTES:], key.head + context
            )
        except InvalidTag:
            raise SealBroken(_word(context)) from None

    def file_key(self, key_id: str, salt: bytes) -> AESGCM:
        """The key of one file, made of a data key and the file's own random ``salt``; each such
        key seals the parts of one file only, so they may be numbered instead of random.

        Raises :class:`SealKeyMissing`.
        """
        return AESGCM(derive(self._key(key_id).files, b"homeward file", salt))

    def contact_digest(self, text: str) -> str:
        """What ``text`` is looked up by: HMAC-SHA-256, 64 hexadecimal digits."""
        return hmac.new(self._contacts, text.encode(), sha256).hexdigest()

    def name_of(self, digest: bytes) -> str:
        """The name of a file for the SHA-256 of what it holds: the same each time, and not to be
        made or read without the key (AES-SIV, RFC 5297); 96 hexadecimal digits."""
        return self._names.encrypt(digest, None).hex()

    def digest_of(self, name: str) -> bytes | None:
        """The SHA-256 that :meth:`name_of` made ``name`` of; ``None`` where it made it of none."""
        try:
            return self._names.decrypt(bytes.fromhex(name), None)
        except (InvalidTag, ValueError):
            return None

    def refresh(self) -> None:
        """Read the keys from the catalog anew. Raises as the opening of a catalog does."""
        if self._reload is not None:
            self.take(self._reload())

    def take_seals(self) -> int:
        """How many values were sealed since this was asked last."""
        with self._lock:
            seals, self._seals = self._seals, 0
        return seals

    def _key(self, key_id: str) -> _Key:
        key = self._keys.get(key_id)
        if key is None:
            self.refresh()
            key = self._keys.get(key_id)
        if key is None:
            raise SealKeyMissing(
                f"Something is encrypted with the data key {key_id}, which this catalog lacks.",
                remedy="Restore catalog and files from one back-up, or put back what is newer.",
            )
        return key


def _word(context: bytes) -> str:
    return context.decode("utf-8", "replace").replace("\0", " ").strip()[:120]
