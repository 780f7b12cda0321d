"""The two dlib networks rebuilt as ONNX graphs.

Both take ``uint8`` pixels of shape (batch, height, width, 3) in RGB order. The mean colour and the
scale of 1/256 are folded into the first convolution, and every affine layer into the convolution
before it, so that a graph holds convolutions, ReLUs, poolings and additions only.

The topology is not in dlib's files and is written down here; it follows dlib's published examples
``dnn_face_recognition_ex`` and ``dnn_mmod_face_detection_ex``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.packs.dlib.format import (
    Affine,
    Convolution,
    Dense,
    FormatError,
    Layer,
    Marker,
    Network,
    Pool,
)

_OPSET: Final = 17
_IR_VERSION: Final = 9
_PIXEL_SCALE: Final = 256.0


class _Graph:
    """Collects nodes and weights; each method returns the name of the value that it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, array: NDArray[np.generic]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def pixels(self) -> str:
        return self.node(
            "Transpose", self.node("Cast", "pixels", to=TensorProto.FLOAT), perm=[0, 3, 1, 2]
        )

    def convolution(self, value: str, conv: Convolution, affine: Affine | None) -> str:
        filters = conv.filters.astype(np.float64)
        bias = conv.bias.astype(np.float64)
        if affine is not None:
            gamma = affine.gamma.astype(np.float64)
            filters = filters * gamma[:, None, None, None]
            bias = bias * gamma + affine.beta
        return self.raw_convolution(value, filters, bias, conv)

    def raw_convolution(
        self,
        value: str,
        filters: NDArray[np.float64],
        bias: NDArray[np.float64],
        conv: Convolution,
    ) -> str:
        pad_y, pad_x = conv.padding
        return self.node(
            "Conv",
            value,
            self.constant(filters.astype(np.float32)),
            self.constant(bias.astype(np.float32)),
            kernel_shape=list(filters.shape[2:]),
            strides=list(conv.stride),
            pads=[pad_y, pad_x, pad_y, pad_x],
        )

    def pad(self, value: str, *, channels: int = 0, bottom_right: int = 0) -> str:
        """Zeros after the last channel, or below and to the right."""
        pads = np.array([0, 0, 0, 0, 0, channels, bottom_right, bottom_right], dtype=np.int64)
        return self.node("Pad", value, self.constant(pads))

    def model(self, output: onnx.ValueInfoProto, shape: list[str | int]) -> bytes:
        """The finished graph; the last node that was added becomes ``output``."""
        self.nodes[-1].output[0] = output.name
        graph = helper.make_graph(
            self.nodes,
            "homeward",
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
            [output],
            self.weights,
        )
        model = helper.make_model(
            graph,
            producer_name="homeward",
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
        )
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))


