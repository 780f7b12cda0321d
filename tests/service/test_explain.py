"""What a score is worth: rates, strangers to expect and bands go by the measured curve."""

from __future__ import annotations

import numpy as np
import pytest

from models.calibration import Calibration, Curve
from service.search.explain import NOTICE, UNCALIBRATED, calibration_text, threshold, worth


@pytest.fixture
def calibration() -> Calibration:
    """FMR 1e-2 at 0.5, 1e-4 at 0.7, nothing seen at 0.9 (at most 1e-5)."""
    curve = Curve(
        score=np.array([-1.0, 0.5, 0.7, 0.9]),
        fmr=np.array([1.0, 1e-2, 1e-4, 0.0]),
        upper=np.array([1.0, 2e-2, 2e-4, 1e-5]),
    )
    return Calibration("test-contract", {1: curve}, {})


def test_strangers_are_the_rate_times_the_gallery(calibration: Calibration) -> None:
    value = worth(calibration, 0.75, 10_000, 1)
    assert value.false_match_rate == pytest.approx(1e-4)
    assert value.expected_false_candidates == pytest.approx(1.0)
    assert value.expected_false_candidates_upper == pytest.approx(2.0)
    assert value.false_match_rate_resolved is True
    assert value.band == "weak"


def test_the_band_goes_by_the_upper_bound_not_by_the_score(calibration: Calibration) -> None:
    bands = {n: worth(calibration, 0.95, n, 1).band for n in (100, 5_000, 50_000, 1_000_000)}
    assert bands == {100: "very_strong", 5_000: "strong", 50_000: "moderate", 1_000_000: "weak"}


def test_below_the_resolution_the_bound_stands_for_the_rate(calibration: Calibration) -> None:
    value = worth(calibration, 0.95, 1_000, 1)
    assert value.false_match_rate_resolved is False
    assert value.false_match_rate == value.false_match_rate_upper == pytest.approx(1e-5)


def test_several_photos_have_a_higher_rate(calibration: Calibration) -> None:
    one, three = (worth(calibration, 0.75, 10_000, n) for n in (1, 3))
    assert one.false_match_rate is not None
    assert three.false_match_rate is not None
    assert three.false_match_rate > one.false_match_rate


def test_without_a_calibration_nothing_is_made_up() -> None:
    value = worth(None, 0.99, 10, 1)
    assert value.band is None
    assert value.false_match_rate is None
    assert value.expected_false_candidates is None
    assert threshold(None, 10, 1, 1.0) is None
    assert calibration_text(None) == UNCALIBRATED


def test_the_threshold_promises_what_it_says(calibration: Calibration) -> None:
    assert threshold(calibration, 1_000, 1, 1.0) == pytest.approx(0.7)
    assert threshold(calibration, 50_000, 1, 1.0) == pytest.approx(0.9)
    assert threshold(calibration, 10_000_000, 1, 1.0) is None
    assert threshold(calibration, 0, 1, 1.0) is None


def test_the_notice_names_candidates_and_no_identity() -> None:
    assert "candidates" in NOTICE
    assert "not identifications" in NOTICE
