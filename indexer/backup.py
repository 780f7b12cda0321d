"""Back-ups: one tar file with the catalog and the originals that it names, made while all runs.

Members, in this order: ``catalog.sqlite3`` or ``catalog.pgdump``; ``originals/<SHA-256>``, in
order of their names; ``manifest.json``. Of an encrypted data folder all is taken as it is sealed:
its members are ``sealed/<name>-<SHA-256 of the sealed bytes>``, the wrapped data keys are in the
catalog, and the manifest names the outer keys that open them. The name of an original is its
digest; the manifest, whose being there says that the file is whole, holds the digest of the
catalog, one over the names of the originals, and one of itself. The tar is not compressed: pictures
are already.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select

from indexer.audit import record
from indexer.blobs import BlobStore
from indexer.catalog import Catalog
from indexer.catalog.dump import CatalogCopy, CatalogKind, copied
from indexer.catalog.sealing_tables import DataKey
from indexer.catalog.tables import CapturePage, Image, StagedImage
from indexer.errors import (
    BackupDamaged,
    BackupFailed,
    BlobDamaged,
    BlobMissing,
    StorageFull,
)
from indexer.files import TEMP_SUFFIX, fsync_folder, storage_errors
from indexer.ids import new_id
from indexer.records import Progress
from indexer.sealing.keyring import key_id_of
from indexer.times import rfc3339, utc_now

FORMAT = 1
SEALED_FORMAT = 2
"""Of the back-up of an encrypted data folder."""
MANIFEST = "manifest.json"
CATALOG_NAMES: dict[CatalogKind, str] = {
    "sqlite": "catalog.sqlite3",
    "postgresql": "catalog.pgdump",
}

_ORIGINAL = re.compile(r"originals/([0-9a-f]{64})")
_SEALED = re.compile(r"sealed/([0-9a-f]{96})-([0-9a-f]{64})")
_MAX_MANIFEST = 10_000_000
_MAX_ORIGINAL = 1_000_000_000
_MAX_NAMED = 1_000
_CHUNK = 1 << 20
_SPARE = 50_000_000

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a back-up holds.

    ``names_sha256`` is over the names of all originals, each with a line feed. ``deleted``
    originals were forgotten while the back-up was made; ``missing`` ones (the first thousand)
    could not be read. ``outer_keys``: the names of the keys without which nothing in it can be
    read; none where it is not encrypted.
    """

    format: int
    created_at: datetime
    homeward: str
    catalog_kind: CatalogKind
    catalog_revision: str
    catalog_bytes: int
    catalog_sha256: str
    counts: dict[str, int]
    originals: int
    originals_bytes: int
    names_sha256: str
    deleted: int
    missing: tuple[str, ...]
    last_purge: str | None
    outer_keys: tuple[str, ...] = ()


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)


# --- making one ------------------------------------------------------------------------------


def back_up(
    catalog: Catalog,
    blobs: BlobStore,
    target: Path,
    *,
    homeward: str,
    data_dir: Path,
    pg_dump: str | None = None,
    progress: Report = lambda _: None,
) -> Manifest:
    """Write a back-up to ``target``, a new file for this account alone, whole or not at all.

    Consistent while the service and workers run: the catalog is copied first, in one state, and
    what it names is never changed afterwards. ``homeward`` is the version that is noted. Raises
    :class:`BackupFailed` and the StorageError tree.
    """
    _check_target(target, data_dir)
    outer_names = _outer_names(catalog)
    opens: frozenset[str] = frozenset() if catalog.keyring is None else catalog.keyring.key_ids
    if catalog.keyring is not None:
        blobs.seal_with(catalog.keyring)
    part = target.with_name(f".{target.name}.{new_id()}{TEMP_SUFFIX}")
    copy_path = target.with_name(f".{target.name}.{new_id()}.catalog{TEMP_SUFFIX}")
    # First, so that no copy is made that nobody knows of; the back-up holds this record too.
    with catalog.write() as session:
        record(session, "backup.create", outcome="begun")
    progress(Progress(stage="catalog", done=0, total=1))
    with copied(catalog, copy_path, pg_dump) as copy:
        progress(Progress(stage="catalog", done=1, total=1))
        size = copy.path.stat().st_size
        _require_free(target.parent, size + copy.originals_bytes + 1024 * copy.originals)
        try:
            with storage_errors(str(target)):
                handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(handle, "wb") as file:
                    manifest = _write(
                        file, copy, catalog, blobs, homeward, outer_names, opens, progress
                    )
                    file.flush()
                    os.fsync(file.fileno())
                # Unlike a rename, a link never takes the place of a file that came meanwhile.
                os.link(part, target)
                fsync_folder(target.parent)
        finally:
            part.unlink(missing_ok=True)
    return manifest


