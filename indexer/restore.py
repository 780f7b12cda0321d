"""Restoring a back-up into an empty data folder, and forgetting again what was forgotten since.

While that goes on a file named ``restoring`` lies in the folder, and nobody else can open it: what
the back-up brings back must not be searched before every deletion is repeated.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import delete, func, select, update

from indexer import audit, cases, forget, ledger, removals
from indexer.audit import heads as audit_heads
from indexer.audit.chain import newest
from indexer.audit.heads import Head
from indexer.backup import MANIFEST, Manifest, check_digest, members, read_manifest
from indexer.batches import chunks
from indexer.blobs import BlobStore, LocalBlobStore
from indexer.catalog import Catalog, open_catalog
from indexer.catalog.dump import put_back, require_empty
from indexer.catalog.engine import parsed, sqlite_url
from indexer.catalog.tables import (
    Ad,
    ApiKey,
    Case,
    Job,
    Photo,
    Purge,
    RunnerRow,
    Webhook,
    WebSession,
)
from indexer.errors import BackupFailed, KeysUnusable, LedgerDamaged, StorageFull
from indexer.files import TEMP_SUFFIX, fsync_folder, make_folder, storage_errors
from indexer.galleries.shelf import forget_shelves
from indexer.queue import DELIVERIES
from indexer.records import Progress, PurgeRecord
from indexer.sealing.keys import attach
from indexer.sealing.outer import OuterKeys
from indexer.times import rfc3339
from indexer.withheld.settling import restored
from indexer.workspace import RESTORING, Workspace
from models.errors import HomewardError

_log = logging.getLogger(__name__)

Report = Callable[[Progress], None]

ACTOR = "restore"
CACHES = frozenset({"packs", "lost+found"})
"""What may lie in an empty data folder: caches, and what a file system makes by itself."""

_CHUNK = 1 << 20


@dataclass(slots=True)
class Reapplied:
    """What the file of purges asked for: how many of each kind were forgotten again, which cases
    were closed again (ids), and entries of a kind that this version does not know."""

    forgotten: Counter[str] = field(default_factory=Counter)
    closed_cases: list[str] = field(default_factory=list)
    unknown: list[PurgeRecord] = field(default_factory=list)


def require_ledger(path: Path, manifest: Manifest) -> ledger.Ledger:
    """What the file of purges lists, checked against the back-up.

    Raises :class:`LedgerDamaged` where lines were changed, or where the last purge that the
    back-up knows is not in it: it is cut, or of another installation.
    """
    found = ledger.read(path)
    if manifest.last_purge is not None and manifest.last_purge not in {
        purge.purge_id for purge in found.purges
    }:
        raise LedgerDamaged(
            f"{path.name} does not list the last purge that the back-up knows: it was cut, or is "
            "of another installation.",
            remedy="Use the newest copy of the file of purges.",
        )
    return found


def restore_files(
    path: Path,
    data_dir: Path,
    *,
    catalog_url: str | None = None,
    blobs: BlobStore | None = None,
    pg_dump: str | None = None,
    head: Head | None = None,
    heads: Path | None = None,
    keys: OuterKeys | None = None,
    progress: Report = lambda _: None,
) -> Manifest:
    """Put catalog and originals back, every digest checked, and set right what was going on.

    ``head``: the last head of the audit log that is known: the records between the back-up and it
    are given up, which the first new record says. ``heads``: the folder's own file in which
    ``head`` and that record are noted at once, so that `homeward audit verify` believes it.
    ``blobs``: an empty store outside of the folder that takes the originals. Nobody can open the
    folder before :func:`finished`. Where it fails, folder and store are empty again;
    but where a database outside of it may be filled by then, it stays closed.
    ``keys``: the outer keys, without which a back-up of an encrypted folder is not restored; what
    a plain one brings is sealed later on where there are any (``indexer.sealing.work``).
    Raises :class:`BackupDamaged`, :class:`BackupFailed`, :class:`KeysUnusable`, the StorageError
    tree.
    """
    manifest = read_manifest(path)
    _require_keys(manifest, keys)
    url = catalog_url or sqlite_url(data_dir / "catalog.sqlite3")
    _require_empty_folder(data_dir)
    _require_empty_store(blobs)
    require_empty(manifest.catalog_kind, url, pg_dump)
    make_folder(data_dir)
    _require_free(data_dir, manifest, originals=blobs is None)
    before = {entry.name for entry in data_dir.iterdir()}
    outside = False
    put: list[str] = []
    try:
        with storage_errors(str(data_dir)):
            os.close(os.open(data_dir / RESTORING, os.O_CREAT | os.O_EXCL, 0o600))
            fsync_folder(data_dir)
        make_folder(data_dir / "locks")
        copy = data_dir / f".catalog{TEMP_SUFFIX}"
        store = blobs or LocalBlobStore(data_dir / "blobs")
        _extract(path, manifest, store, put, copy, progress)
        outside = not _lies_in(url, data_dir)
        put_back(manifest.catalog_kind, copy, url, pg_dump)
        copy.unlink(missing_ok=True)
        catalog = open_catalog(url, lock_path=data_dir / "locks" / "upgrade.lock")
        try:
            attach(catalog, keys, turn_on=True)
            _settle(catalog, manifest, head)
            if heads is not None:
                _note(catalog, heads, head)
        finally:
            catalog.close()
    except BaseException as error:
        if blobs is not None:
            _take_back(blobs, put)
        _clear(data_dir, before | {RESTORING} if outside else before)
        if outside and isinstance(error, HomewardError):
            raise BackupFailed(
                f"The restore broke off: {error.detail} The database outside of {data_dir} may be "
                "filled by now, also with what was deleted after the back-up.",
                remedy=f"Drop that database and make an empty one, empty {data_dir} and restore "
                f"again. {error.remedy}",
            ) from error
        raise
    return manifest


def _require_keys(manifest: Manifest, keys: OuterKeys | None) -> None:
    missing = set(manifest.outer_keys) - (set(keys.keys) if keys is not None else set())
    if missing:
        raise KeysUnusable(
            f"The back-up is encrypted under keys that are not set: {', '.join(sorted(missing))}.",
            remedy="Add them to HOMEWARD_ENCRYPTION_KEY_FILE or HOMEWARD_ENCRYPTION_KEYS. Without "
            "them nothing in the back-up can be read, by nobody and not by any means.",
        )


def _lies_in(url: str, data_dir: Path) -> bool:
    """Whether the catalog is a file in the folder, and goes with it."""
    parts = parsed(url)
    file = Path(parts.database or "").resolve()
    return parts.get_backend_name() == "sqlite" and file.is_relative_to(data_dir.resolve())


def _require_empty_folder(data_dir: Path) -> None:
    with storage_errors(str(data_dir)):
        there = (
            {entry.name for entry in data_dir.iterdir()} - CACHES if data_dir.exists() else set()
        )
    if there:
        raise BackupFailed(
            f"{data_dir} is not empty.",
            remedy="Restore into an empty folder; nothing that is there is ever overwritten.",
        )


def _require_empty_store(blobs: BlobStore | None) -> None:
    # Its originals would be taken for remains of uploads, because the restored catalog does not
    # name them, and be removed: they may be those of the installation that runs.
    if blobs is not None and not blobs.is_empty():
        raise BackupFailed(
            "There are originals already where HOMEWARD_BLOBS_URL points.",
            remedy="Name an empty prefix or bucket; nothing that is there is ever overwritten.",
        )


def _take_back(blobs: BlobStore, put: Sequence[str]) -> None:
    for name in put:
        try:
            blobs.discard(name)
        except HomewardError:
            _log.exception("originals of the restore that broke off are left in the object store")
            return


def _require_free(data_dir: Path, manifest: Manifest, *, originals: bool) -> None:
    wanted = 2 * manifest.catalog_bytes
    if originals:
        wanted += manifest.originals_bytes + 4096 * manifest.originals
    with storage_errors(str(data_dir)):
        free = shutil.disk_usage(data_dir).free
    if free < wanted:
        full = StorageFull(str(data_dir))
        full.detail = (
            f"{wanted / 1e9:.2f} GB are needed in {data_dir}, {free / 1e9:.2f} GB are free."
        )
        raise full


def _extract(
    path: Path,
    manifest: Manifest,
    blobs: BlobStore,
    put: list[str],
    copy: Path,
    progress: Report,
) -> None:
    """Put the originals into the store, each noted in ``put`` first; the catalog at ``copy``."""
    with members(path) as found:
        for member in found:
            if member.name == MANIFEST:
                continue
            if member.sha256 is None:
                digest = hashlib.sha256()
                handle = os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(handle, "wb") as file:
                    while chunk := member.file.read(_CHUNK):
                        digest.update(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                check_digest(path, member, digest.hexdigest(), manifest)
                continue
            data = member.file.read()
            check_digest(path, member, hashlib.sha256(data).hexdigest(), manifest)
            put.append(member.sealed or member.sha256)
            if member.sealed is None:
                blobs.put(data)
            else:
                blobs.put_sealed(member.sealed, data)
            progress(Progress(stage="originals", done=len(put), total=manifest.originals))


def _settle(catalog: Catalog, manifest: Manifest, head: Head | None) -> None:
    """Jobs that were running wait again, as if not tried; browsers have to sign in anew. What was
    to be sent then is not sent: most of it was, long ago."""
    with catalog.write() as session:
        audit.record(
            session,
            "backup.restore",
            details={
                "made_at": rfc3339(manifest.created_at),
                "last_known_seq": None if head is None else head.seq,
                "last_known_hash": None if head is None else head.hash,
            },
        )
        session.execute(delete(WebSession))
        session.execute(delete(RunnerRow))
        forget_shelves(session)
        session.execute(delete(Job).where(Job.kind.in_(DELIVERIES)))
        session.execute(
            update(Job)
            .where(Job.state == "running")
            .values(state="queued", runner=None, attempts=Job.attempts - 1)
        )


def _note(catalog: Catalog, path: Path, known: Head | None) -> None:
    with catalog.read() as session:
        seq, digest = newest(session)
    if known is not None and known not in audit_heads.read(path):
        audit_heads.append(path, known.seq, known.hash, known.at)
    audit_heads.append(path, seq, digest)


def _clear(data_dir: Path, before: set[str]) -> None:
    """Take away what was put into the folder, the mark last."""
    names = sorted({entry.name for entry in data_dir.iterdir()} - before, key=RESTORING.__eq__)
    for name in names:
        entry = data_dir / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.unlink()


def reapply(
    ws: Workspace, purges: Sequence[PurgeRecord], progress: Report = lambda _: None
) -> Reapplied:
    """Forget again, oldest first, what the purges say and the restored catalog does not show as
    done; the entries themselves are kept, for the next restore. A legal hold that came back with
    the back-up does not count: it was lifted before.
    """
    result = Reapplied()
    fresh = _not_in_catalog(ws, purges)
    for at, purge in enumerate(fresh, start=1):
        _repeat(ws, purge, result)
        with ws.catalog.write() as session:
            session.merge(
                Purge(
                    purge_id=purge.purge_id,
                    at=purge.at,
                    actor=purge.actor,
                    kind=purge.kind,
                    subject_id=purge.subject_id,
                    counts=dict(purge.counts),
                )
            )
        progress(Progress(stage="purges", done=at, total=len(fresh)))
    return result


def _not_in_catalog(ws: Workspace, purges: Sequence[PurgeRecord]) -> list[PurgeRecord]:
    done: set[str] = set()
    with ws.catalog.read() as session:
        for some in chunks(purge.purge_id for purge in purges):
            done.update(session.scalars(select(Purge.purge_id).where(Purge.purge_id.in_(some))))
    fresh = (purge for purge in purges if purge.purge_id not in done)
    return sorted(fresh, key=lambda purge: purge.purge_id)


def _repeat(ws: Workspace, purge: PurgeRecord, result: Reapplied) -> None:
    subject = purge.subject_id
    with ws.catalog.read() as session:
        ad, case = session.get(Ad, subject), session.get(Case, subject)
        photo = session.get(Photo, subject)
    if purge.kind == "ad":
        if ad is not None:
            forget.forget_ad(ws, subject, actor=ACTOR, held=False)
            result.forgotten["ad"] += 1
    elif purge.kind == "case":
        if case is not None:
            forget.forget_case(ws, subject, actor=ACTOR, held=False)
            result.forgotten["case"] += 1
    elif purge.kind == "photo":
        if photo is not None:
            forget.forget_photo(ws, photo.case_id, subject, actor=ACTOR, held=False)
            result.forgotten["photo"] += 1
    elif purge.kind == "case_withdrawn":
        if case is not None and case.status == "open":
            cases.update_case(ws, subject, {"status": "closed"}, actor=ACTOR)
            result.closed_cases.append(subject)
    elif purge.kind == "ad_faces":
        pass  # Whatever is no candidate goes again once the folder is opened in that mode.
    elif restored(ws, purge.kind, subject, purge.actor, purge.at):
        result.forgotten["picture"] += 1
    else:
        result.unknown.append(purge)


def in_force(ws: Workspace) -> tuple[int, int]:
    """How many webhooks and how many keys came back with the back-up and are in force now."""
    with ws.catalog.read() as session:
        webhooks = session.scalar(select(func.count()).select_from(Webhook)) or 0
        keys = session.scalar(select(func.count()).where(ApiKey.revoked_at.is_(None))) or 0
    return webhooks, keys


def finished(ws: Workspace) -> None:
    """Clear what the deletions left, list them, and let others open the folder.

    They are listed in the folder. Whoever opens it lists what was repeated here once more, in the
    file that is theirs to use: the next back-up has to find it there.

    Raises the StorageError tree; then the folder stays closed.
    """
    ws.maintain()
    if not removals.finish(ws):
        raise BackupFailed(
            "Remains of deletions could not be cleared: something else reads the catalog.",
            remedy="Stop whatever has the folder open, empty it and restore again.",
        )
    with ws.catalog.write() as session:
        session.execute(update(Purge).where(Purge.actor == ACTOR).values(written_at=None))
    with storage_errors(str(ws.data_dir)):
        (ws.data_dir / RESTORING).unlink()
        fsync_folder(ws.data_dir)
