"""The model files of the default pack: where they are, and that they are the right ones.

They come with the PyPI package ``face-recognition-models`` (its data is CC0 / public domain). Only
the three files named here are ever opened. The 68-point predictor that lies beside them was
trained on data for non-commercial use and is not among them.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from models.errors import PackDigestMismatch, PackMissing

EMBEDDER: Final = "dlib_face_recognition_resnet_model_v1.dat"
DETECTOR: Final = "mmod_human_face_detector.dat"
LANDMARKS: Final = "shape_predictor_5_face_landmarks.dat"

SHA256: Final = {
    EMBEDDER: "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    DETECTOR: "4cb19393e2fbaf2b1609a9319ad5386618c886a6234ec1b971f3e87c85d87fe6",
    LANDMARKS: "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
}
"""The allow-list: file name to SHA-256."""

_PACKAGE: Final = "face_recognition_models"
_REMEDY: Final = "Install it again: pip install --force-reinstall face-recognition-models==0.3.0"


def source_folder() -> Path:
    """The folder of the installed package that holds the files.

    The package is located, not imported: its own import needs ``pkg_resources``.

    Raises:
        PackMissing: the package is not installed.
    """
    spec = find_spec(_PACKAGE)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    if not locations:
        raise PackMissing(f"The package {_PACKAGE} is not installed.", remedy=_REMEDY)
    return Path(locations[0]) / "models"


def read_verified(name: str, folder: Path | None = None) -> bytes:
    """The bytes of one allow-listed file.

    Raises:
        PackMissing: the file is not there or cannot be read.
        PackDigestMismatch: its SHA-256 is not the one in ``SHA256``.
    """
    path = (folder or source_folder()) / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PackMissing(f"{name} cannot be read: {error.strerror}.", remedy=_REMEDY) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256[name]:
        raise PackDigestMismatch(
            f"{name} has the SHA-256 {digest}, not the one that this pack names.", remedy=_REMEDY
        )
    return data
