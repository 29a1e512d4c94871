"""Pictures to tiles, in every form that a request may contain."""

from __future__ import annotations

import binascii
import hashlib
import io
import os
import re
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from torch import Tensor

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.files.reading import read_bounded
from antiphon.inputs.appearance import array_as_bytes, as_seen
from antiphon.inputs.base64_text import decode_base64
from antiphon.inputs.image_file import check_num_bytes, check_size, open_file
from antiphon.inputs.tiles import Tiler
from antiphon.plain import kind, told
from antiphon.prompt import PreparedImage

__all__ = ["open_image", "possible_sizes", "prepare_image"]

_CHANNELS = (1, 3, 4)
MAX_URL_HEADER_CHARS = 1000


def prepare_image(source: Any, tiler: Tiler, limits: InputLimits, *, exact: bool = False) -> PreparedImage:
    """Read and cut a picture (see `open_image`); `InvalidRequest` if it cannot be."""
    image = open_image(source, limits, exact=exact)
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


def open_image(source: Any, limits: InputLimits, *, exact: bool = False) -> PilImage.Image:
    """Read a picture of any kind as RGB; `antiphon.Image` says how.

    The size is checked before anything is decoded or copied. `InvalidRequest` if the source is over the
    limits, or if it holds no picture.
    """
    image = _opened(source, limits, exact=exact)
    try:
        return image.convert("RGB") if exact else as_seen(image)
    except InvalidRequest:
        raise
    except Exception as error:  # decoders raise whatever they please
        raise InvalidRequest(f"image: the picture cannot be decoded: {told(error)}") from error


def possible_sizes(source: Any, limits: InputLimits) -> list[tuple[int, int]]:
    """The (width, height) that a picture may have, upright or lying; none if a file would have to be read.
    Nothing is decoded. `InvalidRequest` for what is no picture, or too large."""
    if isinstance(source, (np.ndarray, Tensor)):
        height, width = tuple(source.shape)[1:] if _has_channels_first(source) else tuple(source.shape)[:2]
        check_size((width, height), limits)
        return [(width, height)]
    if isinstance(source, (str, os.PathLike)) and not _is_data_url(source):
        return []
    width, height = _opened(source, limits, exact=True).size
    return [(width, height), (height, width)]


def _opened(source: Any, limits: InputLimits, *, exact: bool) -> PilImage.Image:
    """A picture that is not decoded yet, and not too large."""
    if isinstance(source, PilImage.Image):
        check_size(source.size, limits)
        return source
    if isinstance(source, (np.ndarray, Tensor)):
        return _from_array(source, limits, exact=exact)
    if isinstance(source, io.BytesIO):
        source = source.getbuffer()
    if isinstance(source, (bytes, bytearray, memoryview)):
        check_num_bytes(memoryview(source).nbytes, limits)
        return open_file(bytes(source), limits)
    if _is_data_url(source):
        return open_file(_data_url_bytes(source, limits), limits)
    if isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]*://", source[:100], re.IGNORECASE):
        raise InvalidRequest(
            "image: URLs are not fetched; give a path, the bytes of the file, or a data: URL"
        )
    if isinstance(source, (str, os.PathLike)):
        return open_file(_file_bytes(source, limits), limits)
    raise InvalidRequest(
        f"image: expected a path, bytes, a data: URL, a PIL image or an array, got {kind(source)}"
    )


def _is_data_url(source: Any) -> bool:
    return isinstance(source, str) and source[:5].lower() == "data:"


def _file_bytes(source: str | os.PathLike[str], limits: InputLimits) -> bytes:
    name = ascii(os.fspath(source))[:200]
    try:
        data = read_bounded(source, limits.max_image_bytes)
    except OSError as error:
        raise InvalidRequest(f"image: {name} cannot be read: {error.strerror or error}") from error
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"image: {name} is not a path: {error}") from error
    if len(data) > limits.max_image_bytes:
        raise InvalidRequest(f"image: expected at most {limits.max_image_bytes} bytes, found more at {name}")
    return data


def _data_url_bytes(url: str, limits: InputLimits) -> bytes:
    header, comma, payload = url[:MAX_URL_HEADER_CHARS].partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise InvalidRequest("image: expected a data: URL like data:image/png;base64,..., got another kind")
    check_num_bytes((len(url) - len(header) - 1) // 4 * 3 - 2, limits)
    payload = url[len(header) + 1 :]
    try:
        return decode_base64(payload)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"image: the data: URL is not valid base64: {told(error)}") from error


def _has_channels_first(given: Any) -> bool:
    return isinstance(given, Tensor) and given.ndim == 3 and given.shape[0] in _CHANNELS


def _from_array(given: Any, limits: InputLimits, *, exact: bool) -> PilImage.Image:
    """Pixels as (height, width) or (height, width, channels); of a tensor also (channels, height, width)."""
    shape = tuple(given.shape)
    is_tensor = isinstance(given, Tensor)
    if _has_channels_first(given):
        given, shape = given.permute(1, 2, 0), (*shape[1:], shape[0])
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS)):
        raise InvalidRequest(
            "image: expected an array of shape (height, width), (height, width, 1), (height, width, 3) or "
            f"(height, width, 4), got {str(shape)[:100]}"
        )
    # Checked by its shape: a view may have more pixels than fit into memory.
    check_size((shape[1], shape[0]), limits)
    if is_tensor:
        given = given.detach().cpu()
        given = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
    array = np.asarray(given)
    if exact and array.dtype != np.uint8:
        raise InvalidRequest(f"image: expected an array of uint8 to read exactly, got {array.dtype}")
    array = array_as_bytes(array[:, :, 0] if len(shape) == 3 and shape[2] == 1 else array)
    return PilImage.fromarray(array)
