from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from antiphon.config import InputLimits, ModelConfig
from antiphon.errors import InvalidRequest
from antiphon.text.images import open_image, prepare_image
from antiphon.text.tiles import Tiler

LIMITS = InputLimits(max_image_bytes=20_000, max_image_pixels=5_000)
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
RGB = np.ascontiguousarray(PIXELS[..., :3])


def encoded(image: PilImage.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = encoded(PilImage.fromarray(RGB))


def read(source: Any, limits: InputLimits = LIMITS) -> np.ndarray:
    image = open_image(source, limits)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_every_form_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "täst ü.png"
    path.write_bytes(PNG)
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    for source in (path, str(path), PNG, bytearray(PNG), memoryview(PNG), url, "DATA" + url[4:]):
        np.testing.assert_array_equal(read(source), RGB)


def test_arrays() -> None:
    np.testing.assert_array_equal(read(RGB), RGB)
    np.testing.assert_array_equal(read(PIXELS), RGB)
    np.testing.assert_array_equal(read(PIXELS[..., 0]), np.repeat(PIXELS[..., :1], 3, axis=2))
    np.testing.assert_array_equal(read(RGB[::-1, ::2]), RGB[::-1, ::2])


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I", "F", "RGBX"]
)
def test_every_mode_of_pil(mode: str) -> None:
    image = PilImage.fromarray(RGB)
    image = image.convert("L").convert(mode) if mode in ("I", "F", "LA") else image.convert(mode)
    np.testing.assert_array_equal(read(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "JPEG", "JPEG2000"])
def test_file_formats(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(PilImage.fromarray(RGB), kind, **options)
    np.testing.assert_array_equal(read(data), np.asarray(PilImage.open(io.BytesIO(data)).convert("RGB")))


def test_file_formats_in_a_fresh_process(tmp_path: Path) -> None:
    """PIL registers most decoders when it first needs them; saving, as tests do, is such a need."""
    paths = [tmp_path / kind for kind in ("TIFF", "WEBP", "JPEG2000")]
    for path in paths:
        path.write_bytes(encoded(PilImage.fromarray(RGB), path.name))
    code = (
        "import sys; from antiphon.config import InputLimits; from antiphon.text.images import open_image\n"
        "for path in sys.argv[1:]: open_image(path, InputLimits())"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, cwd=tmp_path)


def test_transparency_is_dropped() -> None:
    np.testing.assert_array_equal(read(encoded(PilImage.fromarray(PIXELS))), RGB)


def test_exif_orientation_is_not_applied() -> None:
    exif = PilImage.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert read(encoded(PilImage.fromarray(RGB), "JPEG", exif=exif)).shape == RGB.shape


def test_the_first_frame_of_a_moving_picture() -> None:
    frames = [PilImage.new("L", (8, 8), shade) for shade in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read(data) == 10).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "found NoneType"),
        (7, "found int"),
        ([[1, 2]], "found list"),
        ("http://example.com/cat.png", "URLs are not fetched"),
        ("HTTPS://example.com/cat.png", "URLs are not fetched"),
        ("file:///etc/hostname", "URLs are not fetched"),
        ("no/such/cat.png", "cannot be read: No such file"),
        ("a\0b", "not a path|cannot be read"),
        ("x" * 5000, "cannot be read"),
        (b"", "found none"),
        (b"<svg></svg>", "something else or a broken header"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "something else"),
        (PNG[: len(PNG) // 2], "cannot be decoded"),
        (PNG[:100] + bytes(50) + PNG[150:], "cannot be decoded|corrupt"),
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64", "base64"),
        ("data:image/png;base64,a*b=", "not valid base64"),
        ("data:image/png;base64,", "found none"),
        ("data:image/png;base64,äöü", "not valid base64"),
        (RGB.astype(np.float32) / 255, "uint8 from 0 to 255, found float32"),
        (RGB.astype(np.int64), "uint8 from 0 to 255, found int64"),
        (PIXELS[..., :2], "shape"),
        (PIXELS[0, :, 0], "shape"),
        (PIXELS[None], "shape"),
        (RGB[:0], "at least one pixel"),
        (RGB[:, :0], "at least one pixel"),
        (PilImage.new("RGB", (0, 3)), "at least one pixel"),
        (PilImage.open(io.BytesIO(PNG[: len(PNG) // 2])), "cannot be decoded"),
        (bytes(LIMITS.max_image_bytes + 1), "at most 20000 bytes, found 20001"),
        ("data:;base64," + "A" * 40_000, "at most 20000 bytes"),
        (np.zeros((51, 100), np.uint8), "at most 5000 pixels, found 100 x 51"),
        (PilImage.new("1", (100, 51)), "at most 5000 pixels, found 100 x 51"),
        (encoded(PilImage.new("1", (100, 51))), "at most 5000 pixels, found 100 x 51"),
    ],
)
def test_what_is_refused(source: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        open_image(source, LIMITS)


def test_files_are_measured_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InvalidRequest, match="at most 20000 bytes"):
        open_image(path, LIMITS)


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InvalidRequest, match="something else"):
            open_image(path, LIMITS)


def test_a_bomb_is_not_decoded() -> None:
    """A small file that claims to be huge is refused by its header, however high the limit."""
    header = PNG[:16] + (2**30).to_bytes(4, "big") * 2
    bomb = header + PNG[24:29] + zlib.crc32(header[12:] + PNG[24:29]).to_bytes(4, "big") + PNG[33:]
    with pytest.raises(InvalidRequest, match="pixels"):
        open_image(bomb, replace(LIMITS, max_image_pixels=2**62))


def test_a_picture_of_one_row_has_a_limit() -> None:
    with pytest.raises(InvalidRequest, match="65535 pixels a side"):
        open_image(np.zeros((1, 70_000), np.uint8), replace(LIMITS, max_image_pixels=100_000))


def test_padding_counts_as_pixels(config: ModelConfig) -> None:
    tiler = Tiler(replace(config, image_aspect_ratio="pad"))
    prepare_image(np.zeros((1, 70), np.uint8), tiler, LIMITS)
    with pytest.raises(InvalidRequest, match="padded to a square, found 71 x 71"):
        prepare_image(np.zeros((1, 71), np.uint8), tiler, LIMITS)


def test_digest(config: ModelConfig) -> None:
    """Equal contents have equal digests, whatever they came as; another pixel or another merge has not."""
    tiler = Tiler(config)
    image = prepare_image(RGB, tiler, LIMITS)
    assert prepare_image(PNG, tiler, LIMITS).digest == image.digest
    changed = RGB.copy()
    changed[20, 20] ^= 255
    assert prepare_image(changed, tiler, LIMITS).digest != image.digest
    black = [np.zeros(shape, np.uint8) for shape in ((100, 50), (50, 100), (98, 50), (100, 49))]
    merges = [prepare_image(pixels, tiler, LIMITS) for pixels in black]
    assert len({merge.digest for merge in merges}) == len({merge.plan for merge in merges})
    unshrunk = Tiler(replace(config, mm_patch_merge_type="flat"))
    assert prepare_image(RGB, unshrunk, LIMITS).digest != image.digest
