"""Originals in an S3-compatible object store, under the same names as in a folder.

The client is the library ``obstore``; its time-outs and bounded retries are used, and none are made
here. What is received waits on the local disk, as with the folder, and is uploaded when it is kept.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.blob_names import (
    digest_of,
    digest_of_chunks,
    is_a_name,
    name_of,
    plain_name,
    require_whole,
)
from indexer.blobs import CHUNK_BYTES, BlobStore, LocalBlobStore, Received, Receiving, sha256_hex
from indexer.errors import (
    BlobDamaged,
    BlobMissing,
    ExtraMissing,
    SealBroken,
    StorageAway,
    StorageDenied,
    StorageError,
    StorageFull,
    StoreUnusable,
)
from indexer.files import storage_errors
from indexer.ids import new_id
from indexer.sealing.files import HEAD_BYTES, FileOpener, seal_file, sealed_size
from indexer.sealing.keyring import Keyring

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

PART_BYTES = 5 * 1024 * 1024
"""Larger files go up in parts of this size, the smallest that S3 takes for all but the last part
(Amazon S3 User Guide, "multipart upload limits"); at most 10,000 of them, which is 52 GB."""
_PARTS_AT_ONCE = 2
_FILES_AT_ONCE = 4
_LISTED_AT_ONCE = 1_000

_CONNECT_S, _REQUEST_S, _RETRIES = 5, 300, 3
_WORD_S = 10
"""How long a request without a body may go unanswered, and about how long it is tried again.

