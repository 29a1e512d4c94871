"""Pictures as a person sees them: upright, on white, in sRGB, with all their greys."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image as PilImage

from antiphon.errors import InvalidRequest

__all__ = ["array_as_bytes", "as_seen"]

_Array = np.ndarray[Any, Any]
_WHITE = (255, 255, 255)
_BAND_PIXELS = 2**20
"""Pixels that are converted at a time, so that memory holds at most two copies of a large picture."""
_MAX_PROFILE_BYTES = 4 * 2**20
_ORIENTATION = 0x0112
_TURNS = {
    2: PilImage.Transpose.FLIP_LEFT_RIGHT,
    3: PilImage.Transpose.ROTATE_180,
    4: PilImage.Transpose.FLIP_TOP_BOTTOM,
    5: PilImage.Transpose.TRANSPOSE,
    6: PilImage.Transpose.ROTATE_270,
    7: PilImage.Transpose.TRANSVERSE,
    8: PilImage.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation."""
_PHOTOMETRIC = 262
_GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""Size of a grey step in a PNG of few bits, by PIL's raw mode: its transparent grey is given in steps."""
_PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_SLACK = 0.1
"""How far floating point may exceed [0, 1] or [0, 255]: resampling and noise overshoot the range a little."""


def as_seen(image: PilImage.Image) -> PilImage.Image:
    """A picture of any mode as RGB. Reads the file; raises what PIL raises, or `InvalidRequest`."""
    grey_step = _transparent_grey_step(image)
    image.load()
    turn = _TURNS.get(_orientation(image))
    convert = _converter(image, grey_step)
    if convert is None:
        return image if turn is None else image.transpose(turn)
    seen = PilImage.new("RGB", image.size, _WHITE)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = convert(image.crop((0, top, image.width, min(top + rows, image.height))))
        seen.paste(band, (0, top), band if band.mode == "RGBA" else None)
    return seen if turn is None else seen.transpose(turn)


def array_as_bytes(array: _Array) -> _Array:
    """A picture's pixels, of any number type, as uint8 of the same shape. In (height, width, 4), colours and
    opacity are scaled separately."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "buif":
        raise InvalidRequest(f"image: expected an array of numbers, found {array.dtype}")
    parts = [array[..., :3], array[..., 3:]] if array.ndim == 3 and array.shape[2] == 4 else [array]
    scaled = [_scaled(part, array.dtype) for part in parts]
    return scaled[0] if len(scaled) == 1 else np.concatenate(scaled, axis=2)


def _orientation(image: PilImage.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - broken EXIF makes PIL raise many things; the picture may be fine
        return 1
    return value if type(value) is int else 1


def _converter(image: PilImage.Image, grey_step: int) -> Callable[[PilImage.Image], PilImage.Image] | None:
    """Converts a band of the picture to RGB, or to RGBA if it may be transparent; None if it is plain RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _number_converter(image)
    key = _transparent_colour(image, grey_step)
    palette = image.palette if image.mode in ("P", "PA") else None
    has_alpha = (
        image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
        or key is not None
        or (palette is not None and palette.mode.endswith("A"))
    )
    recolour = _recolour(image)
    if image.mode == "RGB" and key is None and recolour is None:
        return None

    def convert(band: PilImage.Image) -> PilImage.Image:
        alpha = None
        # Any other transparency that PIL reports is wrong, or belongs to a colour that does not exist.
        band.info = {} if key is None else {"transparency": key}
        if has_alpha:
            if band.mode == "La":
                band = band.convert("LA")
            elif band.mode == "1":
                band = _grey(band)
            band = band.convert("RGBA")
            alpha = band.getchannel("A")
        seen = band.convert("RGB") if recolour is None else recolour(band)
        if alpha is not None:
            seen.putalpha(alpha)
        return seen

    return convert


def _grey(band: PilImage.Image) -> PilImage.Image:
    grey = band.convert("L")
    grey.info = band.info
    return grey


def _transparent_grey_step(image: PilImage.Image) -> int:
    """What to multiply a PNG's transparent grey by to get a byte. Known before the file is read."""
    tiles = getattr(image, "tile", None)
    if getattr(image, "format", None) != "PNG" or not tiles:
        return 255 if image.mode == "1" else 1
    raw_mode = tiles[0][3]
    return _GREY_STEPS.get(raw_mode if isinstance(raw_mode, str) else "", 1)


