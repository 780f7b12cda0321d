"""Calibrations that were measured here, kept in the data folder by embedding contract.

One file for each contract: the table as ``models.calibration`` writes it, with the SHA-256 of its
content beside it. The one that it replaced stays as ``.1``. A file that is there and cannot be used
is an error, never passed over: every rate, band and alert hangs on it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from indexer.errors import CalibrationDamaged
from indexer.files import file_lock, make_folder, storage_errors, write_atomic
from models.calibration import Calibration
from models.errors import ContractMismatch, PackError

PREVIOUS = ".1"
"""What is added to the name of the calibration that was replaced."""

_MOST_BYTES = 50_000_000


def path_of(folder: Path, contract_id: str) -> Path:
    """Where the calibration of a contract lies. Raises ``ValueError`` for what is no contract."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,199}", contract_id, flags=re.ASCII):
        raise ValueError(f"{contract_id!r} is no name of a contract")
    return folder / f"{contract_id}.json"


def keep(folder: Path, calibration: Calibration) -> Path:
    """Store ``calibration``, whole or not at all; the one before stays as ``.1``.

    Returns where it lies. Raises the StorageError tree.
    """
    path = path_of(folder, calibration.contract_id)
    values = calibration.to_json()
    text = json.dumps({"sha256": _digest(values), **values}, indent=1) + "\n"
    make_folder(folder)
    with file_lock(folder / "lock"):
        with storage_errors(str(path)):
            before = path.read_bytes() if path.exists() else None
        if before is not None:
            write_atomic(path.with_name(path.name + PREVIOUS), [before])
        write_atomic(path, [text.encode()])
    return path


def stored(folder: Path, contract_id: str) -> Calibration | None:
    """The calibration that was stored for a contract; ``None`` where there is none.

    Raises :class:`CalibrationDamaged`, ``ContractMismatch`` and the StorageError tree.
    """
    path = path_of(folder, contract_id)
    with storage_errors(str(path)):
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return None
    calibration = _read(path, data)
    if calibration.contract_id != contract_id:
        raise ContractMismatch(
            f"{path} was measured under the contract {calibration.contract_id}, not {contract_id}.",
            remedy="Move the file away, or measure again with `homeward calibrate`.",
        )
    return calibration


def _read(path: Path, data: bytes) -> Calibration:
    if len(data) > _MOST_BYTES:
        raise CalibrationDamaged(path, "it is far too large")
    try:
        values = json.loads(data)
        if not isinstance(values, dict):
            raise CalibrationDamaged(path, "it holds no table")
        digest = values.pop("sha256", None)
        if digest != _digest(values):
            raise CalibrationDamaged(path, "its content is not what was written")
        return Calibration.from_json(values)
    except (ValueError, RecursionError):
        raise CalibrationDamaged(path, "it is no whole JSON text") from None
    except PackError as error:
        raise CalibrationDamaged(path, error.detail) from error


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
