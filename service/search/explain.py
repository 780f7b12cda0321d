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


ONE_PICTURE_LIMITED = (
    "The rate was measured on clear photos. One of these two pictures is blurred, badly exposed or "
    "partly covered: strangers with such pictures reached a score up to 5 times as often, measured "
    "with the default face pack."
)

BOTH_PICTURES_LIMITED = (
    "The rate was measured on clear photos and does not hold here: both pictures are blurred, "
    "badly exposed or partly covered, and strangers look alike for that reason alone. With such "
    "pictures they reached a score 5 to 28 times as often, and up to 365 times where both were "
    "covered in the same way, measured with the default face pack. So the band is shown as weak: "
    "compare the pictures themselves, and look for a clearer photo of the person."
)

_RATE_NOTES: tuple[tuple[str, ...], ...] = ((), (ONE_PICTURE_LIMITED,), (BOTH_PICTURES_LIMITED,))


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


def rate_notes(limited: int) -> tuple[str, ...]:
    """What to say beside a rate where so many of the two pictures are ``limited``."""
    return _RATE_NOTES[limited]


def shown_band(by_rate: Band, limited: int) -> Band:
    """The band to show: none that promises anything where both pictures are limited.

    No factor would do. By how much a rate is wrong there grows as it falls: for two covered faces
    27, 109, 365, 1,147 and 3,915 times at 1e-2 to 1e-6. Lists and alerts go by the score alone.
    """
    return "weak" if limited == 2 else by_rate


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
