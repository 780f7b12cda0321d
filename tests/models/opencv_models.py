"""Small ONNX models with the inputs and outputs of OpenCV Zoo's YuNet and SFace.

The detector answers to red: where a cell of one of its strides is red all over, it sees a face
four strides wide around the middle of the cell, with five points at fixed places in it. So faces
can be planted by painting squares. The recogniser is a fixed random projection of the crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.types import RgbImage

STRIDES: Final = (8, 16, 32)
FACE_IN_STRIDES: Final = 4.0
POINTS: Final = np.array(
    [(-0.7, -0.5), (0.7, -0.5), (0.0, 0.1), (-0.5, 0.8), (0.5, 0.8)], dtype=np.float32
)
"""Where the five points lie, in strides from the middle of the cell."""


def yunet(*, fixed: int | None = None, gain: float = 0.05) -> bytes:
    """Outputs ``cls``, ``obj``, ``bbox``, ``kps`` at strides 8, 16 and 32, as YuNet's.

    ``fixed``: side in pixels that the file states for its input, as the published file does (640);
    OpenCV runs it at other sizes all the same. ``gain``: how steeply the score rises with red.
    """
    nodes, weights, outputs = [], [], []
    for stride in STRIDES:
        for name, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            kernel = np.zeros((channels, 3, stride, stride), dtype=np.float32)
            bias = np.zeros(channels, dtype=np.float32)
            if channels == 1:  # blue, green, red: all red is high, white and black are low
                each = gain / stride**2
                kernel[0, 0], kernel[0, 1], kernel[0, 2] = -each, -each, each
                bias[0] = -200 * gain
            elif name == "bbox":
                bias[:] = (0.5, 0.5, np.log(FACE_IN_STRIDES), np.log(FACE_IN_STRIDES))
            else:
                bias[:] = (POINTS + 0.5).ravel()
            key = f"{name}_{stride}"
            weights += [
                numpy_helper.from_array(kernel, f"w_{key}"),
                numpy_helper.from_array(bias, f"b_{key}"),
                numpy_helper.from_array(np.array([1, -1, channels], np.int64), f"shape_{key}"),
            ]
            flat = f"flat_{key}" if channels == 1 else key
            nodes += [
                helper.make_node(
                    "Conv",
                    ["input", f"w_{key}", f"b_{key}"],
                    [f"map_{key}"],
                    kernel_shape=[stride, stride],
                    strides=[stride, stride],
                ),
                helper.make_node("Transpose", [f"map_{key}"], [f"rows_{key}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"rows_{key}", f"shape_{key}"], [flat]),
            ]
            if channels == 1:
                nodes.append(helper.make_node("Sigmoid", [flat], [key]))
            cells = (fixed // stride) ** 2 if fixed else f"cells_{stride}"
            outputs.append(_tensor(key, [1, cells, channels]))
    side: list[Any] = [fixed, fixed] if fixed else ["height", "width"]
    return _model(nodes, [_tensor("input", [1, 3, *side])], outputs, weights)


def sface(*, dimension: int = 128, seed: int = 7) -> bytes:
    """Input ``data`` (1, 3, 112, 112), output ``fc1`` (1, ``dimension``), as SFace's."""
    cells = 3 * 14 * 14
    weight = np.random.default_rng(seed).normal(size=(cells, dimension)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["data"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["fc1"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([1, cells], np.int64), "shape"),
        numpy_helper.from_array(weight / 100, "weight"),
    ]
    return _model(
        nodes, [_tensor("data", [1, 3, 112, 112])], [_tensor("fc1", [1, dimension])], weights
    )


def write_folder(folder: Path, **files: bytes) -> Path:
    """A folder as it is fetched from OpenCV Zoo, with the published names."""
    folder.mkdir(parents=True, exist_ok=True)
    contents: Mapping[str, bytes] = {"detector": yunet(), "recogniser": sface(), **files}
    names = {
        "detector": "face_detection_yunet_2023mar.onnx",
        "recogniser": "face_recognition_sface_2021dec.onnx",
    }
    for role, data in contents.items():
        (folder / names[role]).write_bytes(data)
    return folder


def planted(width: int, height: int, *squares: tuple[int, int, int]) -> RgbImage:
    """A grey picture, uint8 RGB, with red squares (x, y, side), each with a texture of its own."""
    image = np.full((height, width, 3), 110, dtype=np.uint8)
    for number, (x, y, side) in enumerate(squares):
        texture = np.random.default_rng(number).integers(235, 256, (side, side), dtype=np.uint8)
        image[y : y + side, x : x + side] = 0
        image[y : y + side, x : x + side, 0] = texture
    return image


def _tensor(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> bytes:
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
