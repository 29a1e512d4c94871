"""Pictures as a person sees them: what a viewer shows of each file is what the model gets."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageCms, TiffImagePlugin

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.inputs.images import open_image

ROWS, COLUMNS = 24, 40
GREY = np.add.outer(np.arange(ROWS) * 5, np.arange(COLUMNS) * 3).astype(np.uint8)
COLOURS = np.stack([GREY, 255 - GREY, np.roll(GREY, 7, axis=1)], axis=2)
RGB = PilImage.fromarray(COLOURS)
DEEP = GREY.astype(np.uint16) * 257  # the same greys in 16 bits
WHITE = 255
HALF = (COLUMNS // 2) * np.ones(1, int)[0]
ALPHA = np.where(np.arange(COLUMNS) < HALF, 255, 0)[None].repeat(ROWS, 0).astype(np.uint8)
ON_WHITE = np.where(ALPHA[..., None] == 255, COLOURS, WHITE)


def encoded(image: PilImage.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seen(source: Any) -> np.ndarray:
    image = open_image(source, InputLimits())
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def grey_of(pixels: np.ndarray) -> np.ndarray:
    assert (pixels == pixels[..., :1]).all()
    return np.asarray(pixels[..., 0])


def png(mode: tuple[int, int], width: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of (bit depth, colour type) from its packed rows, with chunks before the data."""
    header = struct.pack(">IIBBBBB", width, len(rows), *mode, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(pixels: np.ndarray, photometric: int, order: Literal["<", ">"] = "<") -> bytes:
    """An uncompressed grey TIFF of any number type."""
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    formats = {"u": 1, "i": 2, "f": 3}
    rows, columns = pixels.shape
    bits = pixels.dtype.itemsize * 8
    tags = [(256, columns), (257, rows), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8), (277, 1), (278, rows), (279, len(data)), (339, formats[pixels.dtype.kind])]
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 4, 1, value)
        if tag in (256, 257, 273, 278, 279)
        else struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        for tag, value in tags
    )
    start = 8 + len(data)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return mark + struct.pack(f"{order}I", start) + data + directory


# --- greys ----------------------------------------------------------------------------------------

PGM = f"P5 {COLUMNS} {ROWS} 65535\n".encode() + DEEP.astype(">u2").tobytes()
DARK_PGM = f"P5 {COLUMNS} {ROWS} 65535\n".encode() + GREY.astype(">u2").tobytes()
PFM = f"Pf\n{COLUMNS} {ROWS}\n-1.0\n".encode() + (GREY[::-1] / 255).astype("<f4").tobytes()


@pytest.mark.parametrize(
    "source",
    [
        encoded(PilImage.fromarray(DEEP), "PNG"),
        encoded(PilImage.fromarray(DEEP), "TIFF"),
        encoded(PilImage.fromarray(DEEP), "TIFF", compression="tiff_lzw"),
        tiff(DEEP, 1),
        tiff(DEEP, 1, ">"),
        tiff(65535 - DEEP, 0),
        PGM,
        PFM,
        PilImage.fromarray(DEEP),
        PilImage.fromarray(DEEP.astype(">u2")),
        PilImage.fromarray(DEEP.astype(np.int32)),
        PilImage.fromarray((GREY / 255).astype(np.float32)),
        PilImage.fromarray(GREY.astype(np.float32)),
        encoded(PilImage.fromarray((GREY / 255).astype(np.float32)), "TIFF"),
        tiff((1 - GREY / 255).astype(np.float32), 0, ">"),
        DEEP,
        DEEP.astype(">u2"),
        DEEP.astype(np.int64),
        GREY.astype(np.int16),
        GREY.astype(np.uint64),
        GREY / 255,
        (GREY / 255).astype(np.float16),
        GREY.astype(np.float64),
    ],
)
def test_greys_beyond_bytes_are_scaled(source: Any) -> None:
    assert abs(grey_of(seen(source)) - GREY).max() <= 1


def test_sixteen_bits_are_of_sixteen_bits_even_where_it_is_dark() -> None:
    """What says in its type how bright it can be is not brightened."""
    for source in (
        GREY.astype(np.uint16),
        encoded(PilImage.fromarray(GREY.astype(np.uint16)), "PNG"),
        DARK_PGM,
    ):
        assert grey_of(seen(source)).max() <= 1


