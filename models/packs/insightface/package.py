"""What is in an InsightFace folder: which model has which role, and how it wants its pixels.

Two formats. **V1** is a bare folder of ``*.onnx`` files (buffalo, antelopev2, AuraFace); roles are
told by inputs and outputs, as insightface's ``ModelRouter`` and ``FaceAnalysis`` tell them, the
first file by name winning. **V2** adds a ``manifest.json`` with ``manifest_version`` 2 (raccoon),
read by insightface's own ``load_model_package``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import onnx
from insightface.model_zoo import load_model_package

from models.errors import PackDigestMismatch, PackError, PackMissing
from models.packs.insightface.onnx_file import (
    ModelFile,
    Tensor,
    read_bytes,
    read_model_file,
)

MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 1_000_000
MAX_MODELS: Final = 64
"""ONNX files in a V1 folder; real packs hold five."""

_OUTPUTS: Final = {6: (3, False), 9: (3, True), 10: (5, False), 15: (5, True)}
"""Outputs of an SCRFD detector: its number of strides (from 8, doubling) and whether it gives key
points (insightface ``SCRFD._init_vars``)."""

_NUMBERS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8)
_GET_ANOTHER: Final = "Use a complete pack in InsightFace's format, such as buffalo_l."
_COPY_AGAIN: Final = "Copy the pack again from where it was published, into a folder of its own."

Role = Literal["detection", "recognition", "landmark_2d_106"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Pixels reach the model as ``(pixel - mean) / std``."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Package:
    """An InsightFace folder that was read and found sound.

    ``detector``, ``recogniser``: the two models; ``landmarks``: the 106-point model, in V1 only.
    ``dimension``: components of an embedding. ``chip_size``: side in pixels of the aligned crop.
    ``has_key_points``: whether the detector gives five points with each face. ``strides``: those
    of the detector, in pixels. ``detector_size``: (width, height) in pixels of its input, ``None``
    where any will do. ``detector_scaling``, ``recogniser_scaling``: what a manifest says; ``None``
    in V1, where insightface tells it by the first nodes of the graph. ``manifest_sha256``: of the
    manifest as it was read, which says how pixels are prepared; ``None`` where there is none.
    """

    folder: Path
    format: Literal["v1", "v2"]
    model_id: str
    detector: ModelFile
    recogniser: ModelFile
    landmarks: ModelFile | None
    dimension: int
    chip_size: int
    has_key_points: bool
    strides: tuple[int, ...]
    detector_size: tuple[int, int] | None
    detector_scaling: Scaling | None = field(default=None)
    recogniser_scaling: Scaling | None = field(default=None)
    manifest_sha256: str | None = field(default=None)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every file that the models are made of, by its path in the folder."""
        used = [self.detector, self.recogniser, *([self.landmarks] if self.landmarks else [])]
        return {name: digest for model in used for name, digest in model.digests.items()}

    @property
    def pinned(self) -> dict[str, str]:
        """SHA-256 of every file that bears on a vector: the models and the manifest."""
        beside = {} if self.manifest_sha256 is None else {MANIFEST: self.manifest_sha256}
        return {**self.digests, **beside}


def read_package(folder: Path) -> Package:
    """Read and check a folder; nothing in it is run.

    Raises:
        PackMissing: the folder, or a model that a pack needs, is not there.
        PackDigestMismatch: a model is not the one that the manifest names.
        PackError: a file is damaged, too large, leads out of the folder, or is of a kind that
            cannot be used.
    """
    if not folder.is_dir():
        raise PackMissing(f"There is no folder {folder}.", remedy="Install the pack first.")
    folder = folder.resolve()
    manifest, is_v2 = _read_manifest(folder)
    package = _read_v2(folder, manifest) if is_v2 else _read_v1(folder)
    if manifest is not None:
        package = replace(package, manifest_sha256=hashlib.sha256(manifest).hexdigest())
    if not package.has_key_points and package.landmarks is None:
        raise PackError(
            f"The detector {package.detector.name} gives no key points, and the pack has no "
            "106-point landmark model to find them.",
            remedy="Use a detector with key points (9 or 15 outputs), or add 2d106det.onnx.",
        )
    return package


