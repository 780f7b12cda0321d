"""InsightFace folders as they are read: roles, sizes, digests, and every refusal."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from models.errors import PackDigestMismatch, PackError, PackMissing
from models.packs.insightface.onnx_file import MAX_MODEL_BYTES
from models.packs.insightface.package import MAX_MODELS, Scaling, read_package
from tests.models.insightface_models import (
    make_detector,
    make_landmarks,
    make_recogniser,
    make_v1_folder,
    make_v2_folder,
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_v1_roles_are_told_by_inputs_and_outputs(tmp_path: Path) -> None:
    folder = make_v1_folder(tmp_path / "buffalo")
    # What comes first by name wins, as in FaceAnalysis; models of other kinds are passed over.
    onnx.save(make_recogniser(dimension=64), folder / "z_second_recogniser.onnx")
    onnx.save(make_recogniser(size=96), folder / "genderage.onnx")
    package = read_package(folder)
    assert (package.format, package.model_id) == ("v1", "buffalo")
    assert package.detector.path == folder / "det_10g.onnx"
    assert package.recogniser.path == folder / "w600k_r50.onnx"
    assert (package.chip_size, package.dimension) == (112, 512)
    assert package.has_key_points and package.landmarks is None
    assert package.strides == (8, 16, 32)
    assert package.detector_size is None
    assert package.digests == {
        name: sha256(folder / name) for name in ("det_10g.onnx", "w600k_r50.onnx")
    }


@pytest.mark.parametrize(
    ("outputs", "strides", "points"),
    [
        (6, (8, 16, 32), False),
        (9, (8, 16, 32), True),
        (10, (8, 16, 32, 64, 128), False),
        (15, (8, 16, 32, 64, 128), True),
    ],
)
def test_detectors_of_each_kind(
    tmp_path: Path, outputs: int, strides: tuple[int, ...], points: bool
) -> None:
    detector = make_detector(outputs=outputs, size=(640, 384))
    package = read_package(make_v1_folder(tmp_path, detector=detector, landmarks=True))
    assert (package.strides, package.has_key_points) == (strides, points)
    assert package.detector_size == (640, 384)
    # The 106-point model is used only where it is needed.
    assert (package.landmarks is None) == points
    assert ("2d106det.onnx" in package.digests) == (not points)


def test_a_detector_without_key_points_needs_the_landmark_model(tmp_path: Path) -> None:
    folder = make_v1_folder(tmp_path, detector=make_detector(outputs=6))
    with pytest.raises(PackError, match="no key points") as refused:
        read_package(folder)
    assert "2d106det" in refused.value.remedy


def test_v2_is_read_from_its_manifest(tmp_path: Path) -> None:
    package = read_package(make_v2_folder(tmp_path, size=224, dimension=384))
    assert (package.format, package.model_id) == ("v2", "made_s")
    assert (package.chip_size, package.dimension) == (224, 384)
    assert package.detector_scaling == Scaling(127.5, 128.0)
    assert package.recogniser_scaling == Scaling(127.5, 127.5)
    assert set(package.digests) == {"detector.onnx", "recogniser.onnx"}
    raw = read_package(make_v2_folder(tmp_path / "raw", raw_pixels=True))
    assert raw.detector_scaling == raw.recogniser_scaling == Scaling(0.0, 1.0)


def test_an_older_manifest_means_v1(tmp_path: Path) -> None:
    folder = make_v1_folder(tmp_path)
    (folder / "manifest.json").write_text('{"name": "made"}', encoding="utf-8")
    assert read_package(folder).format == "v1"


def test_old_exports_list_weights_among_the_inputs(tmp_path: Path) -> None:
    recogniser = make_recogniser()
    for tensor in recogniser.graph.initializer:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        recogniser.graph.input.insert(0, value)
    recogniser.ir_version = 3
    package = read_package(make_v1_folder(tmp_path, recogniser=recogniser))
    assert (package.chip_size, package.dimension) == (112, 512)


def test_a_dimension_that_the_file_does_not_say_follows_from_the_graph(tmp_path: Path) -> None:
    recogniser = make_recogniser(dimension=320)
    recogniser.graph.output[0].type.tensor_type.ClearField("shape")
    assert read_package(make_v1_folder(tmp_path, recogniser=recogniser)).dimension == 320


def test_weights_beside_a_model_belong_to_it(tmp_path: Path) -> None:
    folder = make_v1_folder(tmp_path)
    plain = read_package(folder)
    external(folder, "recogniser.bin")
    package = read_package(folder)
    assert package.digests["recogniser.bin"] == sha256(folder / "recogniser.bin")
    assert package.recogniser.read() == onnx.load(folder / "w600k_r50.onnx").SerializeToString()
    assert plain.recogniser.sha256 != package.recogniser.sha256
    weights = bytearray((folder / "recogniser.bin").read_bytes())
    weights[100] ^= 1
    (folder / "recogniser.bin").write_bytes(weights)
    with pytest.raises(PackDigestMismatch, match="has changed"):
        package.recogniser.read()


def external(folder: Path, location: str) -> None:
    """Move the recogniser's weights into a file of their own."""
    onnx.save(
        make_recogniser(),
        folder / "w600k_r50.onnx",
        save_as_external_data=True,
        location=location,
        size_threshold=0,
    )


