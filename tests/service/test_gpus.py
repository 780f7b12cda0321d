"""GPUs are counted by what the driver says, and each process is given one; the doctor explains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from models.errors import PackError, ProviderUnavailable
from service.cli.main import app
from service.cli.worker import environments
from service.config import load_settings
from service.gpus import (
    Gpu,
    NoSuchGpu,
    chosen_gpus,
    driver_version,
    environment_of,
    visible_gpus,
)
from service.inference import cuda_major_of, examine_inference
from service.opening import open_pack

REPOSITORY = Path(__file__).resolve().parents[2]

# What `nvidia-smi -L` prints, with a GPU cut into two instances.
LISTED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-7a0b0f3c-0000-1111-2222-333344445555)
  MIG 1g.10gb     Device  0: (UUID: MIG-aaaaaaaa-0000-1111-2222-333344445555)
  MIG 1g.10gb     Device  1: (UUID: MIG-bbbbbbbb-0000-1111-2222-333344445555)
GPU 1: NVIDIA A10 (UUID: GPU-8a0b0f3c-0000-1111-2222-333344445555)
"""


def with_smi(folder: Path, text: str, code: int = 0) -> dict[str, str]:
    """An environment in whose search path `nvidia-smi` prints ``text`` and ends with ``code``."""
    script = folder / "nvidia-smi"
    lines = text.rstrip("\n")
    script.write_text(f'#!/bin/sh\n[ "$1" = -L ] || exit 9\ncat <<END\n{lines}\nEND\nexit {code}\n')
    script.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def in_proc(folder: Path, *buses: str) -> Path:
    for bus in buses:
        place = folder / "gpus" / bus
        place.mkdir(parents=True)
        text = f"Model: \t\t NVIDIA L4\nIRQ:   \t\t 33\nBus Location: \t {bus}\n"
        (place / "information").write_text(text, encoding="utf-8")
    return folder


def test_nvidias_command_lists_them(tmp_path: Path) -> None:
    found = visible_gpus(with_smi(tmp_path, LISTED), proc=tmp_path / "none")
    assert found == [Gpu("0", "NVIDIA H100 80GB HBM3"), Gpu("1", "NVIDIA A10")]


@pytest.mark.parametrize(
    ("text", "code"),
    [("No devices were found", 6), ("NVIDIA-SMI has failed", 9), ("something else", 0)],
)
def test_where_the_command_fails_the_driver_is_asked(tmp_path: Path, text: str, code: int) -> None:
    environment = with_smi(tmp_path, text, code)
    assert visible_gpus(environment, proc=tmp_path / "none") == []
    proc = in_proc(tmp_path / "proc", "0000:4b:00.0", "0000:17:00.0")
    assert visible_gpus(environment, proc=proc) == [Gpu("0", "NVIDIA L4"), Gpu("1", "NVIDIA L4")]


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("2,3", ["2", "3"]),
        ("1", ["1"]),
        (" 0 , GPU-8a0b0f3c ", ["0", "GPU-8a0b0f3c"]),
        ("", []),
        ("-1,0", []),
        ("1,odd,0", ["1"]),
    ],
)
def test_cuda_visible_devices_counts_first(tmp_path: Path, chosen: str, names: list[str]) -> None:
    environment = with_smi(tmp_path, LISTED) | {"CUDA_VISIBLE_DEVICES": chosen}
    assert [gpu.name for gpu in visible_gpus(environment)] == names


def test_the_driver_says_its_version(tmp_path: Path) -> None:
    assert driver_version(tmp_path) == ""
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
        encoding="utf-8",
    )
    assert driver_version(tmp_path) == "570.124.06"


def test_all_or_some_are_chosen() -> None:
    gpus = [Gpu("2"), Gpu("5"), Gpu("7")]
    assert chosen_gpus("all", gpus) == gpus
    assert chosen_gpus("0, 2", gpus) == [gpus[0], gpus[2]]
    for words in ("3", "0,0", "", "one", "0,", "-1", "0;1"):
        with pytest.raises(NoSuchGpu) as caught:
            chosen_gpus(words, gpus)
        assert "from 0 to 2" in caught.value.remedy
    with pytest.raises(ProviderUnavailable, match="No GPU was found"):
        chosen_gpus("all", [])


def test_each_process_sees_one_gpu_as_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    given = environments(load_settings(), 2, [Gpu("3"), Gpu("GPU-x")])
    assert [env["CUDA_VISIBLE_DEVICES"] for env in given] == ["3", "3", "GPU-x", "GPU-x"]
    assert {env["HOMEWARD_GPU_DEVICE"] for env in given} == {"0"}
    assert {env["HOMEWARD_PROVIDER"] for env in given} == {"cuda"}
    assert {env["CUDA_DEVICE_ORDER"] for env in given} == {"PCI_BUS_ID"}
    assert {env["HOMEWARD_MODEL_THREADS"] for env in given} == {"2"}
    (kept,) = environments(load_settings(provider="tensorrt"), 1, [Gpu("0")])
    assert "HOMEWARD_PROVIDER" not in kept, "the setting itself is in the environment"


