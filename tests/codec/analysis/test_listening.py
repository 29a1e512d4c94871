from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor

from antiphon.codec import Codec
from antiphon.codec.analysis.listening import Listener, ListenSchedule
from antiphon.codec.analysis.speech_tokenizer import SpeechTokenizer
from antiphon.errors import CheckpointError, InvalidRequest
from antiphon.sound.arrays import AudioArray

RATE_HZ = 16000
UNITS_A_PIECE = 25
"""Where pieces are of a second."""
EVERY_PUSH = ListenSchedule(interval_s=1e-6, growth=0, holdback_units=0)


class RecordingTokenizer(SpeechTokenizer):
    """Notes how many samples it was given each time."""

    def __init__(self, path: Path, num_units: int) -> None:
        super().__init__(path, num_units)
        self.num_read: list[int] = []

    def tokenize(self, samples: AudioArray) -> list[int]:
        self.num_read.append(len(samples))
        return super().tokenize(samples)


@pytest.fixture(scope="module")
def relative_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose unit is how loud 40 ms are beside the mean of all it is given, 32 being as loud."""
    inputs = [
        helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1, 128, "F"]),
        helper.make_tensor_value_info("length", TensorProto.INT32, [1]),
    ]
    output = helper.make_tensor_value_info("units", TensorProto.INT32, [1, 1, "n"])
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value])
        for name, value in (("scale", 40.0), ("middle", 32.0), ("low", 0.0), ("high", 63.0))
    ]
    nodes = [
        helper.make_node("ReduceMean", ["feats"], ["frames"], axes=[1], keepdims=1),
        helper.make_node("AveragePool", ["frames"], ["own"], kernel_shape=[4], strides=[4], ceil_mode=1),
        helper.make_node("ReduceMean", ["frames"], ["mean"], axes=[2], keepdims=1),
        helper.make_node("Sub", ["own", "mean"], ["above"]),
        helper.make_node("Mul", ["above", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "middle"], ["moved"]),
        helper.make_node("Clip", ["moved", "low", "high"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["units"], to=TensorProto.INT32),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, [output], constants),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.ir_version = 9
    path = tmp_path_factory.mktemp("network") / "relative.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def tokenizer(relative_network: Path) -> RecordingTokenizer:
    return RecordingTokenizer(relative_network, 64)


def noise(seconds: float, loudness: float = 0.1, rate_hz: int = RATE_HZ) -> AudioArray:
    rng = np.random.default_rng(round(seconds * 1000))
    return rng.normal(0, loudness, round(seconds * rate_hz)).astype(np.float32)


def speech(num_samples: int, seed: int) -> AudioArray:
    """Noise whose loudness wanders over 80 dB, silence included."""
    rng = np.random.default_rng(seed)
    steps = 10 ** rng.uniform(-4, 0, num_samples // 800 + 1) * (rng.random(num_samples // 800 + 1) > 0.1)
    return (rng.normal(0, 0.3, num_samples) * np.repeat(steps, 800)[:num_samples]).astype(np.float32)


def chunked(samples: AudioArray, cuts: list[float]) -> list[AudioArray]:
    return np.split(samples, sorted(int(cut * len(samples)) for cut in cuts))


@pytest.mark.slow
@settings(max_examples=60)
@given(
    rate_hz=st.sampled_from([8000, 11025, 16000, 44100, 48000]),
    duration_s=st.floats(0.0002, 3.5),
    cuts=st.lists(st.floats(0, 1), max_size=12),
    schedule=st.builds(
        ListenSchedule,
        interval_s=st.sampled_from([1e-6, 0.05, 0.4, 100]),
        growth=st.sampled_from([0, 0.1, 1]),
        holdback_units=st.sampled_from([0, 1, 7, 1000]),
    ),
    seed=st.integers(0, 100),
)
def test_any_chunking_ends_with_the_units_of_the_whole(
    codec: Codec,
    relative_network: Path,
    rate_hz: int,
    duration_s: float,
    cuts: list[float],
    schedule: ListenSchedule,
    seed: int,
) -> None:
    """Pieces of a second here, so that there are several."""
    samples = speech(max(1, int(duration_s * rate_hz)), seed)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("listening", "speech_tokenizer"):
            patch.setattr(f"antiphon.codec.analysis.{module}.PIECE_SAMPLES", RATE_HZ)
        patch.setattr(codec, "tokenizer", SpeechTokenizer(relative_network, 64))
        listener = codec.listen(rate_hz, schedule)
        results = [units for chunk in chunked(samples, cuts) if (units := listener.push(chunk)) is not None]
        end = listener.finish()
        expected = codec.tokenize(samples, rate_hz)
    assert end == expected
    for units in results:
        # Those of full pieces are final; behind them is what an open piece has by then.
        num_final = max(0, len(units) - 1) // UNITS_A_PIECE * UNITS_A_PIECE
        assert units[:num_final] == expected[:num_final]


def test_every_result_is_that_of_the_audio_so_far(tokenizer: RecordingTokenizer) -> None:
    samples = speech(2 * RATE_HZ, 0)
    listener = Listener(tokenizer, RATE_HZ, EVERY_PUSH)
    for begin in range(0, len(samples), 1000):
        assert listener.push(samples[begin : begin + 1000]) == tokenizer.tokenize(samples[: begin + 1000])


@pytest.mark.slow
@settings(max_examples=40)
@given(
    rate_hz=st.sampled_from([8000, 11025, 16000, 44100, 48000]),
    duration_s=st.floats(0.0002, 2.5),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    schedule=st.builds(
        ListenSchedule, interval_s=st.sampled_from([1e-6, 0.05, 0.4, 100]), growth=st.sampled_from([0, 1])
    ),
    seed=st.integers(0, 100),
)
def test_a_peek_is_the_end_and_changes_nothing(
    codec: Codec,
    relative_network: Path,
    rate_hz: int,
    duration_s: float,
    cuts: list[float],
    schedule: ListenSchedule,
    seed: int,
) -> None:
    """Pieces of a second here, so that the end of a resampler's window may begin another."""
    samples = speech(max(1, int(duration_s * rate_hz)), seed)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("listening", "speech_tokenizer"):
            patch.setattr(f"antiphon.codec.analysis.{module}.PIECE_SAMPLES", RATE_HZ)
        patch.setattr(codec, "tokenizer", SpeechTokenizer(relative_network, 64))
        listener, undisturbed = codec.listen(rate_hz, schedule), codec.listen(rate_hz, schedule)
        num_pushed, expected = 0, list[int]()
        for chunk in chunked(samples, cuts):
            assert listener.push(chunk) == undisturbed.push(chunk)
            num_pushed += len(chunk)
            expected = codec.tokenize(samples[:num_pushed], rate_hz) if num_pushed else []
            assert listener.peek() == expected
            assert listener.peek() == expected
        assert listener.finish() == undisturbed.finish() == expected
        with pytest.raises(InvalidRequest, match="has finished"):
            listener.peek()


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 24000, 48000])
def test_a_peek_where_the_piece_is_almost_full(
    codec: Codec, relative_network: Path, monkeypatch: pytest.MonkeyPatch, rate_hz: int
) -> None:
    for module in ("listening", "speech_tokenizer"):
        monkeypatch.setattr(f"antiphon.codec.analysis.{module}.PIECE_SAMPLES", RATE_HZ)
    monkeypatch.setattr(codec, "tokenizer", SpeechTokenizer(relative_network, 64))
    samples = speech(rate_hz + 40, 3)
    listener = codec.listen(rate_hz, ListenSchedule(interval_s=100))
    listener.push(samples[: rate_hz - 40])
    for n in range(rate_hz - 40, rate_hz + 40):
        listener.push(samples[n : n + 1])
        assert listener.peek() == codec.tokenize(samples[: n + 1], rate_hz)


