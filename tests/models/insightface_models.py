"""Small models with exactly the inputs and outputs of InsightFace's, and faces that they know.

The public weights may not be shipped or used here, so a **planted face** stands in for a face: a
square of one colour with five dots, each of its own colour, at the places of the ArcFace template,
and grey corners that differ from one person to the next. The detector is a network of a 1 x 1
convolution (which colour is where), pooling (how much of it, and where in the mean, around each
anchor) and arithmetic; it gives boxes and key points as SCRFD does, upright faces only, each
stride the sizes that its anchors are for. The recogniser is a fixed random projection of the crop.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.types import RgbImage

SKIN = (255, 0, 255)
DOTS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))
"""Left eye, right eye, nose, left and right corner of the mouth, as they lie in the picture."""

PLACES = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ],
) / np.float64(112)
_DOT = 0.06
_CORNER = 0.2
_AREA = 1 - 4 * _CORNER**2
_SPREAD = 0.1362
"""Variance in x and y together of the coloured part of a planted face one pixel wide."""

_CELL = 4
"""Pixels are gathered in squares of this side first: half of the finest stride."""

_FIVE_OF_106 = (38, 88, 86, 52, 61)


# --- faces -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A face that was drawn: its box (x, y, width, height) and its points (5, 2), in pixels."""

    box: tuple[float, float, float, float]
    points: NDArray[np.float64]


def face(width: int, person: int) -> RgbImage:
    """A planted face of ``width`` pixels, upright."""
    return _face(width, np.random.default_rng(person).integers(0, 256, (2, 2, 2, 2)))


def _face(width: int, greys: NDArray[np.int64]) -> RgbImage:
    grid = (np.arange(width) + 0.5) / width
    u, v = np.meshgrid(grid, grid)
    pixels = np.empty((width, width, 3), np.uint8)
    pixels[:] = SKIN
    for (x, y), colour in zip(PLACES, DOTS, strict=True):
        pixels[(u - x) ** 2 + (v - y) ** 2 < _DOT**2] = colour
    for row, column in np.ndindex(2, 2):
        inside = (np.abs(u - column) < _CORNER) & (np.abs(v - row) < _CORNER)
        part_u = (np.abs(u - column) > _CORNER / 2).astype(int)
        part_v = (np.abs(v - row) > _CORNER / 2).astype(int)
        shade = greys[row, column][part_v, part_u]
        pixels[inside] = shade[inside, None]
    return pixels


def plant(image: RgbImage, x: int, y: int, width: int, person: int) -> Planted:
    """Draw a face into ``image`` with its top left corner at (x, y)."""
    image[y : y + width, x : x + width] = face(width, person)
    return Planted((x, y, width, width), PLACES * width - 0.5 + (x, y))


