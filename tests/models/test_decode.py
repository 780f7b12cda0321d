"""Decoding: every format, orientation, colour and refusal."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from models.decode import DecodeLimits, decode, inspect
from models.decoding import jpeg
from models.decoding.bitstreams import MAX_PICTURES, check_hevc, largest_av1_frame
from models.errors import ImageRejected
from models.types import DecodedImage
from tests.models import images as im

SHARED = Path(__file__).parents[2] / "../shared/data/photos"


def rejected(data: bytes, limits: DecodeLimits | None = None) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        decode(data, limits or DecodeLimits())
    assert caught.value.detail.endswith(".")
    assert caught.value.remedy.endswith(".")
    return caught.value


def outcome(data: bytes) -> tuple[str, NDArray[np.uint8] | None]:
    """The code of the refusal, or ``"decoded"`` and the pixels."""
    try:
        return "decoded", decode(data).pixels
    except ImageRejected as error:
        return error.code, None


def corners(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The colours in the middle of the four quarters, row by row."""
    height, width = pixels.shape[:2]
    return [
        pixels[y, x] for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)
    ]


def assert_shows(result: DecodedImage, expected: Image.Image, tolerance: int = 16) -> None:
    assert (result.width, result.height) == expected.size
    assert result.pixels.shape == (result.height, result.width, 3)
    assert result.pixels.dtype == np.uint8
    assert result.pixels.flags.c_contiguous
    for found, wanted in zip(corners(result.pixels), corners(np.asarray(expected)), strict=True):
        assert np.abs(found.astype(int) - wanted).max() <= tolerance


@pytest.mark.parametrize("name", im.FORMATS)
def test_every_format_is_read(name: str) -> None:
    data = im.encode(im.quarters(), name)
    result = decode(data)
    assert result.format == name
    assert_shows(result, im.quarters(), tolerance=40 if name == "gif" else 16)
    assert result.notes == ()
    assert not result.truncated
    header = inspect(data)
    assert (header.format, header.width, header.height) == (name, im.WIDTH, im.HEIGHT)
    assert header.frames == 1


def test_pixels_equal_pillows_for_lossless_formats() -> None:
    picture = im.textured()
    for name in ("png", "webp", "bmp", "tiff"):
        data = im.encode(picture, name, lossless=True)
        assert np.array_equal(decode(data).pixels, np.asarray(picture))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_pixels_are_those_of_the_reference_decoder(options: dict[str, object]) -> None:
    data = im.encode(im.textured(), "jpeg", **options)
    difference = decode(data).pixels.astype(int) - np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(difference).max() <= 1


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["jpeg", "webp", "png", "tiff", "avif", "heic"])
def test_orientation_is_applied_once(name: str, orientation: int) -> None:
    # Both HEIF writers turn the EXIF value into irot and imir boxes and keep the EXIF block.
    picture = im.quarters()
    options: dict[str, object] = {"exif": im.exif(orientation)}
    if name == "tiff":
        options = {"tiffinfo": {274: orientation}}
    expected = picture.copy()
    expected.getexif()[0x0112] = orientation
    expected = ImageOps.exif_transpose(expected)
    result = decode(im.encode(picture, name, **options))
    assert_shows(result, expected)
    if name != "heic":
        assert ("oriented" in result.notes) == (orientation != 1)


@pytest.mark.parametrize("name", ["avif", "heic"])
def test_exif_orientation_without_rotation_box_is_ignored(name: str) -> None:
    # The writers drop the orientation or turn it into boxes; so a neighbouring tag is written
    # and renamed in the file.
    block = im.exif(6).replace(b"\x01\x12", b"\x01\x13")
    data = im.encode(im.quarters(), name, exif=block)
    assert data.count(b"\x01\x13\0\3\0\0\0\1\0\6") == 1
    data = data.replace(b"\x01\x13\0\3", b"\x01\x12\0\3")
    assert b"irot" not in data
    result = decode(data)
    assert result.notes == ()
    assert_shows(result, im.quarters())


