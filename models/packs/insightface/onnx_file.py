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
        return self.read_twofold()[0]

    def read_twofold(self) -> tuple[bytes, bytes]:
        """As :meth:`read`; and the same model without its weights, for classes that look at
        the nodes and inputs of a file of their own. Raises what :meth:`read` raises."""
        data, digests, model = _read_model(self.folder, self.name)
        if digests != self.digests:
            raise PackDigestMismatch(
                f"{self.name} has changed since it was read.", remedy=_COPY_AGAIN
            )
        del model.graph.initializer[:], model.graph.sparse_initializer[:]
        return data, model.SerializeToString()


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
    digests |= _fill(folder, name, outside, MAX_MODEL_BYTES - len(data))
    try:
        return model.SerializeToString(), digests, model
    except (ValueError, EncodeError):
        raise PackError(f"{name} is too large with its weights.", remedy=_COPY_AGAIN)


def _fill(folder: Path, name: str, tensors: list[onnx.TensorProto], room: int) -> dict[str, str]:
    """Put into each tensor the weights that lie beside the model; SHA-256 of each file of them.

    All files lie in the folder and have ``room`` bytes together. No byte of them is used twice, so
    that a small file cannot become a large model.
    """
    kept: dict[str, list[onnx.TensorProto]] = {}
    for tensor in tensors:
        location = _said(tensor, "location")
        where = PurePosixPath(location)
        if not location or where.is_absolute() or ".." in where.parts or "\\" in location:
            raise PackError(
                f"{name} keeps weights in {location!r}, out of the pack's folder.",
                remedy="Use a pack whose models hold their weights, or keep them beside the model.",
            )
        kept.setdefault((PurePosixPath(name).parent / where).as_posix(), []).append(tensor)
    digests: dict[str, str] = {}
    for beside, its in sorted(kept.items()):
        data = read_bytes(folder, beside, room)
        room -= len(data)
        digests[beside] = hashlib.sha256(data).hexdigest()
        end = 0
        for start, stop, tensor in sorted(((*_span(t, len(data)), t) for t in its), key=_place):
            if not end <= start <= stop <= len(data):
                raise PackError(
                    f"{name} uses bytes of {beside} twice, or some that are not there.",
                    remedy=_COPY_AGAIN,
                )
            end = stop
            tensor.raw_data = data[start:stop]
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return digests


def _said(tensor: onnx.TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def _span(tensor: onnx.TensorProto, size: int) -> tuple[int, int]:
    """First byte of a tensor in its file of ``size`` bytes, and the one after its last."""
    try:
        start = int(_said(tensor, "offset") or 0)
        return start, start + int(_said(tensor, "length") or size - start)
    except ValueError:
        return -1, -1


def _place(span: tuple[int, int, onnx.TensorProto]) -> tuple[int, int]:
    return span[:2]


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
