"""Reading dlib's serialised models into NumPy arrays, without dlib.

The format is that of dlib's ``serialize``: small integers carry their length in the first byte,
floating-point numbers are a mantissa and an exponent, tensors end in raw little-endian float32.
A network file is read strictly from its first byte to its last: anything unexpected, and anything
left over, is an error, because a file read half right would make vectors that look real.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, ldexp, nan
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import PackError
from models.types import FloatArray

_SPECIAL: Final = {32000: inf, 32001: -inf, 32002: nan}
"""Exponents that stand for what is no number (dlib/float_details.h)."""
_MAX_ITEMS: Final = 10_000_000


class FormatError(PackError):
    """A model file does not follow dlib's format."""


def _reals(mantissas: list[int], exponents: list[int]) -> list[float]:
    try:
        return [
            ldexp(mantissa, exponent) if exponent not in _SPECIAL else _SPECIAL[exponent]
            for mantissa, exponent in zip(mantissas, exponents, strict=True)
        ]
    except OverflowError:
        raise FormatError("An impossible number in the model file.") from None


class Reader:
    """A cursor over the bytes of one dlib file. Every method raises ``FormatError``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, count: int) -> bytes:
        if count < 0 or self._at + count > len(self._data):
            raise FormatError(f"The model file ends early, at byte {self._at}.")
        part = self._data[self._at : self._at + count]
        self._at += count
        return part

    def integers(self, count: int) -> list[int]:
        # Millions of them make up a file: one loop, without a call for each.
        data, at, found = self._data, self._at, []
        try:
            for _ in range(count):
                head = data[at]
                size = head & 0x0F
                if not 1 <= size <= 8:
                    raise FormatError(f"No integer at byte {at} of the model file.")
                start, at = at + 1, at + 1 + size
                value = int.from_bytes(data[start:at], "little")
                found.append(-value if head & 0x80 else value)
        except IndexError:
            at = len(data) + 1
        if at > len(data):
            raise FormatError("The model file ends early, within its numbers.")
        self._at = at
        return found

    def integer(self) -> int:
        return self.integers(1)[0]

    def real(self) -> float:
        return self.reals(1)[0]

    def boolean(self) -> bool:
        char = self._take(1)
        if char not in (b"0", b"1"):
            raise FormatError(f"No boolean at byte {self._at - 1} of the model file.")
        return char == b"1"

    def text(self) -> str:
        return self._take(self.count()).decode("ascii", "strict")

    def count(self) -> int:
        count = self.integer()
        if not 0 <= count <= _MAX_ITEMS:
            raise FormatError(f"An impossible count, {count}, in the model file.")
        return count

    def expect_integers(self, *values: int) -> None:
        for value in values:
            at = self._at
            found = self.integer()
            if found != value:
                raise FormatError(f"{found} where {value} belongs, at byte {at} of the model file.")

    def reals(self, count: int) -> list[float]:
        numbers = self.integers(2 * count)
        return _reals(numbers[::2], numbers[1::2])

    def tensor(self) -> FloatArray:
        """A tensor of shape (n, k, rows, columns), float32."""
        self.expect_integers(2)
        shape = tuple(self.count() for _ in range(4))
        count = int(np.prod(shape, dtype=np.int64))
        if count > _MAX_ITEMS:
            raise FormatError(f"An impossible tensor, {shape}, in the model file.")
        raw = self._take(4 * count)
        return np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(shape)

    def alias(self) -> tuple[int, int, int, int]:
        self.expect_integers(1)
        n, k, rows, columns = (self.count() for _ in range(4))
        return n, k, rows, columns

    def matrix(self) -> NDArray[np.float64]:
        """A matrix of shape (rows, columns)."""
        rows, columns = (-value for value in self.integers(2))
        if rows < 0 or columns < 0 or rows * columns > _MAX_ITEMS:
            raise FormatError("An impossible matrix in the model file.")
        return np.array(self.reals(rows * columns), dtype=np.float64).reshape(rows, columns)

    def peek_is_text(self, prefix: str) -> bool:
        """Whether a string that begins with ``prefix`` stands here."""
        at = self._at
        try:
            size = self.integer()
            return self._take(size).startswith(prefix.encode("ascii"))
        except FormatError:
            return False
        finally:
            self._at = at

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def expect_end(self) -> None:
        if not self.at_end:
            raise FormatError(
                f"{len(self._data) - self._at} bytes are left over in the model file."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """``filters`` (out, in, height, width) and ``bias`` (out,), float32; cross-correlation."""

    filters: FloatArray
    bias: FloatArray
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """``gamma`` and ``beta``, float32 of shape (channels,)."""

    gamma: FloatArray
    beta: FloatArray


@dataclass(frozen=True, slots=True)
class Pool:
    """A pooling window; rows = columns = 0 means the whole picture."""

    kind: str
    rows: int
    columns: int
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Marker:
    """A layer without numbers: ``relu_`` or ``add_prev_``."""

    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A fully connected layer: output = input @ ``weights`` (inputs, outputs), no bias."""

    weights: FloatArray