def _check_target(target: Path, data_dir: Path) -> None:
    if target.exists():
        raise BackupFailed(
            f"{target} is there already.",
            remedy="Give another name; an earlier back-up is never written over.",
        )
    if not target.parent.is_dir():
        raise BackupFailed(
            f"There is no folder {target.parent}.", remedy="Make it, or name another."
        )
    if target.resolve().is_relative_to(data_dir.resolve()):
        raise BackupFailed(
            "A back-up inside the data folder is none, and keeps there what is deleted.",
            remedy="Name a file on another disk.",
        )


def _require_free(folder: Path, wanted: int) -> None:
    with storage_errors(str(folder)):
        free = shutil.disk_usage(folder).free
    if free < wanted + _SPARE:
        full = StorageFull(str(folder))
        full.detail = f"{wanted / 1e9:.2f} GB are needed in {folder}, {free / 1e9:.2f} GB are free."
        raise full


def _write(
    file: IO[bytes],
    copy: CatalogCopy,
    catalog: Catalog,
    blobs: BlobStore,
    homeward: str,
    outer_names: tuple[str, ...],
    opens: frozenset[str],
    progress: Report,
) -> Manifest:
    sealed = catalog.keyring is not None
    now = utc_now()
    names = hashlib.sha256()
    count = total = deleted = 0
    missing: list[str] = []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        with copy.path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            _add(tar, CATALOG_NAMES[copy.kind], size, source, now)
        for at, sha256 in enumerate(copy.original_names(), start=1):
            try:
                name, data = _original(blobs, sha256, sealed=sealed)
            except (BlobMissing, BlobDamaged):
                if _still_named(catalog, sha256):
                    missing.append(sha256)
                else:
                    deleted += 1
            else:
                if sealed and key_id_of(data) not in opens:
                    raise BackupFailed(
                        "The data key was changed while the back-up was made.",
                        remedy="Make it again.",
                    )
                _add(tar, name, len(data), io.BytesIO(data), now)
                names.update(f"{name.partition('/')[2]}\n".encode())
                count += 1
                total += len(data)
            progress(Progress(stage="originals", done=at, total=copy.originals))
        manifest = Manifest(
            format=SEALED_FORMAT if sealed else FORMAT,
            created_at=now,
            homeward=homeward,
            catalog_kind=copy.kind,
            catalog_revision=copy.revision,
            catalog_bytes=size,
            catalog_sha256=digest,
            counts=copy.counts,
            originals=count,
            originals_bytes=total,
            names_sha256=names.hexdigest(),
            deleted=deleted,
            missing=tuple(missing[:_MAX_NAMED]),
            last_purge=copy.last_purge,
            outer_keys=outer_names,
        )
        text = _manifest_json(manifest)
        _add(tar, MANIFEST, len(text), io.BytesIO(text), now)
    return manifest


def _original(blobs: BlobStore, sha256: str, *, sealed: bool) -> tuple[str, bytes]:
    """The name and the bytes of a member. Raises as ``blobs.get``."""
    if not sealed:
        return f"originals/{sha256}", blobs.get(sha256)
    name, data = blobs.get_sealed(sha256)
    return f"sealed/{name}-{hashlib.sha256(data).hexdigest()}", data


def _outer_names(catalog: Catalog) -> tuple[str, ...]:
    """The keys that a back-up made now needs. Raises :class:`BackupFailed` where some of what is
    stored is still plain: the back-up would not be what its owner takes it for."""
    if catalog.keyring is None:
        return ()
    catalog.keyring.refresh()
    if catalog.keyring.accepts_plain:
        raise BackupFailed(
            "This data folder is being encrypted, and some of it is still plain.",
            remedy="Wait until `homeward encryption status` says that everything is sealed.",
        )
    with catalog.read() as session:
        return tuple(sorted(set(session.scalars(select(DataKey.wrapped_by)))))


def _add(tar: tarfile.TarFile, name: str, size: int, source: IO[bytes], now: datetime) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(now.timestamp())
    tar.addfile(member, source)
    # It would keep every member, and there may be millions.
    tar.members.clear()  # type: ignore[attr-defined]


def _still_named(catalog: Catalog, sha256: str) -> bool:
    with catalog.read() as session:
        return any(
            session.query(table).filter_by(sha256=sha256).first() is not None
            for table in (Image, CapturePage, StagedImage)
        )


