"""The helpers that fill the documents and that say which system libraries are missing."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from scripts import check_native, fill_docs
from service.bench import BenchReport
from service.bench.report import Search, Stage, Throughput


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, attribute, blocks in (
        ("README.md", "README", ("accuracy",)),
        ("accuracy.md", "ACCURACY", ("figures", "speed")),
    ):
        text = "".join(f"<!-- {b}: begin -->\nold\n<!-- {b}: end -->\nafter\n" for b in blocks)
        (tmp_path / name).write_text(text, encoding="utf-8")
        monkeypatch.setattr(fill_docs, attribute, tmp_path / name)
    return tmp_path


def evaluation() -> dict[str, Any]:
    names = ("1e-2", "1e-3")
    return {
        "images": 2626,
        "identities": 1269,
        "genuine_pairs": 6930,
        "impostor_pairs": 3_439_695,
        "gallery": 800,
        "mated_probes": 1300,
        "non_mated_probes": 400,
        "contract_id": "dlib-0",
        "failure_to_enroll": 0.0014,
        "tar_at_fmr": {"1e-2": 0.98, "1e-3": None},
        "fnir_at_fpir": {"1e-1": 0.25},
        **{f"rank_{k}": 0.9 for k in (1, 5, 10, 50)},
        "intervals": {
            "tar_at_fmr": {name: [0.97, 0.99] for name in names},
            "fnir_at_fpir": {"1e-1": None},
            **{f"rank_{k}": [0.88, 0.92] for k in (1, 5, 10, 50)},
        },
        "degraded": [
            {
                "title": "mirrored",
                "rank_1": 0.9,
                "rank_10": 0.95,
                "rank_50": 0.99,
                "share_of_clean": 1.0,
                "interval": [0.98, 1.0],
                "failure_to_enroll": 0.0,
            }
        ],
    }


def test_accuracy_is_written_between_the_marks(documents: Path) -> None:
    source = documents / "e.json"
    source.write_text(json.dumps(evaluation()), encoding="utf-8")
    fill_docs.accuracy(source, "test photos")
    text = (documents / "accuracy.md").read_text(encoding="utf-8")
    assert "| found at rank 1 | 0.900 (0.880 to 0.920) |" in text
    assert "| mirrored | 0.900 | 0.950 | 0.990 | 1.000 (0.980 to 1.000) | 0.000 |" in text
    assert "1e-3" not in text
    assert text.count("after") == 2
    assert "old" in text  # the other block is left alone
    assert "2,626 photos (test photos)" in (documents / "README.md").read_text(encoding="utf-8")


def test_speed_is_written_between_the_marks(documents: Path) -> None:
    report = BenchReport(
        {"processor": "P", "cores": 2, "python": "3", "onnxruntime": "1"},
        throughput=[Throughput("homeward", "4", 1, 2, 9.87, 8, 41.5)],
        stages=[Stage("detect", "image", 1, 12.3)],
        search=[Search("numpy", 1000, 128, 1, 1, 50, None, None, skipped="needs more")],
        memory_mib={"all": 512.0},
    )
    source = documents / "b.json"
    source.write_text(json.dumps(asdict(report)), encoding="utf-8")
    fill_docs.speed(source)
    text = (documents / "accuracy.md").read_text(encoding="utf-8")
    assert "| homeward | x2 | 2 | 9.87 | 41.5 x |" in text
    assert "| numpy | 1,000 | 128 | 1 | 1 | needs more |" in text


def test_a_block_that_is_not_there_is_named(documents: Path) -> None:
    with pytest.raises(SystemExit, match="no block tour"):
        fill_docs.replace_block(documents / "README.md", "tour", "text")


def test_compiled_parts_load_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_native.main() == 0
    assert capsys.readouterr().out == ""


def test_missing_libraries_are_named_by_their_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert check_native.main() == 3
    assert capsys.readouterr().out.split() == ["libgl1", "libglib2.0-0"]


def test_other_failures_are_told_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_name: str) -> None:
        raise ImportError("undefined symbol: x")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert check_native.main() == 1
    assert "undefined symbol" in capsys.readouterr().err