def _read_manifest(folder: Path) -> tuple[bytes | None, bool]:
    """The manifest, where there is one, and whether the folder is V2.

    A manifest that cannot be understood is never passed over: guessing in its place could prepare
    pixels in another way than the models were trained with.
    """
    if not (folder / MANIFEST).exists() and not (folder / MANIFEST).is_symlink():
        return None, False
    data = read_bytes(folder, MANIFEST, MAX_MANIFEST_BYTES)
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raise PackError(f"{MANIFEST} is not JSON.", remedy=_COPY_AGAIN)
    version = raw.get("manifest_version") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or version not in (None, 1, 2) or isinstance(version, bool):
        raise PackError(
            f"{MANIFEST} has manifest_version {version!r}; known are 1 and 2.",
            remedy="Use a pack of a known format, or a newer version of this program.",
        )
    return data, version == 2


def _read_v1(folder: Path) -> Package:
    names = sorted(path.name for path in folder.glob("*.onnx"))
    if len(names) > MAX_MODELS:
        raise PackError(
            f"{folder} holds {len(names)} ONNX files; at most {MAX_MODELS} are looked at.",
            remedy="Keep each pack in a folder of its own.",
        )
    found: dict[str, ModelFile] = {}
    for name in names:
        model = read_model_file(folder, name)
        role = _role(model)
        if role is not None:
            found.setdefault(role, model)
    return _package(
        folder,
        "v1",
        folder.name,
        _needed(folder, found, "detection"),
        _needed(folder, found, "recognition"),
        landmarks=found.get("landmark_2d_106"),
    )


def _needed(folder: Path, found: Mapping[str, ModelFile], role: Role) -> ModelFile:
    if role not in found:
        raise PackMissing(f"{folder} holds no {role} model.", remedy=_GET_ANOTHER)
    return found[role]


def _role(model: ModelFile) -> Role | None:
    """By insightface's rules (``ModelRouter.get_model``); ``None``: of no use here."""
    shape = model.inputs[0].shape
    if len(model.outputs) >= 5:
        return "detection"
    if shape is None or len(shape) != 4 or shape[2] is None or shape[2] != shape[3]:
        return None
    side = shape[2]
    if side == 192:
        return "landmark_2d_106" if _width(model.outputs[0]) == 212 else None
    if side == 96 or (len(model.inputs) == 2 and side == 128):
        return None
    return "recognition" if side >= 112 and side % 16 == 0 else None


def _width(output: Tensor) -> int | None:
    return output.shape[-1] if output.shape else None


def _read_v2(folder: Path, manifest: bytes | None) -> Package:
    # insightface opens the file by its path: a private copy is the one whose digest is told.
    with TemporaryDirectory(prefix="homeward-") as private:
        (Path(private) / MANIFEST).write_bytes(manifest or b"")
        described = _by_insightface(partial(load_model_package, private))
    models, scalings = {}, {}
    for task in ("detection", "recognition"):
        if task not in described.tasks:
            raise PackMissing(f"{MANIFEST} names no {task} model.", remedy=_GET_ANOTHER)
        about = described.tasks[task]
        models[task] = read_model_file(folder, about.file)
        if about.sha256 is not None and about.sha256 != models[task].sha256:
            raise PackDigestMismatch(
                f"{about.file} has another SHA-256 than {MANIFEST} says.", remedy=_COPY_AGAIN
            )
        scalings[task] = _scaling(models[task], about.metadata["preprocessing"])
    metadata = described.tasks["recognition"].metadata
    return _package(
        folder,
        "v2",
        described.model_id,
        models["detection"],
        models["recognition"],
        detector_scaling=scalings["detection"],
        recogniser_scaling=scalings["recognition"],
        said=(int(metadata["input_size"][0]), int(metadata["embedding_dimension"])),
    )


def _by_insightface(step: Callable[[], Any]) -> Any:
    """insightface's own reading of a manifest, its errors told as ours."""
    try:
        return step()
    except (ValueError, TypeError, OSError) as error:
        raise PackError(f"{MANIFEST}: {error}.", remedy=_COPY_AGAIN)