def test_numbers_without_a_range_go_from_their_lowest_to_their_highest() -> None:
    metres = np.linspace(-400, 8800, ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    for source in (
        metres,
        metres.astype(np.int16),
        PilImage.fromarray(metres.astype(np.float32)),
        PilImage.fromarray(metres.astype(np.int32)),
        encoded(PilImage.fromarray(metres.astype(np.float32)), "TIFF"),
        tiff(metres.astype(np.int16), 1),
    ):
        found = grey_of(seen(source))
        assert (found.flat[0], found.flat[-1]) == (0, 255)
        assert (np.diff(found.ravel()) >= 0).all()
    assert (seen(np.full((2, 2), -7.0)) == 0).all()


def test_what_is_no_number_is_black_and_infinity_an_end() -> None:
    pixels = (GREY / 255).astype(np.float32)
    pixels[0, :3] = np.nan, np.inf, -np.inf
    for source in (pixels, PilImage.fromarray(pixels)):
        found = grey_of(seen(source))
        assert list(found[0, :3]) == [0, found.max(), found.min()]
        assert abs(found[1:] - GREY[1:]).max() <= 1


def test_a_little_beyond_the_range_is_in_it() -> None:
    """Resampling leaves [0, 1] a little: such a picture is not one of 255 greys that is black."""
    found = grey_of(seen(np.clip(GREY / 200, 0, 1) * 1.04 - 0.02))
    assert found.max() == 255
    assert found.min() == 0


def test_colours_and_opacities_of_arrays() -> None:
    rgba = np.dstack([COLOURS, ALPHA])
    for source in (rgba, rgba.astype(np.uint16) * 257, rgba / 255, rgba.astype(int)):
        np.testing.assert_array_equal(seen(source), ON_WHITE)
    opaque = np.dstack([COLOURS.astype(float), np.ones((ROWS, COLUMNS))])
    np.testing.assert_array_equal(seen(opaque), COLOURS)
    np.testing.assert_array_equal(seen(ALPHA == 255)[..., 0], ALPHA)


# --- which side is up -----------------------------------------------------------------------------

STORED = {
    1: None,
    2: PilImage.Transpose.FLIP_LEFT_RIGHT,
    3: PilImage.Transpose.ROTATE_180,
    4: PilImage.Transpose.FLIP_TOP_BOTTOM,
    5: PilImage.Transpose.TRANSPOSE,
    6: PilImage.Transpose.ROTATE_90,
    7: PilImage.Transpose.TRANSVERSE,
    8: PilImage.Transpose.ROTATE_270,
}
"""How a camera that is held so stores what is upright."""
BEST: dict[str, dict[str, Any]] = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "JPEG": {"quality": 100, "subsampling": 0},
}


def stored(orientation: int, kind: str, image: PilImage.Image = RGB) -> bytes:
    turn = STORED[orientation]
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    turned = image if turn is None else image.transpose(turn)
    return encoded(turned, kind, exif=exif.tobytes(), **BEST[kind])


@pytest.mark.parametrize("kind", BEST)
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_upright(orientation: int, kind: str) -> None:
    data = stored(orientation, kind)
    tolerance = 5 if kind == "JPEG" else 0
    for source in (data, PilImage.open(io.BytesIO(data))):
        found = seen(source)
        assert found.shape == COLOURS.shape
        assert abs(found - COLOURS).max() <= tolerance


def test_upright_on_white_with_all_greys() -> None:
    """Turned and transparent at once, and turned in 16 bits."""
    rgba = PilImage.fromarray(np.dstack([COLOURS, ALPHA]))
    np.testing.assert_array_equal(seen(stored(6, "PNG", rgba)), ON_WHITE)
    assert abs(grey_of(seen(stored(8, "PNG", PilImage.fromarray(DEEP)))) - GREY).max() <= 1


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\x7f\x06\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",
        b"Exif\0\0" + b"\xff" * 40,
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL, on the EXIF
def test_broken_exif_turns_nothing(kind: str, exif: bytes) -> None:
    data = encoded(RGB, kind, exif=exif, **BEST[kind])
    plain = encoded(RGB, kind, **BEST[kind])
    np.testing.assert_array_equal(seen(data), seen(plain))


# --- what may be seen through ---------------------------------------------------------------------


def transparent_files() -> dict[str, Any]:
    """The colours at the left, nothing at the right."""
    rgba = PilImage.fromarray(
        np.dstack([np.where(ALPHA[..., None] == 255, COLOURS, 0).astype(np.uint8), ALPHA])
    )
    files: dict[str, Any] = {
        "RGBA": rgba,
        "premultiplied": rgba.convert("RGBa"),
        "RGBA PNG": encoded(rgba, "PNG"),
        "RGBA WebP": encoded(rgba, "WEBP", lossless=True),
        "RGBA TIFF": encoded(rgba, "TIFF"),
        "RGBA JPEG 2000": encoded(rgba, "JPEG2000"),
    }
    keyed = np.where(ALPHA[..., None] == 255, COLOURS, (1, 2, 3)).astype(np.uint8)
    files["RGB PNG with a colour key"] = encoded(PilImage.fromarray(keyed), "PNG", transparency=(1, 2, 3))
    return files


