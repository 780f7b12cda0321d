"""One ONNX file of a folder that is not trusted: its bytes, its digests, its inputs and outputs.

Nothing outside the folder is read, whatever a link or a file says, and nothing is run here: roles
and sizes are told by the header alone, before any session is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import load_external_data_for_tensor

from models.errors import PackDigestMismatch, PackError, PackMissing

MAX_MODEL_BYTES: Final = 2**31 - 1
"""Protobuf's own limit for one message, and so for a model with its weights inside."""

_COPY_AGAIN: Final = "Copy the pack again from where it was published, into a folder of its own."
_NO_LINKS: Final = "Put the files themselves into the pack's folder, not links to them."


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a model. ``shape``: ``None`` where an axis has no fixed size.

    ``shape`` itself is ``None`` where the file does not say. ``type`` is an ONNX ``TensorProto``
    data type.
    """

    name: str
    type: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model of a pack. ``digests``: SHA-256 of the file and of the weights kept beside it, by
    their paths in the pack's folder, the model itself first."""

    folder: Path
    name: str
    digests: Mapping[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: int = field(default=0)

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def sha256(self) -> str:
        return self.digests[self.name]

    def read(self) -> bytes:
        """The whole model, weights included, as the digests say it was.

        Raises:
            PackMissing, PackError: the file cannot be read.
            PackDigestMismatch: the file has changed since it was looked at.
        """
        data, digests, _ = _read_model(self.folder, self.name)
        if digests != self.digests:
            raise PackDigestMismatch(
                f"{self.name} has changed since it was read.", remedy=_COPY_AGAIN
            )
        return data


def read_model_file(folder: Path, name: str) -> ModelFile:
    """Look at ``name``, a path inside ``folder`` (which is resolved), without running anything.

    Raises:
        PackMissing: there is no such file.
        PackError: it is no ONNX file, too large, or reaches out of the folder.
    """
    _, digests, model = _read_model(folder, name)
    # Old exporters list the weights among the inputs; sessions do not.
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    inputs = tuple(_tensor(v) for v in model.graph.input if v.name not in weights)
    outputs = tuple(_tensor(v) for v in model.graph.output)
    if not inputs or not outputs:
        raise PackError(f"{name} has no input or no output.", remedy=_COPY_AGAIN)
    if any(output.shape is None or output.shape[-1] is None for output in outputs):
        outputs = _inferred(model) or outputs
    return ModelFile(folder, name, digests, inputs, outputs, len(model.graph.node))


def inside(folder: Path, name: str) -> Path:
    """The file ``name`` of ``folder``, which is resolved; links are followed inside it only.

    Raises:
        PackMissing: there is no such file.
        PackError: it lies outside the folder, or is no regular file.
    """
    try:
        path = (folder / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise PackMissing(f"There is no file {name!r} in {folder}.", remedy=_COPY_AGAIN)
    if not path.is_relative_to(folder):
        raise PackError(f"{name!r} leads out of the pack's folder {folder}.", remedy=_NO_LINKS)
    if not path.is_file():
        raise PackError(f"{name!r} in {folder} is not a regular file.", remedy=_COPY_AGAIN)
    return path


def read_bytes(folder: Path, name: str, limit: int) -> bytes:
    """The bytes of one file of the folder, of which there may be ``limit``.

    Raises:
        PackMissing, PackError: see ``inside``; also where the file is larger than ``limit``.
    """
    path = inside(folder, name)
    try:
        # The size first: a sparse file of a terabyte costs its sender nothing.
        if path.stat().st_size <= limit:
            with path.open("rb") as stream:
                data = stream.read(limit + 1)
            if len(data) <= limit:
                return data
    except OSError as error:
        raise PackError(f"{name!r} cannot be read: {error.strerror}.", remedy=_COPY_AGAIN)
    raise PackError(f"{name!r} is larger than {limit:,} bytes.", remedy=_COPY_AGAIN)


def _read_model(folder: Path, name: str) -> tuple[bytes, dict[str, str], onnx.ModelProto]:
    data = read_bytes(folder, name, MAX_MODEL_BYTES)
    digests = {name: hashlib.sha256(data).hexdigest()}
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, TypeError):
        raise PackError(f"{name} is not an ONNX file, or damaged.", remedy=_COPY_AGAIN)
    outside = [tensor for tensor in _tensors(model) if _is_external(tensor)]
    if not outside:
        return data, digests, model
    digests |= _digests_beside(folder, name, outside, MAX_MODEL_BYTES - len(data))
    try:
        for tensor in outside:
            load_external_data_for_tensor(tensor, str((folder / name).parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
        return model.SerializeToString(), digests, model
    except (OSError, ValueError, EncodeError, onnx.checker.ValidationError):
        raise PackError(f"The weights beside {name} cannot be read.", remedy=_COPY_AGAIN)


def _digests_beside(
    folder: Path, name: str, tensors: list[onnx.TensorProto], room: int
) -> dict[str, str]:
    """SHA-256 of each file that holds weights of the model; all of them lie in the folder."""
    digests: dict[str, str] = {}
    for tensor in tensors:
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        where = PurePosixPath(location)
        if not location or where.is_absolute() or ".." in where.parts or "\\" in location:
            raise PackError(
                f"{name} keeps weights in {location!r}, out of the pack's folder.",
                remedy="Use a pack whose models hold their weights, or keep them beside the model.",
            )
        beside = (PurePosixPath(name).parent / where).as_posix()
        if beside not in digests:
            data = read_bytes(folder, beside, room)
            room -= len(data)
            digests[beside] = hashlib.sha256(data).hexdigest()
    return dict(sorted(digests.items()))


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data)


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in a message: subgraphs, attributes, functions, training parts."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for about, value in message.ListFields():
        if about.message_type is None:
            continue
        for part in value if hasattr(value, "__len__") else [value]:
            yield from _tensors(part)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    about = value.type.tensor_type
    if not about.HasField("shape"):
        return Tensor(value.name, about.elem_type, None)
    dims = tuple(d.dim_value if d.dim_value > 0 else None for d in about.shape.dim)
    return Tensor(value.name, about.elem_type, dims or None)


def _inferred(model: onnx.ModelProto) -> tuple[Tensor, ...] | None:
    """The outputs with the shapes that follow from the graph, where they do."""
    try:
        shaped = onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return None
    return tuple(_tensor(v) for v in shaped.graph.output)