def _scaling(model: ModelFile, preprocessing: Any) -> Scaling:
    """As ``model_zoo._explicit_model`` takes it: an embedded preprocessing means raw pixels."""
    if preprocessing == "embedded":
        return Scaling(0.0, 1.0)
    if model.inputs[0].type == onnx.TensorProto.UINT8:
        raise PackError(
            f"{model.name} takes whole pixels, but {MANIFEST} tells to scale them.",
            remedy=_COPY_AGAIN,
        )
    return Scaling(float(preprocessing["mean"]), float(preprocessing["std"]))


def _package(
    folder: Path,
    form: Literal["v1", "v2"],
    model_id: str,
    detector: ModelFile,
    recogniser: ModelFile,
    *,
    landmarks: ModelFile | None = None,
    detector_scaling: Scaling | None = None,
    recogniser_scaling: Scaling | None = None,
    said: tuple[int | None, int | None] = (None, None),
) -> Package:
    for model in (detector, recogniser, *([landmarks] if landmarks else [])):
        if form == "v1" and model.inputs[0].type != onnx.TensorProto.FLOAT:
            raise PackError(f"{model.name} does not take float32 pixels.", remedy=_GET_ANOTHER)
    levels, has_key_points = _detector_kind(detector)
    strides = tuple(8 << level for level in range(levels))
    chip_size, dimension = _recogniser_kind(recogniser)
    for name, manifest, real in zip(
        ("input size", "embedding dimension"), said, (chip_size, dimension), strict=True
    ):
        if manifest is not None and manifest != real:
            raise PackError(
                f"{MANIFEST} says {name} {manifest}, but {recogniser.name} has {real}.",
                remedy=_COPY_AGAIN,
            )
    return Package(
        folder=folder,
        format=form,
        model_id=model_id,
        detector=detector,
        recogniser=recogniser,
        landmarks=None if has_key_points else landmarks,
        dimension=dimension,
        chip_size=chip_size,
        has_key_points=has_key_points,
        strides=strides,
        detector_size=_detector_size(detector, strides[-1]),
        detector_scaling=detector_scaling,
        recogniser_scaling=recogniser_scaling,
    )


def _image_axes(model: ModelFile) -> tuple[int | None, int | None]:
    """Height and width of a model's input, which must be one picture of three channels."""
    shape = model.inputs[0].shape
    if shape is None or len(shape) != 4 or shape[1] not in (3, None):
        raise PackError(
            f"{model.name} does not take pictures (batch, 3, height, width).", remedy=_GET_ANOTHER
        )
    if len(model.inputs) != 1 or model.inputs[0].type not in _NUMBERS:
        raise PackError(
            f"{model.name} does not take one input of float32 or uint8.", remedy=_GET_ANOTHER
        )
    return shape[2], shape[3]


def _detector_kind(model: ModelFile) -> tuple[int, bool]:
    if len(model.outputs) not in _OUTPUTS:
        raise PackError(
            f"{model.name} has {len(model.outputs)} outputs; SCRFD detectors have 6, 9, 10 or 15.",
            remedy=_GET_ANOTHER,
        )
    return _OUTPUTS[len(model.outputs)]


def _detector_size(model: ModelFile, stride: int) -> tuple[int, int] | None:
    height, width = _image_axes(model)
    if height is None and width is None:
        return None
    if height is None or width is None or height % stride or width % stride:
        raise PackError(
            f"{model.name} takes pictures of {width} x {height}; sides must be multiples of "
            f"{stride}.",
            remedy=_GET_ANOTHER,
        )
    return width, height


def _recogniser_kind(model: ModelFile) -> tuple[int, int]:
    """Chip size and dimension."""
    height, width = _image_axes(model)
    # The template of the aligned face is defined for these (insightface face_align.estimate_norm).
    if height is None or height != width or (height % 112 and height % 128):
        raise PackError(
            f"{model.name} takes crops of {width} x {height}; they must be square, with a side "
            "that is a multiple of 112 or 128.",
            remedy=_GET_ANOTHER,
        )
    dimension = _width(model.outputs[0])
    if len(model.outputs) != 1 or dimension is None:
        raise PackError(f"{model.name} does not give one embedding.", remedy=_GET_ANOTHER)
    return height, dimension
