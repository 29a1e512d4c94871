"""Arrays of samples as people have them: ranges of integers, kept as integers or not, and how channels
lie."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from sound_files import speechlike

from antiphon.codec import read_audio
from antiphon.errors import InvalidRequest
from antiphon.sound.samples import MAX_NUMBERS, SampleReader, mono_samples, num_frames, to_unit

SOUND = speechlike(4000)
INT16 = np.round(SOUND * 2**15).astype(np.int16)
STEREO = np.stack([INT16, INT16[::-1]], axis=1)


def masked(samples: np.ndarray[Any, Any], mask: Any) -> Any:
    make: Any = np.ma.array
    return make(samples, mask=mask)


def assert_like(samples: Any, expected: np.ndarray[Any, Any], atol: float = 0) -> None:
    found = mono_samples(samples)
    assert (found.dtype.name, found.ndim, found.flags.c_contiguous) == ("float32", 1, True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.longdouble, ">f4", ">i2", "int32"])
def test_numbers_of_int16_in_any_type_are_int16(dtype: Any) -> None:
    """scipy.io.wavfile gives int16, and `astype(np.float32)` leaves its numbers as they are."""
    with np.errstate(over="ignore"):
        assert_like(INT16.astype(dtype), INT16 / np.float32(2**15), atol=2e-4 if dtype is np.float16 else 0)


def test_averaged_and_resampled_integers_are_no_integers_any_more() -> None:
    halves = STEREO.astype(np.float32).mean(axis=1)
    assert (halves % 1).any()
    assert_like(halves, halves / 2**15)
    assert_like(INT16 * 0.7071, INT16 * 0.7071 / 2**15, atol=1e-7)


@pytest.mark.parametrize(
    ("samples", "full"),
    [
        (np.round(SOUND * 2**23), 2**23),
        (np.round(SOUND * 2**31).astype(np.float64), 2**31),
        (np.round(SOUND.astype(np.float64) * 2**23).astype(np.int32), 2**23),
        (np.round(SOUND.astype(np.float64) * 2**31).astype(np.int32), 2**31),
        (np.round(SOUND * 2**7).astype(np.int8), 2**7),
    ],
    ids=["24 bits as float", "32 bits as float", "24 bits in int32", "int32", "int8"],
)
def test_wider_and_narrower_integers(samples: np.ndarray[Any, Any], full: float) -> None:
    assert_like(samples, SOUND, atol=1 / min(full, 2**20))


@pytest.mark.parametrize(("scale", "dtype"), [(2**7, np.uint8), (2**15, np.uint16)])
def test_unsigned_integers_are_silent_in_the_middle(scale: int, dtype: Any) -> None:
    unsigned = np.round(SOUND * scale + scale).astype(dtype)
    for samples in (unsigned, unsigned.astype(np.float32), unsigned.astype(np.float64)):
        assert_like(samples, SOUND, atol=1 / scale)
    assert_like(np.full(100, scale, dtype).astype(np.float32), np.zeros(100))


def test_quiet_16_bits_that_were_widened_are_not_taken_for_24() -> None:
    """soundfile and ffmpeg put 16 bits into the upper half of 32."""
    quiet = np.array([100, -100, 50, 3], np.int32) << 16
    assert_like(quiet, np.array([100, -100, 50, 3]) / 2**15)
    assert_like(quiet.astype(np.float64), np.array([100, -100, 50, 3]) / 2**15)


@pytest.mark.parametrize("peak", [1.0, 1.0001, 1.7, 4.0, 7.5])
def test_a_little_too_loud_is_left_as_it_is(peak: float) -> None:
    loud = SOUND * np.float32(peak) / abs(SOUND).max()
    assert_like(loud, loud)


@pytest.mark.parametrize("peak", [9.5, 37.2, 200.25, 2.0**31 * 1.5, 1e30])
def test_what_is_in_no_range_is_refused(peak: float) -> None:
    with pytest.raises(
        InvalidRequest, match=r"within \[-1, 1\] or in the range of integers, got values from -"
    ):
        mono_samples(SOUND * (peak / abs(SOUND).max()))


def test_pieces_share_the_range_of_those_before() -> None:
    reader = SampleReader()
    pieces = [INT16.astype(np.float32), np.array([1, -1, 0], np.float32), np.array([0.5, -7.5], np.float32)]
    for piece in pieces:
        np.testing.assert_array_equal(reader.read(piece), piece / 2**15)
    np.testing.assert_array_equal(reader.read(np.array([16384], np.int16)), [0.5])
    assert len(reader.read([], or_none=True)) == 0


def test_a_file_in_floating_point_may_hold_integers() -> None:
    """What scipy.io.wavfile.write makes of int16 that was cast to float32."""
    file = io.BytesIO()
    soundfile.write(file, INT16.astype(np.float32), 16000, format="WAV", subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(file.getvalue())[0], INT16 / np.float32(2**15))
    assert to_unit(SOUND) is SOUND


@pytest.mark.parametrize(
    ("shape", "frames"),
    [((4000,), 4000), ((4000, 1), 4000), ((1, 4000), 4000), ((2, 2000), 2000), ((2000, 2), 2000), ((1, 5), 5),
     ((32, 125), 125), ((125, 32), 125), ((2, 8), 2), ((1, 1), 1)],
)  # fmt: skip
def test_channels_lie_either_way(shape: tuple[int, ...], frames: int) -> None:
    """torchaudio.load gives (channels, frames); only what may be both is read as (frames, channels)."""
    samples = SOUND[: int(np.prod(shape))].reshape(shape)
    assert num_frames(samples) == frames
    axis = None if len(shape) == 1 else 0 if shape[1] == frames and shape[0] != frames else 1
    expected = samples if axis is None else samples.mean(axis=axis, dtype=np.float64)
    assert_like(samples, expected.astype(np.float32))
    assert_like(samples.tolist(), expected.astype(np.float32), atol=1e-9)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.from_numpy(SOUND),
        torch.from_numpy(SOUND)[None],
        torch.from_numpy(SOUND.copy()).requires_grad_(),
        torch.from_numpy(SOUND).bfloat16(),
        torch.from_numpy(SOUND).half()[None].requires_grad_(),
        torch.from_numpy(np.repeat(SOUND, 2))[::2],
        torch.from_numpy(INT16),
    ],
    ids=["plain", "as torchaudio", "grad", "bfloat16", "half", "strided", "int16"],
)
def test_tensors(tensor: torch.Tensor) -> None:
    assert_like(tensor, SOUND, atol=5e-3 if tensor.dtype == torch.bfloat16 else 2e-4)


def test_arrays_of_any_memory() -> None:
    locked = SOUND.copy()
    locked.flags.writeable = False
    assert_like(locked, SOUND)
    assert_like(SOUND[::-1], SOUND[::-1])
    assert_like(np.asfortranarray(STEREO), STEREO.mean(axis=1) / 2**15, atol=1e-7)
    assert_like(masked(SOUND, False), SOUND)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (masked(SOUND, SOUND > 0.2), "without masked samples"),
        (SOUND.astype(object), "got object"),
        (np.array(["1"]), "got <U1"),
        ("sound", "of shape"),
        (torch.zeros(5, device="meta"), "expected an array, got Tensor"),
        (torch.zeros(5).to_sparse(), "expected an array, got Tensor"),
        (torch.zeros(5, dtype=torch.complex64), "got complex64"),
        (np.broadcast_to(np.float32(0), (MAX_NUMBERS + 1,)), f"at most {MAX_NUMBERS} numbers"),
        (torch.zeros(1).bfloat16().expand(2**40), f"at most {MAX_NUMBERS} numbers"),
        (range(10**10), f"at most {MAX_NUMBERS} numbers"),
        (iter([0.0, 0.1]), "of shape"),
    ],
)
def test_what_holds_no_samples_is_refused(samples: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        mono_samples(samples)


@pytest.mark.parametrize(
    "samples",
    [
        np.broadcast_to(np.float32(0), (10**11,)),
        np.broadcast_to(np.float32(0), (2, 10**11)),
        torch.zeros(1).expand(1, 10**11),
        range(10**11),
    ],
    ids=["view", "channels first", "tensor", "range"],
)
def test_views_are_refused_by_their_counts(samples: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"at most 300 s, got 6250000\.0 s"):
        read_audio((samples, 16000))


def test_a_sample_too_many_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"at most 300 s, got 300\.0 s and 1 sample$"):
        read_audio((np.zeros(300 * 8000 + 1, np.float32), 8000))
    assert len(read_audio((np.zeros(300 * 8000, np.float32), np.int64(8000)))[0]) == 300 * 8000