@pytest.mark.parametrize("name", ["avif", "heic"])
def test_rotation_box_wins_over_a_contradicting_exif(name: str) -> None:
    data = im.encode(im.quarters(), name, exif=im.exif(6))
    at = data.index(b"irot") + 4
    assert data[at] == 3
    half_turn = data[:at] + b"\2" + data[at + 1 :]
    assert_shows(decode(half_turn), im.quarters().rotate(180))


def test_little_endian_exif_and_rubbish_exif() -> None:
    turned = decode(im.encode(im.quarters(), "jpeg", exif=im.exif(6, "<")))
    assert (turned.width, turned.height) == (im.HEIGHT, im.WIDTH)
    for block in (im.exif(9), im.exif(0), b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0XX"):
        assert_shows(decode(im.encode(im.quarters(), "jpeg", exif=block)), im.quarters())


# Colour


def test_grey_palette_and_two_level_pictures() -> None:
    grey = im.quarters().convert("L")
    for name in ("jpeg", "png", "tiff", "webp", "avif", "heic"):
        assert_shows(decode(im.encode(grey, name)), grey.convert("RGB"))
    for name in ("png", "bmp", "tiff"):
        palette = im.quarters().convert("P", palette=Image.Palette.ADAPTIVE)
        assert_shows(decode(im.encode(palette, name)), im.quarters())
        two = grey.convert("1", dither=Image.Dither.NONE)
        assert_shows(decode(im.encode(two, name)), two.convert("RGB"))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    expected = (ramp >> 8).astype(np.uint8)
    picture = Image.fromarray(ramp)
    for data in (im.encode(picture, "png"), im.encode(picture, "tiff")):
        assert np.array_equal(decode(data).pixels[:, :, 1], expected)
    rows = b"".join(b"\0" + np.stack([r, r, r], -1).astype(">u2").tobytes() for r in ramp)
    colour = decode(im.png(64, 64, zlib.compress(rows), depth=16))
    assert np.array_equal(colour.pixels[:, :, 2], expected)


def test_sixteen_bit_tiff_where_white_is_zero() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype("<u2").reshape(64, 64)
    layout = [(256, 64), (257, 64), (258, 16), (259, 1), (262, 0), (277, 1), (278, 64)]
    entries = [(tag, 3, 1, value) for tag, value in layout]
    start = 8 + 2 + 12 * 9 + 4
    entries += [(273, 4, 1, start), (279, 4, 1, ramp.nbytes)]
    pixels = decode(im.tiff(entries, ramp.tobytes())).pixels
    assert np.array_equal(pixels[:, :, 0], 255 - (ramp >> 8).astype(np.uint8))


def test_transparency_lies_on_middle_grey() -> None:
    picture = im.quarters().convert("RGBA")
    alpha = np.full((im.HEIGHT, im.WIDTH), 255, np.uint8)
    alpha[:, : im.WIDTH // 2] = 0
    picture.putalpha(Image.fromarray(alpha))
    for name in ("png", "webp", "tiff", "avif"):
        result = decode(im.encode(picture, name))
        assert "transparency" in result.notes
        assert np.abs(corners(result.pixels)[0].astype(int) - 128).max() <= 4
        assert np.abs(corners(result.pixels)[1].astype(int) - im.GREEN).max() <= 16
    picture.putalpha(255)
    assert decode(im.encode(picture, "png")).notes == ()


def test_half_transparent_pixels_are_blended() -> None:
    picture = Image.new("RGBA", (32, 32), (228, 28, 128, 128))
    pixels = decode(im.encode(picture, "png")).pixels
    assert pixels[5, 5].tolist() == [178, 78, 128]


def test_palette_and_grey_with_transparency() -> None:
    palette = im.quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    index = palette.getpixel((2, 2))
    for name in ("png", "gif"):
        result = decode(im.encode(palette, name, transparency=index))
        assert "transparency" in result.notes
        assert corners(result.pixels)[0].tolist() == [128, 128, 128]
    two = im.quarters().convert("L").convert("1", dither=Image.Dither.NONE)
    assert "transparency" in decode(im.encode(two, "png", transparency=255)).notes
    grey = Image.merge("LA", [Image.new("L", (32, 32), 250), Image.new("L", (32, 32), 0)])
    assert decode(im.encode(grey, "png")).pixels[3, 3].tolist() == [128, 128, 128]


def test_cmyk_jpeg_of_adobe_kind() -> None:
    ink = Image.new("CMYK", (32, 32), (0, 200, 200, 30))
    data = im.encode(ink, "jpeg", quality=95)
    assert b"Adobe" in data
    result = decode(data)
    wanted = np.asarray(ink.convert("RGB"))[0, 0].astype(int)
    assert np.abs(result.pixels[9, 9] - wanted).max() <= 3
    assert result.notes == ("cmyk_without_profile",)
    tiff = decode(im.encode(ink, "tiff"))
    assert np.abs(tiff.pixels[9, 9] - wanted).max() <= 1


def test_ycck_jpeg() -> None:
    # Stored components 200, 128, 128, 255. As YCCK: inverted ink 55, 55, 55, so RGB 55.
    stored = Image.new("CMYK", (32, 32), (55, 127, 127, 0))
    data = im.encode(stored, "jpeg", quality=100, subsampling=0)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    ycck = data[:at] + b"\2" + data[at + 1 :]
    assert np.abs(decode(ycck).pixels[9, 9].astype(int) - 55).max() <= 3


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff", "avif"])
def test_embedded_profile_is_converted_to_srgb(name: str) -> None:
    data = im.encode(im.quarters(), name, icc_profile=im.swapped_profile())
    result = decode(data)
    assert "colour_converted" in result.notes
    red, green = corners(result.pixels)[:2]
    assert red[1] > 150 > red[0]
    assert green[0] > 150 > green[1]


@pytest.mark.parametrize("profile", [b"nonsense", bytes(200), im.swapped_profile()[:300]])
def test_unusable_profile_is_ignored_and_noted(profile: bytes) -> None:
    result = decode(im.encode(im.quarters(), "jpeg", icc_profile=profile))
    assert result.notes == ("colour_profile_ignored",)
    assert_shows(result, im.quarters())


def test_grey_picture_with_colour_profile_keeps_its_greys() -> None:
    grey = im.quarters().convert("L")
    result = decode(im.encode(grey, "jpeg", icc_profile=im.swapped_profile()))
    assert result.notes == ("colour_profile_ignored",)
    assert_shows(result, grey.convert("RGB"))


# Animations, pages and what lies behind an image


@pytest.mark.parametrize("name", ["gif", "webp", "png", "avif"])
def test_first_frame_of_an_animation(name: str) -> None:
    data = im.animation(name)
    assert inspect(data).frames == 3
    result = decode(data)
    assert "animated" in result.notes
    assert_shows(result, im.quarters(), tolerance=40)


def test_first_page_of_a_tiff() -> None:
    other = Image.new("RGB", (500, 20), im.RED)
    data = im.encode(im.quarters(), "tiff", save_all=True, append_images=[other])
    assert inspect(data).frames == 2
    result = decode(data)
    assert result.notes == ("several_pages",)
    assert_shows(result, im.quarters())


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
def test_tiff_compressions(compression: str) -> None:
    assert_shows(decode(im.encode(im.quarters(), "tiff", compression=compression)), im.quarters())


def test_big_tiff() -> None:
    assert_shows(decode(im.encode(im.quarters(), "tiff", big_tiff=True)), im.quarters())


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "bmp"])
def test_data_behind_the_image_is_noted(name: str) -> None:
    video = b"\0\0\0\x18ftypmp42" + b"moving pictures" * 50
    result = decode(im.encode(im.quarters(), name) + video)
    assert result.notes == ("trailing_data",)
    assert_shows(result, im.quarters(), tolerance=40)
    assert decode(im.encode(im.quarters(), name) + bytes(64)).notes == ()