@pytest.mark.parametrize("name", transparent_files())
def test_transparent_colours_are_on_white(name: str) -> None:
    np.testing.assert_array_equal(seen(transparent_files()[name]), ON_WHITE)


def test_half_transparent_is_half_white() -> None:
    for mode in ("RGBA", "RGBa"):
        image = PilImage.new("RGBA", (2, 1), (255, 0, 0, 128)).convert(mode)
        assert abs(seen(image)[0, 0] - (255, 127, 127)).max() <= 1
    palette = PilImage.new("PA", (2, 1), (1, 128))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert abs(seen(palette)[0, 0] - (255, 127, 127)).max() <= 1
    for grey_mode in ("LA", "La"):
        grey = PilImage.new("LA", (2, 1), (0, 64)).convert(grey_mode)
        assert abs(seen(grey)[0, 0] - 191).max() <= 1


GREY_ON_WHITE = np.where(ALPHA == 255, np.maximum(GREY, 1), WHITE)
KEYED_GREY = np.where(ALPHA == 255, np.maximum(GREY, 1), 0)


def test_transparent_greys_are_on_white() -> None:
    la = PilImage.merge("LA", [PilImage.fromarray(KEYED_GREY.astype(np.uint8)), PilImage.fromarray(ALPHA)])
    deep = PilImage.fromarray(KEYED_GREY.astype(np.uint16) * 257)
    for source in (
        la,
        encoded(la, "PNG"),
        encoded(PilImage.fromarray(KEYED_GREY.astype(np.uint8)), "PNG", transparency=0),
        encoded(deep, "PNG", transparency=0),
    ):
        assert abs(grey_of(seen(source)) - GREY_ON_WHITE).max() <= 1


@pytest.mark.parametrize(("bits", "step"), [(1, 255), (2, 85), (4, 17)])
def test_a_transparent_grey_of_few_bits(bits: int, step: int) -> None:
    """It is given in steps of these bits, not in bytes."""
    highest = 2**bits - 1
    row = int("".join(f"{value:0{bits}b}" for value in (0, highest, 0, highest, 0, 0, 0, 0)), 2)
    packed = row.to_bytes(bits, "big")
    for key, expected in ((highest, [0, 255, 0, 255]), (0, [255, 255, 255, 255])):
        found = seen(png((bits, 0), 8, [packed], (b"tRNS", struct.pack(">H", key))))
        assert list(found[0, :4, 0]) == expected
    if bits > 1:
        middle = (step_value := 1) << (8 - bits)
        found = seen(png((bits, 0), 1, [bytes([middle])], (b"tRNS", struct.pack(">H", step_value))))
        assert found[0, 0, 0] == WHITE
        assert seen(png((bits, 0), 1, [bytes([middle])]))[0, 0, 0] == step


def test_a_transparent_colour_of_sixteen_bits() -> None:
    row = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0)
    found = seen(png((16, 2), 2, [row], (b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))))
    assert found.tolist() == [[[255, 255, 255], [255, 0, 0]]]


def paletted() -> PilImage.Image:
    indices = np.where(ALPHA == 255, 1, 2).astype(np.uint8)
    image = PilImage.fromarray(indices)
    image.putpalette([0, 0, 0, 200, 30, 10, 5, 5, 5])
    assert image.mode == "P"
    return image