def test_a_peek_costs_nothing_twice(tokenizer: RecordingTokenizer) -> None:
    listener = Listener(tokenizer, RATE_HZ, ListenSchedule())
    assert listener.peek() == []
    listener.push(noise(0.2))
    units = listener.peek()
    assert units == tokenizer.tokenize(noise(0.2))
    tokenizer.num_read.clear()
    units.clear()
    assert len(listener.peek()) == 5
    listener.push(noise(0.0))
    assert len(listener.finish()) == 5
    assert tokenizer.num_read == [], "it was read before"
    listener = Listener(tokenizer, RATE_HZ, EVERY_PUSH)
    heard = listener.push(noise(0.2))
    assert listener.peek() == heard
    assert tokenizer.num_read == [3200]


def test_golden_units(codec: Codec, golden: dict[str, Tensor]) -> None:
    listener = codec.listen(RATE_HZ)
    results = [listener.push(chunk) for chunk in golden["logmel.wav16k"].numpy().reshape(-1, 320)]
    assert sum(units is not None for units in results) > 3
    assert listener.finish() == golden["tokenizer.units"].tolist()


def test_what_was_heard_before_changes_when_it_gets_louder(tokenizer: RecordingTokenizer) -> None:
    listener = Listener(tokenizer, RATE_HZ, ListenSchedule(holdback_units=0))
    quiet = listener.push(noise(0.8, 0.001))
    assert quiet is not None
    assert len(quiet) == 20
    loud = listener.push(noise(0.4, 0.5))
    assert loud is not None
    assert len(loud) == 30
    assert loud[0] != quiet[0]
    assert max(loud[:19]) < 32 < min(loud[20:])


