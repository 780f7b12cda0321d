"""What a score is worth: false match rate, strangers to expect, band, threshold and notice."""

from __future__ import annotations

from dataclasses import dataclass

from models.calibration import Band, Calibration, band

NOTICE = (
    "These are candidates for review, not identifications. Resemblance is not identity: "
    "a trained person has to compare the pictures, and no candidate alone is a basis for action."
)

UNCALIBRATED = (
    "This face pack is uncalibrated: how often strangers reach a score has not been measured, "
    "so no rate and no band can be given."
)

NO_ALERTS = (
    "Without a calibration no alerts are raised: nothing is known of what a score is worth. Read "
    "the lists of candidates themselves, and measure the pack with `homeward calibrate`."
)


@dataclass(frozen=True, slots=True)
class Worth:
    """What one score is worth in one gallery; all is None where it was not measured."""

    false_match_rate: float | None
    false_match_rate_upper: float | None
    false_match_rate_resolved: bool | None
    expected_false_candidates: float | None
    expected_false_candidates_upper: float | None
    band: Band | None


def worth(
    calibration: Calibration | None, score: float, gallery_size: int, photos_fused: int
) -> Worth:
    """The worth of a fused ``score`` among ``gallery_size`` faces.

    Strangers to expect are N x FMR (ISO/IEC 19795-1: each non-mated comparison is one chance).
    Below what the sample can tell, the upper bound stands in for the rate; the band always goes
    by the upper bound, so that a small sample never makes a candidate look stronger.
    """
    if calibration is None:
        return Worth(None, None, None, None, None, None)
    estimate = calibration.fmr(score, max(1, photos_fused))
    rate = estimate.value if estimate.resolved else estimate.upper
    return Worth(
        false_match_rate=rate,
        false_match_rate_upper=estimate.upper,
        false_match_rate_resolved=estimate.resolved,
        expected_false_candidates=rate * gallery_size,
        expected_false_candidates_upper=estimate.upper * gallery_size,
        band=band(estimate.upper * gallery_size),
    )


def threshold(
    calibration: Calibration | None, gallery_size: int, photos_fused: int, strangers: float
) -> float | None:
    """Lowest measured cosine at which at most ``strangers`` are to be expected.

    None where uncalibrated, where nothing is in the gallery, or where the sample is too small to
    promise so few at any score.
    """
    if calibration is None or gallery_size == 0:
        return None
    photos = max(1, photos_fused)
    score = calibration.threshold(strangers / gallery_size, photos)
    if calibration.fmr(score, photos).upper * gallery_size > strangers:
        return None
    return score


def calibration_text(calibration: Calibration | None) -> str:
    """One sentence on where the rates come from and what they leave out."""
    if calibration is None:
        return UNCALIBRATED
    return (
        "Rates were measured on labelled photographs of other people and hold at least: ads are "
        "harsher than those photographs, and children, relatives and look-alikes are confused "
        "more often than the rate says."
    )
