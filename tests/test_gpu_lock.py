"""The lock file of GPU machines: one CUDA, no CPU runtimes, and otherwise the versions of all."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import onnxruntime
import pytest

from scripts import check_gpu_wheels
from scripts.check_gpu_wheels import Wheel, cuda_majors, problems, read_wheel
from tests.test_house import PROJECT, locked, normalised

GPU = locked("requirements-gpu.lock")

# Read from the wheels by scripts/check_gpu_wheels.py.
ONNXRUNTIME = frozenset(
    {"libcublas.so.12", "libcublasLt.so.12", "libcudart.so.12", "libcudnn.so.9", "libcufft.so.11"}
    | {"libcurand.so.10", "libnvinfer.so.10", "libnvonnxparser.so.10"}
)
ONNXRUNTIME_LATER = frozenset({"libcublas.so.13", "libcublasLt.so.13", "libcudart.so.13"})
FAISS = frozenset({"libcublas.so.12", "libcublasLt.so.12", "libcudart.so.12"})


def test_both_libraries_are_of_cuda_12() -> None:
    # onnxruntime-gpu 1.27 and later are of CUDA 13, faiss-gpu 1.15 is of CUDA 12.
    major, minor = GPU["onnxruntime-gpu"][0].split(".")[:2]
    assert (int(major), int(minor)) <= (1, 26)
    assert GPU["faiss-gpu"][0].startswith("1.15.")
    nvidia = [name for name in GPU if name.startswith("nvidia-")]
    assert {"nvidia-cuda-runtime-cu12", "nvidia-cublas-cu12", "nvidia-cudnn-cu12"} <= set(nvidia)
    assert {"nvidia-cufft-cu12", "nvidia-curand-cu12", "nvidia-cuda-nvrtc-cu12"} <= set(nvidia)
    assert [name for name in nvidia if not name.endswith("-cu12")] == []
    assert GPU["nvidia-cuda-runtime-cu12"][0].startswith("12.")
    assert GPU["nvidia-cudnn-cu12"][0].startswith("9.")


def test_the_runtimes_of_processors_are_left_out() -> None:
    assert not {"onnxruntime", "faiss-cpu"} & set(GPU)
    assert {"onnxruntime-gpu", "faiss-gpu", "insightface"} <= set(GPU)
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["gpu"], *extras["scale"]]
    assert {normalised(requirement) for requirement in needed} <= set(GPU)


def test_everything_else_is_of_the_same_version_on_both_kinds_of_machine() -> None:
    other = locked("requirements-scale.lock")
    shared = set(GPU) & set(other)
    assert len(shared) > 50
    assert {name: GPU[name] for name in shared} == {name: other[name] for name in shared}
    assert set(other) - set(GPU) == {"onnxruntime", "faiss-cpu"}


# --- the proof from the wheels ---------------------------------------------------------------


def wheel(name: str, needs: frozenset[str] = frozenset(), holds: frozenset[str] = FAISS) -> Wheel:
    return Wheel(name, "1", needs, holds, ())


def test_one_cuda_in_one_process() -> None:
    assert cuda_majors(ONNXRUNTIME) == {12}
    good = [wheel("onnxruntime-gpu", ONNXRUNTIME), wheel("faiss-gpu", FAISS)]
    assert list(problems(good)) == []
    (mixed,) = problems([wheel("onnxruntime-gpu", ONNXRUNTIME_LATER), good[1]])
    assert "different CUDA majors" in mixed
    (missing,) = problems(good[:1])
    assert "no wheel of faiss-gpu" in missing
    (cpu,) = problems([wheel("onnxruntime-gpu"), good[1]])
    assert "needs no CUDA" in cpu


def test_every_library_is_in_a_wheel_or_the_drivers() -> None:
    good = [wheel("onnxruntime-gpu", ONNXRUNTIME | {"libcuda.so.1"}), wheel("faiss-gpu", FAISS)]
    some = wheel("nvidia-cublas-cu12", holds=FAISS)
    rest = wheel("nvidia-cudnn-cu12", holds=ONNXRUNTIME - FAISS)
    assert list(problems([*good, some, rest])) == []
    lacking = list(problems([*good, some]))
    assert [re.findall(r"holds (\S+),", text)[0] for text in lacking] == [
        "libcudnn.so.9",
        "libcufft.so.11",
        "libcurand.so.10",
    ]


def test_a_wheel_is_read_for_what_it_is(tmp_path: Path) -> None:
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so")
    path = tmp_path / "onnxruntime_gpu-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(library, "onnxruntime/capi/state.so")
        text = "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1\nRequires-Dist: numpy\n"
        archive.writestr("onnxruntime_gpu-1.dist-info/METADATA", text)
    found = read_wheel(path)
    assert (found.name, found.version, found.requirements) == ("onnxruntime-gpu", "1", ("numpy",))
    assert found.holds == {"state.so"}
    assert found.needs == frozenset(), "the runtime of processors needs no CUDA"


def test_the_command_ends_by_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_gpu_wheels.main(["--wheels", str(tmp_path)]) == 1
    assert "there is no wheel of onnxruntime-gpu" in capsys.readouterr().out
