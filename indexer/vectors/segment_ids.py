"""Ids of faces as 16 bytes each, so that a file of them can be searched without Python's strings.

A UUID in its canonical form is 32 hexadecimal digits, lower case, with hyphens at fixed places;
its 16 bytes, first digit first, sort exactly as the text does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IdArray = NDArray[np.uint8]
"""Ids as bytes: uint8 (n, 16), C-contiguous."""

ID_BYTES = 16
_TEXT = 36
_HYPHENS = (8, 13, 18, 23)
_DIGITS = np.array([place for place in range(_TEXT) if place not in _HYPHENS])
_NO_DIGIT = 255
_DIGIT = np.frombuffer(b"0123456789abcdef", np.uint8)
_VALUE = np.full(256, _NO_DIGIT, np.uint8)
_VALUE[_DIGIT] = np.arange(16)


def to_bytes(ids: Sequence[str]) -> tuple[IdArray, NDArray[np.bool_]]:
    """``ids`` as bytes, and which of them are UUIDs in canonical form, bool (n,).

    The bytes of what is no such UUID mean nothing.
    """
    texts = [text if len(text) == _TEXT else "-" * _TEXT for text in ids]
    # `replace` puts one character in place of one, so that every text keeps its length.
    raw = "".join(texts).encode("ascii", "replace")
    letters = np.frombuffer(raw, np.uint8).reshape(len(texts), _TEXT)
    values = _VALUE[letters[:, _DIGITS]]
    valid: NDArray[np.bool_] = (values != _NO_DIGIT).all(axis=1)
    valid &= (letters[:, _HYPHENS] == ord("-")).all(axis=1)
    return np.ascontiguousarray(values[:, ::2] << 4 | (values[:, 1::2] & 15)), valid


def to_texts(ids: IdArray) -> list[str]:
    """The canonical form of each of ``ids``."""
    letters = np.full((len(ids), _TEXT), ord("-"), np.uint8)
    letters[:, _DIGITS[::2]] = _DIGIT[ids >> 4]
    letters[:, _DIGITS[1::2]] = _DIGIT[ids & 15]
    texts: list[str] = letters.view(f"S{_TEXT}").reshape(-1).astype(f"U{_TEXT}").tolist()
    return texts


def sortable(ids: IdArray) -> NDArray[np.bytes_]:
    """``ids`` as one item each, (n,), that NumPy compares as texts would be: a view.

    All are 16 bytes wide, so that the zeros at the end, which NumPy drops from what it shows,
    change neither order nor equality.
    """
    return ids.view(f"S{ID_BYTES}").reshape(-1)
