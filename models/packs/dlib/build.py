"""From dlib's files to files that ONNX Runtime and NumPy can open; made once, then cached.

The cache is only a cache: it is checked against its own manifest at every start and made again,
with a line in the log, when it is missing, damaged or of another version.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.errors import PackError
from models.packs.dlib import files
from models.packs.dlib.format import ShapePredictor, read_network, read_shape_predictor
from models.packs.dlib.networks import detector_onnx, embedder_onnx

BUILD_VERSION: Final = 1
"""Raise it when the files made here change."""

_MANIFEST: Final = "manifest.json"
_STORAGE_CODES: Final = {
    errno.EACCES: "storage_denied",
    errno.EPERM: "storage_denied",
    errno.EROFS: "storage_denied",
    errno.ENOSPC: "storage_full",
    errno.EDQUOT: "storage_full",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Artifacts:
    """The two ONNX models as bytes, and the landmark trees as arrays."""

    detector: bytes
    embedder: bytes
    trees: ShapePredictor


def _pack_trees(trees: ShapePredictor) -> bytes:
    buffer = BytesIO()
    arrays: dict[str, Any] = {f.name: getattr(trees, f.name) for f in fields(trees)}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpack_trees(data: bytes) -> ShapePredictor:
    with np.load(BytesIO(data), allow_pickle=False) as arrays:
        return ShapePredictor(**{f.name: arrays[f.name] for f in fields(ShapePredictor)})


_MAKERS: Final[dict[str, tuple[str, Callable[[bytes], bytes]]]] = {
    "detector.onnx": (files.DETECTOR, lambda data: detector_onnx(read_network(data))),
    "embedder.onnx": (files.EMBEDDER, lambda data: embedder_onnx(read_network(data))),
    "landmarks.npz": (files.LANDMARKS, lambda data: _pack_trees(read_shape_predictor(data))),
}
"""Cached file: the source file and how it is made from its bytes."""


def load_artifacts(cache: Path) -> Artifacts:
    """The converted models, from the cache if it is sound, else made now and cached.

    Raises:
        PackMissing, PackDigestMismatch: see ``files.read_verified``; checked at every start.
        PackError: the cache folder cannot be written.
    """
    sources = {source: files.read_verified(source) for source, _ in _MAKERS.values()}
    made = _read_cache(cache)
    missing = [name for name in _MAKERS if name not in made]
    if missing:
        _make_folder(cache)
        for name in missing:
            _log.info("Building %s of the face pack dlib.", name)
            source, make = _MAKERS[name]
            made[name] = make(sources[source])
        _write_cache(cache, made, missing)
    return Artifacts(
        made["detector.onnx"], made["embedder.onnx"], _unpack_trees(made["landmarks.npz"])
    )


def _manifest(made: dict[str, bytes]) -> dict[str, Any]:
    return {
        "build_version": BUILD_VERSION,
        "sources": dict(files.SHA256),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in made.items()},
    }


def _read_cache(cache: Path) -> dict[str, bytes]:
    """The cached files that are sound by the manifest; the others must be made (again)."""
    manifest_path = cache / _MANIFEST
    if not manifest_path.exists():
        return {}
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        digests = dict(manifest["sha256"])
        current = (manifest["build_version"], manifest["sources"]) == (BUILD_VERSION, files.SHA256)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("The manifest of the face pack cannot be read (%s); building again.", error)
        return {}
    if not current:
        _log.info("The cached face pack is of another version; building it again.")
        return {}
    sound = {}
    for name in _MAKERS:
        try:
            data = (cache / name).read_bytes()
        except OSError as error:
            _log.warning("%s cannot be read (%s); building it again.", name, error.strerror)
            continue
        if hashlib.sha256(data).hexdigest() == digests.get(name):
            sound[name] = data
        else:
            _log.warning("%s is damaged; building it again.", name)
    return sound


def _make_folder(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_cached(cache, error) from error


def _write_cache(cache: Path, made: dict[str, bytes], names: list[str]) -> None:
    """Each file whole or not at all; the manifest last, so that it names only what is there."""
    try:
        for name in names:
            _write_whole(cache / name, made[name])
        _write_whole(cache / _MANIFEST, json.dumps(_manifest(made), indent=1).encode())
    except OSError as error:
        raise _not_cached(cache, error) from error


def _not_cached(cache: Path, error: OSError) -> PackError:
    return PackError(
        f"The face pack cannot be cached in {cache}: {error.strerror}.",
        remedy="Make the folder writable, free some disk space, or set another data folder.",
        code=_STORAGE_CODES.get(error.errno or 0),
    )


def _write_whole(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
