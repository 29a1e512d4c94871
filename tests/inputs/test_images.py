from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from antiphon.config import InputLimits, ModelConfig
from antiphon.errors import InvalidRequest
from antiphon.inputs.images import open_image, prepare_image
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.tiles import Tiler
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import Image, Request

LIMITS = InputLimits(max_image_bytes=20_000, max_image_pixels=5_000)
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
RGB = np.ascontiguousarray(PIXELS[..., :3])


def encoded(image: PilImage.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = encoded(PilImage.fromarray(RGB))


def read(source: Any, limits: InputLimits = LIMITS, *, exact: bool = False) -> np.ndarray:
    image = open_image(source, limits, exact=exact)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_every_form_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "täst ü.png"
    path.write_bytes(PNG)
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    in_memory = (PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG))
    for source in (path, str(path), *in_memory, url, "DATA" + url[4:]):
        np.testing.assert_array_equal(read(source), RGB)


def test_arrays() -> None:
    np.testing.assert_array_equal(read(RGB), RGB)
    np.testing.assert_array_equal(read(PIXELS, exact=True), RGB)
    np.testing.assert_array_equal(read(PIXELS[..., :1]), np.repeat(PIXELS[..., :1], 3, axis=2))
    np.testing.assert_array_equal(read(PIXELS[..., 0]), np.repeat(PIXELS[..., :1], 3, axis=2))
    np.testing.assert_array_equal(read(RGB[::-1, ::2]), RGB[::-1, ::2])


def test_tensors() -> None:
    """As (height, width, channels), like arrays, or as (channels, height, width), like torchvision's."""
    tensor = torch.from_numpy(RGB.copy())
    np.testing.assert_array_equal(read(tensor), RGB)
    np.testing.assert_array_equal(read(tensor.permute(2, 0, 1)), RGB)
    np.testing.assert_array_equal(read(tensor[..., 0]), np.repeat(RGB[..., :1], 3, axis=2))
    np.testing.assert_array_equal(read(tensor.permute(2, 0, 1).float() / 255), RGB)
    in_16_bits = read((tensor.permute(2, 0, 1) / 255).bfloat16()).astype(int)
    assert abs(in_16_bits - RGB).max() <= 1


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "I", "F", "RGBX", "RGBA", "LA", "PA"]
)
def test_every_mode_of_pil(mode: str) -> None:
    """Opaque, and of bytes: the released code sees the same."""
    image = PilImage.fromarray(RGB)
    image = image.convert("L").convert(mode) if mode in ("I", "F", "LA") else image.convert(mode)
    for exact in (False, True):
        np.testing.assert_array_equal(read(image, exact=exact), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "JPEG", "JPEG2000"])
def test_file_formats(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(PilImage.fromarray(RGB), kind, **options)
    np.testing.assert_array_equal(read(data), np.asarray(PilImage.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.slow
@pytest.mark.long
def test_file_formats_in_a_fresh_process(tmp_path: Path) -> None:
    """PIL registers most decoders when it first needs them; saving, as tests do, is such a need."""
    paths = [tmp_path / kind for kind in ("TIFF", "WEBP", "JPEG2000")]
    for path in paths:
        path.write_bytes(encoded(PilImage.fromarray(RGB), path.name))
    code = (
        "import sys; from antiphon.config import InputLimits; from antiphon.inputs.images import open_image\n"
        "for path in sys.argv[1:]: open_image(path, InputLimits())"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, cwd=tmp_path)


def test_the_released_reading() -> None:
    """`exact` drops transparency and orientation, and cuts off what is beyond a byte."""
    np.testing.assert_array_equal(read(encoded(PilImage.fromarray(PIXELS)), exact=True), RGB)
    exif = PilImage.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = encoded(PilImage.fromarray(RGB), "JPEG", exif=exif)
    assert read(turned, exact=True).shape == RGB.shape
    grey = PilImage.fromarray(np.full((4, 4), 30_000, np.int32))
    assert (read(grey, exact=True) == 255).all()
    with pytest.raises(InvalidRequest, match="uint8 to read exactly, got float32"):
        read(RGB.astype(np.float32), exact=True)


def test_the_first_frame_of_a_moving_picture() -> None:
    frames = [PilImage.new("L", (8, 8), shade) for shade in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read(data) == 10).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "got NoneType"),
        (7, "got int"),
        ([[1, 2]], "got list"),
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
        (RGB.astype(complex), "array of numbers, found complex128"),
        (RGB.astype(object), "array of numbers, found object"),
        (RGB.astype("U3"), "array of numbers, found <U3"),
        (np.full((2, 2), np.nan), "expected finite pixels"),
        (torch.zeros(2, 3, 4, 5), "shape"),
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


def test_pipes_are_files_and_folders_are_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[PNG])
    writer.start()
    np.testing.assert_array_equal(read(tmp_path / "pipe"), RGB)
    writer.join()
    with pytest.raises(InvalidRequest, match="found a folder"):
        open_image(tmp_path, LIMITS)
    with pytest.raises(InvalidRequest, match="found a device"):
        open_image("/dev/zero", LIMITS)


def test_a_file_may_not_be_read_twice_at_once(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """A picture that PIL has opened is read when it is first needed, here by four threads: what each of
    them found in the file was a part of it."""
    pixels = np.random.default_rng(1).integers(0, 256, (900, 800, 3), dtype=np.uint8)
    data = encoded(PilImage.fromarray(pixels))
    processor = InputProcessor(config, tokenizer, None, InputLimits())
    expected = processor.process(Request([Image(pixels)])).images[0].digest
    for _ in range(3):
        shared = Request([Image(PilImage.open(io.BytesIO(data)))])
        with ThreadPoolExecutor(4) as threads:
            prompts = list(threads.map(processor.process, [shared] * 4))
        assert [prompt.images[0].digest for prompt in prompts] == [expected] * 4


def test_a_pil_image_that_cannot_be_read_any_more(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    closed = PilImage.open(path)
    closed.close()
    with path.open("rb") as file:
        behind_a_closed_file = PilImage.open(file)
    truncated = PilImage.open(path)
    path.write_bytes(PNG[:200])
    for image in (closed, behind_a_closed_file, truncated):
        with pytest.raises(InvalidRequest, match="the picture cannot be decoded"):
            open_image(image, LIMITS)


@pytest.mark.parametrize(
    "array",
    [
        np.broadcast_to(np.uint8(0), (60_000, 20_000, 3)),
        np.broadcast_to(np.float64(0), (10**9, 10**9)),
        np.broadcast_to(np.uint16(0), (2, 10**12, 4)),
        torch.zeros(1).expand(3, 60_000, 20_000),
    ],
    ids=lambda array: f"{type(array).__name__} {tuple(array.shape)}",
)
def test_arrays_are_measured_before_they_are_copied(array: Any) -> None:
    """A view may have more pixels than memory holds."""
    with pytest.raises(InvalidRequest, match="expected at most 64000000 pixels"):
        open_image(array, InputLimits())


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
    ways = [prepare_image(PIXELS, tiler, LIMITS, exact=exact).digest for exact in (False, True)]
    assert ways[0] != ways[1] == image.digest, "what is read in two ways is two pictures"
    unshrunk = Tiler(replace(config, mm_patch_merge_type="flat"))
    assert prepare_image(RGB, unshrunk, LIMITS).digest != image.digest