def point_weights_to(folder: Path, location: str) -> None:
    external(folder, "recogniser.bin")
    model = onnx.load(folder / "w600k_r50.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "w600k_r50.onnx").write_bytes(model.SerializeToString())


def changed_span(folder: Path, number: int, **entries: str) -> None:
    """Say of one of the recogniser's weights that it lies elsewhere in the file beside it."""
    external(folder, "recogniser.bin")
    model = onnx.load(folder / "w600k_r50.onnx", load_external_data=False)
    for entry in model.graph.initializer[number].external_data:
        entry.value = entries.get(entry.key, entry.value)
    (folder / "w600k_r50.onnx").write_bytes(model.SerializeToString())


def multiplied(folder: Path) -> None:
    """Forty tensors that all are the same megabyte beside the model."""
    (folder / "weights.bin").write_bytes(bytes(1 << 20))
    model = onnx.load(folder / "det_10g.onnx")
    for number in range(40):
        tensor = model.graph.initializer.add(
            name=f"again{number}", data_type=onnx.TensorProto.UINT8, dims=[1 << 20]
        )
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
    (folder / "det_10g.onnx").write_bytes(model.SerializeToString())


def in_a_subgraph(folder: Path) -> None:
    """A weight kept outside, in a branch where the usual walk over initializers does not look."""
    model = onnx.load(folder / "w600k_r50.onnx")
    tensor = onnx.TensorProto(data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["c"], value=tensor)], "branch", [], []
    )
    model.graph.node.append(
        onnx.helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    )
    (folder / "w600k_r50.onnx").write_bytes(model.SerializeToString())


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    shutil.move(folder / "det_10g.onnx", outside)
    (folder / "det_10g.onnx").symlink_to(outside)


def link_weights_out(folder: Path) -> None:
    external(folder, "recogniser.bin")
    shutil.move(folder / "recogniser.bin", folder.parent / "weights.bin")
    (folder / "recogniser.bin").symlink_to(folder.parent / "weights.bin")


def sparse(folder: Path) -> None:
    with (folder / "det_10g.onnx").open("r+b") as stream:
        stream.truncate(MAX_MODEL_BYTES + 1)


def pipe(folder: Path) -> None:
    (folder / "det_10g.onnx").unlink()
    os.mkfifo(folder / "det_10g.onnx")