Layer = Convolution | Affine | Pool | Marker | Dense


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """The layers of a network file in the order in which they run."""

    layers: tuple[Layer, ...]
    mean_rgb: tuple[float, float, float]
    loss: dict[str, float]


def _convolution(reader: Reader) -> Convolution:
    params = reader.tensor().ravel()
    out, rows, columns, stride_y, stride_x, pad_y, pad_x = (reader.integer() for _ in range(7))
    filter_shape, bias_shape = reader.alias(), reader.alias()
    reader.reals(4)  # learning-rate and weight-decay multipliers, of use in training only
    split = int(np.prod(filter_shape))
    if filter_shape[0] != out or filter_shape[2:] != (rows, columns) or bias_shape[1] != out:
        raise FormatError("A convolution of the model file contradicts itself.")
    if split + out != params.size:
        raise FormatError("A convolution of the model file has the wrong number of weights.")
    return Convolution(
        filters=params[:split].reshape(filter_shape),
        bias=params[split:],
        stride=(stride_y, stride_x),
        padding=(pad_y, pad_x),
    )


def _affine(reader: Reader) -> Affine:
    params = reader.tensor().ravel()
    gamma_shape, _ = reader.alias(), reader.alias()
    reader.integer()  # mode: convolutional or fully connected
    split = int(np.prod(gamma_shape))
    return Affine(gamma=params[:split], beta=params[split:])


def _batch_norm(reader: Reader) -> Affine:
    """Batch normalisation, folded into gamma and beta with the running statistics."""
    params = reader.tensor().ravel()
    gamma_shape, _ = reader.alias(), reader.alias()
    reader.tensor()  # means and inverse deviations of the last training batch
    reader.tensor()
    running_mean, running_variance = reader.tensor().ravel(), reader.tensor().ravel()
    reader.integer()
    reader.integer()
    reader.reals(4)
    epsilon = reader.real()
    split = int(np.prod(gamma_shape))
    gamma = params[:split] / np.sqrt(running_variance + np.float32(epsilon))
    beta = params[split:] - gamma * running_mean
    return Affine(gamma=gamma.astype(np.float32), beta=beta.astype(np.float32))


def _pool(reader: Reader, kind: str) -> Pool:
    rows, columns, stride_y, stride_x, pad_y, pad_x = (reader.integer() for _ in range(6))
    return Pool(kind, rows, columns, (stride_y, stride_x), (pad_y, pad_x))


def _dense(reader: Reader) -> Dense:
    outputs, inputs = reader.integer(), reader.integer()
    weights = reader.tensor().reshape(-1, outputs)
    reader.alias()
    reader.alias()
    reader.integer()  # bias mode: none
    reader.reals(4)
    if weights.shape != (inputs, outputs):
        raise FormatError("The dense layer of the model file has the wrong shape.")
    return Dense(weights=weights)


def _layer(reader: Reader) -> Layer:
    kind = reader.text()
    match kind:
        case "con_4":
            return _convolution(reader)
        case "affine_":
            return _affine(reader)
        case "bn_con2":
            return _batch_norm(reader)
        case "max_pool_2" | "avg_pool_2":
            return _pool(reader, kind)
        case "relu_" | "add_prev_":
            return Marker(kind)
        case "fc_2":
            return _dense(reader)
        case _:
            raise FormatError(f"An unknown layer, {kind!r}, in the model file.")


