"""Contracts keep vectors apart; calibrations turn scores into rates, never kindly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.calibration import QUALITY_FLOOR, Calibration, Curve, Shares, band, fuse, shares
from models.contract import EmbeddingContract, require_same
from models.errors import ContractMismatch, PackError
from models.types import FloatArray


def test_a_contract_id_depends_on_every_part_and_on_no_order() -> None:
    base = EmbeddingContract("p", 4, {"a": "1", "b": "2"})
    assert base.id == EmbeddingContract("p", 4, {"b": "2", "a": "1"}).id
    others = [
        EmbeddingContract("q", 4, {"a": "1", "b": "2"}),
        EmbeddingContract("p", 5, {"a": "1", "b": "2"}),
        EmbeddingContract("p", 4, {"a": "1", "b": "3"}),
        EmbeddingContract("p", 4, {"a": "1"}),
    ]
    assert len({base.id, *(o.id for o in others)}) == 5


def test_two_contracts_never_meet() -> None:
    require_same("x", "x")
    with pytest.raises(ContractMismatch) as caught:
        require_same("x", "y")
    assert caught.value.code == "contract_mismatch"
    assert "reindex" in caught.value.remedy


@pytest.fixture
def calibration() -> Calibration:
    score = np.array([0.1, 0.5, 0.9])
    return Calibration(
        "p-1",
        {
            1: Curve(score, np.array([0.5, 0.01, 0.0]), np.array([0.6, 0.02, 0.001])),
            2: Curve(score, np.array([0.7, 0.018, 0.0]), np.array([0.8, 0.03, 0.002])),
        },
        {"images": 10},
    )


def test_rates_are_those_of_the_score_below(calibration: Calibration) -> None:
    assert calibration.fmr(0.05).value == 1.0
    assert calibration.fmr(0.5).value == 0.01
    assert calibration.fmr(0.89).value == 0.01
    unseen = calibration.fmr(0.95)
    assert not unseen.resolved
    assert unseen.value == unseen.upper == 0.001


def test_a_better_score_never_looks_less_telling() -> None:
    """Where the estimate ends and the bound takes over, the shown rate must not jump up."""
    score = np.array([0.1, 0.5, 0.7, 0.9])
    curve = Curve(score, np.array([0.5, 1e-5, 0.0, 0.0]), np.array([0.6, 4e-5, 2e-5, 1e-5]))
    table = Calibration("p-1", {1: curve})
    shown = [table.fmr(s).value for s in (0.1, 0.5, 0.7, 0.9)]
    assert shown == sorted(shown, reverse=True)
    assert table.fmr(0.5).resolved
    assert table.fmr(0.5).value == 2e-5


def test_more_photos_than_measured_scale_up(calibration: Calibration) -> None:
    assert calibration.fmr(0.5, photos=2).value == 0.018
    assert calibration.fmr(0.5, photos=3).value == pytest.approx(0.036)
    assert calibration.fmr(0.5, photos=4).upper == pytest.approx(0.09)
    assert calibration.fmr(0.1, photos=9).value == 1.0


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(1, 12))
def test_rates_fall_with_the_score_and_rise_with_the_photos(
    one: float, other: float, photos: int
) -> None:
    score = np.array([-0.5, 0.0, 0.5])
    table = Calibration(
        "p-1", {1: Curve(score, np.array([0.9, 0.1, 0.0]), np.array([0.95, 0.2, 0.01]))}
    )
    low, high = sorted((one, other))
    assert table.fmr(low, photos).upper >= table.fmr(high, photos).upper
    assert table.fmr(low, photos + 1).upper >= table.fmr(low, photos).upper


def test_thresholds_keep_their_promise(calibration: Calibration) -> None:
    assert calibration.threshold(0.02) == 0.5
    assert calibration.threshold(0.02, photos=2) == 0.9
    assert calibration.threshold(1e-9) == 1.0
    for rate in (0.6, 0.02, 0.001):
        assert calibration.fmr(calibration.threshold(rate)).upper <= rate


def test_tables_survive_the_disk(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    calibration.save(path)
    again = Calibration.load(path)
    assert again.to_json() == calibration.to_json()


@pytest.mark.parametrize("text", ["", "{}", '{"contract_id": "p", "curves": {}}', "[1, 2]"])
def test_broken_tables_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(PackError):
        Calibration.load(path)
    with pytest.raises(PackError):
        Calibration.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "change",
    [
        {"score": [0.1, 0.1, 0.9]},
        {"score": [0.1, 0.5, 1.5]},
        {"score": [0.1, 0.5]},
        {"score": [[0.1, 0.5, 0.9]]},
        {"score": [], "fmr": [], "upper": []},
        {"fmr": [0.5, 0.01, -0.1]},
        {"fmr": [0.7, 0.01, 0.0]},
        {"fmr": [float("nan"), 0.01, 0.0]},
        {"upper": [1.2, 0.02, 0.001]},
        {"upper": "much"},
        {"lower": [0.1, 0.0]},
    ],
)
def test_tables_that_cannot_be_true_are_refused(
    calibration: Calibration, change: dict[str, object]
) -> None:
    values = calibration.to_json()
    values["curves"]["1"] |= change
    with pytest.raises(PackError):
        Calibration.from_json(values)


def test_the_lower_ends_are_kept_where_there_are_any(calibration: Calibration) -> None:
    values = calibration.to_json()
    assert "lower" not in values["curves"]["1"]
    values["curves"]["1"]["lower"] = [0.4, 0.005, 0.0]
    assert Calibration.from_json(values).to_json() == values


def test_bands_follow_the_expected_number_of_strangers() -> None:
    assert [band(x) for x in (0.0, 0.0099, 0.01, 0.099, 0.1, 0.99, 1.0, 500.0)] == [
        "very_strong",
        "very_strong",
        "strong",
        "strong",
        "moderate",
        "moderate",
        "weak",
        "weak",
    ]


def test_the_best_photo_and_the_average_count() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2]], dtype=np.float32)
    # Length 1.6: the average photo's cosines are 0.9 / 1.6 and 1.1 / 1.6.
    alike = Shares(np.ones(2, np.float32), 1.6)
    assert fuse(scores, alike).tolist() == pytest.approx([0.68125, 0.79375])
    # The second photo counts half: 0.5 / 1.2 and 1.0 / 1.2.
    weighted = Shares(np.array([1.0, 0.5], np.float32), 1.2)
    assert fuse(scores, weighted).tolist() == pytest.approx([0.608333, 0.866667])
    assert fuse(scores[:1], Shares(np.ones(1, np.float32), 1.0)).tolist() == pytest.approx(
        [0.1, 0.9]
    )
    with pytest.raises(ValueError, match="zip"):
        fuse(scores, Shares(np.ones(3, np.float32), 1.6))


def unit(rng: np.random.Generator, photos: int) -> FloatArray:
    vectors = rng.normal(size=(photos, 16)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_a_photo_weighs_by_the_root_of_its_quality() -> None:
    vectors = unit(np.random.default_rng(1), 4)
    found = shares(vectors, np.array([0.64, 0.16, 0.0, math.nan]))
    # Not known counts as 1; nothing counts for less than the floor.
    assert found.weights.tolist() == pytest.approx([0.8, 0.4, math.sqrt(QUALITY_FLOOR), 1.0])
    total = (found.weights[:, None] * vectors).sum(axis=0)
    assert found.length == pytest.approx(float(np.linalg.norm(total)))
    with pytest.raises(ValueError, match="one quality"):
        shares(vectors, np.ones(3))


@given(st.integers(1, 9), st.floats(0.0, 1.0) | st.just(math.nan), st.integers(0, 2**32 - 1))
def test_photos_of_one_quality_count_alike_to_the_last_digit(
    photos: int, quality: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    person, faces = unit(rng, photos), unit(rng, 7)
    cosines = person @ faces.T
    joined = shares(person, np.full(photos, quality))
    assert joined.weights.tolist() == [1.0] * photos
    length = float(np.linalg.norm(person.astype(np.float64).sum(axis=0)))
    alike = (cosines.max(axis=0) + cosines.sum(axis=0) / length) / 2
    assert fuse(cosines, joined).tolist() == np.clip(alike, -1.0, 1.0).tolist()


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_fusing_is_what_it_says(photos: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    person, faces = unit(rng, photos), unit(rng, 3)
    quality = rng.uniform(QUALITY_FLOOR, 1.0, photos)
    joined = shares(person, quality)
    mean = (np.sqrt(quality)[:, None] * person).sum(axis=0)
    cosines = person @ faces.T
    expected = (cosines.max(axis=0) + faces @ mean / np.linalg.norm(mean)) / 2
    np.testing.assert_allclose(fuse(cosines, joined), np.clip(expected, -1, 1), atol=1e-5)
    # One face or many at a time: the same figure to the last digit.
    alone = [fuse(cosines[:, [at]], joined)[0] for at in range(3)]
    assert fuse(cosines, joined).tolist() == alone


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_a_fused_score_never_falls_when_a_cosine_rises(photos: int, seed: int) -> None:
    """Searches that stop early rely on it, in the very arithmetic that is used."""
    rng = np.random.default_rng(seed)
    person = unit(rng, photos)
    joined = shares(person, rng.uniform(0, 1, photos))
    before = rng.uniform(-1, 1, (photos, 1)).astype(np.float32)
    after = before.copy()
    one = rng.integers(photos)
    # By one step of float32, and by more.
    after[one] = np.nextafter(before[one], np.float32(2)) + rng.choice([0, 1e-7, 0.1])
    assert after[one] > before[one]
    assert fuse(after, joined)[0] >= fuse(before, joined)[0]


def test_the_shipped_calibration_is_of_the_shipped_contract(pack: object) -> None:
    from models.packs.dlib.pack import CONTRACT, DlibPack

    assert isinstance(pack, DlibPack)
    assert pack.calibration is not None
    assert pack.calibration.contract_id == CONTRACT.id
    assert pack.calibration.provenance
