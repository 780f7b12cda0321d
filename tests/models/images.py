"""Pictures for the decoding tests: one known picture, written in every format and way."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

WIDTH, HEIGHT = 96, 64
RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 40), (30, 50, 210), (230, 220, 40)
FORMATS = ("jpeg", "png", "webp", "avif", "heic", "gif", "bmp", "tiff")


def quarters(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Red top left, green top right, blue bottom left, yellow bottom right."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = YELLOW
    return Image.fromarray(pixels)


def textured(width: int = 160, height: int = 120, seed: int = 7) -> Image.Image:
    """A picture with smooth and noisy parts, so that its files have real content."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 100 * np.sin(x / 9 + k) * np.cos(y / 7 - k) for k in range(3)]
    noise = rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8))


def encode(image: Image.Image, name: str, **options: object) -> bytes:
    """Write ``image`` as format ``name`` (Pillow's name in lower case, or ``heic``)."""
    out = io.BytesIO()
    if name == "heic":
        pillow_heif.from_pillow(image).save(out, **({"quality": 90} | options))
    else:
        defaults = {"quality": 92} if name in ("jpeg", "webp", "avif") else {}
        image.save(out, name.upper(), **(defaults | options))
    return out.getvalue()


def exif(orientation: int, order: str = ">") -> bytes:
    """A whole EXIF block with nothing but an orientation."""
    mark = b"MM" if order == ">" else b"II"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    ifd = struct.pack(f"{order}H", 1) + entry + bytes(4)
    return b"Exif\0\0" + mark + struct.pack(f"{order}HI", 42, 8) + ifd


def png_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(
    width: int, height: int, idat: bytes, *extra: bytes, depth: int = 8, colour: int = 2
) -> bytes:
    """A PNG put together by hand; ``extra`` chunks stand in front of the image data."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n", head, *extra, png_chunk(b"IDAT", idat), png_chunk(b"IEND", b"")]
    return b"".join(parts)


def swapped_profile() -> bytes:
    """An RGB profile whose red and green primaries are exchanged: red pixels mean green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    name, other = "sRGB".encode("utf-16-be"), "test".encode("utf-16-be")
    return bytes(profile).replace(name, other)


def animation(name: str) -> bytes:
    """Three frames, the first of them the quarters."""
    others = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in (RED, BLUE)]
    options: dict[str, object] = {"save_all": True, "append_images": others, "duration": 100}
    return encode(quarters(), name, **options)


def tiff(entries: list[tuple[int, int, int, int]], body: bytes = b"") -> bytes:
    """A little-endian TIFF put together by hand: (tag, type, count, value) and data behind."""
    ifd = struct.pack("<H", len(entries))
    for tag, kind, count, value in sorted(entries):
        ifd += struct.pack("<HHII", tag, kind, count, value)
    return b"II*\0" + struct.pack("<I", 8) + ifd + bytes(4) + body
