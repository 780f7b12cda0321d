"""What originals are called where they lie, and whether their bytes are the right ones.

Plain, an original bears its SHA-256. Sealed it bears a name that only the key gives (AES-SIV): the
SHA-256 of a picture that somebody has at hand would tell whoever lists the folder or the bucket
that this very picture is in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from indexer.errors import BlobDamaged, BlobMissing, SealBroken
from indexer.sealing.files import open_file, opened
from indexer.sealing.keyring import Keyring, key_id_of

_SHA256 = re.compile(r"[0-9a-f]{64}")


def plain_name(sha256: str) -> str:
    """The name of an original that is not sealed. Raises :class:`BlobMissing` for no SHA-256."""
    if not _SHA256.fullmatch(sha256):
        raise BlobMissing(sha256[:80])
    return sha256


def is_a_name(name: str) -> bool:
    """Whether an original may lie under this name, plain or sealed by any key."""
    return re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{96}", name) is not None


def name_of(sha256: str, keyring: Keyring | None) -> str:
    """The name under which an original lies. Raises :class:`BlobMissing` for no SHA-256."""
    name = plain_name(sha256)
    return name if keyring is None else keyring.name_of(bytes.fromhex(name))


def digest_of(name: str, keyring: Keyring | None) -> str | None:
    """The SHA-256 of the original that has this name; ``None`` where it is no name of one."""
    if _SHA256.fullmatch(name):
        return name
    digest = None if keyring is None else keyring.digest_of(name)
    return None if digest is None else digest.hex()


def require_whole(sha256: str, data: bytes, keyring: Keyring | None) -> bytes:
    """The plain bytes. Raises :class:`BlobDamaged` where they are not those of ``sha256``; plain
    bytes that are the right ones are taken: the digest says so, whatever lies in the folder, and
    whatever they begin with. Raises :class:`SealKeyMissing`."""
    looks_sealed = key_id_of(data) is not None
    if looks_sealed and hashlib.sha256(data).hexdigest() == sha256:
        return data
    if keyring is not None and looks_sealed:
        try:
            data = open_file(keyring, data)
        except SealBroken:
            raise BlobDamaged(sha256) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BlobDamaged(sha256)
    return data


def digest_of_chunks(chunks: Iterable[bytes], keyring: Keyring | None) -> str:
    """The SHA-256 of plain bytes that come in chunks, sealed where there is a keyring.

    Raises :class:`SealBroken`.
    """
    digest = hashlib.sha256()
    for chunk in chunks if keyring is None else opened(keyring, chunks):
        digest.update(chunk)
    return digest.hexdigest()