Deletions ask the store while they hold the catalog's write lock, for which others wait 30 seconds:
a store that hangs is given up after 20."""
_BODY_S = 60
"""The same where bytes go up or come down. The library's clock for it runs while a part goes up, so
that 8 parts at once (four files, two parts each) need 6 Mbit/s."""

_URL = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[\w.-]+(?:/[\w.-]+)*))?/?",
    re.ASCII,
)
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_FULL = frozenset({"XMinioStorageFull", "QuotaExceeded"})
"""Error codes of a store without room: MinIO's (status 507) and Ceph's (status 403)."""
_UNVERSIONED = (None, "null")
"""What a write answers as its version where the bucket keeps none, or keeps none any more."""


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """The parts of ``s3://bucket/prefix``; the prefix may be empty.

    Raises ``ValueError`` for anything else, such as an address with a key in it.
    """
    found = _URL.fullmatch(url)
    if found is None or ".." in url:
        raise ValueError("the address has to read s3://bucket or s3://bucket/prefix")
    return found["bucket"], found["prefix"] or ""


class ObjectBlobStore:
    """A :class:`~indexer.blobs.BlobStore` in a bucket: ``prefix/ab/cd/abcd...``.

    Nothing is ever changed under its name, and a name is the digest of what it holds. So an upload
    is not made conditional on the name being free: writing the same bytes again does no harm, takes
    as long as the first time, and heals an object that was damaged. Objects appear whole or not at
    all; a large upload that broke off leaves invisible parts, which a lifecycle rule of the bucket
    has to clear, because the library cannot list them.
    """

    def __init__(
        self,
        url: str,
        incoming: Path,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        allow_http: bool = False,
    ) -> None:
        """``incoming``: local folder in which files are received. Without ``endpoint``, Amazon's.

        Credentials come from the environment or the machine, as the library finds them. Nothing is
        sent and no folder made yet. Raises :class:`ExtraMissing`, :class:`StoreUnusable`, and
        ``ValueError`` for a bad ``url``.
        """
        bucket, prefix = bucket_and_prefix(url)
        self._where = f"the object store at {url}"
        self._incoming = incoming
        self._keyring: Keyring | None = None
        self._waiting: LocalBlobStore | None = None
        self._waiting_lock = threading.Lock()
        self._store = _client(bucket, prefix, endpoint, region, allow_http, _BODY_S)
        self._asked = _client(bucket, prefix, endpoint, region, allow_http, _WORD_S)

    def require_usable(self) -> None:
        """Write, read and delete a small object, so that what is wrong is said at the start.

        Raises :class:`StoreUnusable` where deleted originals would stay (versions are kept) or the
        store gives back something else, and :class:`StorageAway`, :class:`StorageDenied`,
        :class:`StorageFull`.
        """
        name, text = f"probes/{new_id()}", b"Homeward checks whether it can write here."
        with self._errors():
            # First what is answered soonest where nobody answers.
            for _ in self._asked.list("probes", chunk_size=1):
                break
            version = self._store.put(name, text, use_multipart=False)["version"]
            try:
                same = bytes(self._store.get(name).bytes()) == text
            finally:
                self._asked.delete(name)
        if version not in _UNVERSIONED:
            raise StoreUnusable(
                f"{self._where} keeps versions: originals that are deleted would stay there.",
                remedy="Use a bucket on which versioning was never turned on, or suspend it and "
                "delete the old versions.",
            )
        if not same:
            raise StoreUnusable(
                f"{self._where} does not give back what was written.",
                remedy="Look for a cache between Homeward and the store.",
            )

    def seal_with(self, keyring: Keyring) -> None:
        self._keyring = keyring
        with self._waiting_lock:
            if self._waiting is not None:
                self._waiting.seal_with(keyring)

    def outdated(self, sha256: str) -> bool:
        if self._keyring is None:
            return False
        if self._there(_fan(plain_name(sha256))) is not None:
            return True
        try:
            with self._errors(sha256):
                head = self._store.get_range(self._name(sha256), start=0, length=HEAD_BYTES)
        except BlobMissing:
            return False
        return not self._keyring.is_current(bytes(head))

    def drop_plain(self, sha256: str) -> None:
        name = _fan(plain_name(sha256))
        if self._keyring is None or self._there(self._name(sha256)) is None:
            return
        if self._there(name) is not None:
            with self._errors():
                self._asked.delete(name)

    def get_sealed(self, sha256: str) -> tuple[str, bytes]:
        assert self._keyring is not None
        name = name_of(sha256, self._keyring)
        data = self._read(_fan(name), sha256)
        require_whole(sha256, data, self._keyring)
        return name, data

    def put_sealed(self, name: str, data: bytes) -> None:
        self._send(_fan(name), len(data), iter([data]))

    def discard(self, name: str) -> None:
        with self._errors():
            self._asked.delete(_fan(name))

    def is_empty(self) -> bool:
        with self._errors():
            return not any(
                is_a_name(found["path"].rpartition("/")[2])
                for some in self._store.list(chunk_size=_LISTED_AT_ONCE)
                for found in some
            )

    def put(self, data: bytes) -> str:
        sha256 = sha256_hex(data)
        if not self._is_whole(sha256, len(data)):
            sent = data if self._keyring is None else seal_file(self._keyring, data)
            view = memoryview(sent)
            parts = (view[at : at + PART_BYTES] for at in range(0, len(sent), PART_BYTES))
            self._upload(sha256, len(sent), parts)
        return sha256

    def receive(self) -> Receiving:
        return self._local().receive()

    def keep(self, files: Collection[Received], *, evenly: bool = False) -> None:
        different = list({file.sha256: file for file in files}.values())
        if len(different) < 2:
            for file in different:
                self._keep(file, evenly)
            return
        workers = min(len(different), _FILES_AT_ONCE)
        with ThreadPoolExecutor(workers, thread_name_prefix="upload") as pool:
            for _ in pool.map(lambda file: self._keep(file, evenly), different):
                pass

    def get(self, sha256: str) -> bytes:
        first, *others = self._places(sha256)
        # Between two looks it may have been sealed: the first place is looked at again.
        for name in (first, *others) if others else ():
            with suppress(BlobMissing):
                return require_whole(sha256, self._read(name, sha256), self._keyring)
        return require_whole(sha256, self._read(first, sha256), self._keyring)

    def has(self, sha256: str) -> bool:
        return any(self._there(name) is not None for name in self._places(sha256))

    def delete(self, sha256: str) -> bool:
        there = False
        for name in {self._name(sha256), _fan(plain_name(sha256))}:
            if self._there(name) is None:
                continue
            with self._errors():
                self._asked.delete(name)
            there = True
        return there

    def digests(self, older_than_s: float | None = None) -> Iterator[str]:
        limit = None if older_than_s is None else time.time() - older_than_s
        with self._errors():
            for some in self._store.list(chunk_size=_LISTED_AT_ONCE):
                for found in some:
                    name = found["path"].rpartition("/")[2]
                    sha256 = digest_of(name, self._keyring)
                    if sha256 is None or _fan(name) != found["path"]:
                        continue
                    if limit is None or found["last_modified"].timestamp() <= limit:
                        yield sha256

    def discard_abandoned(self) -> int:
        return self._local().discard_abandoned()

    def sweep(self, older_than_s: float = 3600) -> int:
        return self._local().sweep(older_than_s)

    def free_bytes(self) -> int | None:
        return None

    def _local(self) -> LocalBlobStore:
        """What receives here; its folder is not made before it is needed."""
        with self._waiting_lock:
            if self._waiting is None:
                self._waiting = LocalBlobStore(self._incoming)
                if self._keyring is not None:
                    self._waiting.seal_with(self._keyring)
            return self._waiting

    def _keep(self, file: Received, evenly: bool) -> None:
        if evenly or not self._is_whole(file.sha256, file.size):
            size = file.size if file.keyring is None else sealed_size(file.size)
            with storage_errors(str(file.path.parent)):
                self._upload(file.sha256, size, _parts(file.path))

    def _upload(self, sha256: str, size: int, parts: Iterator[bytes | memoryview]) -> None:
        """Send the bytes, which are hashed on their way: others never get this name."""
        self._send(self._name(sha256), size, _checked(parts, sha256, self._keyring))

    def _send(self, name: str, size: int, parts: Iterator[bytes | memoryview]) -> None:
        with self._errors():
            if size <= PART_BYTES:
                self._store.put(name, b"".join(parts), use_multipart=False)
            else:
                self._store.put(name, parts, chunk_size=PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

    def _name(self, sha256: str) -> str:
        return _fan(name_of(sha256, self._keyring))

    def _places(self, sha256: str) -> list[str]:
        """Under which names the bytes may lie; plain only as long as they are being sealed."""
        places = [self._name(sha256)]
        if self._keyring is not None and self._keyring.accepts_plain:
            places.append(_fan(plain_name(sha256)))
        return places

    def _read(self, name: str, sha256: str) -> bytes:
        with self._errors(sha256):
            return bytes(self._store.get(name).bytes())

    def _there(self, name: str) -> int | None:
        """The size of what has this name."""
        try:
            with self._errors(name):
                return self._asked.head(name)["size"]
        except BlobMissing:
            return None

    def _is_whole(self, sha256: str, size: int) -> bool:
        """Whether the very bytes are there already; a damaged object is written anew."""
        expected = size if self._keyring is None else sealed_size(size)
        if self._there(self._name(sha256)) != expected:
            return False
        try:
            with self._errors(sha256):
                chunks = self._store.get(self._name(sha256)).stream(CHUNK_BYTES)
                return digest_of_chunks(map(bytes, chunks), self._keyring) == sha256
        except (BlobMissing, SealBroken):
            return False

    @contextmanager
    def _errors(self, sha256: str | None = None) -> Generator[None]:
        """Turn what the library raises into our own errors; ``sha256``: what is looked for.

        The library's words hold the store's whole answer, key ids and all, and are left out.
        """
        from obstore import exceptions

        try:
            yield
        except FileNotFoundError as error:
            if sha256 is None or "<Code>NoSuchBucket</Code>" in str(error):
                raise self._no_bucket() from None
            raise BlobMissing(sha256) from None
        except exceptions.BaseError as error:
            raise self._translated(str(error)) from None

    def _translated(self, text: str) -> StorageError:
        # By its words, because the library has no class of its own for what a listing is refused.
        found, answered = _CODE.search(text), _STATUS.search(text)
        named, status = found[1] if found else "", answered[1] if answered else ""
        if named in _FULL or status == "507":
            return StorageFull(self._where)
        if named == "NoSuchBucket":
            return self._no_bucket()
        if status in ("401", "403"):
            error = StorageDenied(self._where)
            error.remedy = (
                "Give Homeward credentials that may read, write, list and delete there "
                f"(the store says: {named or 'denied'})."
            )
            return error
        return StorageAway(self._where, named or (f"status {status}" if status else "no answer"))

    def _no_bucket(self) -> StoreUnusable:
        return StoreUnusable(
            f"{self._where} has no such bucket.",
            remedy="Make the bucket, or correct HOMEWARD_BLOBS_URL and HOMEWARD_BLOBS_ENDPOINT.",
        )


def open_blobs(
    url: str,
    incoming: Path,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    allow_http: bool = False,
) -> BlobStore:
    """The store at ``url``, known to work; what is received waits in the folder ``incoming``.

    Raises as :class:`ObjectBlobStore` and :meth:`ObjectBlobStore.require_usable`.
    """
    store = ObjectBlobStore(url, incoming, endpoint=endpoint, region=region, allow_http=allow_http)
    store.require_usable()
    return store


def _client(
    bucket: str,
    prefix: str,
    endpoint: str | None,
    region: str | None,
    allow_http: bool,
    patience_s: int,
) -> S3Store:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError:
        raise ExtraMissing("obstore", "scale", "originals in an object store") from None
    # One object at a time, because not every store knows how to delete several.
    config: S3Config = {"bucket": bucket, "disable_bulk_delete": True}
    if endpoint is not None:
        config["endpoint"] = endpoint
    if region is not None:
        config["region"] = region
    try:
        return S3Store(
            prefix=prefix or None,
            config=config,
            client_options={
                "allow_http": allow_http,
                "connect_timeout": timedelta(seconds=_CONNECT_S),
                "read_timeout": timedelta(seconds=patience_s),
                "timeout": timedelta(seconds=_REQUEST_S),
                "user_agent": "homeward",
            },
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=patience_s),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=2),
                    "base": 2,
                },
            },
        )
    except (BaseError, ValueError):
        # Its words may quote what stands in the environment.
        raise StoreUnusable(
            f"The object store s3://{bucket} cannot be used as it is set.",
            remedy="Check HOMEWARD_BLOBS_ENDPOINT and the variables AWS_* of the environment.",
        ) from None


def _fan(name: str) -> str:
    return f"{name[:2]}/{name[2:4]}/{name}"


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            yield part


def _checked(
    parts: Iterator[bytes | memoryview], sha256: str, keyring: Keyring | None
) -> Iterator[bytes | memoryview]:
    """The same parts; where they are not what they should be, the last one is never given out."""
    digest = hashlib.sha256()
    opener = None if keyring is None else FileOpener(keyring)
    held: bytes | memoryview | None = None
    for part in parts:
        digest.update(part if opener is None else opener.add(part))
        if held is not None:
            yield held
        held = part
    if opener is not None:
        digest.update(opener.end())
    if digest.hexdigest() != sha256:
        raise BlobDamaged(sha256)
    if held is not None:
        yield held
