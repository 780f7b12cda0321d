"""Calibrations kept in the data folder: whole or not at all, and never passed over."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from indexer.calibrations import keep, path_of, stored
from indexer.errors import CalibrationDamaged, StorageDenied, StorageError
from models.calibration import Calibration, Curve
from models.errors import ContractMismatch

CONTRACT = "small-0123456789ab"


def made(upper: float = 0.2, contract_id: str = CONTRACT) -> Calibration:
    score = np.array([0.25, 0.5, 0.75])
    curve = Curve(
        score, np.array([0.1, 0.01, 0.0]), np.array([upper, 0.02, 0.001]), np.array([0.05, 0, 0])
    )
    return Calibration(contract_id, {1: curve}, {"source": "ä", "counts": {"1": [1, 2]}})


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "calibrations"
    assert stored(folder, CONTRACT) is None
    path = keep(folder, made())
    assert path == folder / f"{CONTRACT}.json"
    found = stored(folder, CONTRACT)
    assert found is not None
    assert found.to_json() == made().to_json()
    assert stored(folder, "small-ffffffffffff") is None
    # It reads as a plain table too, so that it can be shipped with a pack.
    assert Calibration.load(path).to_json() == made().to_json()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_one_before_stays(tmp_path: Path) -> None:
    path = keep(tmp_path, made(0.2))
    keep(tmp_path, made(0.3))
    keep(tmp_path, made(0.4))
    now = stored(tmp_path, CONTRACT)
    assert now is not None
    assert now.curves[1].upper[0] == 0.4
    assert Calibration.load(path.with_name(path.name + ".1")).curves[1].upper[0] == 0.3
    assert {p.name for p in tmp_path.iterdir()} == {path.name, f"{path.name}.1", "lock"}


def test_two_at_once_lose_neither(tmp_path: Path) -> None:
    writers = [threading.Thread(target=keep, args=(tmp_path, made(u))) for u in (0.3, 0.4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    path = path_of(tmp_path, CONTRACT)
    both = {
        Calibration.load(p).curves[1].upper[0] for p in (path, path.with_name(path.name + ".1"))
    }
    assert both == {0.3, 0.4}


def damaged(path: Path, way: str) -> None:
    values = json.loads(path.read_text())
    if way == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif way == "empty":
        path.write_bytes(b"")
    elif way == "list":
        path.write_text("[1]")
    elif way == "deep":
        path.write_text("[" * 100_000)
    elif way == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    elif way == "changed":
        values["curves"]["1"]["upper"][0] = 0.21
        path.write_text(json.dumps(values))
    elif way == "no digest":
        del values["sha256"]
        path.write_text(json.dumps(values))


@pytest.mark.parametrize("way", ["cut", "empty", "list", "deep", "bytes", "changed", "no digest"])
def test_damage_is_an_error_with_a_way_out(tmp_path: Path, way: str) -> None:
    path = keep(tmp_path, made())
    damaged(path, way)
    with pytest.raises(CalibrationDamaged) as caught:
        stored(tmp_path, CONTRACT)
    assert caught.value.code == "calibration_damaged"
    assert str(path) in caught.value.detail
    assert "homeward calibrate" in caught.value.remedy


def test_a_table_of_another_contract_is_not_taken(tmp_path: Path) -> None:
    other = "small-ffffffffffff"
    os.rename(keep(tmp_path, made()), path_of(tmp_path, other))
    with pytest.raises(ContractMismatch, match=CONTRACT):
        stored(tmp_path, other)


def test_a_contract_is_no_path(tmp_path: Path) -> None:
    for name in ("../secrets", "a/b", "", ".hidden", "a\x00b", "a" * 300):
        with pytest.raises(ValueError, match="no name of a contract"):
            path_of(tmp_path, name)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path_of(tmp_path, CONTRACT).mkdir()
    with pytest.raises(StorageError):
        stored(tmp_path, CONTRACT)
    if os.geteuid():  # the administrator may read everything
        path = keep(tmp_path / "closed", made())
        path.chmod(0)
        with pytest.raises(StorageDenied):
            stored(tmp_path / "closed", CONTRACT)
