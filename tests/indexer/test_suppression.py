"""Small numbers hidden, also by subtraction (PRACTICE 16): shown by a solver, not by the rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import (  # type: ignore[import-untyped]
    Bounds,
    LinearConstraint,
    milp,
)

from indexer.transparency.suppression import LEAST, ShownTable, Table, shown, suppress

NUMBERS = st.one_of(
    st.integers(0, 14), st.integers(0, 60), st.integers(0, 100_000), st.sampled_from([0, 1, 10, 11])
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """A total divided up in one to three ways, with any sizes and orders."""
    first = draw(st.lists(NUMBERS, min_size=1, max_size=7))
    total = sum(first)
    divisions = {"d0": {f"c{i}": n for i, n in enumerate(first)}}
    for d in range(1, draw(st.integers(1, 3))):
        cuts = draw(st.lists(st.integers(0, min(total, 40)), max_size=4).map(sorted))
        edges = [0, *cuts, total]
        parts = [b - a for a, b in itertools.pairwise(edges)]
        divisions[f"d{d}"] = {f"c{i}": n for i, n in enumerate(draw(st.permutations(parts)))}
    return Table("t", total, divisions)


def feasible(table: ShownTable) -> dict[tuple[str, str], tuple[float, float]]:
    """Of each hidden number the least and the most that fit everything that is shown, by integer
    programming over the whole system: all divisions, the total, and that hidden ones are not 0."""
    names = [("", "")] if table.total is None else []
    names += [(d, c) for d, cells in table.divisions.items() for c, n in cells.items() if n is None]
    if not names:
        return {}
    place = {name: i for i, name in enumerate(names)}
    rows, sums = [], []
    for d, cells in table.divisions.items():
        row = np.zeros(len(names))
        for c, n in cells.items():
            if n is None:
                row[place[d, c]] = 1
        known = sum(n for n in cells.values() if n is not None)
        if table.total is None:
            row[place["", ""]] = -1
            rows.append(row)
            sums.append(-known)
        else:
            rows.append(row)
            sums.append(table.total - known)
    found = {}
    for name, i in place.items():
        ends = []
        for sign in (1, -1):
            goal = np.zeros(len(names))
            goal[i] = sign
            result = milp(
                goal,
                constraints=LinearConstraint(np.array(rows), sums, sums),
                integrality=np.ones(len(names)),
                bounds=Bounds(1, 10**7),
            )
            assert result.success, (table, name)
            ends.append(round(result.x[i]))
        found[name] = ends[0], ends[1]
    return found


@settings(max_examples=150, deadline=None)
@given(tables())
@pytest.mark.practice(16)
def test_no_hidden_number_can_be_solved_for(table: Table) -> None:
    seen = suppress(table)
    for d, cells in table.divisions.items():
        for c, n in cells.items():
            given_out = seen.divisions[d][c]
            assert given_out is None if 0 < n < LEAST else given_out in (n, None)
            assert n or given_out == 0
    assert seen.total in (table.total, None)
    assert seen.total is None or not 0 < seen.total < LEAST
    for name, (least, most) in feasible(seen).items():
        # Whatever is shown, it may be 1 (of a table without a total: at least as many as another
        # division has cells), it may be 11, and it may be at least 20 values in all.
        counted = max(list(cells.values()).count(None) for cells in seen.divisions.values())
        assert least == 1 or (seen.total is None and least <= counted), (name, least, seen)
        assert most - least + 1 >= 20, (name, least, most, seen)
        assert most >= LEAST


@settings(max_examples=300, deadline=None)
@given(tables())
def test_small_numbers_are_free_of_each_other(table: Table) -> None:
    """Who knows the rule, and so which numbers are small, still cannot tell them apart: each may
    be anything from 1 to 10 whatever the others are, since what was hidden along takes up the
    difference and stays 11 or more."""
    seen = suppress(table)
    if seen.total is None:
        return
    for d, cells in table.divisions.items():
        hidden = {c: cells[c] for c, n in seen.divisions[d].items() if n is None}
        if not hidden:
            continue
        small = [n for n in hidden.values() if n < LEAST]
        others = [n for n in hidden.values() if n >= LEAST]
        assert small and others
        assert sum(hidden.values()) - (LEAST - 1) * len(small) >= LEAST * len(others)


@pytest.mark.parametrize(
    ("total", "cells", "seen", "shown_total"),
    [
        (0, {"a": 0, "b": 0}, {"a": 0, "b": 0}, 0),
        (10, {"a": 10, "b": 0}, {"a": None, "b": 0}, None),
        (11, {"a": 11, "b": 0}, {"a": 11, "b": 0}, 11),
        # The total would give the small one away: the last goes with it.
        (1_050, {"a": 1_000, "b": 3, "c": 47}, {"a": 1_000, "b": None, "c": None}, 1_050),
        # Two small ones of 10 would be told by their sum.
        (120, {"a": 100, "b": 10, "c": 10}, {"a": None, "b": None, "c": None}, 120),
        # One of 11 hides too little: of it the small one could not take more than 3.
        (14, {"a": 3, "b": 11}, {"a": None, "b": None}, None),
        (30, {"a": 10, "b": 10, "c": 10}, {"a": None, "b": None, "c": None}, None),
    ],
)
def test_examples(
    total: int, cells: dict[str, int], seen: dict[str, int | None], shown_total: int | None
) -> None:
    found = suppress(Table("t", total, {"d": cells}))
    assert (found.divisions["d"], found.total) == (seen, shown_total)


def test_what_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="does not add up"):
        suppress(Table("t", 12, {"d": {"a": 11}}))


def test_a_number_alone() -> None:
    assert [shown(n) for n in (0, 1, 10, 11)] == [0, None, None, 11]