def test_preview_and_metadata_of_a_jpeg_are_not_taken_for_the_image() -> None:
    preview = im.encode(Image.new("RGB", (16, 16), im.GREEN), "jpeg")
    body = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + preview
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    data = im.encode(im.quarters(), "jpeg")
    assert_shows(decode(data[:2] + segment + data[2:]), im.quarters())


# Refusals


def test_empty_and_too_large() -> None:
    assert rejected(b"").code == "image_empty"
    data = im.encode(im.quarters(), "png")
    assert rejected(data, DecodeLimits(max_bytes=len(data) - 1)).code == "image_too_large"
    assert decode(data, DecodeLimits(max_bytes=len(data))).width == im.WIDTH


@pytest.mark.parametrize("name", im.FORMATS)
def test_pixel_limit_holds_before_decoding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = im.encode(im.quarters(), name)
    count = im.WIDTH * im.HEIGHT
    assert decode(data, DecodeLimits(max_pixels=count)).width == im.WIDTH
    with pytest.raises(ImageRejected, match="96 x 64") as caught:
        inspect(data, DecodeLimits(max_pixels=count - 1))
    assert caught.value.code == "too_many_pixels"
    assert rejected(data, DecodeLimits(max_pixels=count - 1)).code == "too_many_pixels"