def test_when_it_listens(tokenizer: RecordingTokenizer) -> None:
    """Every 0.4 s of new audio, from 4 s on every tenth of the piece; pushes of 20 ms."""
    listener = Listener(tokenizer, RATE_HZ, ListenSchedule())
    results = [listener.push(np.zeros(320, np.float32)) for _ in range(6 * 50)]
    due = [6400 * n for n in range(1, 12)] + [77440, 85440, 94080]
    assert tokenizer.num_read == due
    assert [320 * (i + 1) for i, units in enumerate(results) if units is not None] == due
    tokenizer.num_read.clear()
    listener.finish()
    assert tokenizer.num_read == [6 * RATE_HZ]


def test_nothing_is_read_twice(tokenizer: RecordingTokenizer) -> None:
    listener = Listener(tokenizer, RATE_HZ, EVERY_PUSH)
    units = listener.push(noise(1.0))
    assert units is not None and len(units) == 25
    assert listener.push(noise(0.0)) is None
    assert listener.finish() == units
    assert tokenizer.num_read == [RATE_HZ]


def test_full_pieces_are_final_and_forgotten(tokenizer: RecordingTokenizer) -> None:
    samples = speech(62 * RATE_HZ, 0)
    whole = tokenizer.tokenize(samples)
    tokenizer.num_read.clear()
    listener = Listener(tokenizer, RATE_HZ, ListenSchedule(interval_s=5, holdback_units=0))
    results = [units for part in np.split(samples, 62) if (units := listener.push(part)) is not None]
    results.append(listener.finish())
    assert [len(units) for units in results] == [125 * n for n in range(1, 13)] + [1550]
    assert tokenizer.num_read == [s * RATE_HZ for s in (5, 10, 15, 20, 25, 30) * 2] + [2 * RATE_HZ]
    for number, units in enumerate(results, start=1):
        num_final = number // 6 * 750
        assert units[:num_final] == whole[:num_final]
    assert results[-1] == whole


def test_one_push_may_fill_several_pieces(tokenizer: RecordingTokenizer) -> None:
    samples = speech(61 * RATE_HZ, 0)
    listener = Listener(tokenizer, RATE_HZ, ListenSchedule(holdback_units=0))
    units = listener.push(samples)
    assert tokenizer.num_read == [30 * RATE_HZ, 30 * RATE_HZ, RATE_HZ]
    assert units is not None and len(units) == 1525
    assert units == tokenizer.tokenize(samples)


def test_piece_that_is_just_full_leaves_nothing_open(tokenizer: RecordingTokenizer) -> None:
    listener = Listener(tokenizer, RATE_HZ, ListenSchedule())
    units = listener.push(noise(30.0))
    assert units is not None and len(units) == 750, "none is held back"
    assert listener.finish() == units
    assert tokenizer.num_read == [30 * RATE_HZ]


def test_newest_units_are_held_back_until_the_end(tokenizer: RecordingTokenizer) -> None:
    first, second = noise(0.42), noise(0.5)
    listener = Listener(tokenizer, RATE_HZ, ListenSchedule(holdback_units=2))
    # The eleventh lasts 20 ms.
    assert listener.push(first) == tokenizer.tokenize(first)[:9]
    assert listener.push(second[:100]) is None
    whole = np.concatenate([first, second])
    assert listener.push(second[100:]) == tokenizer.tokenize(whole)[:-2]
    assert listener.finish() == tokenizer.tokenize(whole)


def test_results_are_the_callers_own(tokenizer: RecordingTokenizer) -> None:
    listener = Listener(tokenizer, RATE_HZ, EVERY_PUSH)
    units = listener.push(np.zeros(RATE_HZ, np.float32))
    assert units is not None
    units.clear()
    assert listener.push(np.zeros(640, np.float32)) == [32] * 26


def test_listeners_share_nothing(tokenizer: RecordingTokenizer) -> None:
    clips = [speech(RATE_HZ, seed) for seed in range(3)]
    listeners = [Listener(tokenizer, RATE_HZ, EVERY_PUSH) for _ in clips]
    for begin in range(0, RATE_HZ, 2000):
        for listener, clip in zip(listeners, clips, strict=True):
            listener.push(clip[begin : begin + 2000])
    assert [listener.finish() for listener in listeners] == [tokenizer.tokenize(clip) for clip in clips]


