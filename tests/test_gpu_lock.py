"""The lock file of GPU machines: one CUDA, no CPU runtimes, and otherwise the versions of all.

What the wheels need and hold is in ``data/gpu_wheels.json``, with the digest of each: it was read
from the wheels by ``python -m scripts.check_gpu_wheels --nvidia --record``, which has to be run
anew for every lock file of other wheels. That the record is true, only that script can say.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
from packaging.requirements import Requirement

from scripts import check_gpu_wheels
from scripts.check_gpu_wheels import (
    LOCK,
    Wheel,
    cuda_majors,
    from_record,
    not_pinned,
    option_kinds,
    problems,
    read_wheel,
    recorded,
    refused,
    tensorrt_options,
)
from tests.test_house import PROJECT, locked, normalised

GPU = locked("requirements-gpu.lock")

RECORD = from_record(json.loads((Path(__file__).parent / "data" / "gpu_wheels.json").read_text()))
READ = {wheel.name: wheel for wheel in RECORD}
ONNXRUNTIME = READ["onnxruntime-gpu"].needs
ONNXRUNTIME_LATER = frozenset({"libcublas.so.13", "libcublasLt.so.13", "libcudart.so.13"})
FAISS = READ["faiss-gpu"].needs


def test_the_pinned_wheels_live_in_one_process() -> None:
    assert list(not_pinned(RECORD, LOCK.read_text(encoding="utf-8"))) == []
    assert list(problems(RECORD)) == []
    assert {"libcudnn.so.9", "libcudart.so.12"} <= ONNXRUNTIME
    assert "libcudart.so.12" in FAISS


def test_a_lock_file_of_other_wheels_does_not_pass() -> None:
    lock = LOCK.read_text(encoding="utf-8")
    version = GPU["onnxruntime-gpu"][0]
    later = lock.replace(f"\nonnxruntime-gpu=={version} ", "\nonnxruntime-gpu==1.31.0 ")
    assert list(not_pinned(RECORD, later)) == [
        f"onnxruntime-gpu is pinned to 1.31.0, and {version} was read"
    ]
    other_file = lock.replace(READ["faiss-gpu"].sha256, "0" * 64)
    (told,) = not_pinned(RECORD, other_file)
    assert told == "the wheel of faiss-gpu that was read has no digest in the lock file"
    (told,) = not_pinned(RECORD[1:], lock)
    assert told == f"{RECORD[0].name} is in the lock file alone"
    # And a record of a wrong pair, were it made, is told as one.
    cuda_13 = replace(READ["onnxruntime-gpu"], needs=ONNXRUNTIME_LATER)
    pair = [cuda_13 if wheel.name == cuda_13.name else wheel for wheel in RECORD]
    assert any("different CUDA majors" in told for told in problems(pair))
    without = [wheel for wheel in RECORD if wheel.name != "nvidia-cudnn-cu12"]
    assert [told for told in problems(without) if "libcudnn.so.9" in told]


def test_the_versions_are_those_that_the_wheels_ask_for() -> None:
    asked = [Requirement(text) for name in READ for text in READ[name].requirements]
    assert {"nvidia-cublas-cu12", "nvidia-cudnn-cu12"} <= {one.name for one in asked}
    for one in asked:
        assert one.specifier.contains(GPU[one.name][0]), str(one)


def test_everything_that_the_two_need_is_pinned_for_their_cuda() -> None:
    (major,) = cuda_majors(ONNXRUNTIME) | cuda_majors(FAISS)
    nvidia = [name for name in GPU if name.startswith("nvidia-")]
    assert [name for name in nvidia if not name.endswith(f"-cu{major}")] == []


def test_what_is_set_for_tensorrt_is_what_its_binding_takes() -> None:
    kinds = READ["onnxruntime-gpu"].options
    given = tensorrt_options()
    assert {"trt_fp16_enable", "trt_engine_cache_enable", "trt_timing_cache_enable"} <= set(given)
    assert list(refused(given, kinds)) == []
    for value in ("0", "1", "true", ""):
        (told,) = refused({"trt_fp16_enable": value}, kinds)
        assert "takes a boolean" in told
    assert list(refused({"trt_max_workspace_size": "1e9", "trt_odd": "1"}, kinds)) == [
        "onnxruntime-gpu takes a number for trt_max_workspace_size, not '1e9'",
        "onnxruntime-gpu knows no option trt_odd",
    ]
    assert len(list(problems([replace(READ["onnxruntime-gpu"], options={"x": "text"})]))) > 8


def test_the_kinds_of_options_are_read_from_the_messages_of_the_binding() -> None:
    said = (
        b"\0The value for the key 'trt_fp16_enable' should be 'True' or 'False'. Default value is "
        b"'False'.\n\0The value for the key 'device_id' should be a number i.e. '0'.\n\0The value "
        b"for the key 'trt_timing_cache_path' should be a path string i.e. 'cache_folder/'.\n\0"
    )
    assert option_kinds(said) == {
        "trt_fp16_enable": "boolean",
        "device_id": "number",
        "trt_timing_cache_path": "text",
    }


def test_what_was_recorded_is_read_again() -> None:
    assert from_record(json.loads(json.dumps(recorded(RECORD)))) == RECORD


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
    assert len(found.sha256) == 64
    assert found.needs == frozenset(), "the runtime of processors needs no CUDA"


def test_the_command_ends_by_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_gpu_wheels.main(["--wheels", str(tmp_path)]) == 1
    assert "there is no wheel of onnxruntime-gpu" in capsys.readouterr().out