@pytest.mark.parametrize("name", im.FORMATS)
def test_useless_dimensions(name: str) -> None:
    sizes = [(7, 64), (64, 7), (8, 808)]
    if name in ("avif", "heic"):
        sizes = [(16, 1632)]
    for size in sizes:
        assert rejected(im.encode(im.quarters(*size), name)).code == "image_dimensions"


def test_limits_check_themselves() -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        DecodeLimits(max_bytes=0)
    for pixels in (0, 90_000_000):
        with pytest.raises(ValueError, match="max_pixels"):
            DecodeLimits(max_pixels=pixels)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'{"error": "not found"}', "text"),
        (b"just words", "text"),
        (b"%PDF-1.7\n", "PDF"),
        (b"8BPS\0\1" + bytes(40), "Photoshop"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera raw"),
        (b"\xff\x0a" + bytes(30), "JPEG XL"),
        (b"RIFF\x24\0\0\0AVI LIST", "video"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(20), "camera raw"),
        (bytes(1000), "unknown"),
        (b"\x00", "unknown"),
        (b"BM not a bitmap at all, only words", "text"),
    ],
)
def test_other_files_are_named_in_the_refusal(data: bytes, word: str) -> None:
    error = rejected(data)
    assert error.code == "unsupported_format"
    assert word in error.detail
    with pytest.raises(ImageRejected):
        inspect(data)


