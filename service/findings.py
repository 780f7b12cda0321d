"""What `homeward doctor` found, one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``ok`` false means that something has to be done."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
