"""The recogniser without PReLU: the same vectors, and used only where they are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from models.packs.base import PackInfo
from models.packs.insightface import pack as pack_module
from models.packs.insightface.pack import load
from models.packs.insightface.rewrite import without_prelu
from models.runtime import RuntimeOptions, open_session
from tests.models.insightface_models import Graph, make_heavy_recogniser, make_v1_folder

INFO = PackInfo("made", "Made for tests", "CC0-1.0", "", "made by the tests", 0, True)
ONE = RuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def resnet() -> onnx.ModelProto:
    """An IResNet of one block in each stage, with slopes below 0 and above 1 among the usual."""
    return make_heavy_recogniser((1, 1, 1, 1))


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(model: bytes, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(open_session(model, ONE).run(None, {"data": pixels})[0])


def test_vectors_without_prelu_are_the_same(resnet: onnx.ModelProto) -> None:
    plain = resnet.SerializeToString()
    other = without_prelu(plain)
    assert other is not None
    rewritten = onnx.load_model_from_string(other)
    onnx.checker.check_model(rewritten)
    assert kinds(resnet).count("PRelu") == 5 and "PRelu" not in kinds(rewritten)
    assert without_prelu(other) is None
    pixels = np.random.default_rng(1).normal(0, 1, (3, 3, 112, 112)).astype(np.float32)
    first, second = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in (run(plain, pixels), run(other, pixels))
    )
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)


def test_a_pack_runs_without_prelu_and_gives_the_same(
    tmp_path: Path, resnet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_v1_folder(tmp_path, recogniser=resnet)
    opened: list[bytes] = []

    def seen(model: bytes, options: RuntimeOptions) -> ort.InferenceSession:
        opened.append(model)
        return open_session(model, options)

    monkeypatch.setattr(pack_module, "open_session", seen)
    faster = load(folder, info=INFO, runtime=ONE)
    assert [b"PRelu" in model for model in opened] == [False, True, False]
    chips = list(np.random.default_rng(2).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8))
    # The same network when it disagrees with itself: the file is then run as it is.
    monkeypatch.setattr(pack_module, "without_prelu", wrong)
    plain = load(folder, info=INFO, runtime=ONE)
    assert plain.contract.id == faster.contract.id
    first, second = plain.embed(chips), faster.embed(chips)
    scale = np.linalg.norm(first, axis=1, keepdims=True)
    np.testing.assert_allclose(first / scale, second / scale, rtol=0, atol=1e-5)
    monkeypatch.setattr(pack_module, "without_prelu", lambda _model: b"not a model")
    np.testing.assert_array_equal(load(folder, info=INFO, runtime=ONE).embed(chips), first)


def wrong(model: bytes) -> bytes | None:
    """A rewrite with a mistake in it: one slope is another."""
    other = without_prelu(model)
    assert other is not None
    proto = onnx.load_model_from_string(other)
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("/slope"):
            values = numpy_helper.to_array(tensor).copy()
            values[0] += 1
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return bytes(proto.SerializeToString())


def one_slope(graph: Graph, of: str) -> str:
    return graph("PRelu", of, np.full((1, 1, 1), 0.25))


def slopes_by_place(graph: Graph, of: str) -> str:
    return graph("PRelu", of, np.full((4, 8, 8), 0.25))


def after_something_else(graph: Graph, of: str) -> str:
    return graph("PRelu", graph("Abs", of), np.full((4, 1, 1), 0.25))


def computed_slopes(graph: Graph, of: str) -> str:
    return graph("PRelu", of, graph("Abs", np.full((4, 1, 1), 0.25)))


@pytest.mark.parametrize(
    "layer", [one_slope, slopes_by_place, after_something_else, computed_slopes]
)
def test_other_prelus_stay(layer: Callable[[Graph, str], str]) -> None:
    graph = Graph()
    convolved = graph("Conv", "data", np.ones((4, 3, 1, 1)))
    value = onnx.helper.make_tensor_value_info
    model = graph.model(
        [value("data", 1, [1, 3, 8, 8])], [value(layer(graph, convolved), 1, [1, 4, 8, 8])]
    )
    assert without_prelu(model.SerializeToString()) is None


def test_models_of_old_operators_stay(resnet: onnx.ModelProto) -> None:
    old = onnx.ModelProto()
    old.CopyFrom(resnet)
    old.opset_import[0].version = 8
    assert without_prelu(old.SerializeToString()) is None
