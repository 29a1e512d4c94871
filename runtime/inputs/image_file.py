"""The bytes of an image file, checked before anything is decoded."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.plain import told

__all__ = ["check_num_bytes", "check_size", "open_file"]

# The decoders that are tried. PIL has many more, some of which start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
_NAMES = "PNG, JPEG, WebP, AVIF, HEIC, GIF, BMP, TIFF, PPM or JPEG 2000"
# The longest side that a JPEG can have. Resampling takes memory in proportion to a side, so pictures one
# pixel high must not have as many columns as their number of pixels would allow.
_MAX_SIDE = 65_535
_BYTES_PER_PIXEL = 10
"""Memory that decoding a picture may take, for each of max_image_pixels."""
_ALWAYS_BYTES = 2**24
"""Memory that decoding may always take, however small that limit is."""
_DECODER_BYTES = {"WEBP": 18, "AVIF": 13}
"""Bytes per pixel, for decoders that keep several copies of a picture (measured)."""
_SAMPLE_BYTES = 5.5
_TILE_BYTES = 10_240
"""Bytes that OpenJPEG takes per sample of the current tile (measured), and per tile and component."""
_MAX_BOXES = 10_000
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def open_file(data: bytes, limits: InputLimits) -> PilImage.Image:
    """The picture in a file's bytes, not decoded yet; `InvalidRequest` if there is none or it is too big."""
    if not data:
        raise InvalidRequest("image: expected the bytes of an image file, found none")
    check_num_bytes(len(data), limits)
    try:
        image = _opener(data)(io.BytesIO(data))
        num_bytes = _decoder_bytes(image, data)
    except (PilImage.DecompressionBombError, PilImage.DecompressionBombWarning) as error:
        raise InvalidRequest(f"image: too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise InvalidRequest(
            f"image: expected the bytes of a {_NAMES} file, found something else or a broken header"
        ) from error
    except InvalidRequest:
        raise
    except Exception as error:  # decoders raise whatever they please
        raise InvalidRequest(f"image: the file is corrupt: {told(error)}") from error
    check_size(image.size, limits)
    most = max(_ALWAYS_BYTES, _BYTES_PER_PIXEL * limits.max_image_pixels)
    if num_bytes > most:
        raise InvalidRequest(
            f"image: expected one that is decoded in at most {most} bytes of memory, found "
            f"{image.format} of {image.width} x {image.height}, which takes about {num_bytes}"
        )
    return image


def check_num_bytes(num_bytes: int, limits: InputLimits) -> None:
    if num_bytes > limits.max_image_bytes:
        raise InvalidRequest(f"image: expected at most {limits.max_image_bytes} bytes, found {num_bytes}")


def check_size(size: tuple[int, int], limits: InputLimits) -> None:
    """`InvalidRequest` if (width, height) has no pixels, or too many."""
    width, height = size
    if width <= 0 or height <= 0:
        raise InvalidRequest(f"image: expected at least one pixel, found {width} x {height}")
    if width * height > limits.max_image_pixels:
        raise InvalidRequest(
            f"image: expected at most {limits.max_image_pixels} pixels, found {width} x {height}"
        )
    if max(width, height) > _MAX_SIDE:
        raise InvalidRequest(f"image: expected at most {_MAX_SIDE} pixels a side, found {width} x {height}")


def _opener(data: bytes) -> Callable[[io.BytesIO], PilImage.Image]:
    """What opens a file that begins like this."""
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        PilImage.init()
        if "AVIF" not in PilImage.OPEN:
            raise InvalidRequest(
                "image: AVIF files need a Pillow that reads them: pip install 'pillow>=11.3'"
            )
        return lambda file: PilImage.open(file, formats=("AVIF",))
    if brands & _HEIC_BRANDS:
        try:
            from pillow_heif import HeifImageFile
        except ImportError as error:
            raise InvalidRequest(
                "image: HEIC files need pillow-heif: pip install 'antiphon[heif]'"
            ) from error
        opener: Callable[[io.BytesIO], PilImage.Image] = HeifImageFile
        return opener
    return lambda file: PilImage.open(file, formats=_FORMATS)


def _brands(data: bytes) -> set[bytes]:
    """The types that an ISO media file claims: the brands of its first box; empty for other files."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 1024)
    return {data[8:12], *(data[i : i + 4] for i in range(16, end - 3, 4))}


def _decoder_bytes(image: PilImage.Image, data: bytes) -> int:
    """About how many bytes it takes to decode a picture; some formats take much more than the picture."""
    num_pixels = image.width * image.height
    if image.format == "JPEG2000":
        return 4 * num_pixels + _openjpeg_bytes(data)
    if image.format == "TIFF":
        # A tile is decoded whole, however little of it shows the picture.
        tags = getattr(image, "tag_v2", {})
        width, height = int(tags.get(322, 0)), int(tags.get(323, 0))
        return 4 * (num_pixels + width * height)
    return num_pixels * _DECODER_BYTES.get(image.format or "", 4)


def _openjpeg_bytes(data: bytes) -> int:
    """What OpenJPEG takes, in addition to the picture, to decode a file. The boxes around a codestream may
    state another size than the codestream itself, which is what is decoded."""
    start = _codestream(data)
    if data[start : start + 4] != b"\xff\x4f\xff\x51" or len(data) < start + 42:
        raise OSError("it has no JPEG 2000 codestream")
    right, bottom, left, top, tile_width, tile_height, _, _, components = struct.unpack_from(
        ">8IH", data, start + 8
    )
    width, height = max(0, right - left), max(0, bottom - top)
    if components > 4 or not tile_width or not tile_height:
        raise OSError(f"it has {components} components in tiles of {tile_width} x {tile_height}")
    num_tiles = -(-right // tile_width) * -(-bottom // tile_height)
    num_samples = min(width, tile_width) * min(height, tile_height)
    return int(components * (_SAMPLE_BYTES * num_samples + _TILE_BYTES * num_tiles))


def _codestream(data: bytes) -> int:
    """Where a JPEG 2000 file's codestream begins: at the start, or in a box of its own."""
    start = 0
    for _ in range(_MAX_BOXES):
        size, name = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if name == b"jp2c":
            return start + (16 if size == 1 else 8)
        if size == 1:
            size = int.from_bytes(data[start + 8 : start + 16], "big")
        if data[start : start + 2] == b"\xff\x4f" or size < 8:
            break
        start += size
    return start
