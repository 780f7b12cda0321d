"""What a face may be filtered by: one tag for each ad, or case, that shows it.

A face passes a filter when one and the same of its tags passes all of it, so that "site A in May"
does not find a face that site A showed in June and site B in May.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

KEYWORDS: Final = ("site", "region", "agency", "status")
"""The words of a tag, compared without regard to case."""

NEVER: Final = np.iinfo(np.int64).min
"""``posted_ms`` of a tag without a time, in a column: no window holds it."""

IntArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Tag:
    """Where and when a face was shown. ``posted_ms``: milliseconds since 1970 in UTC, or ``None``.

    An empty word is one that is not known; no filter finds it.
    """

    site: str = ""
    region: str = ""
    agency: str = ""
    status: str = ""
    posted_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which faces a search looks at; what is ``None`` is not asked for.

    ``posted_from_ms`` is inclusive, ``posted_before_ms`` exclusive; a tag without a time is left
    out as soon as one of the two is set.
    """

    site: str | None = None
    region: str | None = None
    agency: str | None = None
    status: str | None = None
    posted_from_ms: int | None = None
    posted_before_ms: int | None = None

    @property
    def empty(self) -> bool:
        """Whether every face passes."""
        return self == EVERYTHING

    def passes(self, tag: Tag) -> bool:
        """Whether one tag passes all of the filter."""
        for name in KEYWORDS:
            wanted = getattr(self, name)
            if wanted is not None and (not wanted or folded(getattr(tag, name)) != folded(wanted)):
                return False
        if self.posted_from_ms is None and self.posted_before_ms is None:
            return True
        if tag.posted_ms is None:
            return False
        return (self.posted_from_ms is None or tag.posted_ms >= self.posted_from_ms) and (
            self.posted_before_ms is None or tag.posted_ms < self.posted_before_ms
        )


EVERYTHING: Final = Filter()


def folded(word: str) -> str:
    """The form in which words are compared."""
    return word.lower()


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The tags of ``count`` rows, column by column.

    ``row`` (int32, (tags,), ascending) says whose tag each is, or is ``None`` where every row has
    exactly one. ``codes``: for each of :data:`KEYWORDS` the place of its word, int32 (tags,), in
    ``words``. ``posted_ms``: int64 (tags,), :data:`NEVER` for none.
    """

    count: int
    row: IntArray | None
    codes: Mapping[str, IntArray]
    words: Mapping[str, Sequence[str]]
    posted_ms: NDArray[np.int64]

    @classmethod
    def of(cls, tags: Sequence[Sequence[Tag]]) -> Self:
        """The columns of rows with these tags; tags that say the same are kept once."""
        rows: list[int] = []
        flat: list[Tag] = []
        for number, some in enumerate(tags):
            own = sorted({_canonical(tag) for tag in some}, key=_order)
            rows.extend([number] * len(own))
            flat.extend(own)
        codes, words = {}, {}
        for name in KEYWORDS:
            texts = [getattr(tag, name) for tag in flat]
            words[name] = sorted(set(texts))
            places = {word: place for place, word in enumerate(words[name])}
            codes[name] = np.array([places[text] for text in texts], np.int32)
        posted = [NEVER if tag.posted_ms is None else tag.posted_ms for tag in flat]
        single = rows == list(range(len(tags)))
        return cls(
            len(tags),
            None if single else np.array(rows, np.int32),
            codes,
            words,
            np.array(posted, np.int64),
        )

    def mask(self, where: Filter) -> BoolArray:
        """Which rows pass: bool (count,)."""
        if where.empty:
            return np.ones(self.count, np.bool_)
        passing: BoolArray | None = None
        for name in KEYWORDS:
            wanted = getattr(where, name)
            if wanted is None:
                continue
            word = folded(wanted)
            known = self.words[name]
            if not word or word not in known:
                return np.zeros(self.count, np.bool_)
            passing = _both(passing, self.codes[name] == known.index(word))
        if where.posted_from_ms is not None:
            passing = _both(passing, self.posted_ms >= where.posted_from_ms)
        if where.posted_before_ms is not None:
            passing = _both(passing, self.posted_ms < where.posted_before_ms)
            if where.posted_from_ms is None:
                passing = _both(passing, self.posted_ms != NEVER)
        assert passing is not None
        if self.row is None:
            return passing
        mask = np.zeros(self.count, np.bool_)
        mask[self.row[passing]] = True
        return mask

    def tags(self, row: int) -> tuple[Tag, ...]:
        """The tags of one row."""
        if self.row is None:
            places = range(row, row + 1)
        else:
            places = range(*np.searchsorted(self.row, [row, row + 1]).tolist())
        return tuple(
            Tag(
                **{name: self.words[name][self.codes[name][place]] for name in KEYWORDS},
                posted_ms=None if self.posted_ms[place] == NEVER else int(self.posted_ms[place]),
            )
            for place in places
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What a file keeps beside ``count`` and ``words``."""
        kept: dict[str, NDArray[np.generic]] = {
            f"tag_{name}": self.codes[name] for name in KEYWORDS
        }
        kept["tag_posted_ms"] = self.posted_ms
        if self.row is not None:
            kept["tag_row"] = self.row
        return kept

    @classmethod
    def from_arrays(
        cls,
        count: int,
        words: Mapping[str, Sequence[str]],
        arrays: Mapping[str, NDArray[np.generic]],
    ) -> Self:
        """The columns of a file; ``ValueError`` or ``KeyError`` for what cannot be columns."""
        codes = {name: arrays[f"tag_{name}"].astype(np.int32, copy=False) for name in KEYWORDS}
        posted = arrays["tag_posted_ms"].astype(np.int64, copy=False)
        row = arrays.get("tag_row")
        rows = None if row is None else row.astype(np.int32, copy=False)
        lengths = {len(posted), count if rows is None else len(rows)}
        lengths |= {len(column) for column in codes.values()}
        if len(lengths) != 1:
            raise ValueError("the columns of the tags differ in length")
        for name in KEYWORDS:
            if len(posted) and not 0 <= codes[name].min() <= codes[name].max() < len(words[name]):
                raise ValueError(f"a {name} of the tags has no word")
        if rows is not None and len(rows) and not 0 <= rows.min() <= rows.max() < count:
            raise ValueError("a tag belongs to no row")
        return cls(count, rows, codes, {name: tuple(words[name]) for name in KEYWORDS}, posted)