def scene(height: int, width: int, seed: int = 0) -> RgbImage:
    """A picture without a face: grey, with some texture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(90, 160, (height // 8 + 1, width // 8 + 1, 1))
    image = np.kron(coarse, np.ones((8, 8, 3)))[:height, :width]
    return np.asarray(image, dtype=np.uint8)


# --- graphs ----------------------------------------------------------------------------------


@dataclass
class Graph:
    """Collects nodes and constants; each call returns the name of its result."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    count: int = 0

    def __call__(self, kind: str, *inputs: Any, name: str | None = None, **attributes: Any) -> str:
        self.count += 1
        result = f"t{self.count}"
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        self.nodes.append(
            helper.make_node(kind, names, [result], name or f"{kind}_{self.count}", **attributes)
        )
        return result

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def model(self, inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "made", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        return model


def _value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _colours(graph: Graph, pixels: str) -> str:
    """(1, 6, H, W): how much each pixel is of a face at all, and of each dot, 0 to 1.

    ``pixels``: RGB, ``(pixel - 127.5) / 128``. A pure colour times itself is 3 x 0.996 squared.
    """
    corners = (np.array([SKIN, *DOTS]) - 127.5) / 128
    weights = corners.reshape(6, 3, 1, 1) * 3 / np.sum(corners**2, axis=1).reshape(6, 1, 1, 1)
    raw = graph("Conv", pixels, weights, np.full(6, -2.0))
    each = graph("Clip", raw, np.float32(0), np.float32(1))
    dots = graph("Slice", each, np.array([1]), np.array([6]), np.array([1]))
    return graph("Concat", graph("ReduceSum", each, np.array([1])), dots, axis=1)


def _grid(graph: Graph, like: str, step: float) -> tuple[str, str]:
    """Columns and rows of a map times ``step``: two of (1, 1, H, W)."""
    one = graph("Slice", like, np.array([0]), np.array([1]), np.array([1]))
    one = graph("Add", graph("Mul", one, np.float32(0)), np.float32(1))
    return tuple(  # type: ignore[return-value]
        graph("Mul", graph("Sub", graph("CumSum", one, np.int64(a)), 1.0), np.float32(step))
        for a in (3, 2)
    )


def _parts(graph: Graph, of: str, *ends: int) -> list[str]:
    starts = (0, *ends[:-1])
    return [
        graph("Slice", of, np.array([a]), np.array([b]), np.array([1]))
        for a, b in zip(starts, ends, strict=True)
    ]


def _ramp(graph: Graph, value: str, zero: float, one: float) -> str:
    """0 below ``zero``, 1 above ``one`` (or the other way round), straight in between."""
    line = graph("Div", graph("Sub", value, np.float32(zero)), np.float32(one - zero))
    return graph("Clip", line, np.float32(0), np.float32(1))


def _moments(graph: Graph, colours: str) -> str:
    """(1, 18, H / 4, W / 4): how much of each colour is in a cell, and that times its mean column
    and row in pixels of the picture."""
    along = np.tile(np.arange(_CELL, dtype=np.float32), (_CELL, 1))
    sums = np.stack([np.ones_like(along), along, along.T]) / _CELL**2
    kernels = np.zeros((18, 6, _CELL, _CELL), np.float32)
    for moment, colour in np.ndindex(3, 6):
        kernels[6 * moment + colour, colour] = sums[moment]
    cells = graph("Conv", colours, kernels, strides=[_CELL] * 2)
    mass, in_x, in_y = _parts(graph, cells, 6, 12, 18)
    x, y = _grid(graph, mass, _CELL)
    in_x = graph("Add", in_x, graph("Mul", mass, x))
    in_y = graph("Add", in_y, graph("Mul", mass, y))
    return graph("Concat", mass, in_x, in_y, axis=1)


def _level(graph: Graph, moments: str, stride: int, smallest: bool) -> tuple[str, str, str]:
    """Score (1, 1, h, w), box (1, 4, h, w) and points (1, 10, h, w) of one stride."""
    cell = stride // 2 // _CELL
    cells = moments
    if cell > 1:
        cells = graph("AveragePool", moments, kernel_shape=[cell] * 2, strides=[cell] * 2)
    window = graph(
        "AveragePool",
        cells,
        kernel_shape=[16, 16],
        strides=[2, 2],
        pads=[8, 8, 6, 6],
        count_include_pad=1,
    )
    mass, in_x, in_y = _parts(graph, window, 6, 12, 18)
    safe = graph("Max", mass, np.float32(1e-9))
    x, y = graph("Div", in_x, safe), graph("Div", in_y, safe)
    anchor_x, anchor_y = _grid(graph, mass, stride)
    x, y = graph("Sub", x, anchor_x), graph("Sub", y, anchor_y)
    all_mass, *_ = _parts(graph, mass, 1)
    middle_x, *xs = _parts(graph, x, 1, 2, 3, 4, 5, 6)
    middle_y, *ys = _parts(graph, y, 1, 2, 3, 4, 5, 6)
    area = graph("Mul", all_mass, np.float32((8 * stride) ** 2 / _AREA))
    width = graph("Sqrt", graph("Max", area, np.float32(1e-6)))
    half = graph("Mul", width, np.float32(0.5))
    sides = [
        graph("Sub", half, middle_x),
        graph("Sub", half, middle_y),
        graph("Add", half, middle_x),
        graph("Add", half, middle_y),
    ]
    step = np.float32(1 / stride)
    box = graph("Mul", graph("Concat", *sides, axis=1), step)
    points = [value for pair in zip(xs, ys, strict=True) for value in pair]
    marks = graph("Mul", graph("Concat", *points, axis=1), step)

    far = graph("Max", graph("Abs", middle_x), graph("Abs", middle_y))
    least = 9.0 if smallest else 5.5 * stride / 2
    # The spread around the anchor of what is in the window, less that of its middle.
    side = stride // 2
    steps = (np.arange(16) - 8) * side + (side - 1) / 2
    around = (steps[:, None] ** 2 + steps[None, :] ** 2 + (side**2 - 1) / 6) / 256
    faces, *_ = _parts(graph, cells, 1)
    kernel = around.reshape(1, 1, 16, 16)
    squares = graph("Conv", faces, kernel, strides=[2, 2], pads=[8, 8, 6, 6])
    first, *_ = _parts(graph, safe, 1)
    middle = graph("Add", graph("Mul", middle_x, middle_x), graph("Mul", middle_y, middle_y))
    spread = graph("Sub", graph("Div", squares, first), middle)
    odd = graph("Abs", graph("Sub", graph("Div", spread, graph("Max", area, 1e-3)), _SPREAD))
    shares = graph("Div", graph("Slice", mass, np.array([1]), np.array([6]), np.array([1])), first)
    rarest = graph("ReduceMin", shares, axes=[1])
    eyes = graph("Div", graph("Sub", xs[1], xs[0]), width)
    aside = graph("Abs", graph("Div", graph("Sub", xs[2], middle_x), width))
    below = graph("Div", graph("Sub", ys[2], middle_y), width)
    score = graph("Mul", _ramp(graph, far, 0.8 * stride, 0.55 * stride), np.float32(0.95))
    for factor in (
        _ramp(graph, far, 6.0 * stride, 0.0),
        # As with real detectors, a face of more pixels is surer.
        _ramp(graph, width, -60.0, 40.0),
        _ramp(graph, width, least, least * 1.15),
        _ramp(graph, width, 7.3 * stride, 6.8 * stride),
        _ramp(graph, odd, 0.05, 0.03),
        _ramp(graph, rarest, 0.003, 0.007),
        # Several faces in one window have their eyes too near for so much of a face.
        _ramp(graph, eyes, 0.25, 0.28),
        _ramp(graph, aside, 0.08, 0.05),
        _ramp(graph, below, 0.07, 0.1),
    ):
        score = graph("Mul", score, factor)
    return score, box, marks


def make_detector(
    *,
    outputs: int = 9,
    size: tuple[int, int] | None = None,
    batched: bool = False,
    raw_pixels: bool = False,
) -> onnx.ModelProto:
    """An SCRFD detector with 6, 9, 10 or 15 ``outputs``.

    ``size``: (width, height) of a fixed input. ``batched``: outputs of rank 3. ``raw_pixels``:
    takes uint8 pixels as they are ("embedded" preprocessing) instead of normalised ones.
    """
    levels = 3 if outputs in (6, 9) else 5
    anchors = 2 if levels == 3 else 1
    graph = Graph()
    pixels = "input.1"
    if raw_pixels:
        whole = graph("Cast", pixels, to=TensorProto.FLOAT)
        pixels = graph("Div", graph("Sub", whole, np.float32(127.5)), np.float32(128))
    moments = _moments(graph, _colours(graph, pixels))
    found = [_level(graph, moments, 8 << level, level == 0) for level in range(levels)]
    values: list[Any] = []
    for kind, columns in ((0, 1), (1, 4), (2, 10)):
        for level in range(levels):
            if len(values) == outputs:
                break
            one = found[level][kind]
            # The second anchor of a place says the same, a little less surely.
            other = graph("Mul", one, np.float32(0.9 if kind == 0 else 1.0))
            both = graph("Concat", one, other, axis=1) if anchors == 2 else one
            last = graph("Transpose", both, perm=[0, 2, 3, 1])
            shape = [1, -1, columns] if batched else [-1, columns]
            graph.nodes.append(
                helper.make_node(
                    "Reshape", [last, graph.constant(np.array(shape))], [f"out{len(values)}"]
                )
            )
            rows: list[int | str] = [f"n{level}", columns]
            values.append(_value(f"out{len(values)}", [1, *rows] if batched else rows))
    width, height = size or ("?", "?")
    kind = TensorProto.UINT8 if raw_pixels else TensorProto.FLOAT
    return graph.model([_value("input.1", [1, 3, height, width], kind)], values)


def make_recogniser(
    *,
    size: int = 112,
    dimension: int = 512,
    batch: int | str = "None",
    mxnet: bool = False,
    raw_pixels: bool = False,
    one_inside: bool = False,
    seed: int = 0,
) -> onnx.ModelProto:
    """An ArcFace recogniser: a random projection of the crop at 16 x 16.

    ``mxnet``: takes pixels as they are, as float32, with the nodes by which insightface tells it.
    ``raw_pixels``: the same as uint8, for a manifest. ``one_inside``: says that it takes any number
    of crops, and takes one.
    """
    graph = Graph()
    pixels = "data"
    if raw_pixels:
        pixels = graph("Cast", pixels, to=TensorProto.FLOAT)
    if mxnet or raw_pixels:
        pixels = graph("Sub", pixels, np.float32(127.5), name="_minusscalar0")
        pixels = graph("Mul", pixels, np.float32(1 / 128), name="_mulscalar0")
    side = size // 16
    small = graph("AveragePool", pixels, kernel_shape=[side] * 2, strides=[side] * 2)
    flat = graph("Reshape", small, np.array([1 if one_inside else -1, 3 * 16 * 16]))
    weights = np.random.default_rng(seed).normal(0, 1 / 16, (3 * 16 * 16, dimension))
    # What all faces have in common is taken off, so that different people differ.
    common = _face(size, np.full((2, 2, 2, 2), 127)).reshape(16, side, 16, side, 3).mean((1, 3))
    offset = ((common - 127.5) / 127.5).transpose(2, 0, 1).reshape(1, -1) @ weights
    _last(graph, "Gemm", flat, weights, -offset)
    kind = TensorProto.UINT8 if raw_pixels else TensorProto.FLOAT
    return graph.model(
        [_value("data", [batch, 3, size, size], kind)], [_value("fc1", [batch, dimension])]
    )


def make_landmarks() -> onnx.ModelProto:
    """A 106-point model (192 x 192 > 212) that finds the five dots; its other points are 0."""
    graph = Graph()
    colours = _colours(graph, "data")
    x, y = _grid(graph, colours, 1.0)
    mass = graph("Max", graph("GlobalAveragePool", colours), np.float32(1e-9))
    centres = [
        graph("Div", graph("GlobalAveragePool", graph("Mul", colours, along)), mass)
        for along in (x, y)
    ]
    flat = graph("Reshape", graph("Concat", *centres, axis=1), np.array([1, 12]))
    scaled = graph("Sub", graph("Mul", flat, np.float32(1 / 96)), np.float32(1))
    chosen = np.zeros((12, 212))
    for at, index in enumerate(_FIVE_OF_106):
        chosen[1 + at, 2 * index] = chosen[7 + at, 2 * index + 1] = 1
    _last(graph, "MatMul", scaled, chosen)
    return graph.model([_value("data", ["None", 3, 192, 192])], [_value("fc1", [1, 212])])


def _last(graph: Graph, kind: str, *inputs: Any) -> None:
    names = [i if isinstance(i, str) else graph.constant(i) for i in inputs]
    graph.nodes.append(helper.make_node(kind, names, ["fc1"], f"{kind}_last"))


def make_heavy_recogniser(blocks: tuple[int, int, int, int] = (2, 2, 2, 2)) -> onnx.ModelProto:
    """An IResNet of random weights, 112 x 112 > 512: (2, 2, 2, 2) costs what iresnet18 costs."""
    rng = np.random.default_rng(0)
    graph = Graph()

    def conv(of: str, inputs: int, outputs: int, kernel: int, stride: int) -> str:
        spread = (2 / (inputs * kernel**2)) ** 0.5
        weights = rng.normal(0, spread, (outputs, inputs, kernel, kernel)).astype(np.float32)
        pads = [kernel // 2] * 4
        return graph("Conv", of, weights, np.zeros(outputs), strides=[stride] * 2, pads=pads)

    def norm(of: str, channels: int) -> str:
        one, zero = np.ones(channels), np.zeros(channels)
        return graph("BatchNormalization", of, one, zero, zero, one * 2)

    def prelu(of: str, channels: int) -> str:
        return graph("PRelu", of, rng.uniform(-0.1, 1.2, (channels, 1, 1)))

    x, channels = prelu(conv("data", 3, 64, 3, 1), 64), 64
    for count, outputs in zip(blocks, (64, 128, 256, 512), strict=True):
        for block in range(count):
            stride = 2 if block == 0 else 1
            y = conv(norm(x, channels), channels, outputs, 3, 1)
            y = conv(prelu(y, outputs), outputs, outputs, 3, stride)
            x = graph("Add", y, conv(x, channels, outputs, 1, 2) if block == 0 else x)
            channels = outputs
    flat = graph("Flatten", norm(x, channels))
    _last(graph, "Gemm", flat, rng.normal(0, 0.006, (512 * 49, 512)), np.zeros(512))
    return graph.model([_value("data", ["None", 3, 112, 112])], [_value("fc1", ["None", 512])])


# --- folders ---------------------------------------------------------------------------------


def make_v1_folder(
    path: Path,
    *,
    detector: onnx.ModelProto | None = None,
    recogniser: onnx.ModelProto | None = None,
    landmarks: bool = False,
) -> Path:
    """A bare folder with the names of buffalo_l; made if it is not there."""
    path.mkdir(parents=True, exist_ok=True)
    onnx.save(detector or make_detector(), path / "det_10g.onnx")
    onnx.save(recogniser or make_recogniser(), path / "w600k_r50.onnx")
    if landmarks:
        onnx.save(make_landmarks(), path / "2d106det.onnx")
    return path


def make_v2_folder(
    path: Path,
    *,
    size: int = 128,
    dimension: int = 256,
    raw_pixels: bool = False,
    detector_size: tuple[int, int] | None = None,
    model_id: str = "made_s",
    changes: dict[str, Any] | None = None,
) -> Path:
    """A folder with a manifest; ``changes`` overwrites keys at its top."""
    path.mkdir(parents=True, exist_ok=True)
    detector = make_detector(raw_pixels=raw_pixels, size=detector_size)
    onnx.save(detector, path / "detector.onnx")
    recogniser = make_recogniser(size=size, dimension=dimension, raw_pixels=raw_pixels)
    onnx.save(recogniser, path / "recogniser.onnx")
    (path / "MODEL.LICENSE").write_text("Made for tests.\n", encoding="utf-8")

    def task(name: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256((path / name).read_bytes()).hexdigest()
        embedded = {"preprocessing": "embedded"} if raw_pixels else {}
        return {"file": name, "sha256": digest, **embedded, **more}

    manifest = {
        "manifest_version": 2,
        "model_id": model_id,
        "license": "MODEL.LICENSE",
        "tasks": {
            "detection": task("detector.onnx"),
            "recognition": task(
                "recogniser.onnx", input_size=[size, size], embedding_dimension=dimension
            ),
        },
        **(changes or {}),
    }
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return path
