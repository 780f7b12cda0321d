"""From a loaded picture of any mode to upright sRGB.

Work goes band by band, so that beside the decoded picture and the result only a band of about
a million pixels is held.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageCms

from models.decoding.common import Loaded, unsupported
from models.types import RgbImage

BACKGROUND = 128
"""Transparent pixels are laid on middle grey: black would hide dark hair, white pale skin."""

_BAND_PIXELS = 1_000_000
_ALPHA_MODES = frozenset(("LA", "La", "PA", "RGBA", "RGBa"))
_COLOUR_MODES = {
    **dict.fromkeys(("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N"), "L"),
    **dict.fromkeys(("P", "PA", "RGB", "RGBA", "RGBa", "YCbCr"), "RGB"),
    "CMYK": "CMYK",
    "LAB": "LAB",
}
_PROFILE_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}


def to_upright_rgb(loaded: Loaded) -> RgbImage:
    """Return contiguous RGB pixels: converted to sRGB, laid on grey, turned upright.

    Adds what it did to ``loaded.notes`` and lets go of ``loaded.image``, to free its memory.
    """
    image = loaded.image
    loaded.image = np.empty((0, 0, 3), np.uint8)
    if isinstance(image, np.ndarray):
        pixels = image
        transform = _transform("RGB", loaded)
        if transform is not None:
            for rows in _bands(pixels.shape[1], pixels.shape[0]):
                pixels[rows] = np.asarray(_apply(transform, Image.fromarray(pixels[rows]), "RGB"))
    else:
        pixels = _convert(image, loaded)
    del image
    if loaded.orientation != 1:
        loaded.notes.append("oriented")
    return orient(pixels, loaded.orientation)


def orient(pixels: RgbImage, orientation: int) -> RgbImage:
    """Apply an EXIF orientation (EXIF 2.32, section 4.6.4); returns a contiguous array."""
    turned = pixels
    if orientation in (5, 7):
        turned = np.asarray(cv2.transpose(turned), dtype=np.uint8)
    if orientation in (6, 8):
        code = cv2.ROTATE_90_CLOCKWISE if orientation == 6 else cv2.ROTATE_90_COUNTERCLOCKWISE
        turned = np.asarray(cv2.rotate(turned, code), dtype=np.uint8)
    # cv2.flip: 1 is left to right, 0 top to bottom, -1 both.
    flip = {2: 1, 3: -1, 4: 0, 7: -1}.get(orientation)
    if flip is not None:
        turned = np.asarray(cv2.flip(turned, flip), dtype=np.uint8)
    return np.ascontiguousarray(turned)


def _bands(width: int, height: int) -> Iterator[slice]:
    step = max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        yield slice(top, min(height, top + step))


def _convert(image: Image.Image, loaded: Loaded) -> RgbImage:
    image.load()
    colour_mode = _COLOUR_MODES.get(image.mode)
    if colour_mode is None:
        raise unsupported(f"The bytes are an image of mode {image.mode}, which is not read here.")
    transform = _transform(colour_mode, loaded)
    if colour_mode == "CMYK" and transform is None:
        loaded.notes.append("cmyk_without_profile")
    has_alpha = image.mode in _ALPHA_MODES or "transparency" in image.info
    transparent = False
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for rows in _bands(width, height):
        band = image.crop((0, rows.start, width, rows.stop))
        alpha = None
        if band.mode.startswith("I;16"):
            band = _eight_bits(band, loaded)
        elif has_alpha:
            band = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
            alpha = np.asarray(band.getchannel("A"))
        if transform is not None:
            band = _apply(transform, band, colour_mode)
        pixels[rows] = np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
        if alpha is not None and alpha.min() < 255:
            transparent = True
            weight = alpha[:, :, np.newaxis].astype(np.uint16)
            pixels[rows] = (pixels[rows] * weight + BACKGROUND * (255 - weight) + 127) // 255
    if transparent:
        loaded.notes.append("transparency")
    return pixels


def _apply(transform: ImageCms.ImageCmsTransform, band: Image.Image, mode: str) -> Image.Image:
    source = band if band.mode == mode else band.convert(mode)
    return transform.apply(source)


def _eight_bits(band: Image.Image, loaded: Loaded) -> Image.Image:
    """Scale 16-bit (or 12-bit) grey to 8 bits by its high bits, as Pillow does for colour."""
    values = np.asarray(band).astype(np.uint16) >> (loaded.sample_bits - 8)
    grey = np.minimum(values, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if loaded.inverted else grey)


def _transform(colour_mode: str, loaded: Loaded) -> ImageCms.ImageCmsTransform | None:
    """Return the way from the embedded profile to sRGB, or None where there is nothing to do."""
    if colour_mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return ImageCms.buildTransform(lab, ImageCms.createProfile("sRGB"), "LAB", "RGB")
    if loaded.icc is None:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(loaded.icc))
        if _PROFILE_SPACES.get(profile.profile.xcolor_space.strip()) != colour_mode:
            loaded.notes.append("colour_profile_ignored")
            return None
        if colour_mode == "RGB" and "sRGB" in (profile.profile.profile_description or ""):
            return None
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(profile, srgb, colour_mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        loaded.notes.append("colour_profile_ignored")
        return None
    loaded.notes.append("colour_converted")
    return transform
