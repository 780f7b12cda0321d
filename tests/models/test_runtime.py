"""Where models run: options of the providers, and the reason where one does not start."""

from __future__ import annotations

import contextlib
import ctypes
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from models import libraries, runtime
from models.errors import GpuLost, InferenceFailed, ProviderUnavailable
from models.runtime import RuntimeOptions, ShapeRange, open_session, provider_chain

CHIPS = {"x": ShapeRange((1, 3), (16, 3), (64, 3))}


def model(name: str = "y") -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], [name])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(made.SerializeToString())


# --- options ---------------------------------------------------------------------------------


def test_vectors_of_a_gpu_have_to_be_those_of_a_processor() -> None:
    ((name, given),) = provider_chain(RuntimeOptions(provider="cuda", device=2))
    assert name == "CUDAExecutionProvider"
    assert given["use_tf32"] == "0"
    assert given["cudnn_conv_algo_search"] == "HEURISTIC"
    assert given["device_id"] == "2"
    assert "gpu_mem_limit" not in given


def test_the_memory_of_a_gpu_is_bounded_where_that_is_asked() -> None:
    ((_, given),) = provider_chain(RuntimeOptions(provider="cuda", memory_bytes=1 << 30))
    assert given["gpu_mem_limit"] == str(1 << 30)
    assert given["cudnn_conv_use_max_workspace"] == "0"
    assert given["arena_extend_strategy"] == "kSameAsRequested"


def test_tensorrt_compiles_for_the_bounds_and_leaves_the_rest_to_cuda(tmp_path: Path) -> None:
    options = RuntimeOptions(provider="tensorrt", engine_cache=tmp_path)
    (name, given), (rest, _) = provider_chain(options, model(), shapes=CHIPS)
    assert (name, rest) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    # Which values the binding takes is held against the wheel in tests/test_gpu_lock.py.
    assert given["trt_fp16_enable"] == "False"
    assert given["trt_profile_min_shapes"] == "x:1x3"
    assert given["trt_profile_opt_shapes"] == "x:16x3"
    assert given["trt_profile_max_shapes"] == "x:64x3"
    assert Path(given["trt_engine_cache_path"]).is_dir()
    assert given["trt_timing_cache_enable"] == given["trt_engine_cache_enable"] == "True"


def test_a_model_without_bounds_is_not_compiled() -> None:
    chain = provider_chain(RuntimeOptions(provider="tensorrt"), model())
    assert [name for name, _ in chain] == ["CUDAExecutionProvider"]


def test_two_models_of_one_architecture_share_no_engines(tmp_path: Path) -> None:
    one, two = (runtime.engine_folder(tmp_path, each) for each in (b"weights", b"others"))
    assert one != two
    assert runtime.engine_folder(tmp_path, b"weights") == one
    assert ort.__version__ in str(one)


# --- on the processor ------------------------------------------------------------------------


def test_a_session_on_the_processor_says_where_it_is() -> None:
    session = open_session(model())
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert runtime.gpu_of(session) is None
    assert runtime.shrinking(session) is None
    assert runtime.placement(session) == {}, "it was not recorded"


def test_the_nodes_are_counted_by_where_they_run() -> None:
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(model(), settings, providers=["CPUExecutionProvider"])
    assert runtime.placement(session) == {"CPUExecutionProvider": 1}


def test_a_broken_model_is_not_taken_for_a_missing_gpu() -> None:
    with pytest.raises(Exception, match=r"(?i)protobuf|invalid"):
        open_session(b"no model")


@pytest.fixture
def as_cuda(monkeypatch: pytest.MonkeyPatch) -> RuntimeOptions:
    """The processor under CUDA's name, as a GPU that starts and runs models."""
    monkeypatch.setitem(runtime._PROVIDERS, "cuda", runtime.CPU_NAME)
    return RuntimeOptions(provider="cuda", threads=1)


