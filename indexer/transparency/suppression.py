"""Hiding small numbers, also from subtraction.

A table is a total and some ways to divide it up (by purpose, by agency); no table crosses two of
them, so that all that can be computed from a report are sums of cells of one division and its
total. A number from 1 to ``LEAST - 1`` is hidden; 0 is shown. Zero speaks of nobody, and a reader
has to be able to tell a power that was never used from one that was used a little.

Where a division has small numbers, further ones are hidden with them, until

- at least one of those that are hidden is ``LEAST`` or more, so that no sum of small ones is known;
- the sum of the hidden ones is at least ``(LEAST - 1) * small + LEAST * others``, so that each
  small number might be any from 1 to ``LEAST - 1``, whatever the others are.

Which ones are hidden along is a matter of their place in the table, the last first, and not of
their size: the choice says nothing. Where all of them are not enough, the total is hidden too, and
with it every number of the table that is not 0.

What that promises: from everything that is shown, a hidden number of a division with a shown total
may be anything from 1 to ``LEAST`` and more (at least 20 values), and one of a table with a hidden
total anything up from the number of cells that another division has.
Hidden numbers look alike, whether they are small or were hidden along.
Who works for an agency knows its own numbers and can subtract them: no table can prevent that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

LEAST: Final = 11
"""The smallest number other than 0 that is shown (CTDC: fewer than 11 are suppressed)."""

Cells = Mapping[str, int]
Shown = Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Table:
    """``divisions``: by name, the cells of each, in the order in which they are shown; each adds
    up to ``total``."""

    name: str
    total: int
    divisions: Mapping[str, Cells]


@dataclass(frozen=True, slots=True)
class ShownTable:
    """A table as it may be read: None is a number that is hidden."""

    name: str
    total: int | None
    divisions: Mapping[str, Shown]


def suppress(table: Table) -> ShownTable:
    """``table`` without what would give a small number away. Raises ``ValueError`` where a
    division does not add up to the total, or a number is negative."""
    for name, cells in table.divisions.items():
        if sum(cells.values()) != table.total or min(cells.values(), default=0) < 0:
            raise ValueError(f"{table.name} by {name} does not add up")
    if not 0 < table.total < LEAST:
        hidden = {name: _hidden(cells) for name, cells in table.divisions.items()}
        seen = {
            name: {cell: None if cell in away else n for cell, n in table.divisions[name].items()}
            for name, away in hidden.items()
            if away is not None
        }
        if len(seen) == len(hidden):
            return ShownTable(table.name, table.total, seen)
    return ShownTable(
        table.name,
        None,
        {
            name: {cell: None if n else 0 for cell, n in cells.items()}
            for name, cells in table.divisions.items()
        },
    )


def shown(number: int) -> int | None:
    """A number that stands alone."""
    return None if 0 < number < LEAST else number


def _hidden(cells: Cells) -> set[str] | None:
    """What to hide of a division whose total is shown; None where that cannot be done."""
    small = {name for name, n in cells.items() if 0 < n < LEAST}
    if not small:
        return set()
    others: set[str] = set()
    for name in reversed(list(cells)):
        if cells[name] >= LEAST:
            others.add(name)
            wanted = (LEAST - 1) * len(small) + LEAST * len(others)
            if sum(cells[one] for one in small | others) >= wanted:
                return small | others
    return None