@pytest.mark.parametrize(
    "options",
    [{"transparency": 2}, {"transparency": b"\xff\xff\x00"}, {"transparency": b"\xff\xff\x00", "bits": 2}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palettes_are_on_white(kind: str, options: dict[str, Any]) -> None:
    if kind == "GIF" and not isinstance(options["transparency"], int):
        options = {"transparency": 2}
    found = seen(encoded(paletted(), kind, **options))
    np.testing.assert_array_equal(found, np.where(ALPHA[..., None] == 255, (200, 30, 10), WHITE))
    half = seen(encoded(paletted(), "PNG", transparency=b"\xff\x80"))
    assert abs(half[0, 0] - (227, 142, 132)).max() <= 1
    np.testing.assert_array_equal(seen(paletted())[0, [0, -1]], [(200, 30, 10), (5, 5, 5)])


def test_the_first_frame_of_a_moving_picture_that_may_be_seen_through() -> None:
    frames = [paletted(), paletted().transpose(PilImage.Transpose.ROTATE_180)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], transparency=2, disposal=2)
    expected = np.where(ALPHA[..., None] == 255, (200, 30, 10), WHITE)
    np.testing.assert_array_equal(seen(data), expected)
    rgba = [frame.convert("RGBA") for frame in (RGB, RGB.transpose(PilImage.Transpose.ROTATE_180))]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encoded(rgba[0], kind, save_all=True, append_images=rgba[1:], **options)
        np.testing.assert_array_equal(seen(data), COLOURS)


def test_nonsense_about_transparency_hides_nothing() -> None:
    for nonsense in ("x", -5, 70_000, (1, 2), (1, 2, -3), None, object()):
        for image in (RGB.copy(), PilImage.fromarray(GREY), RGB.convert("1"), paletted()):
            plain = np.asarray(image.convert("RGB"))
            image.info["transparency"] = nonsense
            np.testing.assert_array_equal(seen(image), plain)


# --- colours of other spaces ----------------------------------------------------------------------


def display_p3() -> bytes:
    """An RGB profile with the primaries of phones' screens."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    def fixed(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    primaries = {
        b"rXYZ": fixed(0.51512, 0.24120, -0.00105),
        b"gXYZ": fixed(0.29198, 0.69225, 0.04189),
        b"bXYZ": fixed(0.15710, 0.06657, 0.78407),
    }
    profile = bytearray(srgb.replace("sRGB".encode("utf-16-be"), "P3P3".encode("utf-16-be")))
    for index in range(int.from_bytes(profile[128:132], "big")):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if name in primaries:
            profile[offset : offset + size] = primaries[name]
    return bytes(profile)


def test_colours_of_a_wider_space_are_shown_in_srgb() -> None:
    """Full red of Display P3 is beyond sRGB, and its mixed colours are stronger there."""
    flat = PilImage.new("RGB", (8, 8), (200, 100, 100))
    for source in (
        encoded(flat, "PNG", icc_profile=display_p3()),
        encoded(flat, "WEBP", lossless=True, icc_profile=display_p3()),
        encoded(flat, "TIFF", icc_profile=display_p3()),
    ):
        red, green, blue = seen(source)[0, 0]
        assert (red > 208, green < 98, blue < 100) == (True, True, True)
    see_through = PilImage.new("RGBA", (8, 8), (200, 100, 100, 255))
    see_through.putpixel((1, 0), (0, 0, 0, 0))
    found = seen(encoded(see_through, "PNG", icc_profile=display_p3()))
    assert found[0, 1].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(found[0, 0], seen(encoded(flat, "PNG", icc_profile=display_p3()))[0, 0])


def test_profiles_that_say_nothing_change_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb, lab, b"junk", display_p3()[:200], bytes(500)):
        np.testing.assert_array_equal(seen(encoded(RGB, "PNG", icc_profile=profile)), COLOURS)
        np.testing.assert_array_equal(
            grey_of(seen(encoded(PilImage.fromarray(GREY), "PNG", icc_profile=profile))), GREY
        )


def test_inks_and_lab() -> None:
    inks = PilImage.new("CMYK", (16, 16), (0, 255, 255, 0))
    for source in (inks, encoded(inks, "JPEG", quality=95), encoded(inks, "TIFF")):
        red, green, blue = seen(source)[8, 8]
        assert (red > 220, green < 40, blue < 40) == (True, True, True)
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    muted = COLOURS // 4 + 96  # in steps of LAB the strongest colours are far from each other
    lab = ImageCms.applyTransform(PilImage.fromarray(muted), to_lab)
    assert lab is not None
    for source in (lab, encoded(lab, "TIFF")):
        assert abs(seen(source) - muted).max() <= 6


def test_large_pictures_are_converted_in_bands() -> None:
    """The bands join without a seam, in colours, in greys, and in 16 bits."""
    rows = np.arange(1300)[:, None] % 251 * np.ones((1, 900), int)
    rgba = np.stack([rows, rows, rows, np.full_like(rows, 255)], axis=2).astype(np.uint8)
    np.testing.assert_array_equal(seen(PilImage.fromarray(rgba)), rgba[..., :3])
    np.testing.assert_array_equal(seen(PilImage.fromarray((rows * 257).astype(np.uint16)))[..., 0], rows)
    np.testing.assert_array_equal(seen(rows / 255)[..., 0], rows)


def test_a_tiff_with_odd_tags_is_read_or_refused() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 77
    tags[262] = 1
    np.testing.assert_array_equal(
        grey_of(seen(encoded(PilImage.fromarray(GREY), "TIFF", tiffinfo=tags))), GREY
    )
    good = tiff(DEEP, 1)
    for value in (9, 99, 65535):
        start = good.index(struct.pack("<HHIHH", 262, 3, 1, 1, 0))
        wrong = good[:start] + struct.pack("<HHIHH", 262, 3, 1, value, 0) + good[start + 12 :]
        with pytest.raises(InvalidRequest):
            seen(wrong)
