"""Files of pictures: what opens them, and what is refused before it takes memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage
from PIL import ImageCms, features

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.inputs import image_file
from antiphon.inputs.image_file import open_file
from antiphon.inputs.images import open_image

LIMITS = InputLimits()
RGB = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def encoded(image: PilImage.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def media_file(*brands: bytes) -> bytes:
    """The first box of an ISO media file with this brand, compatible with the others."""
    content = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 8 + len(content)) + b"ftyp" + content + bytes(100)


# --- what opens them ------------------------------------------------------------------------------


def test_avif() -> None:
    if not features.check("avif"):
        with pytest.raises(InvalidRequest, match=r"pillow>=11\.3"):
            open_file(media_file(b"avif", b"mif1"), LIMITS)
        return
    image = open_file(encoded(PilImage.new("RGB", (40, 24), (200, 30, 60)), "AVIF"), LIMITS)
    assert image.size == (40, 24)
    assert abs(np.asarray(image.convert("RGB")).astype(int) - (200, 30, 60)).max() < 10


def test_a_pillow_without_avif_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    PilImage.init()
    monkeypatch.delitem(PilImage.OPEN, "AVIF", raising=False)
    with pytest.raises(InvalidRequest, match=r"AVIF files need .* pip install 'pillow>=11.3'"):
        open_file(media_file(b"mif1", b"avif", b"heic"), LIMITS)


@pytest.mark.parametrize("brands", [(b"heic",), (b"mif1", b"heic"), (b"msf1", b"hevc"), (b"heix", b"mif1")])
def test_heic_without_its_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, brands: tuple[bytes, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InvalidRequest, match=r"HEIC files need pillow-heif: pip install 'antiphon\[heif\]'"):
        open_file(media_file(*brands), LIMITS)


def heic(image: PilImage.Image, **options: Any) -> bytes:
    from pillow_heif import from_pillow

    file = io.BytesIO()
    from_pillow(image).save(file, quality=95, **options)
    return file.getvalue()


def test_heic_with_its_library() -> None:
    halves = PilImage.new("RGB", (64, 48), (200, 30, 30))
    halves.paste((20, 40, 220), (32, 0, 64, 48))
    seen = np.asarray(open_image(heic(halves), LIMITS)).astype(int)
    assert seen.shape == (48, 64, 3)
    assert abs(seen[:, :28] - (200, 30, 30)).max() < 16
    assert abs(seen[:, 36:] - (20, 40, 220)).max() < 16


def test_transparent_heic_is_on_white() -> None:
    seen = np.asarray(open_image(heic(PilImage.new("RGBA", (64, 64), (0, 0, 0, 0))), LIMITS))
    assert seen.min() > 240


def test_cut_heic_is_refused() -> None:
    whole = heic(PilImage.fromarray(RGB))
    for size in (24, 100, len(whole) - 20):
        with pytest.raises(InvalidRequest, match=r"^image: "):
            open_image(whole[:size], LIMITS)


def test_films_are_no_pictures() -> None:
    with pytest.raises(InvalidRequest, match="found something else"):
        open_file(media_file(b"isom", b"mp42"), LIMITS)


# --- what takes too much memory -------------------------------------------------------------------


def tiled_tiff(side: int, tile_side: int) -> bytes:
    """A TIFF of side x side greys in one tile of tile_side x tile_side."""
    data = zlib.compress(bytes(1000))
    tags = [(256, side), (257, side), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, tile_side), (323, tile_side), (324, 0), (325, len(data))]
    start = 8 + 2 + 12 * len(tags) + 4
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, start if tag == 324 else value) for tag, value in tags
    )
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + data


def jpeg_2000(
    size: tuple[int, int], tile: tuple[int, int], components: int = 3, *, boxed: bool = True
) -> bytes:
    """A small JPEG 2000 file whose codestream is changed to say that it is this large."""
    data = bytearray(encoded(PilImage.new("RGB", (16, 16)), "JPEG2000", no_jp2=not boxed))
    start = data.index(b"\xff\x4f\xff\x51")
    struct.pack_into(">8IH", data, start + 8, *size, 0, 0, *tile, 0, 0, components)
    return bytes(data)


HUGE: dict[str, bytes] = {
    "PNG": encoded(PilImage.new("1", (9000, 9000)), "PNG"),
    "WebP, which is held four times": encoded(
        PilImage.new("L", (6400, 6400)), "WEBP", lossless=True, method=0
    ),
    "TIFF in a tile larger than itself": tiled_tiff(10, 30_000),
    "TIFF in a tile that is all but endless": tiled_tiff(10, 2**31),
    "JPEG 2000 in one tile": jpeg_2000((8000, 8000), (8000, 8000), boxed=False),
    "JPEG 2000 that is larger than its box says": jpeg_2000((60_000, 60_000), (60_000, 60_000)),
    "JPEG 2000 in very many tiles": jpeg_2000((255, 255), (1, 1), boxed=False),
    "JPEG 2000 of very many components": jpeg_2000((16, 16), (16, 16), 16_384),
    "JPEG 2000 without a tile": jpeg_2000((16, 16), (0, 0)),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_small_as_a_file_and_huge_when_it_is_decoded(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^image: .*(at most|corrupt|broken header)"):
        open_file(HUGE[name], LIMITS)


def test_a_codestream_that_hides_behind_another() -> None:
    """A box that is never read holds a harmless codestream; what is decoded is the one in its own box."""
    data = jpeg_2000((60_000, 60_000), (60_000, 60_000))
    harmless = jpeg_2000((16, 16), (16, 16), boxed=False)
    box = struct.pack(">I", 8 + len(harmless)) + b"free" + harmless
    first = 12 + int.from_bytes(data[12:16], "big")  # behind the signature and the file type
    with pytest.raises(InvalidRequest, match="at most"):
        open_file(data[:first] + box + data[first:], LIMITS)


def test_pictures_of_the_usual_sizes_are_read() -> None:
    """The largest that phones and cameras make, and JPEG 2000 in tiles."""
    open_file(encoded(PilImage.new("1", (8064, 6048)), "PNG"), LIMITS)
    open_file(encoded(PilImage.new("L", (4032, 3024)), "WEBP", method=0), LIMITS)
    open_file(jpeg_2000((4000, 3000), (4000, 3000), boxed=False), LIMITS)
    open_file(jpeg_2000((8000, 8000), (512, 512), boxed=False), LIMITS)


@pytest.mark.slow
@pytest.mark.long
def test_the_memory_of_one_picture_is_bounded(tmp_path: Path) -> None:
    """At the limit of pixels, whatever the format: below 16 bytes for each, in a process of its own."""
    side = 2000
    files = {
        "PNG": PilImage.new("RGBA", (side, side)),
        "WEBP": PilImage.new("RGBA", (side * 2 // 3, side * 2 // 3)),
        "JPEG2000": PilImage.new("RGB", (side * 2 // 3, side * 2 // 3)),
        "TIFF": PilImage.new("F", (side, side)),
        "JPEG": PilImage.new("CMYK", (side, side)),
    }
    for kind, image in files.items():
        image.save(tmp_path / kind, kind, **({"lossless": True} if kind == "WEBP" else {}))
    code = (
        "import sys\n"
        "from antiphon.config import InputLimits\n"
        "from antiphon.inputs.images import open_image\n"
        "def status(name):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024\n"
        "for path in sys.argv[1:]:\n"
        "    open('/proc/self/clear_refs', 'w').write('5')\n"
        "    before = status('VmRSS')\n"
        "    open_image(path, InputLimits(max_image_pixels=4_000_000))\n"
        "    print(status('VmHWM') - before)\n"
    )
    paths = [str(tmp_path / kind) for kind in files]
    result = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    peaks = dict(zip(files, map(int, result.stdout.split()), strict=True))
    assert len(peaks) == len(files)
    assert max(peaks.values()) < 16 * 4_000_000, peaks


def test_text_that_is_compressed_is_bounded() -> None:
    """A PNG's text and profile are decompressed when it is opened."""
    for name in (b"zTXt", b"iCCP"):
        content = b"name\0\0" + zlib.compress(bytes(2**26))
        chunk = (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )
        data = encoded(PilImage.fromarray(RGB), "PNG")
        with pytest.raises(InvalidRequest, match=r"corrupt: .*too large"):
            open_file(data[:33] + chunk + data[33:], LIMITS)


