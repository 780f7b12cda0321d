"""Nothing acknowledged is lost and nothing is done twice, whenever a process is killed.

A few rounds here, in which each of the processes is killed once; ``make soak`` runs many more, with
all that can be sent.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models.packs.base import FacePack
from tests.endurance.crash import KINDS, run_rounds

ROUNDS = int(os.environ.get("CRASH_ROUNDS", KINDS))
SEED = int(os.environ.get("CRASH_SEED", "20261124"))


@pytest.mark.slow
@pytest.mark.timeout(60 * (4 + ROUNDS))
def test_killed_at_random_points(
    tmp_path: Path, catalog_url: str | None, pack: FacePack, pack_cache: Path
) -> None:
    assert pack.calibration is not None
    found = run_rounds(
        tmp_path / "data",
        pack_cache,
        pack.calibration,
        pack.contract.id,
        rounds=ROUNDS,
        seed=SEED,
        catalog_url=catalog_url,
        pause_s=0.15 if ROUNDS <= KINDS else 0.0,
    )
    print(f"{ROUNDS} rounds: {found}")
    assert found.ads > ROUNDS
    assert found.alerts > 0
