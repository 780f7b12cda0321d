"""One open data folder: catalog, originals, analyser and the two galleries."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from indexer import (
    approvals,
    calibrations,
    idempotency,
    kept_faces,
    purges,
    quarantine,
    queue,
    removals,
    retention,
    room,
    staging,
)
from indexer.audit import heads, stamps
from indexer.blobs import BlobStore, LocalBlobStore
from indexer.catalog import Catalog, open_catalog
from indexer.catalog.engine import parsed, sqlite_url
from indexer.errors import IndexAway, RestoreUnfinished
from indexer.files import make_folder, storage_errors, try_lock
from indexer.galleries import Gallery
from indexer.galleries.opening import LOCAL, VectorOptions, open_gallery
from indexer.generations import switching
from indexer.generations.views import Load, Views, load_nothing
from indexer.heart import Heart
from indexer.ids import new_id
from indexer.records import GalleryName
from indexer.sealing import work
from indexer.sealing.keyring import Keyring
from indexer.sealing.keys import attach
from indexer.sealing.outer import OuterKeys
from models.calibration import Calibration
from models.contract import require_same
from models.decode import DEFAULT_LIMITS, DecodeLimits
from models.types import Face, Landmarks, RgbImage

if TYPE_CHECKING:
    from indexer.withheld.checks import ListedPdq

_log = logging.getLogger(__name__)

RESTORING = "restoring"
"""The file that closes a data folder while a back-up is restored into it."""


class FaceAnalyser(Protocol):
    """What the indexer needs of ``models.pipeline.Analyser``; shared by threads."""

    @property
    def contract_id(self) -> str:
        """The embedding contract of every vector it makes."""
        ...

    @property
    def dimension(self) -> int:
        """Components of each vector."""
        ...

    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        """The faces of each image, largest first, then left to right."""
        ...

    def crop(self, image: RgbImage, landmarks: Landmarks, size: int = 224) -> RgbImage:
        """The face upright in a square crop: uint8 RGB (size, size, 3)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceOptions:
    """Bounds and sizes; the service sets them from its settings.

    ``min_face_px``: shorter side of the smallest box that may be enrolled or searched with.
    ``batch_pixels``: pixels decoded at once, which bounds memory to about four times as many
    bytes. ``alert_expected_false`` and ``alert_budget`` hold for cases that have none of their
    own; ``emails``: whether e-mails can be sent. ``min_free_bytes``: free disk below which
    nothing new is taken in; ``reserve_bytes``: disk set aside so that deletions can be written
    down when it is full. ``ad_max_age_days``: ads that were not received for so long are
    forgotten, 0 for never; ``ad_faces``: whether faces of ads are kept that are no candidates
    (``indexer.transient``). ``withheld_hours``: how long the designated role has for a withheld
    picture; ``withheld_emails``: where it is told. ``purge_ledger``: file outside of the catalog
    that lists deletions; ``audit_heads``: file that heads of the audit log are noted in;
    ``stamps``: whether a time-stamping authority is asked for stamps over them.
    ``approval_required``: new cases wait for an approval before they are
    searched; ``approval_days``: how long one holds where whoever gave it did not say.
    """

    min_face_px: float = 20.0
    batch_size: int = 16
    batch_pixels: int = 64_000_000
    decode_threads: int = 2
    vectors: VectorOptions = LOCAL
    max_images_per_ad: int = 20
    max_pages_per_ad: int = 3
    max_page_bytes: int = 25_000_000
    max_queued_jobs: int = 10_000
    alert_expected_false: float = 1.0
    alert_budget: int = 20
    emails: bool = False
    staged_hours: float = 24.0
    min_free_bytes: int = 0
    reserve_bytes: int = 0
    ad_max_age_days: int = 0
    ad_faces: Literal["standard", "transient"] = "standard"
    withheld_hours: float = 24.0
    withheld_emails: tuple[str, ...] = ()
    purge_ledger: Path | None = None
    audit_heads: Path | None = None
    stamps: bool = False
    approval_required: bool = False
    approval_days: int = 90


