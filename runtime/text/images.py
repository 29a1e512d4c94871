"""Pictures in every form that a request may bring them in, to tiles."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.text.tiles import MergePlan, Tiler

__all__ = ["PreparedImage", "open_image", "prepare_image"]

# What decoders are tried. PIL knows many more, among them ones that start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
# What PIL's decoders raise on files that are not what they claim to be.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error, zlib.error)
# The longest side that a JPEG can have. Resampling takes memory in proportion to a side, so pictures one
# pixel high must not have as many columns as their number of pixels would allow.
_MAX_SIDE = 65_535


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A picture cut into tiles."""

    tiles: np.ndarray
    """uint8 (tiles, tile_size, tile_size, 3), the whole picture first."""
    plan: MergePlan
    """Which of the tiles' features become positions of the prompt."""
    digest: bytes
    """SHA-256 of tiles and plan: equal digests have equal features."""

    @property
    def num_positions(self) -> int:
        """How many positions of the text track the picture takes."""
        return self.plan.num_positions


def prepare_image(source: Any, tiler: Tiler, limits: InputLimits) -> PreparedImage:
    """Read and cut a picture (see `open_image`); `InvalidRequest` if it cannot be."""
    image = open_image(source, limits)
    longest = max(image.size)
    if tiler.pads and longest**2 > limits.max_image_pixels:
        raise InvalidRequest(
            f"image: expected at most {limits.max_image_pixels} pixels when padded to a square, "
            f"found {longest} x {longest}"
        )
    tiles = tiler.cut(image)
    plan = tiler.plan(*image.size)
    digest = hashlib.sha256(repr((plan, tiles.shape)).encode())
    digest.update(tiles.data)
    return PreparedImage(tiles, plan, digest.digest())


def open_image(source: Any, limits: InputLimits) -> PilImage.Image:
    """Read a picture as RGB, whatever it is: a path, the bytes of a file, a `data:` URL in base64, a PIL
    image, or a uint8 array of shape (height, width), (height, width, 3) or (height, width, 4).

    Transparency is dropped, of a moving picture the first frame is taken, and EXIF orientation is not
    applied: so were the pictures read that the model was trained on. The size is looked at before
    anything is decoded. `InvalidRequest` if it is over the limits, or if there is no picture in it.
    """
    if isinstance(source, PilImage.Image):
        return _to_rgb(source, limits)
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), limits)
    if isinstance(source, str) and re.match(r"data:", source, re.IGNORECASE):
        return _decode(_data_url_bytes(source, limits), limits)
    if isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]*://", source, re.IGNORECASE):
        raise InvalidRequest(
            "image: URLs are not fetched; give a path, the bytes of the file, or a data: URL"
        )
    if isinstance(source, (str, os.PathLike)):
        return _decode(_file_bytes(source, limits), limits)
    raise InvalidRequest(
        "image: expected a path, bytes, a data: URL, a PIL image or a uint8 array, "
        f"found {type(source).__name__}"
    )


def _file_bytes(source: str | os.PathLike[str], limits: InputLimits) -> bytes:
    name = ascii(os.fspath(source))[:200]
    try:
        path = Path(source)
        info = path.stat()
    except OSError as error:
        raise InvalidRequest(f"image: {name} cannot be read: {error.strerror or error}") from error
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"image: {name} is not a path: {error}") from error
    if not stat.S_ISREG(info.st_mode):
        raise InvalidRequest(f"image: expected a file, found something else at {name}")
    _check_num_bytes(info.st_size, limits)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"image: {name} cannot be read: {error.strerror or error}") from error


def _data_url_bytes(url: str, limits: InputLimits) -> bytes:
    header, comma, payload = url.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise InvalidRequest(
            "image: expected a data: URL of the form data:image/png;base64,..., found another"
        )
    _check_num_bytes(len(payload) // 4 * 3 - 2, limits)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"image: the data: URL is not valid base64: {error}") from error


def _from_array(array: np.ndarray) -> PilImage.Image:
    if array.dtype != np.uint8:
        raise InvalidRequest(f"image: expected an array of uint8 from 0 to 255, found {array.dtype}")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InvalidRequest(
            "image: expected an array of shape (height, width), (height, width, 3) or (height, width, 4), "
            f"found {array.shape}"
        )
    if 0 in array.shape:
        raise InvalidRequest(f"image: expected at least one pixel, found an array of shape {array.shape}")
    return PilImage.fromarray(np.ascontiguousarray(array))


def _decode(data: bytes, limits: InputLimits) -> PilImage.Image:
    if not data:
        raise InvalidRequest("image: expected the bytes of an image file, found none")
    _check_num_bytes(len(data), limits)
    try:
        image = PilImage.open(io.BytesIO(data), formats=_FORMATS)
    except (PilImage.DecompressionBombError, PilImage.DecompressionBombWarning) as error:
        raise InvalidRequest(f"image: too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise InvalidRequest(
            "image: expected the bytes of a PNG, JPEG, WebP, GIF, BMP, TIFF, PPM or JPEG 2000 file, "
            "found something else or a broken header"
        ) from error
    except _DECODE_ERRORS as error:
        raise InvalidRequest(f"image: the file is corrupt: {error}") from error
    return _to_rgb(image, limits)


def _to_rgb(image: PilImage.Image, limits: InputLimits) -> PilImage.Image:
    width, height = image.size
    if width <= 0 or height <= 0:
        raise InvalidRequest(f"image: expected at least one pixel, found {width} x {height}")
    if width * height > limits.max_image_pixels:
        raise InvalidRequest(
            f"image: expected at most {limits.max_image_pixels} pixels, found {width} x {height}"
        )
    if max(width, height) > _MAX_SIDE:
        raise InvalidRequest(f"image: expected at most {_MAX_SIDE} pixels a side, found {width} x {height}")
    try:
        return image.convert("RGB")
    except _DECODE_ERRORS as error:
        raise InvalidRequest(f"image: the picture cannot be decoded: {error}") from error


def _check_num_bytes(num_bytes: int, limits: InputLimits) -> None:
    if num_bytes > limits.max_image_bytes:
        raise InvalidRequest(f"image: expected at most {limits.max_image_bytes} bytes, found {num_bytes}")
