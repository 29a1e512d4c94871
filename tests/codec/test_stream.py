"""Streamed speech: nothing emitted changes, nothing is lost, and vocoding in chunks is vocoding the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from codec_fixtures import flow_input
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from antiphon.codec import Codec
from antiphon.codec.flow.length_regulator import interpolate_span
from antiphon.codec.flow.stream import FlowStream, chunks_on_device, cross_fade
from antiphon.codec.hift.stream import HiftStream, vocode_streams
from antiphon.codec.stream import SpeechStream, advance
from antiphon.codec.voices import Voice
from antiphon.config import StreamSchedule
from antiphon.errors import ConfigError, InvalidRequest

HOP = 256


def units_of(count: int, seed: int = 0) -> list[int]:
    units: list[int] = np.random.default_rng(seed).integers(0, 64, count).tolist()
    return units


def pushed(stream: SpeechStream, units: list[int], step: int) -> list[np.ndarray[Any, Any]]:
    pieces = [stream.push(units[i : i + step]) for i in range(0, len(units), step)]
    return [*pieces, stream.push(final=True)]


# --- the whole way ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2, 3, 14, 15, 16, 18, 40, 41, 137])
def test_as_many_samples_as_the_whole(codec: Codec, count: int) -> None:
    units = units_of(count)
    stream = codec.stream(seed=1)
    speech = np.concatenate(pushed(stream, units, 1))
    assert speech.shape == codec.decode([units])[0].shape == (HOP * codec.params.flow.mel_frames(count),)
    assert speech.dtype == np.float32
    assert np.isfinite(speech).all()
    assert stream.is_done and not stream.ready


@pytest.mark.slow
@pytest.mark.long
def test_how_units_are_pushed_does_not_matter(codec: Codec) -> None:
    units = units_of(120)
    at_once = codec.stream(seed=3).push(units, final=True)
    for step in (1, 2, 7, 15, 50, 200):
        assert np.array_equal(np.concatenate(pushed(codec.stream(seed=3), units, step)), at_once), step


@pytest.mark.slow
@pytest.mark.long
def test_later_units_do_not_change_what_was_emitted(codec: Codec) -> None:
    units, other = units_of(100), units_of(100, seed=1)
    for known in (15, 39, 90):
        first, second = codec.stream(), codec.stream()
        before = first.push(units[:known])
        assert np.array_equal(second.push(units[:known]), before)
        assert len(before)
        first.push(units[known:], final=True)
        second.push(other[known:], final=True)
        longer = codec.stream().push(units[:known] + other[known:], final=True)
        assert np.array_equal(longer[: len(before)], before)


def test_first_sound_after_fifteen_units(codec: Codec) -> None:
    stream = codec.stream()
    assert len(stream.push(units_of(14))) == 0
    assert len(stream.push([1])) > 4000, "a fifth of a second"


def test_seed_and_voice_decide(codec: Codec) -> None:
    units = units_of(30)
    first = codec.stream(seed=1).push(units, final=True)
    assert np.array_equal(codec.stream(seed=1).push(units, final=True), first)
    assert not np.array_equal(codec.stream(seed=2).push(units, final=True), first)
    assert not np.array_equal(codec.stream("中文男", seed=1).push(units, final=True), first)


@pytest.mark.slow
def test_many_streams_in_one_batch(codec: Codec) -> None:
    """The mels agree to rounding; the source's phase magnifies that, see `test_codec`."""
    lengths = [1, 9, 40, 77]
    alone = [codec.stream(seed=i).push(units_of(n, i), final=True) for i, n in enumerate(lengths)]
    streams = [codec.stream(seed=i) for i in range(len(lengths))]
    for i, (stream, length) in enumerate(zip(streams, lengths, strict=True)):
        stream.add(units_of(length, i), final=True)
    pieces: dict[int, list[np.ndarray[Any, Any]]] = {i: [] for i in range(len(streams))}
    while ready := [i for i, stream in enumerate(streams) if stream.ready]:
        for i, samples in zip(ready, advance([streams[i] for i in ready]), strict=True):
            pieces[i].append(samples)
    for i, expected in enumerate(alone):
        np.testing.assert_allclose(np.concatenate(pieces[i]), expected, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_memory_does_not_grow(codec: Codec) -> None:
    """Sixteen seconds: the second half holds what the first did, up to a frame more or less in a chunk."""

    def held(stream: SpeechStream) -> int:
        assert isinstance(stream.hift, HiftStream), "on a CPU"
        tensors = [stream.hift._mel, stream.hift._source, stream.flow._context_mel, stream.flow._fade]
        storages = [t.untyped_storage().nbytes() for t in tensors if t is not None]
        return sum(storages) + 8 * len(stream.flow._units)

    stream = codec.stream()
    sizes = []
    for unit in units_of(400):
        stream.push([unit])
        sizes.append(held(stream))
    assert max(sizes[200:]) < 1.02 * max(sizes[:200])


def test_nothing_to_say(codec: Codec) -> None:
    stream = codec.stream()
    assert stream.push().shape == stream.push(final=True).shape == (0,)
    assert stream.is_done


def test_wrong_units_leave_the_stream_as_it_was(codec: Codec) -> None:
    stream, other = codec.stream(), codec.stream()
    for wrong in ([64], [-1], [0.5], "12", [[1]]):
        with pytest.raises(InvalidRequest, match="units"):
            stream.push(wrong)
    assert np.array_equal(stream.push(units_of(20), final=True), other.push(units_of(20), final=True))
    with pytest.raises(InvalidRequest, match="the stream has ended"):
        stream.push([1])
    with pytest.raises(InvalidRequest, match="voice"):
        codec.stream("nobody")


# --- mel in chunks ------------------------------------------------------------------------------------


def test_frames_see_the_noise_of_the_whole(codec: Codec) -> None:
    units = units_of(90)
    whole = flow_input(codec, units, seed=5).noise
    stream = codec.stream(seed=5)
    stream.add(units, final=True)
    flow, frames = stream.flow, codec.params.flow.mel_frames
    while flow.ready_units():
        row = flow.chunk(codec.device)
        first = frames(flow._first)
        assert torch.equal(row.noise, whole[:, first : first + row.noise.shape[1]])
        flow.take(codec.decoder.flow.generate([row])[0])
    assert flow.is_done


def test_streamed_mel_is_near_the_whole(codec: Codec, cases: dict[str, dict[str, Any]]) -> None:
    """Chunks see less than the whole does, and an untrained flow makes anything of its context; still much of
    each frame comes from its own units and its own noise."""
    units = cases["full_137"]["units"]
    whole = codec.mel(units)
    stream = codec.stream()
    stream.add(units, final=True)
    mels = []
    while stream.flow.ready_units():
        mels.append(stream.flow.take(codec.decoder.flow.generate([stream.flow.chunk(codec.device)])[0]))
    streamed = torch.cat(mels, dim=1).numpy()
    assert streamed.shape == whole.shape
    unrelated = codec.mel(units_of(137, 9), seed=1)
    assert abs(streamed - whole).mean() < 0.8 * abs(unrelated - whole).mean()


def test_cross_fade_weights_add_up() -> None:
    ones = torch.ones(2, 5)
    torch.testing.assert_close(cross_fade(ones[:, :3], ones), ones)
    faded = cross_fade(torch.zeros(1, 3), torch.ones(1, 5))
    torch.testing.assert_close(faded, torch.tensor([[0.25, 0.5, 0.75, 1, 1]]))


def test_chunks_agree_where_a_frame_lies(codec: Codec) -> None:
    """On a ramp of unit numbers each frame reads its own position, whatever part of the ramp is given."""
    params = codec.params.flow
    ramp = torch.arange(200, dtype=torch.float64)[:, None]
    whole = interpolate_span(ramp, 0, params)[0]
    frame = torch.arange(params.mel_frames(200), dtype=torch.float64)
    expected = (frame + 0.5) * 25 * 256 / 22050 - 0.5
    torch.testing.assert_close(whole, expected.clamp(0, 199))
    for first, last in ((37, 90), (101, 102), (150, 200)):
        begin, end = params.mel_frames(first), params.mel_frames(last)
        part = interpolate_span(ramp[first:last], first, params)[0]
        torch.testing.assert_close(part, expected[begin:end].clamp(first, last - 1))


def test_a_chunk_continues_what_was_said(codec: Codec) -> None:
    """Its prompt are the units before it and the mel that was emitted for them."""
    units = units_of(140)
    stream = codec.stream()
    stream.add(units, final=True)
    flow, frames = stream.flow, codec.params.flow.mel_frames
    mel = torch.zeros(80, 0)
    while length := flow.ready_units():
        done = flow.num_done
        row = flow.chunk(codec.device)
        begin = max(0, done - 25)
        assert row.units.tolist() == units[done : done + length + 3]
        if done:
            assert row.prompt_units is not None and row.prompt_mel is not None
            assert row.prompt_units.tolist() == units[begin:done]
            assert torch.equal(row.prompt_mel, mel[:, frames(begin) :])
        mel = torch.cat([mel, flow.take(codec.decoder.flow.generate([row])[0])], dim=1)


# --- waveform in chunks -------------------------------------------------------------------------------


def chunked(codec: Codec, mel: Tensor, borders: list[int], seed: int) -> np.ndarray[Any, Any]:
    stream = HiftStream(codec.decoder.hift, seed)
    pieces = []
    for begin, end in zip([0, *borders], [*borders, mel.shape[1]], strict=True):
        stream.add(mel[:, begin:end])
        stream.is_complete = end == mel.shape[1]
        pieces += vocode_streams(codec.decoder.hift, [stream])
    return torch.cat(pieces).numpy()


@pytest.fixture(scope="module")
def vocoded_whole(codec: Codec, golden: dict[str, Tensor]) -> np.ndarray[Any, Any]:
    return codec.vocode(golden["full_137.mel"][0], seed=4)


@pytest.mark.slow
@pytest.mark.long
@settings(max_examples=12, deadline=None)
@given(data=st.data())
@torch.inference_mode()
def test_vocoding_in_chunks_is_vocoding_the_whole(
    codec: Codec, golden: dict[str, Tensor], vocoded_whole: np.ndarray[Any, Any], data: Any
) -> None:
    """Five seconds with pitch: a pitch in float32 would leave 1e-3 here."""
    mel = golden["full_137.mel"][0]
    cuts = st.lists(st.integers(0, mel.shape[1]), max_size=8)
    borders = sorted(data.draw(cuts))
    streamed = chunked(codec, mel, borders, seed=4)
    np.testing.assert_allclose(streamed, vocoded_whole, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_border_is_no_edge(codec: Codec, golden: dict[str, Tensor]) -> None:
    """The jump of the waveform's slope where chunks meet is no larger than within them."""
    mel = golden["full_137.mel"][0]
    stream = HiftStream(codec.decoder.hift, 0)
    pieces = []
    for begin in range(0, mel.shape[1], 43):
        stream.add(mel[:, begin : begin + 43])
        pieces += vocode_streams(codec.decoder.hift, [stream])
    borders = np.cumsum([len(piece) for piece in pieces])[:-1]
    bend = abs(np.diff(torch.cat(pieces).numpy(), n=2))
    at_borders = [bend[b - 3 : b + 2].max() for b in borders if b]
    anywhere = np.quantile(np.lib.stride_tricks.sliding_window_view(bend, 5).max(axis=1), 0.999)
    assert len(at_borders) >= 8
    assert max(at_borders) <= anywhere


# --- schedules ----------------------------------------------------------------------------------------


def test_chunks_grow_up_to_the_longest() -> None:
    schedule = StreamSchedule()
    assert [schedule.chunk_units(i) for i in range(5)] == [12, 24, 48, 50, 50]
    assert StreamSchedule(first_units=70, max_units=50).chunk_units(0) == 50
    steady = StreamSchedule(first_units=10, lookahead_units=2, growth=1)
    assert {steady.chunk_units(i) for i in range(10)} == {8}
    assert schedule.chunk_units(10**6) == 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first_units", 3),
        ("first_units", 15.0),
        ("growth", 0.5),
        ("growth", float("inf")),
        ("max_units", 0),
        ("context_units", -1),
        ("lookahead_units", True),
    ],
)
def test_bad_schedules_say_so(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"StreamSchedule.{name}"):
        StreamSchedule(**{name: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        StreamSchedule(lookahead_units=0, context_units=0, first_units=1, growth=1),
        StreamSchedule(lookahead_units=0, first_units=10),
        StreamSchedule(lookahead_units=8, context_units=60, first_units=9, max_units=5),
    ],
    ids=str,
)
def test_any_schedule_makes_every_sample(codec: Codec, schedule: StreamSchedule) -> None:
    for count in (1, 10, 18):
        units = units_of(count)
        speech = np.concatenate(pushed(codec.stream(schedule=schedule), units, 1))
        assert len(speech) == HOP * codec.params.flow.mel_frames(count)
        # Without look-ahead the last chunk is made before its end is known, or after. The vocoder computes
        # other spans then, and a convolution may add up in another order where it has fewer frames.
        at_once = codec.stream(schedule=schedule).push(units, final=True)
        np.testing.assert_allclose(at_once, speech, rtol=0, atol=1e-5 if schedule.lookahead_units == 0 else 0)