@pytest.mark.parametrize("given", [{"provider": "cuda"}, {"vectors": "gpu"}, {}])
def test_the_service_counts_gpus_as_nvidia_smi_does(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = load_settings(data_dir=tmp_path, **given)
    for before in ("", "FASTEST_FIRST"):
        monkeypatch.setenv("CUDA_DEVICE_ORDER", before)
        if not before:
            monkeypatch.delenv("CUDA_DEVICE_ORDER")
        # The order is set before anything of CUDA starts, so before the pack is looked for.
        with pytest.raises(PackError):
            open_pack(settings, "not-here")
        order = os.environ.get("CUDA_DEVICE_ORDER")
        assert order == (before or ("PCI_BUS_ID" if given else None)), "a choice is left alone"


# --- processes -------------------------------------------------------------------------------


def start(words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    base = {k: v for k, v in os.environ.items() if not k.startswith("HOMEWARD_")}
    return subprocess.Popen(
        [sys.executable, "-c", *words],
        env=base | {"PYTHONPATH": str(REPOSITORY), "HOMEWARD_MODEL_THREADS": "1"} | environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_workers_for_gpus_that_cannot_be_used_do_not_start(tmp_path: Path) -> None:
    if "cuda" in {p.partition("Exec")[0].lower() for p in _providers()}:
        pytest.skip("this runtime has CUDA")
    words = ["from service.cli import main; main()", "worker", "--gpus", "all"]
    environment = with_smi(tmp_path, LISTED)
    with start([*words, "--data-dir", str(tmp_path / "data")], environment) as process:
        told, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "provider_unavailable" in told
    assert "started" not in told


def _providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


SUPERVISE = """
import sys
from service.cli.worker import _supervise, environments
from service.config import load_settings
from service.gpus import Gpu

settings = load_settings(data_dir=sys.argv[1])
each = environments(settings, 1, [Gpu("0"), Gpu("1")])
# No GPU is here, so what else differs between the two is what is looked at.
_supervise(settings, [env | {"HOMEWARD_PROVIDER": "cpu"} for env in each])
"""


@pytest.mark.slow
@pytest.mark.usefixtures("pack")
def test_a_process_for_each_gpu_is_started_again_and_ends_with_the_others(
    tmp_path: Path, pack_cache: Path
) -> None:
    shutil.copytree(pack_cache / "dlib", tmp_path / "data" / "packs" / "dlib")
    with start([SUPERVISE, str(tmp_path / "data")], {}) as process:
        try:
            first = working(process.pid, 2)
            assert sorted(first) == ["0", "1"]
            first["1"].kill()
            again = working(process.pid, 2, besides=first["1"].pid)
            assert again["0"].pid == first["0"].pid
            assert again["1"].pid != first["1"].pid
            process.terminate()
            told, _ = process.communicate(timeout=90)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "2 workers started" in told
    assert "started again" in told
    assert psutil.wait_procs(list(again.values()), timeout=30)[1] == []


def working(pid: int, number: int, besides: int = 0) -> dict[str, psutil.Process]:
    """The worker processes below ``pid`` by their GPU, once there are ``number`` of them."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = {}
        for child in psutil.Process(pid).children():
            try:
                if child.pid != besides and "--child-of" in child.cmdline():
                    found[child.environ()["CUDA_VISIBLE_DEVICES"]] = child
            except psutil.Error:
                continue
        if len(found) == number:
            return found
        time.sleep(0.05)
    raise AssertionError("the workers did not start")


# --- the doctor ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirements", "major"),
    [
        (["numpy>=1", "nvidia-cuda-runtime-cu12<13,>=12.6"], 12),
        (["nvidia-cuda-runtime~=13.0; extra == 'cuda'"], 13),
        (["nvidia-cudnn-cu12~=9.0", "numpy"], None),
    ],
)
def test_the_cuda_of_a_wheel_is_in_its_requirements(
    requirements: list[str], major: int | None
) -> None:
    assert cuda_major_of(requirements) == major


def test_the_doctor_says_where_the_models_run() -> None:
    found = {item.name: item for item in examine_inference(load_settings())}
    assert found["inference"].ok
    assert "runs on cpu" in found["inference"].detail


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_the_doctor_says_what_a_gpu_lacks(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "CUDAExecutionProvider" in _providers():
        pytest.skip("this runtime has CUDA")
    monkeypatch.setenv("PATH", with_smi(tmp_path, LISTED)["PATH"])
    monkeypatch.setenv("HOMEWARD_PROVIDER", provider)
    result = CliRunner().invoke(app, ["doctor", "--data-dir", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "ok    GPUs: 0 NVIDIA H100 80GB HBM3, 1 NVIDIA A10" in result.output
    assert "WRONG inference" in result.output
    assert "requirements-gpu.lock" in result.output


def test_two_packages_that_overwrite_each_other_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu", "faiss_cpu", "faiss_gpu"):
        folder = tmp_path / f"{name}-9.9.9.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name.replace('_', '-')}", "Version: 9.9.9"]
        if name == "faiss_gpu":
            lines.append("Requires-Dist: nvidia-cuda-runtime-cu12<13,>=12.6")
        (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert version("onnxruntime-gpu") == "9.9.9"
    found = [item for item in examine_inference(load_settings()) if not item.ok]
    assert [item.name for item in found] == ["packages that exclude each other"] * 2
    (wheels,) = [i for i in examine_inference(load_settings()) if i.name == "CUDA of the packages"]
    assert "faiss-gpu 9.9.9 (CUDA 12)" in wheels.detail


def test_the_environment_of_a_gpu_names_settings_that_exist() -> None:
    names = {name for name in environment_of(Gpu("0")) if name.startswith("HOMEWARD_")}
    fields = type(load_settings()).model_fields
    assert {name.removeprefix("HOMEWARD_").lower() for name in names} <= set(fields)


def test_the_settings_say_where_models_run(tmp_path: Path) -> None:
    settings = load_settings(
        data_dir=tmp_path, provider="tensorrt", gpu_device=1, gpu_memory_gb=2.5
    )
    assert settings.runtime.provider == "tensorrt"
    assert settings.runtime.device == 1
    assert settings.runtime.memory_bytes == 2_500_000_000
    assert settings.runtime.engine_cache == tmp_path / "engines"
