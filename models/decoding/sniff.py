"""Tell the container from the bytes, and name the usual non-images that get saved as images."""

from __future__ import annotations

from typing import Literal

from models.decoding.common import corrupt, truncated, unsupported

Container = Literal["jpeg", "png", "webp", "isobmff", "gif", "bmp", "tiff"]

_PNG = b"\x89PNG\r\n\x1a\n"
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)

_STILL_BRANDS = frozenset(
    b"avif avis mif1 msf1 mif2 miaf 1pic heic heix heim heis hevc hevx hevm hevs".split()
)

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\1\0", "an icon"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (b"FLV\1", "a video"),
    (b"IIRO", "a camera raw file"),
    (b"IIU\0", "a camera raw file"),
)


def sniff(data: bytes) -> Container:
    """Return the container that the bytes are; ``"isobmff"`` holds AVIF or HEIC.

    Raises ``ImageRejected``: ``unsupported_format``, or ``image_corrupt`` for a PNG whose
    signature was damaged on the way.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_PNG):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    if data[4:8] == b"ftyp":
        return _sniff_isobmff(data)
    if _PNG.startswith(data):
        raise truncated(f"it ends after {len(data)} bytes")
    if data.startswith(b"\x89PNG"):
        raise corrupt("the signature of the PNG file was altered")
    raise unsupported(f"The bytes are {_describe(data)}, not an image that is read here.")


def _sniff_isobmff(data: bytes) -> Container:
    size = min(int.from_bytes(data[:4], "big"), 1024, len(data))
    brands = {data[8:12]} | {data[at : at + 4] for at in range(16, size - 3, 4)}
    if brands & _STILL_BRANDS:
        return "isobmff"
    if data[8:12] == b"crx ":
        raise unsupported("The bytes are a camera raw file, not an image that is read here.")
    raise unsupported("The bytes are a video (MP4 or QuickTime), not an image.")


def _describe(data: bytes) -> str:
    for magic, name in _OTHERS:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF":
        return "an audio or video file"
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<!--")):
        return "a web page (perhaps an error page saved under an image's name)"
    if start.startswith((b"<?xml", b"{", b"[")):
        return "text (perhaps a server's answer saved under an image's name)"
    if start and all(byte >= 32 or byte in b"\t\r\n\f" for byte in start):
        return "text"
    return "of an unknown kind"
