"""When fresh rows become a segment, and which segments become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from indexer.sealing.keyring import Keyring
from indexer.vectors.segmented import Part

_DEAD_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """When files are written, in rows. Tests make them small.

    ``seal``: changes after which fresh rows become a segment. ``merge``: segments of about one
    size that are merged. ``largest``: no merged segment is larger. ``block``: rows of a segment
    that is made from the catalog.
    """

    seal: int = 4_096
    merge: int = 4
    largest: int = 1_048_576
    block: int = 65_536


def due(parts: Sequence[Part], sizes: Sizes) -> list[Part]:
    """The segments to be merged next; none where they are few, large and alive enough."""
    tiers: dict[int, list[Part]] = {}
    for part in parts:
        if part.alive == 0 or part.dead > max(sizes.seal, _DEAD_SHARE * part.segment.count):
            return [part]
        if part.alive < sizes.largest:
            tiers.setdefault(_tier(part.alive, sizes), []).append(part)
    for _, some in sorted(tiers.items()):
        some.sort(key=lambda part: part.alive)
        total, chosen = 0, []
        for part in some:
            if total + part.alive <= sizes.largest:
                total += part.alive
                chosen.append(part)
        if len(some) >= sizes.merge and len(chosen) > 1:
            return chosen
    return []


def outdated(parts: Sequence[Part], keys: Keyring | None) -> list[Part]:
    """The segments that are not encrypted by the key that is used now, and by none beside it."""
    if keys is None:
        return []
    return [part for part in parts if part.segment.keys != (keys.current_id,)]


def _tier(rows: int, sizes: Sizes) -> int:
    tier, bound = 0, sizes.seal * 2
    while rows >= bound:
        tier, bound = tier + 1, bound * sizes.merge
    return tier
