"""Everything that has to hold for Homeward to work, checked and said in words. Knows no HTTP."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from indexer import approval_ends, kept_faces
from indexer.audit import heads
from indexer.calibrations import history
from indexer.health import check
from indexer.sealing import work as sealing
from indexer.withheld import rows as withheld
from indexer.workspace import Workspace
from models.errors import HomewardError
from models.packs.registry import list_packs, rights_of
from service import __version__, profiles
from service.config import Settings
from service.findings import Finding
from service.inference import examine_inference
from service.opening import open_for
from service.packs import is_installed, name_in_use

PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python",
    "faiss-cpu",
    "faiss-gpu",
    "obstore",
    "pymilvus",
    "pillow",
    "pillow-heif",
    "sqlalchemy",
    "fastapi",
    "starlette",
    "uvicorn",
)
LOW_DISK_BYTES = 2_000_000_000


def examine(settings: Settings, *, verify_blobs: bool = False) -> Iterator[Finding]:
    """Look at everything, one finding at a time; nothing is changed."""
    yield Finding("program", True, f"Homeward {__version__} on Python {platform.python_version()}")
    yield Finding("packages", True, ", ".join(_packages()))
    yield from examine_inference(settings)
    yield _memory()
    yield _profile(settings)
    yield from _packs(settings)
    yield from _data(settings, verify_blobs)


def _profile(settings: Settings) -> Finding:
    laxer = [
        f"HOMEWARD_{one.rule.setting.upper()} is {one.value}, the profile says {one.wanted}"
        for one in profiles.states(settings.profile, settings.model_dump())
        if one.laxer
    ]
    return Finding(
        "profile",
        not laxer,
        "; ".join([settings.profile, *laxer]),
        "Unset what is laxer than the profile, or choose the profile that is meant.",
    )


def _ad_faces(workspace: Workspace) -> Finding:
    with workspace.catalog.read() as session:
        mode = kept_faces.mode_of(session, workspace)
    return Finding(
        "faces of ads",
        mode == workspace.options.ad_faces,
        f"{mode}: " + ("only candidates are kept" if mode == "transient" else "all are kept"),
        "HOMEWARD_AD_FACES says otherwise: start `homeward serve` with it once, or correct it.",
    )


def _encryption(workspace: Workspace) -> Finding:
    if workspace.catalog.keyring is None:
        text = "off: whoever can read the data folder can read photos and vectors"
        return Finding("encryption at rest", True, text)
    with workspace.catalog.read() as session:
        going = sealing.going_on(session)
    text = "everything is sealed" if going is None else f"sealing goes on: {going.part}"
    return Finding("encryption at rest", True, text)


def _heads(workspace: Workspace) -> Finding:
    remedy = "Run `homeward audit verify`, and keep the catalog as it is for inspection."
    try:
        against = heads.contradicts(workspace)
    except HomewardError as error:
        return Finding("heads of the audit log", False, error.detail, error.remedy)
    if against is None:
        return Finding("heads of the audit log", True, "the last one is in the log")
    detail = f"record {against.seq} is not in the log as it was noted"
    return Finding("heads of the audit log", False, detail, remedy)


def _withheld(workspace: Workspace) -> Finding:
    with workspace.catalog.read() as session:
        waiting, overdue = withheld.waiting(session)
    return Finding(
        "withheld pictures",
        not overdue,
        f"{waiting} wait for a decision, {overdue} of them too long",
        "Have the designated role settle them: see /withheld.",
    )


def _approvals(workspace: Workspace) -> Finding:
    with workspace.catalog.read() as session:
        without, ended, soon = approval_ends.counts(session)
    return Finding(
        "approvals",
        not (ended or (soon and workspace.options.approval_required)),
        f"{without} open cases are not searched for want of an approval, of {ended} it is over; "
        f"of {soon} it ends within {approval_ends.SOON.days} days",
        "Ask for an approval where the search is to go on: see /approvals.",
    )


def _packs(settings: Settings) -> Iterator[Finding]:
    """The licence of every pack that is installed or in use, and who accepted it."""
    try:
        infos = list_packs(settings.packs_dir)
    except HomewardError as error:
        yield Finding("face packs", False, error.detail, error.remedy)
        return
    name = name_in_use(settings)
    for info in infos:
        in_use = info.name == name
        if not in_use and not is_installed(settings, info.name):
            continue
        free = "free for police use" if info.free_for_police_use else "not free for police use"
        warning = rights_of(info.name, settings.packs_dir).warning()
        yield Finding(
            f"licence of pack {info.name}",
            warning is None or not in_use,
            f"{info.licence} ({free})" + (f". {warning}" if warning else ""),
            "Get a licence for its models from their makers, or use a pack that is free.",
        )


def _packages() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _memory() -> Finding:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Finding("machine", True, f"{os.cpu_count()} cores, {pages / 2**30:.1f} GiB of memory")


def _data(settings: Settings, verify_blobs: bool) -> Iterator[Finding]:
    folder = settings.data_dir
    if not folder.exists():
        yield _disk(folder)
        yield Finding("data folder", True, f"{folder} is not there yet; `homeward serve` makes it")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(
            "data folder",
            False,
            f"{folder} may not be read and written by this account",
            "Give the account that runs Homeward ownership of the folder.",
        )
        return
    yield Finding("data folder", True, str(folder))
    try:
        workspace = open_for(settings)
    except HomewardError as error:
        yield _disk(folder)
        yield Finding(error.code, False, error.detail, error.remedy)
        return
    try:
        calibrated = "calibrated" if workspace.calibration else "uncalibrated"
        yield Finding(
            "face pack",
            True,
            f"{workspace.pack or settings.pack}, contract {workspace.contract_id}, {calibrated}",
        )
        yield _calibration(workspace)
        yield _ad_faces(workspace)
        yield _withheld(workspace)
        yield _encryption(workspace)
        yield _heads(workspace)
        yield _approvals(workspace)
        for item in check(workspace, verify_blobs=verify_blobs).items:
            yield Finding(item.name, item.ok, item.detail, item.remedy)
    finally:
        workspace.close()


def _calibration(workspace: Workspace) -> Finding:
    """Which calibration is in force: since when, from which photos, and who keeps it."""
    calibration = workspace.calibration
    if calibration is None:
        return Finding(
            "calibration",
            False,
            "uncalibrated: scores have no rate and no band, and NO ALERTS ARE RAISED",
            "Measure the pack on labelled photos: `homeward calibrate DIR --pack NAME`.",
        )
    facts = calibration.provenance
    said = [str(facts.get("source", "source not named"))]
    counts = [
        f"{facts[name]:,} {name}"
        for name in ("photos", "identities")
        if isinstance(facts.get(name), int)
    ]
    if counts:
        said.append(", ".join(counts))
    if "measured_at" in facts:
        said.append(f"measured {facts['measured_at']}")
    if workspace.calibration_id is None:
        said.append("brought by the face pack")
    else:
        earlier = len(history(workspace.catalog, workspace.contract_id)) - 1
        said.append(f"kept here as {workspace.calibration_id} ({earlier} earlier)")
    return Finding("calibration", True, "; ".join(said))


def _disk(folder: Path) -> Finding:
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.1f} GiB free at {place}"
    if free < LOW_DISK_BYTES:
        return Finding("disk", False, text, "Free space, or move the data folder.")
    return Finding("disk", True, text)