class _Layers:
    """Hands out the layers of a file in order, insisting on the expected kind."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self._rest: Iterator[Layer] = iter(layers)

    def _next(self) -> Layer:
        layer = next(self._rest, None)
        if layer is None:
            raise FormatError("The network file has fewer layers than its topology.")
        return layer

    def convolution(self) -> Convolution:
        layer = self._next()
        if not isinstance(layer, Convolution):
            raise FormatError(f"{type(layer).__name__} where a convolution belongs.")
        return layer

    def affine(self) -> Affine:
        layer = self._next()
        if not isinstance(layer, Affine):
            raise FormatError(f"{type(layer).__name__} where an affine layer belongs.")
        return layer

    def marker(self, kind: str) -> None:
        layer = self._next()
        if not isinstance(layer, Marker) or layer.kind != kind:
            raise FormatError(f"{layer!r} where {kind} belongs.")

    def pool(self, kind: str, rows: int, stride: int) -> None:
        layer = self._next()
        expected = Pool(kind, rows, rows, (stride, stride), (0, 0))
        if layer != expected:
            raise FormatError(f"{layer!r} where {expected!r} belongs.")

    def dense(self) -> Dense:
        layer = self._next()
        if not isinstance(layer, Dense):
            raise FormatError(f"{type(layer).__name__} where the dense layer belongs.")
        return layer

    def end(self) -> None:
        if next(self._rest, None) is not None:
            raise FormatError("The network file has more layers than its topology.")


def _first_convolution(graph: _Graph, network: Network, layers: _Layers) -> str:
    """The first convolution with its affine layer, the mean colour and the scale folded in."""
    conv, affine = layers.convolution(), layers.affine()
    gamma = affine.gamma.astype(np.float64)
    filters = conv.filters.astype(np.float64) * gamma[:, None, None, None] / _PIXEL_SCALE
    mean = np.array(network.mean_rgb, dtype=np.float64)
    bias = conv.bias * gamma + affine.beta - np.einsum("oihw,i->o", filters, mean)
    layers.marker("relu_")
    return graph.node("Relu", graph.raw_convolution(graph.pixels(), filters, bias, conv))


def _residual(graph: _Graph, layers: _Layers, value: str) -> str:
    """One residual block that keeps the size of its input."""
    first, first_affine = layers.convolution(), layers.affine()
    layers.marker("relu_")
    second, second_affine = layers.convolution(), layers.affine()
    layers.marker("add_prev_")
    layers.marker("relu_")
    path = graph.node("Relu", graph.convolution(value, first, first_affine))
    path = graph.convolution(path, second, second_affine)
    return graph.node("Relu", graph.node("Add", path, value))


def _residual_down(
    graph: _Graph, layers: _Layers, value: str, size: int, channels: int
) -> tuple[str, int, int]:
    """One residual block that halves its input.

    The skip is a 2 x 2 average; channels that it lacks are zeros. In the last two blocks the path
    comes out one pixel smaller than the skip; dlib's addition then treats the missing row and
    column as zeros.
    """
    first, first_affine = layers.convolution(), layers.affine()
    layers.marker("relu_")
    second, second_affine = layers.convolution(), layers.affine()
    layers.pool("avg_pool_2", 2, 2)
    layers.marker("add_prev_")
    layers.marker("relu_")
    path = graph.node("Relu", graph.convolution(value, first, first_affine))
    path = graph.convolution(path, second, second_affine)
    skip = graph.node("AveragePool", value, kernel_shape=[2, 2], strides=[2, 2])
    out = first.filters.shape[0]
    path_size, skip_size = (size - 3) // 2 + 1, size // 2
    if out > channels:
        skip = graph.pad(skip, channels=out - channels)
    if skip_size > path_size:
        path = graph.pad(path, bottom_right=skip_size - path_size)
    return graph.node("Relu", graph.node("Add", path, skip)), skip_size, out


EMBEDDER_BLOCKS: Final = (
    ("keep", 3),
    ("down", 1),
    ("keep", 3),
    ("down", 1),
    ("keep", 2),
    ("down", 1),
    ("keep", 2),
    ("down", 1),
)


def embedder_onnx(network: Network) -> bytes:
    """The 29-convolution ResNet: (N, 150, 150, 3) uint8 to ``embedding`` (N, 128) float32.

    The output is dlib's own descriptor, not normalised.

    Raises:
        FormatError: the layers are not those of this network.
    """
    graph, layers = _Graph(), _Layers(network.layers)
    value = _first_convolution(graph, network, layers)
    layers.pool("max_pool_2", 3, 2)
    value = graph.node("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2])
    size, channels = 35, 32
    for kind, count in EMBEDDER_BLOCKS:
        for _ in range(count):
            if kind == "keep":
                value = _residual(graph, layers, value)
            else:
                value, size, channels = _residual_down(graph, layers, value, size, channels)
    layers.pool("avg_pool_2", 0, 1)
    value = graph.node("Flatten", graph.node("GlobalAveragePool", value))
    value = graph.node("MatMul", value, graph.constant(layers.dense().weights))
    layers.end()
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 128])
    return graph.model(output, ["batch", 150, 150, 3])


def detector_onnx(network: Network) -> bytes:
    """The mmod face detector: (N, H, W, 3) uint8 to ``scores`` (N, rows, columns) float32.

    Raises:
        FormatError: the layers are not those of this network.
    """
    graph, layers = _Graph(), _Layers(network.layers)
    value = _first_convolution(graph, network, layers)
    for _ in range(5):
        conv, affine = layers.convolution(), layers.affine()
        layers.marker("relu_")
        value = graph.node("Relu", graph.convolution(value, conv, affine))
    value = graph.convolution(value, layers.convolution(), None)
    layers.end()
    value = graph.node("Squeeze", value, graph.constant(np.array([1], dtype=np.int64)))
    output = helper.make_tensor_value_info(
        "scores", TensorProto.FLOAT, ["batch", "rows", "columns"]
    )
    return graph.model(output, ["batch", "height", "width", 3])
