"""Signed model licences as InsightFace issues them, signed with keys that a test makes."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from insightface.model_zoo.model_license import canonical_license_bytes

from models.packs.licences import LICENCE_FILE


def utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_licence(
    folder: Path,
    key: Ed25519PrivateKey,
    model_id: str,
    *,
    grant: str = "commercial",
    valid_for: timedelta | None = timedelta(days=30),
    starts_in: timedelta = timedelta(days=-60),
    **other: Any,
) -> Path:
    """A licence for ``model_id`` in ``folder``, valid until ``valid_for`` from now."""
    now = datetime.now(UTC)
    document: dict[str, Any] = {
        "license_version": 1,
        "license_id": "L-2026-0001",
        "issuer": "InsightFace",
        "model_id": model_id,
        "grant": grant,
        "valid_from": utc(now + starts_in),
        "customer": "Sample Police Department",
        **other,
    }
    if valid_for is not None:
        document["valid_until"] = utc(now + valid_for)
    signature = key.sign(canonical_license_bytes(document))
    document["signature"] = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    path = folder / LICENCE_FILE
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
