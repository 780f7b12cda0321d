"""From settings to an open workspace: the face pack is loaded and verified, then the catalog."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from functools import partial

from indexer import calibrations
from indexer.blobs import BlobStore
from indexer.catalog import Catalog, open_catalog
from indexer.catalog.engine import sqlite_url
from indexer.errors import CatalogAbsent
from indexer.generations.rows import Generation, active
from indexer.generations.views import Loaded, Unloaded
from indexer.object_blobs import open_blobs
from indexer.sealing import outer
from indexer.sealing.keys import attach
from indexer.sealing.outer import OuterKeys
from indexer.workspace import FaceAnalyser, Workspace, WorkspaceOptions, open_workspace
from models.calibration import Calibration
from models.contract import require_same
from models.errors import HomewardError, PackError
from models.packs.base import FacePack
from models.packs.registry import load_pack
from models.pipeline import Analyser
from service.alerts.email import emails_enabled
from service.config import Settings, SettingsInvalid
from service.gpus import BUS_ORDER

_log = logging.getLogger(__name__)

RESERVE_BYTES = 16_000_000
"""Disk set aside so that deletions can be written down when it is full."""


def open_pack(settings: Settings, name: str | None = None) -> FacePack:
    """The face pack of this name, or the one that the settings name; :func:`calibration_for` has
    its rates.

    Raises PackMissing, PackDigestMismatch and ProviderUnavailable.
    """
    if settings.provider != "cpu" or settings.vectors == "gpu":
        # HOMEWARD_GPU_DEVICE counts as nvidia-smi does, unless somebody chose an order.
        for variable, value in BUS_ORDER.items():
            os.environ.setdefault(variable, value)
    if settings.provider == "tensorrt":
        # TensorRT rounds to ten bits of mantissa otherwise, and ONNX Runtime has no option for it.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    return load_pack(name or settings.pack, packs_dir=settings.packs_dir, runtime=settings.runtime)


def generation_in_use(settings: Settings) -> Generation | None:
    """The generation in use; ``None`` in a data folder that is new. Raises the StorageError
    tree."""
    try:
        with closing(open_catalog_only(settings)) as catalog, catalog.read() as session:
            generation = active(session)
    except NoDataFolder:
        return None
    chosen = settings.pack if "pack" in settings.model_fields_set else ""
    if generation is not None and generation.pack and chosen not in ("", generation.pack):
        _log.warning(
            "HOMEWARD_PACK names %s, and this data folder uses %s: `homeward reindex --pack %s` "
            "changes that",
            chosen,
            generation.pack,
            chosen,
        )
    return generation


def pack_in_use(settings: Settings) -> str:
    """The name of the pack of the generation in use; in a data folder that is new, the one that
    the settings name. Raises the StorageError tree."""
    generation = generation_in_use(settings)
    return settings.pack if generation is None else generation.pack or settings.pack


def _load(settings: Settings, generation: Generation) -> Loaded:
    pack = open_pack(settings, generation.pack or None)
    return Loaded(Analyser(pack), pack.calibration)


def calibration_for(settings: Settings, pack: FacePack) -> Calibration | None:
    """The calibration of a pack's contract: the one measured here, else the one that it brings.

    For work without a workspace, which has its own. Makes no catalog. Raises CalibrationDamaged,
    ContractMismatch and the StorageError tree: what was measured here and cannot be used is never
    passed over for other rates.
    """
    try:
        with closing(open_catalog_only(settings)) as catalog:
            measured = calibrations.stored(catalog, pack.contract.id)
    except NoDataFolder:
        measured = None
    if measured is not None:
        return measured
    if pack.calibration is not None:
        require_same(pack.contract.id, pack.calibration.contract_id)
    return pack.calibration


def outer_keys(settings: Settings) -> OuterKeys | None:
    """The keys that data at rest is encrypted under; ``None`` where none is set.

    Raises KeysUnusable, and SettingsInvalid where a server would keep vectors unencrypted and
    nobody said that it may.
    """
    given = settings.encryption_keys.get_secret_value() if settings.encryption_keys else ""
    if settings.encryption_key_file is not None and given:
        raise SettingsInvalid(
            "HOMEWARD_ENCRYPTION_KEY_FILE and HOMEWARD_ENCRYPTION_KEYS are both set.",
            remedy="Unset one of them.",
        )
    if settings.encryption_key_file is None and not given:
        return None
    if settings.vectors == "milvus" and not settings.milvus_unencrypted:
        raise SettingsInvalid(
            "HOMEWARD_VECTORS=milvus would keep face vectors on a server that Homeward does not "
            "encrypt.",
            remedy="Encrypt the disks of that server and set HOMEWARD_MILVUS_UNENCRYPTED=true, or "
            "unset HOMEWARD_VECTORS.",
        )
    if settings.encryption_key_file is not None:
        return outer.from_file(settings.encryption_key_file)
    return outer.parsed(given)


def open_object_store(settings: Settings) -> BlobStore | None:
    """The object store of the originals, known to work; ``None`` where they lie in a folder.

    Raises the StorageError tree.
    """
    if settings.blobs_url is None:
        return None
    return open_blobs(
        settings.blobs_url,
        settings.blobs_dir,
        endpoint=settings.blobs_endpoint,
        region=settings.blobs_region,
        allow_http=settings.blobs_allow_http,
    )


def open_for(
    settings: Settings,
    *,
    restoring: bool = False,
    blobs: BlobStore | None = None,
    analysing: bool = True,
    take_over: bool = False,
) -> Workspace:
    """Load the pack and open the data folder; ``restoring``: by the restore that goes on in it.

    ``blobs``: the store of the originals where it is open already. ``analysing=False``: also where
    the pack in use cannot be had here, or makes other vectors by now; nothing can be analysed
    under the contract in use then. ``take_over``: see ``open_workspace``. Raises the errors of
    :func:`open_pack`, CalibrationDamaged, ContractMismatch and the StorageError tree.
    """
    generation = generation_in_use(settings)
    name = settings.pack if generation is None else generation.pack or settings.pack
    analyser: FaceAnalyser
    try:
        pack = open_pack(settings, name)
        analyser, calibration = Analyser(pack), pack.calibration
    except PackError:
        if analysing or generation is None:
            raise
        analyser, calibration = Unloaded(generation.contract_id, generation.dimension), None
    if not analysing and generation is not None and analyser.contract_id != generation.contract_id:
        analyser, calibration = Unloaded(generation.contract_id, generation.dimension), None
    return open_workspace(
        settings.data_dir,
        analyser,
        catalog_url=settings.catalog_url,
        calibration=calibration,
        limits=settings.decode_limits,
        options=WorkspaceOptions(
            vectors=settings.vector_options,
            max_queued_jobs=settings.max_queued_jobs,
            max_page_bytes=settings.max_page_bytes,
            alert_expected_false=settings.alert_expected_false,
            alert_budget=settings.alert_budget_per_week,
            emails=emails_enabled(settings),
            staged_hours=settings.staged_hours,
            min_free_bytes=settings.min_free_bytes,
            reserve_bytes=RESERVE_BYTES,
            ad_max_age_days=settings.ad_max_age_days,
            approval_required=settings.approval == "required",
            approval_days=settings.approval_days,
            ad_faces=settings.ad_faces,
            withheld_hours=settings.withheld_hours,
            withheld_emails=settings.withheld_addresses if emails_enabled(settings) else (),
            purge_ledger=settings.purge_ledger_path,
            audit_heads=settings.audit_heads_path,
            stamps=settings.stamp_url is not None,
        ),
        restoring=restoring,
        blobs=blobs or open_object_store(settings),
        pack=name,
        load=partial(_load, settings),
        take_over=take_over,
        keys=outer_keys(settings),
    )


class NoDataFolder(HomewardError):
    """There is no catalog in the data folder yet."""

    code = "no_data_folder"


def open_catalog_only(settings: Settings, *, turn_on: bool = False) -> Catalog:
    """The catalog without the face pack, for work that compares no faces.

    ``turn_on``: encrypt it where keys are set and it is not yet. Raises KeysUnusable. Makes no
    catalog: raises :class:`NoDataFolder` where nothing was started there yet, and the
    StorageError tree.
    """
    path = settings.data_dir / "catalog.sqlite3"
    if settings.catalog_url is None and not path.exists():
        raise NoDataFolder(
            f"There is no catalog in {settings.data_dir}.",
            remedy="Name the data folder with --data-dir, or make one with `homeward serve`.",
        )
    keys = outer_keys(settings)
    locks = settings.data_dir / "locks"
    try:
        catalog = open_catalog(
            settings.catalog_url or sqlite_url(path),
            lock_path=locks / "upgrade.lock" if locks.is_dir() else None,
            make=False,
        )
    except CatalogAbsent as absent:
        raise NoDataFolder(
            absent.detail,
            remedy="Name the data folder or the database that is in use, or start `homeward serve` "
            "once, which makes a catalog.",
        ) from None
    try:
        attach(catalog, keys, turn_on=turn_on)
    except BaseException:
        catalog.close()
        raise
    return catalog