def joined(parts: Iterable[tuple[Columns, NDArray[np.int64]]]) -> Columns:
    """The columns of chosen rows of several, one after the other, in the order given."""
    chosen = list(parts)
    words: dict[str, list[str]] = {
        name: sorted({word for columns, _ in chosen for word in columns.words[name]})
        for name in KEYWORDS
    }
    row: list[IntArray] = []
    codes: dict[str, list[IntArray]] = {name: [] for name in KEYWORDS}
    posted: list[NDArray[np.int64]] = []
    start = 0
    for columns, rows in chosen:
        owners, places = _spread(columns, rows)
        row.append((owners + start).astype(np.int32))
        posted.append(columns.posted_ms[places])
        for name in KEYWORDS:
            known = {word: place for place, word in enumerate(words[name])}
            moved = np.array([known[word] for word in columns.words[name]], np.int32)
            codes[name].append(moved[columns.codes[name][places]])
        start += len(rows)
    whose = np.concatenate(row) if row else np.zeros(0, np.int32)
    single = len(whose) == start and bool(np.array_equal(whose, np.arange(start)))
    return Columns(
        start,
        None if single else whose,
        {name: np.concatenate([np.zeros(0, np.int32), *codes[name]]) for name in KEYWORDS},
        words,
        np.concatenate([np.zeros(0, np.int64), *posted]),
    )


def _spread(
    columns: Columns, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For the tags of ``rows``: the place of each one's row within ``rows``, and its own place."""
    if columns.row is None:
        return np.arange(len(rows), dtype=np.int64), rows
    first = np.searchsorted(columns.row, rows)
    many = np.searchsorted(columns.row, rows, side="right") - first
    owners = np.repeat(np.arange(len(rows), dtype=np.int64), many)
    offsets = np.arange(len(owners), dtype=np.int64) - np.repeat(np.cumsum(many) - many, many)
    return owners, np.repeat(first, many) + offsets


def _both(one: BoolArray | None, other: BoolArray) -> BoolArray:
    return other if one is None else np.logical_and(one, other, out=other)


def _canonical(tag: Tag) -> Tag:
    words = {name: folded(getattr(tag, name)) for name in KEYWORDS}
    return Tag(**words, posted_ms=tag.posted_ms)


def _order(tag: Tag) -> tuple[object, ...]:
    posted = NEVER if tag.posted_ms is None else tag.posted_ms
    return (tag.site, tag.region, tag.agency, tag.status, posted)
