"""Outer keys: they come from a file or the environment, wrap the data keys, and are never stored.

One line for each key, ``name:base64 of 32 bytes``. The first is the current one, which wraps; the
others still unwrap. Empty lines and lines that begin with ``#`` do not count.
"""

from __future__ import annotations

import os
import re
import stat
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from indexer.errors import KeysUnusable
from indexer.sealing.keyring import KEY_BYTES, NONCE_BYTES

_NAME = re.compile(r"[A-Za-z0-9._-]{1,60}")
_REMEDY = (
    "Write one line for each key, name:base64 of 32 random bytes, the current one first; "
    "`homeward encryption key NAME` prints one."
)
_MAX_FILE = 100_000


@dataclass(frozen=True, slots=True)
class OuterKeys:
    """Outer keys by name, and which of them wraps."""

    current: str
    keys: Mapping[str, bytes] = field(repr=False)

    def wrap(self, data_key: bytes, about: bytes) -> bytes:
        """A data key wrapped by the current outer key: nonce (12 bytes), ciphertext and tag, by
        AES-256-GCM. ``about`` is authenticated with it."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self.keys[self.current]).encrypt(nonce, data_key, about)

    def unwrap(self, name: str, wrapped: bytes, about: bytes) -> bytes:
        """The data key. Raises :class:`KeysUnusable` where the key ``name`` is not set, or another
        one is under that name."""
        key = self.keys.get(name)
        if key is None:
            raise KeysUnusable(
                f"The data is encrypted under the key {name!r}, which is not among those that are "
                "set.",
                remedy="Add that key to HOMEWARD_ENCRYPTION_KEY_FILE or HOMEWARD_ENCRYPTION_KEYS. "
                "Without it the data cannot be read, by nobody and not by any means.",
            )
        try:
            return AESGCM(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], about)
        except InvalidTag:
            raise KeysUnusable(
                f"The key {name!r} that is set is not the one that the data is encrypted under, or "
                "the table of data keys was changed.",
                remedy="Set the right key under that name, or restore a back-up.",
            ) from None


def parsed(text: str) -> OuterKeys:
    """The keys of a text. Raises :class:`KeysUnusable`, which shows no key."""
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, encoded = line.partition(":")
        try:
            key = b64decode(encoded.strip(), validate=True)
        except (NotBase64, ValueError):
            key = b""
        if not _NAME.fullmatch(name) or len(key) != KEY_BYTES:
            raise KeysUnusable(
                f"Line {number} of the encryption keys is no key of {KEY_BYTES} bytes with a name.",
                remedy=_REMEDY,
            )
        if name in keys:
            raise KeysUnusable(f"Two encryption keys are named {name!r}.", remedy=_REMEDY)
        keys[name] = key
    if not keys:
        raise KeysUnusable("The encryption keys that are set hold no key.", remedy=_REMEDY)
    return OuterKeys(next(iter(keys)), keys)


def from_file(path: Path) -> OuterKeys:
    """The keys of a file that nobody but its owner, who has to be this account or root, may read.

    Raises :class:`KeysUnusable`.
    """
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            problem = _problem(facts)
            text = b"" if problem else file.read(_MAX_FILE + 1)
    except OSError as error:
        raise KeysUnusable(
            f"The file of encryption keys {path} cannot be read: {error.strerror}.",
            remedy="Correct HOMEWARD_ENCRYPTION_KEY_FILE, or give this account the right to read.",
        ) from None
    if problem or len(text) > _MAX_FILE:
        raise KeysUnusable(
            f"The file of encryption keys {path} {problem or 'is no file of keys'}.",
            remedy=f"Run `chmod 600 {path}` and `chown` it to the account that runs Homeward.",
        )
    return parsed(text.decode("utf-8", "replace"))


def _problem(facts: os.stat_result) -> str | None:
    if not stat.S_ISREG(facts.st_mode):
        return "is no file"
    if facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return "can be read or changed by others"
    if facts.st_uid not in (os.geteuid(), 0):
        return "belongs to another account"
    return None


def new_line(name: str) -> str:
    """A line with a new random key. Raises :class:`KeysUnusable` for a name that is none."""
    if not _NAME.fullmatch(name):
        raise KeysUnusable(
            "The name of a key has 1 to 60 letters, digits, dots, hyphens or underscores.",
            remedy="Name it by the year, for example.",
        )
    return f"{name}:{b64encode(os.urandom(KEY_BYTES)).decode('ascii')}"
