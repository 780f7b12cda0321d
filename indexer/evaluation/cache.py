"""Faces already analysed, by contract and the photo's SHA-256, in a folder of small files.

Off unless asked for. It makes a second evaluation of the same photos take seconds; it holds
vectors of people's faces and should be deleted with the photos. Entries are JSON with base64
arrays and written through a rename, so a stopped run leaves no half entry.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from models.types import Box, Embedding, Face, FloatArray, Landmarks, Quality, QualityComponent


class FaceCache:
    """``get`` and ``put`` the chosen face (or none) of a photo under one contract."""

    def __init__(self, directory: Path, contract_id: str) -> None:
        self._directory = directory / contract_id
        self._contract_id = contract_id
        # Vectors of faces: for this account only.
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest}.json"

    def get(self, digest: str) -> tuple[Face | None] | None:
        """``None``: not cached. ``(None,)``: analysed, no face. An unreadable entry is a miss."""
        try:
            entry = json.loads(self._path(digest).read_text("utf-8"))
            return (None,) if entry is None else (_face(entry, self._contract_id),)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, digest: str, face: Face | None) -> None:
        path = self._path(digest)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(None if face is None else _entry(face)), "utf-8")
        part.replace(path)


def _text(array: FloatArray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode("ascii")


def _array(text: str) -> FloatArray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)


def _entry(face: Face) -> dict[str, Any]:
    return {
        "box": [face.box.x, face.box.y, face.box.width, face.box.height],
        "score": face.detection_score,
        "turn": face.turn,
        "points": _text(face.landmarks.points),
        "scheme": face.landmarks.scheme,
        "quality": face.quality.score,
        "components": [
            [c.name, c.value, c.unit, c.score, c.reason] for c in face.quality.components
        ],
        "vector": _text(face.embedding.vector),
    }


def _face(entry: dict[str, Any], contract_id: str) -> Face:
    return Face(
        box=Box(*entry["box"]),
        detection_score=entry["score"],
        turn=entry["turn"],
        landmarks=Landmarks(_array(entry["points"]).reshape(5, 2), entry["scheme"]),
        quality=Quality(entry["quality"], tuple(QualityComponent(*c) for c in entry["components"])),
        embedding=Embedding(_array(entry["vector"]), contract_id),
    )
