"""Mutated real files: an image within the limits or a refusal, in bounded memory and time."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.decode import DecodeLimits
from tests.fuzz.mutations import LIMITS, check, mend_png, seeds

FUZZER = "tests.fuzz.fuzz_decode"
REPOSITORY = Path(__file__).parents[2]
LENIENT = DecodeLimits(LIMITS.max_bytes, LIMITS.max_pixels, allow_truncated=True)
SETTINGS = settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])

names = st.sampled_from(sorted(seeds()))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A seed with bits turned over, bytes replaced, cut out or doubled, lengths edited, spliced."""
    data = bytearray(seeds()[draw(names)])
    for _ in range(draw(st.integers(1, 6))):
        # Headers decide most, so half of the places lie at the front.
        front = draw(st.booleans())
        at = draw(st.integers(0, max(0, min(len(data), 200 if front else len(data)) - 1)))
        match draw(st.integers(0, 6)):
            case 0 if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case 2:
                del data[at : at + draw(st.integers(1, 64))]
            case 3:
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case 4:
                size = draw(st.sampled_from((2, 4)))
                order = draw(st.sampled_from(("big", "little")))
                value = draw(st.sampled_from((0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)))
                data[at : at + size] = (value & (256**size - 1)).to_bytes(size, order)
            case 5:
                data = data[: max(1, at)]
            case _:
                other = seeds()[draw(names)]
                data = data[:at] + other[draw(st.integers(0, len(other) - 1)) :]
    return mend_png(bytes(data)) if draw(st.booleans()) else bytes(data)


@SETTINGS
@given(mutated())
def test_mutated_files(data: bytes) -> None:
    if check(data) == "image_truncated":
        check(data, LENIENT)


@SETTINGS
@given(st.binary(max_size=300), names, st.integers(0, 40))
def test_rubbish_behind_a_proper_start(rubbish: bytes, name: str, keep: int) -> None:
    check(seeds()[name][:keep] + rubbish)


def test_seeds_themselves_are_decoded() -> None:
    assert {name: check(data) for name, data in seeds().items()} == dict.fromkeys(
        seeds(), "decoded"
    )


def test_single_bytes_of_the_headers() -> None:
    # Every byte of the first 64, to the values that hurt most.
    for data in seeds().values():
        for at in range(min(64, len(data))):
            for value in (0x00, 0x7F, 0xFF):
                check(mend_png(data[:at] + bytes([value]) + data[at + 1 :]))


BOMBS = """
import resource, struct, sys, zlib
from models.decode import decode
from models.errors import ImageRejected
from tests.models import images as im

def grown(data, mark, skip, layout, *sizes):
    at = data.index(mark) + skip
    patch = struct.pack(layout, *sizes)
    return data[:at] + patch + data[at + len(patch):]

rgb, big = im.quarters(), 7_900
png = im.png(big, big, zlib.compress(bytes(big * (3 * big + 1)), 9))
clear = im.png(big, big, zlib.compress(bytes(big * (4 * big + 1)), 9), colour=6)
deep = im.png(big, big, zlib.compress(bytes(big * (6 * big + 1)), 9), depth=16)
jpeg = im.encode(rgb, "jpeg", progressive=True)
trap = bytes(200_000_000)
files = {
    "png": png,
    "png_clear": clear,
    "png_deep": deep,
    "png_text": im.png(32, 32, zlib.compress((b"\\0" + bytes(96)) * 32),
                       im.png_chunk(b"zTXt", b"a\\0\\0" + zlib.compress(trap, 9)),
                       im.png_chunk(b"iCCP", b"a\\0\\0" + zlib.compress(trap, 9))),
    "jpeg": grown(jpeg, b"\\xff\\xc2", 5, ">HH", big, big),
    "gif": grown(im.encode(rgb, "gif"), b"GIF8", 6, "<HH", big, big),
    "webp": im.encode(im.Image.new("RGBA", (big, big), (9, 9, 9, 9)), "webp", lossless=True,
                      quality=0, method=0),
    "tiff": im.encode(im.Image.new("RGB", (big, big)), "tiff", compression="tiff_adobe_deflate"),
    "bmp": grown(im.encode(rgb, "bmp"), b"BM", 18, "<ii", big, big),
}
del trap, png, clear, deep
with open("/proc/self/status") as status:
    used = next(int(line.split()[1]) for line in status if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + int(sys.argv[1]),) * 2)
for name, data in files.items():
    try:
        result = decode(data)
        print(name, "decoded", result.width, result.height)
    except ImageRejected as error:
        print(name, error.code)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address space limits are Linux's")
def test_bombs_within_a_memory_limit() -> None:
    # 62 megapixels of anything may take 20 bytes each, and a constant.
    limit = 20 * 7_900 * 7_900 + 200_000_000
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(limit)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert dict(line.split(" ", 1) for line in done.stdout.splitlines()) == {
        "png": "decoded 7900 7900",
        "png_clear": "decoded 7900 7900",
        "png_deep": "decoded 7900 7900",
        "png_text": "decoded 32 32",
        "jpeg": "decoded 7900 7900",
        "gif": "decoded 7900 7900",
        "webp": "decoded 7900 7900",
        "tiff": "decoded 7900 7900",
        "bmp": "image_truncated",
    }


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not here")
def test_the_fuzzer_starts_and_finds_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", FUZZER, "-runs=2000", "-seed=1", f"-artifact_prefix={tmp_path}/"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.search(r"Done \d+ runs", done.stderr)
    assert not list(tmp_path.iterdir())