@pytest.mark.parametrize("name", im.FORMATS)
def test_every_truncation_is_refused_or_whole(name: str) -> None:
    data = im.encode(im.textured(), name)
    whole = decode(data).pixels
    for keep in sorted({4, 12, 20, 40, *range(60, len(data), max(1, len(data) // 60))}):
        code, pixels = outcome(data[:keep])
        if pixels is not None:
            assert np.array_equal(pixels, whole), keep
        elif keep >= 20 or code != "unsupported_format":  # too little to tell what it was
            assert code == "image_truncated", keep


def test_truncated_jpeg_is_decoded_only_if_allowed() -> None:
    data = im.encode(im.textured(), "jpeg")
    cut = data[: len(data) * 2 // 3]
    assert rejected(cut).code == "image_truncated"
    whole, part = decode(data).pixels, decode(cut, DecodeLimits(allow_truncated=True))
    assert part.truncated
    assert part.notes == ("truncated",)
    assert np.array_equal(part.pixels[:48], whole[:48])
    assert not np.array_equal(part.pixels, whole)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_truncated_progressive_and_cmyk_jpeg() -> None:
    picture = im.textured()
    for data in (
        im.encode(picture, "jpeg", progressive=True),
        im.encode(picture.convert("CMYK"), "jpeg"),
    ):
        cut = data[: len(data) * 2 // 3]
        assert rejected(cut).code == "image_truncated"
        assert decode(cut, DecodeLimits(allow_truncated=True)).truncated


def test_jpeg_that_lacks_only_its_end_marker_is_whole() -> None:
    for mode in ("RGB", "L", "CMYK"):
        data = im.encode(im.textured().convert(mode), "jpeg")
        result = decode(data[:-2])
        assert "no_end_marker" in result.notes
        assert np.array_equal(result.pixels, decode(data).pixels)


def test_jpeg_without_enough_data_for_its_size() -> None:
    data = im.encode(Image.new("L", (64, 64)), "jpeg")
    at = data.index(b"\xff\xc0") + 5
    huge = data[:at] + struct.pack(">HH", 7900, 7900) + data[at + 4 :]
    assert rejected(huge).code == "image_truncated"


@pytest.mark.parametrize("size", [(0, 64), (64, 0)])
def test_jpeg_with_a_zero_side(size: tuple[int, int]) -> None:
    # A height of 0 is to be filled in by a DNL segment, which decoders do not read.
    data = im.encode(im.quarters(), "jpeg")
    at = data.index(b"\xff\xc0") + 5
    assert rejected(data[:at] + struct.pack(">HH", *size) + data[at + 4 :]).code == (
        "image_dimensions"
    )


def test_huge_dnl_changes_nothing() -> None:
    data = im.encode(im.quarters(), "jpeg")
    assert_shows(decode(data[:-2] + b"\xff\xdc\0\4\xff\xff" + data[-2:]), im.quarters())


def test_jpeg_with_thousands_of_scans() -> None:
    data = im.encode(im.textured(), "jpeg", progressive=True)
    last = data.rindex(b"\xff\xda")
    trap = data[:-2] + data[last:-2] * 2000 + data[-2:]
    assert rejected(trap).code == "image_corrupt"
    assert decode(data[:-2] + data[last:-2] * (jpeg.MAX_SCANS // 2) + data[-2:]).width == 160


def test_jpeg_with_two_frame_headers() -> None:
    data = im.encode(im.quarters(), "jpeg")
    start = data.index(b"\xff\xc0")
    frame = data[start : start + 19]
    assert rejected(data[:start] + frame + data[start:]).code == "image_corrupt"


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xCB, 0xF7])
def test_lossless_and_hierarchical_jpeg(marker: int) -> None:
    data = im.encode(im.quarters(), "jpeg").replace(b"\xff\xc0", bytes([0xFF, marker]), 1)
    assert rejected(data).code == "unsupported_format"


def test_png_bombs() -> None:
    tiny = zlib.compress(bytes(1000))
    assert rejected(im.png(50_000, 50_000, tiny)).code == "too_many_pixels"
    assert rejected(im.png(7_900, 7_900, tiny)).code == "image_truncated"
    assert rejected(im.png(0, 64, tiny)).code == "image_dimensions"
    assert rejected(im.png(2**31 - 1, 64, tiny)).code == "too_many_pixels"


def test_png_metadata_bombs_are_never_inflated() -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    nested = zlib.compress(bomb)
    rows = zlib.compress((b"\0" + bytes(im.RED) * 32) * 32)
    result = decode(
        im.png(
            32,
            32,
            rows,
            im.png_chunk(b"iCCP", b"bomb\0\0" + bomb),
            im.png_chunk(b"zTXt", b"key\0\0" + bomb),
            im.png_chunk(b"iTXt", b"key\0\1\0\0\0" + nested),
            im.png_chunk(b"tEXt", b"key\0" + b"x" * 1_000_000),
        )
    )
    assert result.notes == ("colour_profile_ignored",)
    assert result.pixels[4, 4].tolist() == list(im.RED)


def test_png_damage() -> None:
    data = im.encode(im.textured(), "png")
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
    assert rejected(flipped).code == "image_corrupt"
    assert rejected(data.replace(b"\r\n", b"\n", 1)).code == "image_corrupt"
    many = im.png_chunk(b"tEXt", b"a\0") * 70_000
    assert rejected(im.png(32, 32, b"", many)).code == "image_corrupt"
    assert rejected(im.png(32, 32, zlib.compress(b"\0" * 100))).code == "image_truncated"


def test_gif_whose_frame_is_larger_than_its_screen() -> None:
    data = bytearray(im.encode(im.quarters(), "gif"))
    at = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    struct.pack_into("<HHHH", data, at + 1, 0, 0, 60_000, 60_000)
    assert rejected(bytes(data)).code == "too_many_pixels"
    struct.pack_into("<HH", data, 6, 60_000, 60_000)
    struct.pack_into("<HHHH", data, at + 1, 0, 0, 32, 32)
    assert rejected(bytes(data)).code == "too_many_pixels"


def test_gif_of_one_byte_blocks() -> None:
    data = im.encode(im.quarters(), "gif")
    trap = data[:-2] + b"\1\0" * 3_000_000 + b"\0;"
    assert rejected(trap).code == "image_corrupt"


def test_webp_canvas_bomb() -> None:
    data = bytearray(im.encode(im.quarters().convert("RGBA"), "webp", exif=im.exif(1)))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xff\x3f\0\xff\x3f\0"
    assert rejected(bytes(data)).code == "too_many_pixels"
    data[24:30] = b"\xff\x0f\0\xff\x0f\0"
    assert rejected(bytes(data)).code == "image_corrupt"


def test_tiff_bombs() -> None:
    base = [(258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    huge = [(256, 4, 1, 60_000), (257, 4, 1, 60_000), (273, 4, 1, 8), (279, 4, 1, 8)]
    assert rejected(im.tiff(base + huge)).code == "too_many_pixels"
    small = [(256, 4, 1, 64), (257, 4, 1, 64)]
    tiles = [(322, 4, 1, 2**16), (323, 4, 1, 2**16), (324, 4, 1, 8), (325, 4, 1, 8)]
    assert rejected(im.tiff(base + small + tiles)).code == "too_many_pixels"
    beyond = [(273, 4, 1, 8), (279, 4, 1, 4096)]
    assert rejected(im.tiff(base + small + beyond)).code == "image_truncated"
    lzma = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 34925)]
    assert rejected(im.tiff(lzma)).code == "unsupported_format"
    assert rejected(im.tiff([*small, (273, 4, 4_000_000_000, 8)])).code == "image_truncated"
    many = im.tiff([*base, *small, (273, 4, 1, 8), (320, 3, 300_000, 8)], bytes(700_000))
    assert rejected(many).code == "image_corrupt"


def test_tiff_whose_pages_form_a_ring() -> None:
    data = bytearray(im.encode(im.quarters(), "tiff"))
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    assert inspect(bytes(data)).frames == 2
    assert_shows(decode(bytes(data)), im.quarters())


def test_bmp_bombs() -> None:
    data = bytearray(im.encode(im.quarters(), "bmp"))
    struct.pack_into("<ii", data, 18, 60_000, 60_000)
    assert rejected(bytes(data)).code == "too_many_pixels"
    struct.pack_into("<ii", data, 18, 5_000, 5_000)
    assert rejected(bytes(data)).code == "image_truncated"
    struct.pack_into("<ii", data, 18, -96, 64)
    assert rejected(bytes(data)).code == "image_dimensions"


def test_bmp_stored_from_the_top() -> None:
    data = bytearray(im.encode(im.quarters(), "bmp"))
    struct.pack_into("<i", data, 22, -im.HEIGHT)
    assert_shows(decode(bytes(data)), ImageOps.flip(im.quarters()))


@pytest.mark.parametrize("name", ["avif", "heic"])
def test_container_that_lies_about_its_size(name: str) -> None:
    data = im.encode(im.quarters(640, 640), name)
    true = b"ispe" + struct.pack(">III", 0, 640, 640)
    assert true in data
    huge = data.replace(true, b"ispe" + struct.pack(">III", 0, 60_000, 60_000))
    assert rejected(huge).code == "too_many_pixels"
    small = data.replace(true, b"ispe" + struct.pack(">III", 0, 64, 64))
    limits = DecodeLimits(max_pixels=64 * 64)
    assert inspect(small, limits).width == 64
    code = "too_many_pixels" if name == "avif" else "image_corrupt"
    assert rejected(small, limits).code == code


def test_bitstreams_of_many_pictures() -> None:
    picture = (4).to_bytes(4, "big") + b"\x26\1\x80\0"  # an IDR slice, the first of its picture
    check_hevc(picture * MAX_PICTURES, 4)
    with pytest.raises(ImageRejected, match="many pictures"):
        check_hevc(picture * (MAX_PICTURES + 1), 4)
    frame = b"\x32\1\0"
    assert largest_av1_frame(frame * MAX_PICTURES) == (0, 0)
    with pytest.raises(ImageRejected, match="many frames"):
        largest_av1_frame(frame * (MAX_PICTURES + 1))


@pytest.mark.parametrize("size", [(16, 16), (640, 360), (1921, 1081)])
def test_size_of_av1_frames(size: tuple[int, int]) -> None:
    data = im.encode(im.quarters(*size), "avif", speed=10)
    still = data[data.index(b"mdat") + 4 :]
    assert largest_av1_frame(still) == size
    animation = im.animation("avif")  # its sequence header is not of the reduced kind
    walked = largest_av1_frame(animation[animation.index(b"mdat") + 4 :])
    assert walked == (im.WIDTH, im.HEIGHT)


def test_heif_grid() -> None:
    data = im.encode(im.quarters(128, 128), "heic", tile_size=64)
    assert b"grid" in data
    assert_shows(decode(data), im.quarters(128, 128))
    tile, canvas = (b"ispe" + struct.pack(">III", 0, side, side) for side in (64, 128))
    heavy = data.replace(tile, canvas)
    assert rejected(heavy, DecodeLimits(max_pixels=128 * 128)).code == "image_corrupt"
    assert rejected(data.replace(b"hvc1", b"grid")).code == "unsupported_format"


def test_heif_items_that_overlap() -> None:
    data = im.encode(im.quarters(), "avif")
    at = data.index(b"iloc") + 4
    assert data[at : at + 8] == bytes.fromhex("0000000044000001")
    length = at + 8 + 2 + 2 + 2 + 4
    trap = data[:length] + struct.pack(">I", 3 * len(data)) + data[length + 4 :]
    assert rejected(trap).code == "image_corrupt"


def test_heif_container_with_another_codec() -> None:
    data = im.encode(im.quarters(), "heic").replace(b"hvc1", b"vvc1")
    assert rejected(data).code == "unsupported_format"


def test_cause_of_an_unexpected_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("inside the library")

    monkeypatch.setattr("models.decoding.jpeg._decode", fail)
    error = rejected(im.encode(im.quarters(), "jpeg"))
    assert error.code == "image_corrupt"
    assert isinstance(error.__cause__, RuntimeError)


def test_threads_do_not_disturb_each_other() -> None:
    files = [im.encode(im.textured(seed=i), name) for i, name in enumerate(im.FORMATS)]
    cut = files[0][: len(files[0]) // 2]
    alone = [decode(data).pixels for data in files]
    limits = DecodeLimits(allow_truncated=True)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(decode, data) for _ in range(6) for data in files]
        broken = [pool.submit(decode, cut, limits) for _ in range(20)]
        for index, job in enumerate(jobs):
            assert np.array_equal(job.result().pixels, alone[index % len(files)])
        assert all(job.result().truncated for job in broken)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared photos are not here")
def test_shared_photos() -> None:
    codes = {
        "bad_corrupted.png": "image_corrupt",
        "bad_empty.png": "unsupported_format",
        "bad_truncated.jpg": "image_truncated",
    }
    for path in sorted(SHARED.iterdir()):
        data = path.read_bytes()
        if path.name in codes:
            assert rejected(data).code == codes[path.name], path.name
        else:
            result = decode(data)
            header = inspect(data)
            assert (result.width, result.height) == (header.width, header.height), path.name
