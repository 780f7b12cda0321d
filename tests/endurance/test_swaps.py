"""Nothing is lost and nothing is done twice, whenever a process is killed while another generation
is built, brought into use, taken back or dropped.

A few rounds here; ``make reindex-soak`` runs many more.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.endurance.swaps import TARGETS, run_rounds

ROUNDS = int(os.environ.get("SWAP_ROUNDS", len(TARGETS)))
SEED = int(os.environ.get("SWAP_SEED", "20261124"))


@pytest.mark.slow
@pytest.mark.timeout(60 * (5 + ROUNDS))
def test_killed_while_generations_change(tmp_path: Path, catalog_url: str | None) -> None:
    few = len(TARGETS) >= ROUNDS
    found, killed = run_rounds(
        tmp_path / "data", catalog_url, rounds=ROUNDS, seed=SEED, pictures=30 if few else 150
    )
    print(f"{ROUNDS} rounds, killed {killed}: {found}")
    assert sum(killed.values()) > 0
    assert found.alerts > 0
