"""The check for machines with a GPU, run on the processor with a few small pictures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models.packs.base import FacePack
from models.pipeline import Analyser
from models.runtime import RuntimeOptions
from models.types import RgbImage
from scripts import gpu_check
from tests.service.test_gpus import LISTED, with_smi


@pytest.mark.slow
@pytest.mark.usefixtures("pack")
def test_the_whole_check_runs_on_the_processor(
    pack_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report.json"
    words = ["--provider", "cpu", "--images", "4", "--largest", "120", "--seconds", "0.01"]
    assert gpu_check.main([*words, "--packs", str(pack_cache), "--json", str(target)]) == 0
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["faces"] > 0
    assert report["smallest_cosine"] > 0.99999
    assert report["images"] == len(report["memory_mib"]) == 4
    assert set(report["faces_per_s"]) == {"1", "4", "16"}
    assert report["busy"] is None
    assert report["problems"] == []
    assert "smallest_cosine" in capsys.readouterr().out


def test_a_gpu_that_is_not_there_ends_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this runtime has CUDA")
    assert gpu_check.main(["--provider", "cuda"]) == 2
    assert capsys.readouterr().err


def test_gpus_are_counted_as_nvidia_smi_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this runtime has CUDA")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("PATH", with_smi(tmp_path, LISTED)["PATH"])
    assert gpu_check.main(["--provider", "cuda", "--packs", str(tmp_path)]) == 2
    assert "CUDAExecutionProvider" in capsys.readouterr().err, "it came as far as the models"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_what_is_looked_at_is_the_gpu_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", with_smi(tmp_path, LISTED)["PATH"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    second = RuntimeOptions(provider="cuda", device=1)
    assert gpu_check.device_of(second) == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a0b0f3c")
    assert gpu_check.device_of(RuntimeOptions(provider="cuda")) == "3"
    assert gpu_check.device_of(second) == "GPU-8a0b0f3c"
    assert gpu_check.device_of(RuntimeOptions()) == "processor"


@pytest.mark.parametrize(
    ("samples", "growth"),
    [([], 1.0), ([5.0], 1.0), ([10, 20, 20, 20], 1.0), ([10, 10, 10, 15], 1.5), ([9, 10, 8], 1.1)],
)
def test_growth_is_told_from_the_warming_up(samples: list[float], growth: float) -> None:
    assert gpu_check.growth_of(samples) == pytest.approx(growth, abs=0.02)


def test_vectors_that_differ_are_a_problem(pack: FacePack, astronaut: RgbImage) -> None:
    class Askew:
        """The same pack with vectors that are off, as a wrong GPU would make them."""

        def __getattr__(self, name: str) -> object:
            return getattr(pack, name)

        def embed(self, chips: list[np.ndarray]) -> np.ndarray:
            vectors = pack.embed(chips)
            return vectors + np.float32(0.2) * np.roll(vectors, 1, axis=1)

    report = gpu_check.Report("cpu", "processor")
    gpu_check.equality(
        report,
        Analyser(Askew()),  # type: ignore[arg-type]
        Analyser(pack),
        [gpu_check.fitted(astronaut, 150)],
    )
    assert report.problems
    assert report.smallest_cosine < 1 - gpu_check.MOST_DIFFERENCE
