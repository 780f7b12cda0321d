"""Cutting long sequences into short ones: databases bound the number of values in a statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

SQL_VALUES = 500


def chunks(items: Iterable[T], size: int = SQL_VALUES) -> Iterator[list[T]]:
    """Consecutive lists of at most ``size`` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
