"""The parser of dlib's files: numbers as dlib writes them, and no tolerance for anything else."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.packs.dlib import files
from models.packs.dlib.format import (
    FormatError,
    Reader,
    read_network,
    read_shape_predictor,
)
from models.packs.dlib.networks import detector_onnx, embedder_onnx


def integer(value: int) -> bytes:
    """``value`` as dlib serialises it."""
    size = max(1, (abs(value).bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def real(value: float) -> bytes:
    mantissa, exponent = math.frexp(value)
    return integer(int(mantissa * 2**53)) + integer(exponent - 53)


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_integers_come_back(value: int) -> None:
    reader = Reader(integer(value))
    assert reader.integer() == value
    assert reader.at_end


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_reals_come_back(value: float) -> None:
    found = Reader(real(value)).real()
    assert found == pytest.approx(value, rel=1e-15, abs=1e-300)


def test_special_reals() -> None:
    assert Reader(integer(1) + integer(32000)).real() == math.inf
    assert Reader(integer(1) + integer(32001)).real() == -math.inf
    assert math.isnan(Reader(integer(1) + integer(32002)).real())


def test_a_real_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(FormatError, match="impossible number"):
        Reader(integer(1) + integer(5000)).real()


def test_numbers_that_end_early_are_refused_wherever_they_do() -> None:
    whole = integer(300) + integer(-70_000)
    for length in range(len(whole)):
        with pytest.raises(FormatError, match="ends early"):
            Reader(whole[:length]).integers(2)
    assert Reader(whole).integers(2) == [300, -70_000]


def test_tensor_is_row_major_float32() -> None:
    values = np.arange(24, dtype="<f4")
    head = b"".join(integer(n) for n in (2, 1, 2, 3, 4))
    tensor = Reader(head + values.tobytes()).tensor()
    assert tensor.shape == (1, 2, 3, 4)
    assert tensor.dtype == np.float32
    assert tensor[0, 1, 2, 3] == 23


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "ends early"),
        (b"\x00", "No integer"),
        (b"\x09" + bytes(9), "No integer"),
        (b"\x02\x01", "ends early"),
    ],
)
def test_bad_integers_are_refused(data: bytes, what: str) -> None:
    with pytest.raises(FormatError, match=what):
        Reader(data).integer()


def test_impossible_sizes_are_refused_before_memory_is_taken() -> None:
    huge = integer(2) + integer(10**6) + integer(10**6) + integer(1) + integer(1)
    with pytest.raises(FormatError, match="impossible"):
        Reader(huge).tensor()
    with pytest.raises(FormatError, match="impossible"):
        Reader(integer(10**9)).count()
    with pytest.raises(FormatError, match="impossible"):
        Reader(integer(-(10**6)) + integer(-(10**6))).matrix()


@pytest.mark.parametrize("name", [files.DETECTOR, files.EMBEDDER])
@pytest.mark.parametrize("damage", ["short", "long", "foreign"])
def test_damaged_network_files_are_refused(name: str, damage: str) -> None:
    data = files.read_verified(name)
    damaged = {
        "short": data[:-1],
        "long": data + b"\x00",
        "foreign": b"GIF89a" + data,
    }[damage]
    with pytest.raises(FormatError):
        read_network(damaged)


def test_a_network_is_not_taken_for_the_other() -> None:
    detector = read_network(files.read_verified(files.DETECTOR))
    embedder = read_network(files.read_verified(files.EMBEDDER))
    with pytest.raises(FormatError):
        embedder_onnx(detector)
    with pytest.raises(FormatError):
        detector_onnx(embedder)


def test_graphs_are_the_same_every_time() -> None:
    network = read_network(files.read_verified(files.DETECTOR))
    assert detector_onnx(network) == detector_onnx(network)


def test_shape_predictor_is_read_whole() -> None:
    data = files.read_verified(files.LANDMARKS)
    trees = read_shape_predictor(data)
    assert trees.initial.shape == (5, 2)
    assert trees.first.shape == trees.threshold.shape == (15, 500, 15)
    assert trees.leaves.shape == (15, 500, 16, 10)
    assert trees.anchor.shape == (15, 800)
    assert trees.delta.shape == (15, 800, 2)
    with pytest.raises(FormatError):
        read_shape_predictor(data + struct.pack("<I", 1))
