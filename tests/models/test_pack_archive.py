"""Hostile zip archives leave nothing behind outside of the folder they are unpacked into."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from models.errors import PackSourceInvalid
from models.packs import archive
from models.packs.archive import unpack


def made(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in entries.items():
            opened.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return path


def refused(path: Path, tmp_path: Path, said: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PackSourceInvalid, match=said) as caught:
        unpack(path, target)
    assert caught.value.remedy
    outside = [p for p in sorted(tmp_path.rglob("*")) if target not in p.parents]
    assert outside == before


def test_a_package_is_unpacked(tmp_path: Path) -> None:
    path = made(tmp_path / "a.zip", {"one.onnx": b"1", "below/two.onnx": b"2" * 3_000_000})
    target = tmp_path / "target"
    target.mkdir()
    assert unpack(path, target) == target
    assert (target / "one.onnx").read_bytes() == b"1"
    assert (target / "below" / "two.onnx").stat().st_size == 3_000_000


def test_one_folder_that_holds_everything_is_the_package(tmp_path: Path) -> None:
    path = made(tmp_path / "a.zip", {"buffalo_l/one.onnx": b"1", "__MACOSX/._x": b""})
    target = tmp_path / "target"
    target.mkdir()
    assert unpack(path, target) == target / "buffalo_l"


@pytest.mark.parametrize(
    "name",
    [
        "../outside.onnx",
        "a/../../outside.onnx",
        "/outside.onnx",
        "..\\outside.onnx",
        "C:outside.onnx",
        "a/b/c/d/e/f/g/h/i.onnx",
        "n" * 300,
        "bell\x07.onnx",
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    refused(made(tmp_path / "a.zip", {"good.onnx": b"1", name: b"2"}), tmp_path, "path")


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        entry = zipfile.ZipInfo("link.onnx")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(entry, "/etc/passwd")
    refused(path, tmp_path, "link")


def test_bombs_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = made(tmp_path / "a.zip", {"m.onnx": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    refused(path, tmp_path, "times its size")
    assert list((tmp_path / "target").iterdir()) == []


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    entries = {f"{n}.onnx": b"" for n in range(archive.MAX_ENTRIES + 1)}
    refused(made(tmp_path / "a.zip", entries), tmp_path, "files")


def test_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    refused(made(tmp_path / "a.zip", {"a": b"1" * 600, "b": b"2" * 600}), tmp_path, "GB")


def test_a_directory_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "a.zip", {"m.onnx": bytes(2_000_000)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    # Size of the file in the central directory (PKWARE APPNOTE 4.3.12: offset 24).
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 1000)
    path.write_bytes(bytes(data))
    refused(path, tmp_path, "a.zip|more than it says")
    assert sum(p.stat().st_size for p in (tmp_path / "target").rglob("*.onnx")) <= 1000


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    refused(made(tmp_path / "a.zip", {"M.onnx": b"1", "m.onnx": b"2"}), tmp_path, "twice")


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    refused(made(tmp_path / "a.zip", {"a": b"1", "a/b": b"2"}), tmp_path, "unpacked")


def test_unusual_packing_is_refused(tmp_path: Path) -> None:
    refused(made(tmp_path / "a.zip", {"m": b"1"}, zipfile.ZIP_LZMA), tmp_path, "unusual")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "a.zip", {"m.onnx": bytes(range(256)) * 500}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(bytes(data))
    refused(path, tmp_path, "a.zip")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip archive")
    refused(tmp_path / "a.zip", tmp_path, "no zip archive")
