"""The embedding contract: what made a vector, in one short name.

Two vectors can be compared only if the same weights, the same preprocessing and the same
test-time augmentation made them. The contract's id hashes all of that; every stored vector, index
and calibration carries it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.errors import ContractMismatch


@dataclass(frozen=True, slots=True)
class EmbeddingContract:
    """``parts`` names everything that shapes a vector: digests, preprocessing, augmentation."""

    pack: str
    dimension: int
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The pack's name and the first 12 hex digits of the SHA-256 over the sorted parts."""
        text = json.dumps(
            {"pack": self.pack, "dimension": self.dimension, "parts": dict(self.parts)},
            sort_keys=True,
            separators=(",", ":"),
        )
        return f"{self.pack}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def require_same(contract_id: str, other: str) -> None:
    """Raise ``ContractMismatch`` unless both ids are one contract."""
    if contract_id != other:
        raise ContractMismatch(
            f"Vectors of the contract {other} cannot be compared with those of {contract_id}.",
            remedy="Re-index the gallery with the pack in use: `homeward reindex --pack NAME`.",
        )