def halved(folder: Path) -> None:
    data = (folder / "det_10g.onnx").read_bytes()
    (folder / "det_10g.onnx").write_bytes(data[: len(data) // 2])


def crowded(folder: Path) -> None:
    for number in range(MAX_MODELS):
        (folder / f"{number}.onnx").write_bytes(b"")


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link out of the folder": (link_out, "leads out of"),
    "a link to itself": (
        lambda f: (f / "a.onnx").symlink_to(f / "a.onnx"),
        "no file",
    ),
    "weights by an absolute path": (
        lambda f: point_weights_to(f, "/etc/passwd"),
        "out of the pack's folder",
    ),
    "weights above the folder": (
        lambda f: point_weights_to(f, "../weights.bin"),
        "out of the pack's folder",
    ),
    "weights nowhere": (lambda f: point_weights_to(f, ""), "out of the pack's folder"),
    "weights behind a link": (link_weights_out, "leads out of"),
    "weights missing": (lambda f: point_weights_to(f, "gone.bin"), "no file"),
    "weights that are used over and over": (multiplied, "twice"),
    "weights that overlap": (lambda f: changed_span(f, 1, offset="8"), "twice"),
    "weights before the file": (lambda f: changed_span(f, 0, offset="-8"), "not there"),
    "weights behind the file": (lambda f: changed_span(f, 0, offset="99999999"), "not there"),
    "weights of more than the file": (lambda f: changed_span(f, 1, length="99999999"), "twice"),
    "weights of no number": (lambda f: changed_span(f, 0, offset="x"), "not there"),
    "weights in a branch": (in_a_subgraph, "out of the pack's folder"),
    "a file larger than any model": (sparse, "larger than"),
    "a pipe": (pipe, "not a regular file"),
    "half a file": (halved, "damaged"),
    "no ONNX file": (
        lambda f: (f / "det_10g.onnx").write_bytes(b"<html>" * 99),
        "damaged|no input",
    ),
    "an empty file": (lambda f: (f / "det_10g.onnx").write_bytes(b""), "no input"),
    "too many files": (crowded, "at most"),
    "no detector": (lambda f: (f / "det_10g.onnx").unlink(), "no detection model"),
    "no recogniser": (lambda f: (f / "w600k_r50.onnx").unlink(), "no recognition model"),
    "a manifest that is no JSON": (
        lambda f: (f / "manifest.json").write_text("{", encoding="utf-8"),
        "not JSON",
    ),
    "a manifest of another shape": (
        lambda f: (f / "manifest.json").write_text("[2]", encoding="utf-8"),
        "manifest_version",
    ),
    "a manifest to come": (
        lambda f: (f / "manifest.json").write_text('{"manifest_version": 3}', encoding="utf-8"),
        "manifest_version 3",
    ),
    "a manifest without end": (
        lambda f: (f / "manifest.json").write_text("[" * 200_000, encoding="utf-8"),
        "not JSON",
    ),
    "a manifest behind a link": (
        lambda f: (f / "manifest.json").symlink_to("/etc/hostname"),
        "leads out of",
    ),
    "a huge manifest": (
        lambda f: (f / "manifest.json").write_bytes(b" " * 1_000_001),
        "larger than",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = make_v1_folder(tmp_path / "pack")
    change, words = HOSTILE[name]
    change(folder)
    with pytest.raises(PackError, match=words) as refused:
        read_package(folder)
    assert refused.value.remedy


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PackMissing, match="no folder"):
        read_package(tmp_path / "gone")


def broken(outputs: int) -> onnx.ModelProto:
    """A model with a number of outputs that no SCRFD detector has."""
    model = make_detector(outputs=15)
    del model.graph.output[outputs:]
    return model


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({"detector": broken(7)}, "7 outputs"),
        ({"detector": make_detector(size=(600, 640))}, "multiples of 32"),
        ({"recogniser": make_recogniser(size=144)}, "multiple of 112 or 128"),
        ({"recogniser": make_recogniser(raw_pixels=True)}, "float32"),
        ({"detector": make_detector(raw_pixels=True)}, "float32"),
    ],
)
def test_models_of_another_kind_are_refused(
    tmp_path: Path, models: dict[str, Any], words: str
) -> None:
    with pytest.raises(PackError, match=words):
        read_package(make_v1_folder(tmp_path, **models))


MANIFESTS: list[tuple[Callable[[dict[str, Any]], object], type[PackError], str]] = [
    (lambda m: m.pop("license"), PackError, "license"),
    (lambda m: m.update(model_id="../x"), PackError, "model_id"),
    (lambda m: m.update(tasks=[]), PackError, "tasks"),
    (lambda m: m["tasks"].pop("detection"), PackMissing, "no detection"),
    (lambda m: m["tasks"].pop("recognition"), PackMissing, "no recognition"),
    (lambda m: m["tasks"]["detection"].update(file="../d.onnx"), PackError, "escapes"),
    (lambda m: m["tasks"]["detection"].update(file="gone.onnx"), PackMissing, "gone"),
    (lambda m: m["tasks"]["detection"].update(file="recogniser.onnx"), PackError, "distinct"),
    (lambda m: m["tasks"]["detection"].update(sha256="0" * 64), PackDigestMismatch, "SHA-256"),
    (lambda m: m["tasks"]["recognition"].update(input_size=[112, 112]), PackError, "has 128"),
    (lambda m: m["tasks"]["recognition"].update(embedding_dimension=512), PackError, "has 256"),
    (
        lambda m: m["tasks"]["recognition"].update(preprocessing={"mean": 0, "std": 0}),
        PackError,
        "positive",
    ),
]


@pytest.mark.parametrize(("change", "error", "words"), MANIFESTS)
def test_a_wrong_manifest_is_refused(
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    error: type[PackError],
    words: str,
) -> None:
    folder = make_v2_folder(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(error, match=words):
        read_package(folder)


def test_whole_pixels_cannot_be_scaled(tmp_path: Path) -> None:
    folder = make_v2_folder(tmp_path, raw_pixels=True)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["tasks"]["recognition"]["preprocessing"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(PackError, match="whole pixels"):
        read_package(folder)


def test_a_landmark_model_of_another_kind_does_not_help(tmp_path: Path) -> None:
    folder = make_v1_folder(tmp_path, detector=make_detector(outputs=10))
    other = make_landmarks()
    other.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3309
    (folder / "1k3d68.onnx").write_bytes(other.SerializeToString())
    with pytest.raises(PackError, match="no key points"):
        read_package(folder)