def test_every_form_of_samples(codec: Codec) -> None:
    left = (speech(22050, 0).clip(-1, 1) * 32767).astype(np.int16)
    stereo = np.stack([left, left[::-1]], axis=1)
    expected = codec.tokenize(stereo, 22050)
    as_floats = stereo.astype(np.float64) / 32768
    forms: list[Any] = [
        stereo,
        as_floats,
        as_floats.tolist(),
        Tensor(as_floats),
        np.asfortranarray(stereo),
        stereo.astype(np.int32) * 65536,
    ]
    empties: list[Any] = [[], np.zeros(0, np.int16), np.zeros((0, 2))]
    for form in forms:
        listener = codec.listen(22050)
        for empty in empties:
            assert listener.push(empty) is None
        for begin in range(0, 22050, 4410):
            listener.push(form[begin : begin + 4410])
        assert listener.finish() == expected


@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
def test_one_sample(codec: Codec, rate_hz: int) -> None:
    listener = codec.listen(rate_hz)
    assert listener.push([0.5]) is None
    assert listener.finish() == codec.tokenize([0.5], rate_hz)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([0.0, np.nan], "NaN or infinity"),
        ([np.inf], "NaN or infinity"),
        (np.zeros(5, np.int64), "got int64"),
        (np.zeros((33, 16000), np.float32), r"got \(33, 16000\)"),
        (np.zeros((1, 1, 1), np.float32), r"got \(1, 1, 1\)"),
        (np.float32(0), r"got \(\)"),
        ([[1.0], [1.0, 2.0]], "expected an array"),
        (None, r"got \(\)"),
        (np.zeros(RATE_HZ + 1, np.float32), r"at most 2 s, got 2\.0 s"),
    ],
)
def test_refused_samples_change_nothing(codec: Codec, samples: Any, message: str) -> None:
    clip = speech(2 * RATE_HZ, 1)
    listener = codec.listen(RATE_HZ, EVERY_PUSH, max_audio_s=2)
    listener.push(clip[:RATE_HZ])
    with pytest.raises(InvalidRequest, match=message):
        listener.push(samples)
    listener.push(clip[RATE_HZ:])
    assert listener.finish() == codec.tokenize(clip, RATE_HZ)


def test_limit_counts_samples_of_the_own_rate(codec: Codec) -> None:
    listener = codec.listen(44100, max_audio_s=0.5)
    listener.push(np.zeros(22050, np.float32))
    with pytest.raises(InvalidRequest, match=r"at most 0\.5 s"):
        listener.push([0.0])
    assert len(listener.finish()) == 13
    with pytest.raises(InvalidRequest, match="at most 300 s"):
        codec.listen(10).push(np.zeros(3001, np.float32))


def test_nothing_follows_the_end(codec: Codec) -> None:
    listener = codec.listen(RATE_HZ)
    with pytest.raises(InvalidRequest, match="at least one sample"):
        listener.finish()
    listener.push([0.0])
    listener.finish()
    for samples in ([0.0], []):
        with pytest.raises(InvalidRequest, match="has finished"):
            listener.push(samples)
    with pytest.raises(InvalidRequest, match="has finished"):
        listener.finish()


def test_network_that_fails_ends_it(relative_network: Path) -> None:
    """Units are out of range here: samples were taken that no later result would know of."""
    listener = Listener(SpeechTokenizer(relative_network, 32), RATE_HZ, ListenSchedule())
    with pytest.raises(CheckpointError, match="expected units 0 to 31"):
        listener.push(noise(1.0))
    with pytest.raises(InvalidRequest, match="its network has failed"):
        listener.push(noise(1.0))


@pytest.mark.parametrize("rate_hz", [0, -1, 16000.0, "16000", True, 10**6])
def test_wrong_rates(codec: Codec, rate_hz: Any) -> None:
    with pytest.raises(InvalidRequest, match="expected a rate of 1 to 192000 Hz"):
        codec.listen(rate_hz)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "5", None, True])
def test_wrong_limits(codec: Codec, value: Any) -> None:
    with pytest.raises(InvalidRequest, match="max_audio_s: expected a finite number above 0"):
        codec.listen(RATE_HZ, max_audio_s=value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interval_s": 0}, "interval_s: expected a finite number above 0, got 0"),
        ({"interval_s": float("nan")}, "interval_s: expected a finite number above 0, got nan"),
        ({"growth": -0.1}, r"growth: expected a finite number of 0 or more, got -0\.1"),
        ({"growth": float("inf")}, "growth: expected a finite number of 0 or more, got inf"),
        ({"holdback_units": -1}, "holdback_units: expected 0 or more, got -1"),
        ({"holdback_units": 1.0}, r"holdback_units: expected an integer, got 1\.0"),
    ],
)
def test_wrong_schedules(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        ListenSchedule(**values)


def test_folder_without_tokenizer(folder_copy: Path) -> None:
    (folder_copy / "speech_tokenizer_v1.onnx").unlink()
    with pytest.raises(InvalidRequest, match=r"no speech_tokenizer_v1\.onnx"):
        Codec.from_pretrained(folder_copy, device="cpu").listen(RATE_HZ)
