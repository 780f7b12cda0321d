"""The words of the pages for problems, by code: title, what happened, what to do.

Where one of the last two is empty, the error's own words stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PROBLEMS: Final[Mapping[str, tuple[str, str, str]]] = {
    "not_found": (
        "There is nothing at this address",
        "The address leads to no page.",
        "Go to the list of cases, or check the address.",
    ),
    "picture_withheld": (
        "This picture is withheld",
        "It is shown to nobody; what it belongs to can be read.",
        "Go back; the designated role decides what becomes of the picture.",
    ),
    "unauthenticated": (
        "Please sign in again",
        "The session has ended, so nothing was changed.",
        "Sign in in another tab, come back to the form and send it again.",
    ),
    "forbidden": ("This is not allowed", "", ""),
    "sign_on_refused": ("You could not be signed in", "", ""),
    "sign_in_elsewhere_refused": ("No account here may be used with that", "", ""),
    "second_factor_missing": ("A second factor is missing", "", ""),
    "sign_on_away": ("The provider does not answer", "", ""),
    "cross_origin": ("This form came from elsewhere", "", ""),
    "head_too_large": ("This request cannot be taken", "", ""),
    "address_too_long": ("This address is too long", "", ""),
    "host_refused": ("This service does not go by that name", "", ""),
    "method_not_allowed": (
        "This address is reached by a form",
        "It cannot be opened directly.",
        "Go to the list of cases and start from there.",
    ),
    "no_face_found": (
        "No face was found in this photo",
        "Nothing was stored.",
        "Use a photo in which the face is larger, sharper or less covered; turn it upright if it "
        "lies on its side.",
    ),
    "face_too_small": ("The face in this photo is too small", "", ""),
    "image_too_large": (
        "This file is too large",
        "Nothing was stored.",
        "Use a smaller original. Do not enlarge or recompress it.",
    ),
    "body_too_large": ("This was too much in one form", "Nothing was stored.", ""),
    "unsupported_format": (
        "This file is no picture that can be read",
        "Nothing was stored.",
        "Use a JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF file.",
    ),
    "image_empty": ("This file is empty", "Nothing was stored.", "Choose another file."),
    "image_corrupt": (
        "This picture is damaged",
        "It could not be decoded; nothing was stored.",
        "Get another copy of it from where it came from.",
    ),
    "image_truncated": (
        "This picture ends in the middle",
        "Part of the file is missing; nothing was stored.",
        "Copy it again from where it came from.",
    ),
    "too_many_pixels": ("This picture has too many pixels", "", ""),
    "photo_already_enrolled": (
        "This photo is enrolled already with another face",
        "Nothing was changed.",
        "Delete that photo from the case first if another face in it is the missing person.",
    ),
    "face_index_invalid": (
        "There is no such face in this photo",
        "Nothing was stored.",
        "Choose one of the faces shown.",
    ),
    "case_closed": (
        "This case is not open",
        "Only open cases are enrolled and searched.",
        "Open it again first, if the person is missing again.",
    ),
    "approval_required": (
        "This case is not searched now",
        "No approval of a search is in force.",
        "Ask for one; a second person decides.",
    ),
    "approval_state_invalid": ("This does not fit what was asked or decided before", "", ""),
    "approver_is_requester": ("Somebody else has to decide", "", ""),
    "lifter_is_setter": ("Somebody else has to lift this hold", "", ""),
    "year_not_over": ("This year is not over", "", ""),
    "held_photo_gone": (
        "The photo is no longer held",
        "A photo waits for 15 minutes; nothing of it was stored.",
        "Go back to the case and choose the file again.",
    ),
    "purpose_required": (
        "A search needs a purpose",
        "",
        "Choose one from the list.",
    ),
    "legal_hold": ("Legal hold", "", ""),
    "rate_limited": (
        "Too many tries",
        "Signing in failed too often from this address.",
        "Wait some minutes before the next try.",
    ),
    "internal_error": (
        "Something failed inside Homeward",
        "It was written to the log; nothing was lost.",
        "Try again. If it stays, pass on the reference below.",
    ),
    "validation_failed": (
        "The form cannot be used",
        "A part of it was missing or unknown.",
        "Open the page again and send the form from there.",
    ),
}