# --- chunks drawn on the device -----------------------------------------------------------------------


@pytest.mark.parametrize("prompt_frames", [None, 37])
@torch.inference_mode()
def test_chunks_on_the_device_are_those_of_the_host(codec: Codec, prompt_frames: int | None) -> None:
    """Units in one copy, and noise by the device's counters: to a last bit of float32."""
    voice = codec.voice(None)
    if prompt_frames is not None:
        prompt = torch.arange(10), torch.zeros(80, prompt_frames)
        voice = Voice(voice.embedding, *prompt)
    params, schedule = codec.params.flow, StreamSchedule()
    pairs = [[FlowStream(params, voice, seed, schedule) for _ in range(2)] for seed in (-1, 3, 2**65)]
    for i, pair in enumerate(pairs):
        for stream in pair:
            stream.add(units_of(120 + i, i), complete=False)
    for _ in range(3):
        found = chunks_on_device([own for own, _ in pairs], codec.device)
        for (own, other), row in zip(pairs, found, strict=True):
            expected = other.chunk(codec.device)
            assert torch.equal(row.units, expected.units) and row.span == expected.span
            torch.testing.assert_close(row.noise, expected.noise, rtol=2e-7, atol=1e-9)
            for stream in (own, other):
                stream.take(torch.zeros(80, row.noise.shape[1] - row.prompt_frames))
            assert own.ready_frames() == other.ready_frames()