def test_the_boxes_that_are_looked_at_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "_MAX_BOXES", 100)
    data = encoded(PilImage.fromarray(RGB), "JPEG2000")
    empty = struct.pack(">I", 8) + b"free"
    first = 12 + int.from_bytes(data[12:16], "big")
    open_file(data[:first] + 50 * empty + data[first:], LIMITS)
    with pytest.raises(InvalidRequest, match="no JPEG 2000 codestream"):
        open_file(data[:first] + 200 * empty + data[first:], LIMITS)


# --- what is broken -------------------------------------------------------------------------------


def samples() -> list[bytes]:
    """Small files of every format that PIL writes, with what they may hold beside pixels."""
    exif = PilImage.Exif()
    exif[0x0112] = 6
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colour, grey = PilImage.fromarray(RGB), PilImage.fromarray(RGB[..., 0])
    rgba, deep = colour.convert("RGBA"), PilImage.fromarray(RGB[..., 0].astype(np.uint16) * 257)
    extras: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": srgb[:-20]}
    return [
        encoded(colour, "PNG", **extras),
        encoded(grey.convert("P"), "PNG", transparency=3),
        encoded(deep, "PNG", transparency=9),
        encoded(colour, "JPEG", **extras),
        encoded(colour.convert("CMYK"), "JPEG"),
        encoded(rgba, "WEBP", lossless=True, **extras),
        encoded(grey, "GIF", save_all=True, append_images=[grey] * 2, transparency=3),
        encoded(colour, "BMP"),
        encoded(colour, "TIFF", compression="tiff_lzw"),
        encoded(deep, "TIFF"),
        encoded(colour, "PPM"),
        encoded(rgba, "JPEG2000", tile_size=(16, 16)),
        *([encoded(rgba, "AVIF")] if features.check("avif") else []),
    ]


EDIT = st.tuples(st.integers(0, 2**16), st.binary(max_size=6), st.sampled_from([0, 1, 4, 100]))


@pytest.mark.slow
@settings(max_examples=300)
@given(st.sampled_from(samples()), st.lists(EDIT, min_size=1, max_size=5))
@pytest.mark.filterwarnings("ignore")  # of PIL, on what is broken
def test_a_broken_file_is_read_or_refused(data: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    """Bytes are put in place of others, anywhere: nothing but `InvalidRequest` in one line comes of it."""
    for place, put, taken in edits:
        place %= len(data) + 1
        data = data[:place] + put + data[place + taken :]
    try:
        image = open_image(data, InputLimits(max_image_pixels=100_000))
    except InvalidRequest as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 400
    else:
        assert image.mode == "RGB"
        assert image.width * image.height <= 100_000
