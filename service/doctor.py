"""Everything that has to hold for Homeward to work, checked and said in words. Knows no HTTP."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from indexer.health import check
from models.calibration import Calibration
from models.errors import HomewardError
from models.packs.registry import list_packs
from service import __version__
from service.config import Settings
from service.opening import open_for

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


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``ok`` false means that something has to be done."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(settings: Settings, *, verify_blobs: bool = False) -> Iterator[Finding]:
    """Look at everything, one finding at a time; nothing is changed."""
    yield Finding("program", True, f"Homeward {__version__} on Python {platform.python_version()}")
    yield Finding("packages", True, ", ".join(_packages()))
    yield _providers(settings)
    yield _memory()
    for info in list_packs():
        free = "free for police use" if info.free_for_police_use else "not free for police use"
        yield Finding(f"licence of pack {info.name}", True, f"{info.licence} ({free})")
    yield from _data(settings, verify_blobs)


def _packages() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _providers(settings: Settings) -> Finding:
    # Here, not above: loading the runtime is itself part of what may fail.
    try:
        import onnxruntime
    except ImportError as error:
        return Finding(
            "inference",
            False,
            f"ONNX Runtime cannot be loaded: {error}",
            "Install the extra 'cpu' or the GPU requirements.",
        )
    providers = ", ".join(onnxruntime.get_available_providers())
    wanted = "CUDAExecutionProvider" if settings.provider == "cuda" else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        return Finding(
            "inference",
            False,
            f"{wanted} was asked for; there are: {providers}",
            "Install the GPU requirements, or set HOMEWARD_PROVIDER=cpu.",
        )
    return Finding("inference", True, f"uses {wanted}; there are: {providers}")


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
            "face pack", True, f"{settings.pack}, contract {workspace.contract_id}, {calibrated}"
        )
        yield _calibration(workspace.calibration)
        for item in check(workspace, verify_blobs=verify_blobs).items:
            yield Finding(item.name, item.ok, item.detail, item.remedy)
    finally:
        workspace.close()


def _calibration(calibration: Calibration | None) -> Finding:
    if calibration is None:
        return Finding(
            "calibration",
            False,
            "uncalibrated: scores have no rate and no band, and NO ALERTS ARE RAISED",
            "Measure the pack on labelled photos: `homeward calibrate DIR --pack NAME`.",
        )
    facts = calibration.provenance
    when = f", measured {facts['measured_at']}" if "measured_at" in facts else ""
    return Finding("calibration", True, f"{facts.get('source', 'source not named')}{when}")


def _disk(folder: Path) -> Finding:
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.1f} GiB free at {place}"
    if free < LOW_DISK_BYTES:
        return Finding("disk", False, text, "Free space, or move the data folder.")
    return Finding("disk", True, text)