class Workspace:
    """What every function of the indexer works on. Made by :func:`open_workspace`.

    Safe to share between threads; several processes may have the same folder open.
    """

    def __init__(
        self,
        data_dir: Path,
        catalog: Catalog,
        blobs: BlobStore,
        analyser: FaceAnalyser,
        calibration: Calibration | None,
        limits: DecodeLimits,
        options: WorkspaceOptions,
        pack: str = "",
        load: Load = load_nothing,
        calibration_id: str | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.catalog = catalog
        # What everything at rest is sealed with; none where encryption is off.
        self.keyring: Keyring | None = catalog.keyring
        self.blobs = blobs
        self.analyser = analyser
        self.calibration = calibration
        # Of the row in the catalog; ``None``: the pack brought it, or there is none.
        self.calibration_id = calibration_id
        self.pack = pack
        self.limits = limits
        self.options = options
        self.index_dir = data_dir / "index"
        self.locks_dir = data_dir / "locks"
        # Whoever finds this lock free knows that the jobs of this runner are nobody's.
        self.runner_id = new_id()
        self._runner_lock = try_lock(queue.runner_lock_path(self.locks_dir, self.runner_id))
        # Jobs of this runner that broke off while the catalog could not be written.
        self.stranded: set[str] = set()
        # Jobs that a thread of this process holds. One that is said to run here and is not among
        # them has slipped through: a claim whose answer was lost, say.
        self.in_hand: set[str] = set()
        # Beats of other runners: the last one seen, and when, by this process's own clock.
        self.beats_seen: dict[str, tuple[int, float]] = {}
        self.heads_noted = heads.Noted()
        self.heart = Heart(lambda: queue.beat(self), queue.BEAT_S)
        self.room = room.Room()
        # Of the lists of hashes, as long as they do not change.
        self.listed_pdq: ListedPdq | None = None
        # Faces of ads that were compared, by contract, and when that was counted.
        self.compared_faces: dict[str, tuple[int, float]] = {}
        self.looked_for_unwanted = -math.inf  # by time.monotonic
        self._maintenance = threading.Lock()
        self.cases = self._gallery("cases")
        self.ads = self._gallery("ads")
        self.views = Views(self, load)

    def _gallery(self, name: GalleryName) -> Gallery:
        return open_gallery(
            self.catalog,
            name,
            self.contract_id,
            self.analyser.dimension,
            self.index_dir,
            self.options.vectors,
        )

    def beside(self, analyser: FaceAnalyser, pack: str) -> Workspace:
        """The same catalog and originals under another contract, with galleries of its own."""
        view = copy(self)
        view.analyser, view.pack = analyser, pack
        view.calibration = view.calibration_id = None
        view.cases = view._gallery("cases")
        try:
            view.ads = view._gallery("ads")
        except BaseException:
            view.cases.close()
            raise
        return view

    def calibrated(self, calibration: Calibration, calibration_id: str) -> Workspace:
        """The same view with another calibration. Whoever works with this one ends with the rates
        that it began with."""
        view = copy(self)
        view.calibration, view.calibration_id = calibration, calibration_id
        return view

    @property
    def contract_id(self) -> str:
        """The embedding contract of this view."""
        return self.analyser.contract_id

    def gallery(self, name: GalleryName) -> Gallery:
        """The view of one of the two galleries."""
        return self.cases if name == "cases" else self.ads

    def maintain(self) -> None:
        """Finish what was begun: remains of deletions, jobs of dead processes, index files; forget
        what is over its age.

        Call it every few seconds while serving (``indexer.runner.Runner`` does). A failure is
        logged and tried again at the next call.
        """
        if not self._maintenance.acquire(blocking=False):
            return
        try:
            # One that fails does not keep the others from being done.
            for upkeep in (
                queue.recover,
                approvals.keep,
                _discard_abandoned,
                staging.expire,
                _expire_quarantine,
                idempotency.expire,
                retention.forget_aged,
                kept_faces.tidy_if_left,
                _note_overdue,
                removals.finish,
                removals.sweep_if_due,
                purges.write_ledger,
                heads.keep,
                stamps.keep_asking,
                room.keep_reserve,
                _keep_generations,
                _keep_galleries,
                work.keep,
            ):
                try:
                    upkeep(self)
                except Exception:  # noqa: BLE001 - tried again at the next call
                    _log.exception("upkeep failed; it is tried again")
        finally:
            self._maintenance.release()

    def close(self) -> None:
        """Save the index files if that is worth while, and let go of everything."""
        try:
            self.views.close()
        finally:
            self._stop_beating()
            self._note_head()
            if self._runner_lock is not None:
                queue.runner_lock_path(self.locks_dir, self.runner_id).unlink(missing_ok=True)
                self._runner_lock.close()
                self._runner_lock = None
            self.catalog.close()

    def reopen_galleries(self) -> None:
        """Open the galleries of this view anew: what they show was dropped, and is built again."""
        before = self.cases, self.ads
        self.cases, self.ads = self._gallery("cases"), self._gallery("ads")
        for gallery in before:
            gallery.close()

    def close_galleries(self) -> None:
        """Save the index files of this view if that is worth while, and let go of them."""
        for gallery in (self.cases, self.ads):
            try:
                gallery.close()
            except Exception:  # noqa: BLE001 - the index is only a cache
                _log.exception("an index file could not be saved; it is rebuilt when opened again")

    def _stop_beating(self) -> None:
        self.heart.stop()
        if self.heart.started:
            try:
                queue.resign(self)
            except Exception:  # noqa: BLE001 - the free lock tells the others as well
                _log.exception("this process could not sign off")

    def _note_head(self) -> None:
        try:
            heads.keep(self, now=True)
        except Exception:  # noqa: BLE001 - the next start notes it
            _log.exception("the head of the audit log could not be noted")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_workspace(
    data_dir: Path,
    analyser: FaceAnalyser,
    *,
    catalog_url: str | None = None,
    calibration: Calibration | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
    options: WorkspaceOptions | None = None,
    restoring: bool = False,
    blobs: BlobStore | None = None,
    pack: str = "",
    load: Load = load_nothing,
    take_over: bool = False,
    keys: OuterKeys | None = None,
) -> Workspace:
    """Open ``data_dir``, making it if it is not there, and bring everything up to date.

    Upgrades the catalog, loads or rebuilds the galleries, takes up the jobs and deletions that
    an earlier process left. ``restoring``: by the restore that goes on in it, which lets no ad age
    and lists purges in this folder alone, whatever the options say. ``blobs``: where the
    originals lie, if not in the folder. ``pack``: the name of the face pack that made the
    analyser, whose contract has to be the one in use (``generations.rows.active``). ``take_over``:
    where it is another one, that is in use from now on, and what is stored has to be read again.
    ``load`` loads the packs of other generations. ``calibration``: the one that
    the pack brings, for as long as none was measured here (``indexer.calibrations``). ``keys``:
    the outer keys of an encrypted folder; a new one is encrypted where there are any.

    Raises :class:`KeysUnusable` where they do not fit, :class:`StorageDenied`,
    :class:`StorageFull`, :class:`CatalogUnusable`, :class:`RestoreUnfinished` (unless
    ``restoring``), :class:`CalibrationDamaged`, and ``ContractMismatch`` for a calibration of
    another contract, or an analyser that does not make the vectors in use.
    """
    if calibration is not None:
        require_same(analyser.contract_id, calibration.contract_id)
    options = options or WorkspaceOptions()
    if restoring:
        # A drill must not write into what belongs to what runs: its file of purges, its server.
        options = replace(
            options,
            ad_max_age_days=0,
            purge_ledger=data_dir / "purges.jsonl",
            audit_heads=None,
            stamps=False,
            vectors=LOCAL,
        )
    catalog = make_catalog(data_dir, catalog_url, restoring=restoring, keys=keys)
    try:
        blobs = blobs or LocalBlobStore(data_dir / "blobs")
        if catalog.keyring is not None:
            blobs.seal_with(catalog.keyring)
        blobs.sweep()
        switching.settle(
            catalog, analyser.contract_id, pack, analyser.dimension, take_over=take_over
        )
        with catalog.read() as session:
            kept = calibrations.newest(session, analyser.contract_id)
        ws = Workspace(
            data_dir,
            catalog,
            blobs,
            analyser,
            calibration if kept is None else kept.calibration,
            limits,
            options,
            pack,
            load,
            None if kept is None else kept.entry.calibration_id,
        )
    except BaseException:
        catalog.close()
        raise
    ws.maintain()
    return ws


def make_catalog(
    data_dir: Path,
    catalog_url: str | None = None,
    *,
    restoring: bool = False,
    keys: OuterKeys | None = None,
) -> Catalog:
    """The open catalog of a data folder, made with the folder where there is none, and upgraded.

    Brings no generation into use. Raises as :func:`open_workspace` does of storage.
    """
    if not restoring:
        require_restored(data_dir)
    for folder in (data_dir, data_dir / "index", data_dir / "locks"):
        make_folder(folder)
    _probe_writable(data_dir)
    url = catalog_url or sqlite_url(data_dir / "catalog.sqlite3")
    if parsed(url).get_backend_name() == "sqlite":
        _private(data_dir / "catalog.sqlite3", url)
    catalog = open_catalog(url, lock_path=data_dir / "locks" / "upgrade.lock")
    try:
        attach(catalog, keys)
    except BaseException:
        catalog.close()
        raise
    return catalog


def require_restored(data_dir: Path) -> None:
    """Raises :class:`RestoreUnfinished` where a restore into the folder goes on or broke off."""
    if (data_dir / RESTORING).exists():
        raise RestoreUnfinished(
            f"A back-up is being restored into {data_dir}, or that broke off: what was deleted "
            "may be there again.",
            remedy="Let it end; if it broke off, empty the folder, drop the database where it lies "
            "elsewhere, and restore again.",
        )


def _discard_abandoned(ws: Workspace) -> None:
    ws.blobs.discard_abandoned()


def _expire_quarantine(ws: Workspace) -> None:
    quarantine.expire(ws.catalog)


def _note_overdue(ws: Workspace) -> None:
    from indexer.withheld.rows import note_overdue

    note_overdue(ws)


def _keep_generations(ws: Workspace) -> None:
    switching.tidy(ws)
    ws.views.keep()


def _keep_galleries(ws: Workspace) -> None:
    for view in ws.views.opened():
        for gallery in (view.cases, view.ads):
            try:
                gallery.keep()
            except IndexAway as away:
                _log.warning("the gallery of %s waits: %s", gallery.name, away.detail)


def _probe_writable(data_dir: Path) -> None:
    # Said at the start and with a remedy, rather than by the first photo that cannot be kept.
    lock = try_lock(data_dir / "locks" / "writable.lock")
    if lock is not None:
        lock.close()


def _private(path: Path, url: str) -> None:
    """Make the catalog file readable to this account alone, before anything is in it."""
    if parsed(url).database == str(path.resolve()) and not path.exists():
        with storage_errors(str(path)):
            path.touch(mode=0o600)


__all__ = [
    "FaceAnalyser",
    "Workspace",
    "WorkspaceOptions",
    "make_catalog",
    "open_workspace",
]