def _manifest_json(manifest: Manifest) -> bytes:
    value = {**asdict(manifest), "created_at": rfc3339(manifest.created_at)}
    return json.dumps({**value, "sha256": _digest(value)}, indent=1).encode()


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# --- reading one -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """One member: ``sha256``, of its bytes, is ``None`` for the catalog and the manifest.
    ``sealed``: the name of a sealed original where it lay."""

    name: str
    size: int
    sha256: str | None
    file: IO[bytes]
    sealed: str | None = None


@contextmanager
def members(path: Path) -> Generator[Iterator[Member]]:
    """The members of a back-up as they follow each other, each readable until the next.

    No path of the archive is ever used: names are only compared. Raises :class:`BackupDamaged`
    for anything that does not belong there, and the StorageError tree.
    """
    with _damage(path), storage_errors(str(path)), tarfile.open(path, "r:") as tar:
        yield _each(tar, path)


@contextmanager
def _damage(path: Path) -> Generator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise _damaged(path, f"it cannot be read ({type(error).__name__})") from error


def _damaged(path: Path, why: str) -> BackupDamaged:
    return BackupDamaged(
        f"{path.name} is no whole back-up of Homeward: {why}.",
        remedy="Use another back-up; keep this one for inspection.",
    )


def _each(tar: tarfile.TarFile, path: Path) -> Iterator[Member]:
    last = ""
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        original, sealed = _ORIGINAL.fullmatch(info.name), _SEALED.fullmatch(info.name)
        rank = _rank(info.name)
        most = {0: None, 1: _MAX_ORIGINAL, 2: _MAX_MANIFEST}.get(rank, 0)
        if info.type != tarfile.REGTYPE or info.sparse is not None or rank < 0:
            raise _damaged(path, "it holds something that does not belong there")
        if most is not None and info.size > most:
            raise _damaged(path, "one of its members is too large")
        # Sealed ones follow the order of what their names hide.
        follows = (_rank(last), last) < (rank, info.name)
        if last and not follows and not (sealed and _SEALED.fullmatch(last)):
            raise _damaged(path, "its members are not in order")
        last = info.name
        file = tar.extractfile(info)
        assert file is not None
        digest = original.group(1) if original else sealed.group(2) if sealed else None
        yield Member(info.name, info.size, digest, file, sealed.group(1) if sealed else None)
    if last != MANIFEST:
        raise _damaged(path, "it is cut off")


def _rank(name: str) -> int:
    if name in CATALOG_NAMES.values():
        return 0
    if name == MANIFEST:
        return 2
    return 1 if _ORIGINAL.fullmatch(name) or _SEALED.fullmatch(name) else -1


def read_manifest(path: Path) -> Manifest:
    """What the back-up says of itself, after a look at every header; contents are not read.

    Raises :class:`BackupDamaged` and the StorageError tree.
    """
    names = hashlib.sha256()
    count = total = 0
    catalogs: list[Member] = []
    text = b""
    with members(path) as found:
        for member in found:
            if member.name == MANIFEST:
                text = member.file.read()
            elif member.sha256 is None:
                catalogs.append(member)
            else:
                names.update(f"{member.name.partition('/')[2]}\n".encode())
                count += 1
                total += member.size
    manifest = _parsed(path, text)
    told = (manifest.originals, manifest.originals_bytes, manifest.names_sha256)
    if told != (count, total, names.hexdigest()):
        raise _damaged(path, "originals are missing in it, or there are too many")
    wanted = [(CATALOG_NAMES[manifest.catalog_kind], manifest.catalog_bytes)]
    if [(one.name, one.size) for one in catalogs] != wanted:
        raise _damaged(path, "its catalog is another than it says")
    return manifest


def _parsed(path: Path, text: bytes) -> Manifest:
    try:
        value = json.loads(text)
        digest = value.pop("sha256")
        whole = digest == _digest(value)
        known = value.get("format") in (FORMAT, SEALED_FORMAT)
        manifest = _MANIFEST.validate_python(value) if whole and known else None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, ValidationError):
        raise _damaged(path, "its manifest cannot be read") from None
    if not whole:
        raise _damaged(path, "its manifest was changed")
    if manifest is None:
        raise BackupFailed(
            f"{path.name} was made by a newer version of Homeward.",
            remedy="Restore it with the version that made it, or a newer one.",
        )
    return replace(manifest, missing=tuple(manifest.missing), outer_keys=tuple(manifest.outer_keys))


def verify(path: Path, progress: Report = lambda _: None) -> Manifest:
    """Read the whole back-up and check every digest.

    Raises :class:`BackupDamaged` and the StorageError tree.
    """
    manifest = read_manifest(path)
    done = 0
    with members(path) as found:
        for member in found:
            if member.name == MANIFEST:
                continue
            digest = hashlib.sha256()
            while chunk := member.file.read(_CHUNK):
                digest.update(chunk)
            check_digest(path, member, digest.hexdigest(), manifest)
            done += member.sha256 is not None
            progress(Progress(stage="verified", done=done, total=manifest.originals))
    return manifest


def check_digest(path: Path, member: Member, digest: str, manifest: Manifest) -> None:
    """Raises :class:`BackupDamaged` where a member's bytes are not what they were."""
    if digest != (member.sha256 or manifest.catalog_sha256):
        raise _damaged(path, f"{member.name} was changed")