def _loss(reader: Reader) -> dict[str, float]:
    kind = reader.text()
    if kind == "loss_metric_2":
        margin, threshold = reader.reals(2)
        return {"margin": margin, "distance_threshold": threshold}
    if kind == "loss_mmod_":
        reader.expect_integers(1)
        width, height = reader.integer(), reader.integer()
        reader.reals(3)
        nms_iou, nms_covered = reader.reals(2)
        reader.reals(2)
        return {
            "window_width": float(width),
            "window_height": float(height),
            "nms_iou": nms_iou,
            "nms_covered": nms_covered,
        }
    raise FormatError(f"An unknown loss, {kind!r}, in the model file.")


def read_network(data: bytes) -> Network:
    """Parse a dlib network file (the face recognition ResNet or the mmod face detector).

    The file holds, outermost first, one version number for each wrapper around the network, then
    the input layer, then the layers from the first executed to the last.

    Raises:
        FormatError: the bytes are not such a file, or not all of them were understood.
    """
    reader = Reader(data)
    reader.expect_integers(1)
    loss = _loss(reader)
    while not reader.peek_is_text("input_rgb_image"):
        reader.integer()
    input_kind = reader.text()
    red, green, blue = reader.reals(3)
    if input_kind == "input_rgb_image_sized":
        reader.expect_integers(150, 150)
    layers: list[Layer] = []
    while True:
        layers.append(_layer(reader))
        for _ in range(3):
            reader.boolean()
        for _ in range(3):
            reader.tensor()
        if len(layers) == 1:
            reader.expect_integers(1)  # how many samples one input expands to
        if reader.at_end:
            break
    return Network(tuple(layers), (red, green, blue), loss)


@dataclass(frozen=True, slots=True, eq=False)
class ShapePredictor:
    """The regression trees of a 5-point landmark predictor as arrays.

    ``initial``: (5, 2) points in the unit square of the face rectangle. For C cascades of T trees
    of depth 4: ``first``, ``second`` (C, T, 15) int32 indices of the two compared pixels,
    ``threshold`` (C, T, 15), ``leaves`` (C, T, 16, 10) shape increments. For each of P pixels:
    ``anchor`` (C, P) the landmark it hangs on and ``delta`` (C, P, 2) its offset. float32.
    """

    initial: FloatArray
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    threshold: FloatArray
    leaves: FloatArray
    anchor: NDArray[np.int32]
    delta: FloatArray


def _leaf_block(reader: Reader) -> list[NDArray[np.float64]]:
    return [reader.matrix().ravel() for _ in range(reader.count())]


def read_shape_predictor(data: bytes) -> ShapePredictor:
    """Parse ``shape_predictor_5_face_landmarks.dat`` (Kazemi and Sullivan, CVPR 2014).

    Raises:
        FormatError: the bytes are not such a file, or not all of them were understood.
    """
    reader = Reader(data)
    reader.expect_integers(1)
    initial = reader.matrix().reshape(-1, 2)
    first, second, threshold, leaves = [], [], [], []
    for _ in range(reader.count()):
        for _ in range(reader.count()):
            splits = reader.integers(4 * reader.count())  # two pixels and a real for each
            first.append(splits[::4])
            second.append(splits[1::4])
            threshold.append(_reals(splits[2::4], splits[3::4]))
            leaves.append(_leaf_block(reader))
    anchor = [[reader.integer() for _ in range(reader.count())] for _ in range(reader.count())]
    cascades = len(anchor)
    delta = [
        [(reader.real(), reader.real()) for _ in range(reader.count())]
        for _ in range(reader.count())
    ]
    reader.expect_end()
    trees = len(first) // cascades
    return ShapePredictor(
        initial=initial.astype(np.float32),
        first=np.array(first, dtype=np.int32).reshape(cascades, trees, -1),
        second=np.array(second, dtype=np.int32).reshape(cascades, trees, -1),
        threshold=np.array(threshold, dtype=np.float32).reshape(cascades, trees, -1),
        leaves=np.array(leaves, dtype=np.float32).reshape(cascades, trees, 16, -1),
        anchor=np.array(anchor, dtype=np.int32),
        delta=np.array(delta, dtype=np.float32),
    )