def unusable() -> bytes:
    """A model without fault, for which ONNX Runtime has no program: a convolution of doubles."""
    double = TensorProto.DOUBLE
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "doubles",
        [
            helper.make_tensor_value_info("x", double, ["n", 1, 3, 3]),
            helper.make_tensor_value_info("w", double, [1, 1, 1, 1]),
        ],
        [helper.make_tensor_value_info("y", double, ["n", 1, 3, 3])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(made.SerializeToString())


def test_a_model_that_cannot_be_opened_is_not_blamed_on_the_gpu(as_cuda: RuntimeOptions) -> None:
    open_session(model(), as_cuda)
    with pytest.raises(runtime.RUNTIME_FAILURES, match="Conv"):
        open_session(unusable(), as_cuda)


def test_a_gpu_that_runs_nothing_is_said_not_to_start(
    as_cuda: RuntimeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_very_small", unusable)
    with pytest.raises(ProviderUnavailable, match="did not start"):
        open_session(unusable(), as_cuda)
    with pytest.raises(ProviderUnavailable, match="did not start"):
        runtime.try_provider(as_cuda)


def test_what_is_said_of_the_gpu_is_told_apart_from_what_is_said_of_the_model() -> None:
    for text in (
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
        "Available memory of 0 is smaller than requested bytes: Failed to allocate memory",
    ):
        assert runtime.speaks_of_gpu(text)
    for text in (
        "NoSuchThing is not a registered function/op",
        "input_shape_size == size was false",
    ):
        assert not runtime.speaks_of_gpu(text)


# --- a GPU that fails ------------------------------------------------------------------------


@pytest.fixture
def nothing_lost() -> Iterator[None]:
    runtime._lost.clear()
    yield
    runtime._lost.clear()


@pytest.mark.usefixtures("nothing_lost")
def test_what_was_too_much_is_told_apart_from_what_is_gone() -> None:
    # The processor stands in for a GPU that answers, and CUDA for one that does not.
    assert runtime.answers(RuntimeOptions(threads=1))
    failed = runtime.gpu_failure(RuntimeOptions(threads=1), "FAIL : Failed to allocate memory")
    assert type(failed) is InferenceFailed
    assert "Failed to allocate memory" in failed.detail
    assert not runtime.gpu_lost()
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        lost = runtime.gpu_failure(RuntimeOptions(provider="cuda"), "CUDA failure 719: launch ; x")
        assert isinstance(lost, GpuLost)
        assert "CUDA error 719, launch." in lost.detail
        assert lost.remedy
        assert runtime.gpu_lost()


def test_a_failure_on_the_processor_is_left_as_it_is() -> None:
    session = open_session(model())
    with pytest.raises(RuntimeError, match="odd"), runtime.loud(session):
        raise RuntimeError("odd")


# --- what is missing -------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_is_an_error(provider: runtime.Provider) -> None:
    if runtime._PROVIDERS[provider] in ort.get_available_providers():
        pytest.skip("this runtime has it")
    with pytest.raises(ProviderUnavailable, match="has no") as caught:
        open_session(model(), RuntimeOptions(provider=provider))
    assert "requirements-gpu.lock" in caught.value.remedy


def test_both_runtimes_in_one_environment_are_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this runtime has CUDA")
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-1.26.0.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.26.0\n"
        (folder / "METADATA").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert libraries.both_runtimes_installed()
    with pytest.raises(ProviderUnavailable, match="both"):
        runtime.require_provider("cuda")


def test_the_reason_is_taken_out_of_the_runtimes_message() -> None:
    # As onnxruntime-gpu 1.26 says it on a machine without a driver, and without TensorRT.
    cuda = (
        "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:122 std::conditional_t<THRW>"
        " CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; "
        "hostname=vm ; file=cuda_execution_provider_info.cc ; line=67 ; "
        "expr=cudaGetDeviceCount(&num_devices); "
    )
    expected = "CUDA error 35, CUDA driver version is insufficient for CUDA runtime version."
    assert runtime.condensed(cuda) == expected
    option = "provider.cc:60 [ONNXRuntimeError] : 1 : FAIL : Unknown provider option: x.\n"
    assert runtime.condensed(option) == "Unknown provider option: x."
    assert runtime.condensed("") == ""


def test_libraries_that_cannot_be_loaded_are_named_with_what_holds_them() -> None:
    names = ("libcudnn.so.123", "libnvinfer.so.123", "libodd.so.123")
    found = libraries.unloadable(names, "12")
    assert [(lack.name, lack.holder) for lack in found] == [
        ("libcudnn.so.123", "nvidia-cudnn-cu12"),
        ("libnvinfer.so.123", "tensorrt-cu12-libs"),
        ("libodd.so.123", "the operating system"),
    ]
    assert all("libodd" not in lack.reason for lack in found[:2])
    assert libraries.holder("libcuda.so.1", "12") == "the NVIDIA driver"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF is Linux's format")
def test_what_a_library_needs_is_read_from_its_file() -> None:
    (extension,) = (Path(ort.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so")
    found = libraries.needed(extension)
    assert "libc.so.6" in found
    assert "libstdc++.so.6" in found
    for name in found:
        ctypes.CDLL(name)


@given(st.binary(max_size=300), st.booleans())
def test_what_is_no_library_is_said_to_be_none(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, elf: bool
) -> None:
    header = b"\x7fELF\x02\x01" + bytes(26) + struct.pack("<Q", 64) + bytes(14)
    header += struct.pack("<HH", 56, 3) + bytes(6)
    path = tmp_path_factory.getbasetemp() / "odd.so"
    path.write_bytes((header if elf else b"") + data)
    with contextlib.suppress(libraries.NotElf):
        assert libraries.needed(path) == ()


def test_a_machine_without_a_driver_has_no_cuda_version() -> None:
    version = libraries.driver_cuda_version()
    assert version is None or version.partition(".")[0].isdigit()
