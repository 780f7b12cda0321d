"""The default pack's files: verified, built once, and built again when the cache is damaged."""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from models.errors import PackDigestMismatch, PackError, PackMissing, ProviderUnavailable
from models.packs.dlib import build, files
from models.packs.dlib.build import load_artifacts
from models.packs.registry import list_packs, load_pack
from models.runtime import RuntimeOptions, open_session


@pytest.fixture
def copied_cache(pack: object, pack_cache: Path, tmp_path: Path) -> Path:
    """A private copy of the built pack, to be damaged."""
    target = tmp_path / "dlib"
    target.mkdir()
    for path in (pack_cache / "dlib").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_sound_cache_is_used_as_it_is(copied_cache: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in copied_cache.iterdir()}
    load_artifacts(copied_cache)
    assert {p.name: p.stat().st_mtime_ns for p in copied_cache.iterdir()} == before


@pytest.mark.parametrize("name", ["detector.onnx", "embedder.onnx", "landmarks.npz"])
def test_a_flipped_byte_is_noticed_and_mended(
    copied_cache: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = copied_cache / name
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        artifacts = load_artifacts(copied_cache)
    assert "building it again" in caplog.text
    assert load_artifacts(copied_cache).embedder == artifacts.embedder
    if name.endswith(".onnx"):
        assert path.read_bytes() == sound


def test_a_missing_file_is_made_again(copied_cache: Path) -> None:
    (copied_cache / "detector.onnx").unlink()
    load_artifacts(copied_cache)
    assert (copied_cache / "detector.onnx").exists()


def test_a_wrong_source_file_is_refused(tmp_path: Path) -> None:
    data = bytearray(files.read_verified(files.DETECTOR))
    data[1000] ^= 1
    (tmp_path / files.DETECTOR).write_bytes(data)
    with pytest.raises(PackDigestMismatch) as caught:
        files.read_verified(files.DETECTOR, tmp_path)
    assert caught.value.code == "pack_digest_mismatch"
    assert "pip install" in caught.value.remedy


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackMissing, match="mmod"):
        files.read_verified(files.DETECTOR, tmp_path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(PackMissing, match="face_recognition_models") as caught:
        files.source_folder()
    assert "pip install" in caught.value.remedy


def test_the_68_point_file_is_never_opened(pack_cache: Path, tmp_path: Path) -> None:
    """Its training data is for non-commercial use; watch every file that a fresh build opens."""
    opened: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open":
            opened.append(
                os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
            )

    sys.addaudithook(hook)
    load_artifacts(tmp_path / "fresh")
    watching = False
    assert any(files.LANDMARKS in name for name in opened)
    assert not any("68" in Path(name).name for name in opened)


def test_an_unwritable_cache_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:  # root may write everywhere

        def denied(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(PackError, match="Permission denied"):
        load_artifacts(tmp_path / "dlib")


def test_a_cache_path_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "dlib").write_text("in the way")
    with pytest.raises(PackError, match="cannot be cached") as caught:
        load_artifacts(tmp_path / "dlib")
    assert caught.value.remedy


def test_an_interrupted_build_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = build._write_whole

    def dies(path: Path, data: bytes) -> None:
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(build, "_write_whole", dies)
    with pytest.raises(KeyboardInterrupt):
        load_artifacts(tmp_path / "dlib")
    monkeypatch.undo()
    assert not (tmp_path / "dlib" / "manifest.json").exists()
    load_artifacts(tmp_path / "dlib")
    assert not list((tmp_path / "dlib").glob(".part-*"))


def test_unknown_packs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PackMissing, match="nosuchpack") as caught:
        load_pack("nosuchpack", packs_dir=tmp_path)
    assert "dlib" in caught.value.remedy


def test_the_licence_is_stated() -> None:
    info = list_packs()[0]
    assert info.name == "dlib"
    assert info.licence == "CC0-1.0"
    assert info.free_for_police_use
    assert "VGG-Face" in info.provenance
    assert set(info.digests) == {files.DETECTOR, files.EMBEDDER, files.LANDMARKS}


def test_a_gpu_that_is_not_there_is_an_error(copied_cache: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this runtime has CUDA")
    with pytest.raises(ProviderUnavailable) as caught:
        open_session((copied_cache / "detector.onnx").read_bytes(), RuntimeOptions(provider="cuda"))
    assert caught.value.code == "provider_unavailable"


def test_big_batches_are_split(pack: object) -> None:
    from models.packs.dlib.pack import MAX_BATCH, DlibPack

    assert isinstance(pack, DlibPack)
    rng = np.random.default_rng(0)
    chips = list(rng.integers(0, 255, (MAX_BATCH + 3, 150, 150, 3), dtype=np.uint8))
    together = pack.embed(chips)
    alone = np.concatenate([pack.embed([chip]) for chip in (chips[0], chips[-1])])
    assert together.shape == (MAX_BATCH + 3, 128)
    assert np.abs(together[[0, -1]] - alone).max() < 1e-5
    assert pack.embed([]).shape == (0, 128)