def _transparent_colour(image: PilImage.Image, grey_step: int) -> Any:
    """What PIL calls transparency, in bytes: a colour, an index, or opacities by index. None if there is no
    transparency."""
    found: Any = image.info.get("transparency")
    if image.mode == "P" and (isinstance(found, bytes) or (type(found) is int and 0 <= found < 256)):
        return found
    if image.mode in ("1", "L") and type(found) is int and 0 <= found * grey_step < 256:
        return found * grey_step
    if image.mode != "RGB" or not isinstance(found, tuple) or len(found) != 3:
        return None
    if not all(type(value) is int and 0 <= value < 2**16 for value in found):
        return None
    # PIL reads the upper 8 of 16 bits.
    return tuple(value >> 8 for value in found) if max(found) > 255 else found


# --- colours --------------------------------------------------------------------------------------


def _recolour(image: PilImage.Image) -> Callable[[PilImage.Image], PilImage.Image] | None:
    """Converts a band in the picture's own colour space to sRGB; None if PIL's conversion will do."""
    profile: Any = image.info.get("icc_profile")
    is_lab = image.mode == "LAB"
    source: Any
    if not is_lab and not (isinstance(profile, bytes) and 0 < len(profile) <= _MAX_PROFILE_BYTES):
        return None
    try:
        from PIL import ImageCms

        if is_lab:
            source, mode = ImageCms.createProfile("LAB"), "LAB"
        else:
            opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" in ImageCms.getProfileDescription(opened):
                return None
            source = opened.profile
            mode = _PROFILE_MODES[source.xcolor_space]
            if not _fits(image.mode, mode):
                return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception as error:
        if is_lab:
            raise InvalidRequest(
                "image: LAB colours need a Pillow with littlecms, found one without"
            ) from error
        return None  # a broken profile is ignored

    def recolour(band: PilImage.Image) -> PilImage.Image:
        plain = band if band.mode == mode else band.convert(mode)
        found = ImageCms.applyTransform(plain, transform)
        assert found is not None, "only a transform in place returns None"
        return found

    return recolour


def _fits(mode: str, profile_mode: str) -> bool:
    """Whether pixels of this mode are colours of such a profile, once alpha and palette are removed."""
    kinds = {
        "RGB": ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA"),
        "L": ("L", "LA", "La", "1"),
        "CMYK": ("CMYK",),
    }
    return mode in kinds[profile_mode]


# --- numbers beyond bytes -------------------------------------------------------------------------


def _number_converter(image: PilImage.Image) -> Callable[[PilImage.Image], PilImage.Image]:
    """The converter for a grey picture of integers or floating point."""
    is_16_bits = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
    if image.mode != "F" and is_16_bits:
        low, factor = 0.0, 255 / 65535
    else:
        bands = (_pixels(band) for band in _bands(image))
        low, factor = _scale(bands, np.dtype(np.float32 if image.mode == "F" else np.int32))
    is_negative = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    key = image.info.get("transparency")

    def convert(band: PilImage.Image) -> PilImage.Image:
        pixels = _pixels(band)
        grey = _as_bytes(pixels, low, factor)
        if is_negative:
            grey = 255 - grey
        seen = PilImage.fromarray(grey).convert("RGB")
        if type(key) is int:
            seen.putalpha(PilImage.fromarray(np.where(pixels == key, 0, 255).astype(np.uint8)))
        return seen

    return convert


def _bands(image: PilImage.Image) -> Iterator[PilImage.Image]:
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _pixels(band: PilImage.Image) -> _Array:
    return np.asarray(band)


def _scaled(array: _Array, dtype: np.dtype[Any]) -> _Array:
    rows = max(1, _BAND_PIXELS // max(1, array[0].size))
    starts = range(0, len(array), rows)
    low, factor = _scale((array[start : start + rows] for start in starts), dtype)
    found = np.empty(array.shape, np.uint8)
    for start in starts:
        found[start : start + rows] = _as_bytes(array[start : start + rows], low, factor)
    return found


def _scale(bands: Iterator[_Array], dtype: np.dtype[Any]) -> tuple[float, float]:
    """(low, factor) that turn numbers into bytes: (number - low) * factor. The numbers are looked at if their
    type does not say which one is white."""
    if dtype.kind == "b":
        return 0.0, 255.0
    if dtype == np.uint16:
        return 0.0, 255 / 65535
    low, high = np.inf, -np.inf
    for band in bands:
        finite = band if dtype.kind != "f" else band[np.isfinite(band)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        raise InvalidRequest("image: expected finite pixels, found only NaN or infinity")
    slack = _SLACK if dtype.kind == "f" else 0.0
    scales = (1.0, 255.0) if dtype.kind == "f" else (255.0, 65535.0)
    for white in scales:
        if -slack * white <= low and high <= (1 + slack) * white:
            return 0.0, 255 / white
    return low, 255 / (high - low) if high > low else 0.0


def _as_bytes(pixels: _Array, low: float, factor: float) -> _Array:
    """uint8: NaN becomes black, and what is beyond the range its nearest end."""
    values = (pixels.astype(np.float64) - low) * factor
    values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
    found: _Array = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return found
