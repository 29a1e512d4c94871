"""The vocoder that a GPU runs gives each row what `Hift` gives it, alone or in a batch, recorded or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fx_capture import FxCapture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from antiphon.codec import Codec
from antiphon.codec.batches import Ladder
from antiphon.codec.checkpoint.hyperparams import HiftParams
from antiphon.codec.decoder import Decoder
from antiphon.codec.hift import window_stream
from antiphon.codec.hift.hift import Hift, source_spectrum, spectrum_samples
from antiphon.codec.hift.masked_trunk import MaskedTrunk
from antiphon.codec.hift.spectrum import Transform
from antiphon.codec.hift.vocoder import Vocoder
from antiphon.codec.hift.window_stream import WindowStream, vocode_mels, vocode_windows
from antiphon.codec.stream import SpeechStream, advance
from antiphon.config import StreamSchedule
from antiphon.device.transfer import from_device, to_device

CPU = torch.device("cpu")
FULL = ("full_1", "full_3", "full_20", "full_40", "full_41", "full_90", "full_137")
LENGTHS = [1, 3, 7, 7]


def mels_of(golden: dict[str, Tensor]) -> list[Tensor]:
    return [golden[f"{name}.mel"][0] for name in FULL]


@pytest.fixture(scope="module")
def vocoder(codec: Codec) -> Vocoder:
    return Vocoder(codec.decoder.hift, torch.float32)


def close(found: Sequence[Any], expected: Sequence[Any], atol: float) -> None:
    for own, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(own), np.asarray(right), rtol=0, atol=atol)


# --- parts --------------------------------------------------------------------------------------------


def test_spectra_of_a_ragged_batch() -> None:
    """Each row is reflected at its own ends, and what lies beyond them is not read."""
    source = torch.randn(4, 256 * 7, generator=torch.Generator().manual_seed(0))
    found = Transform(CPU).spectra(source, torch.tensor(LENGTHS))
    for row, own, frames in zip(source, found, LENGTHS, strict=True):
        expected = source_spectrum(row[: 256 * frames]).mT
        torch.testing.assert_close(own[: 64 * frames + 1], expected, rtol=0, atol=2e-6)
        assert not own[64 * frames + 1 :].any()


def test_samples_of_a_ragged_batch() -> None:
    """Loud and soft: magnitudes are cut at 100."""
    spectra = 3 * torch.randn(4, 64 * 7 + 1, 18, generator=torch.Generator().manual_seed(0))
    found = Transform(CPU).samples(spectra, torch.tensor(LENGTHS))
    for row, own, frames in zip(spectra, found, LENGTHS, strict=True):
        expected = spectrum_samples(row[: 64 * frames + 1].mT)
        torch.testing.assert_close(own[: 256 * frames], expected, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)], ids=str
)
@pytest.mark.parametrize("is_odd", [False, True], ids=["golden", "another shape"])
def test_trunk(
    codec: Codec,
    odd_hift_params: HiftParams,
    randomized: Callable[[nn.Module], Any],
    dtype: torch.dtype,
    error: float,
    is_odd: bool,
) -> None:
    hift = randomized(Hift(odd_hift_params)) if is_odd else codec.decoder.hift
    generator = torch.Generator().manual_seed(0)
    mel, spectra = torch.zeros(4, 80, 9), torch.zeros(4, 64 * 9 + 1, 18)
    for i, frames in enumerate(LENGTHS):
        mel[i, :, :frames] = torch.randn(80, frames, generator=generator)
        spectra[i, : 64 * frames + 1] = 0.3 * torch.randn(64 * frames + 1, 18, generator=generator)
    found = MaskedTrunk(hift, dtype)(mel, spectra, torch.tensor(LENGTHS))
    for i, frames in enumerate(LENGTHS):
        own = spectra[i : i + 1, : 64 * frames + 1].mT
        expected = hift.plain_trunk(mel[i : i + 1, :, :frames], own, [frames])[0].mT
        difference = (found[i, : 64 * frames + 1] - expected).abs().max()
        assert difference < error * expected.abs().max()


@torch.inference_mode()
def test_pitch(codec: Codec, vocoder: Vocoder, golden: dict[str, Tensor]) -> None:
    mels = [mel[:, :90] for mel in mels_of(golden)]
    padded, frames = torch.zeros(7, 80, 100), torch.tensor([mel.shape[1] for mel in mels])
    for row, mel in zip(padded, mels, strict=True):
        row[:, : mel.shape[1]] = mel
    for own, expected in zip(vocoder.f0(padded, frames), codec.decoder.hift.f0(mels), strict=True):
        assert expected.dtype == own.dtype == torch.float64
        torch.testing.assert_close(own[: len(expected)], expected, rtol=1e-12, atol=1e-10)


# --- the whole ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
def test_whole_utterances(codec: Codec, vocoder: Vocoder, golden: dict[str, Tensor]) -> None:
    mels = mels_of(golden)
    expected = codec.decoder.vocode(mels, range(7))
    close(vocode_mels(vocoder, mels, range(7)), expected, 3e-5)
    sources = [golden[f"{name}.source"][0, 0] for name in FULL]
    found = vocode_mels(vocoder, mels, range(7), sources)
    close(found, [golden[f"{name}.wav"][0] for name in FULL], 5e-5)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64 + 5, -(2**70)])
def test_any_seed(codec: Codec, vocoder: Vocoder, golden: dict[str, Tensor], seed: int) -> None:
    mel = golden["full_3.mel"][0]
    close(vocode_mels(vocoder, [mel], [seed]), codec.decoder.vocode([mel], [seed]), 3e-5)


@pytest.mark.slow
@pytest.mark.long
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_chunks_are_the_whole(codec: Codec, golden: dict[str, Tensor], seed: int) -> None:
    """Streams of any chunks in one batch, some of which have nothing new or too little for a sound."""
    vocoder, draws = Vocoder(codec.decoder.hift, torch.float32), np.random.default_rng(seed)
    mels = mels_of(golden)[2:]
    streams = [WindowStream(vocoder, seed) for seed in range(len(mels))]
    pieces: list[list[Any]] = [[] for _ in mels]
    sent = [0] * len(mels)
    while not all(stream.is_complete for stream in streams):
        for i, (stream, mel) in enumerate(zip(streams, mels, strict=True)):
            count = int(draws.choice([0, 1, 4, 20, 41, 83, 172]))
            stream.add(mel[:, sent[i] : sent[i] + count])
            sent[i] = min(mel.shape[1], sent[i] + count)
            stream.is_complete = sent[i] == mel.shape[1]
        for own, samples in zip(pieces, vocode_windows(vocoder, streams), strict=True):
            own.append(samples)
    assert all(stream.num_emitted == stream.num_frames for stream in streams)
    expected = codec.decoder.vocode(mels, range(len(mels)))
    close([np.concatenate(own) for own in pieces], expected, 3e-5)


@pytest.mark.slow
@pytest.mark.long
def test_recordings(codec: Codec, golden: dict[str, Tensor]) -> None:
    """Rows and frames are padded to the next size; what one batch leaves there does not reach the next."""
    capture = FxCapture()
    vocoder = Vocoder(codec.decoder.hift, torch.float32, capture, Ladder((2, 4), (40, 80)))
    mels = [mel[:, :75] for mel in mels_of(golden)]
    alone = codec.decoder.vocode(mels, range(7))
    assert vocode_mels(vocoder, [torch.full((80, 75), torch.nan)], [0])[0].isnan().any()
    close(vocode_mels(vocoder, mels[2:5], [2, 3, 4]), alone[2:5], 3e-5)
    close(vocode_mels(vocoder, mels[5:], [5, 6]), alone[5:], 3e-5)
    close(vocode_mels(vocoder, mels[:2], [0, 1]), alone[:2], 3e-5)
    assert (capture.num_recorded, capture.num_replayed) == (3, 4)
    vocoder.close()
    close(vocode_mels(vocoder, mels[:3], [0, 1, 2]), alone[:3], 3e-5)  # of a size that has a recording
    close(vocode_mels(vocoder, mels[:5], [0, 1, 2, 3, 4]), alone[:5], 3e-5)  # of none
    assert (capture.num_recorded, capture.num_replayed) == (3, 5)


class Calls(TorchDispatchMode):
    """Counts operators that make or copy numbers, which launch a kernel or a copy each."""

    FREE = (
        *("view", "slice", "select", "transpose", "expand", "unbind", "detach", "alias", "empty"),
        *("lift_fresh", "resolve_", "to."),
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        if not name.startswith(self.FREE):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("count", [1, 8])
def test_a_call_is_a_replay_and_a_handful(codec: Codec, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """However many streams there are: one copy to the device, one replay, one copy back."""
    copies = {"to": 0, "from": 0}

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            copies[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(window_stream, "to_device", counted("to", to_device))
    monkeypatch.setattr(window_stream, "from_device", counted("from", from_device))
    replays: list[int] = []

    class Capture:
        def __call__(self, function: Any) -> Any:
            result = function()

            def replay() -> Any:
                replays.append(1)
                return result

            return replay

        def wait(self) -> None:
            pass

    vocoder = Vocoder(codec.decoder.hift, torch.float32, Capture(), Ladder((1, 8), (80,)))
    streams = [WindowStream(vocoder, seed) for seed in range(count)]
    calls = Calls()  # of the last of three
    for _ in range(3):
        replays.clear()
        copies.update({"to": 0, "from": 0})
        for stream in streams:
            stream.add(torch.zeros(80, 42))
        calls = Calls()
        with calls:
            vocode_windows(vocoder, streams)
        assert (len(replays), copies) == (1, {"to": 1, "from": 1})
    assert len(calls.names) <= 12, " ".join(calls.names)


# --- a codec ------------------------------------------------------------------------------------------


@pytest.fixture
def batched(codec: Codec) -> Decoder:
    """What a GPU's codec has, without recordings."""
    return codec.decoder.batched(torch.float32, None, StreamSchedule(), 4608)


def units_of(count: int, seed: int) -> list[int]:
    units: list[int] = np.random.default_rng(seed).integers(0, 64, count).tolist()
    return units


@pytest.mark.slow
@pytest.mark.long
def test_a_stream(codec: Codec, batched: Decoder) -> None:
    units, schedule = units_of(90, 0), StreamSchedule()
    expected = codec.stream(seed=3, schedule=schedule).push(units, final=True)
    stream = SpeechStream(batched, codec.voice(None), 3, schedule)
    pieces = [stream.push(units[i : i + 9]) for i in range(0, 90, 9)]
    found = np.concatenate([*pieces, stream.push(final=True)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)
    assert stream.is_done


@pytest.mark.slow
def test_whole_utterances_of_a_batch(codec: Codec, batched: Decoder) -> None:
    units = [units_of(count, count) for count in (5, 40, 17)]
    rows = [batched.flow_input(own, codec.voice(None), seed=3 + k) for k, own in enumerate(units)]
    found = batched.decode(rows, [3, 4, 5], 4608)
    for own, expected in zip(found, codec.decode(units, seeds=[3, 4, 5]), strict=True):
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-3)  # the source magnifies the mel's error


@pytest.mark.slow
def test_a_failed_batch_loses_nothing(
    codec: Codec, batched: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = codec.stream(seed=1).push(units_of(60, 1), final=True)
    stream = SpeechStream(batched, codec.voice(None), 1, StreamSchedule())
    stream.add(units_of(60, 1), final=True)
    pieces = [*advance([stream])]

    def lost(_: Tensor) -> None:
        raise RuntimeError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(window_stream, "from_device", lost)
        with pytest.raises(RuntimeError, match="lost"):
            advance([stream])
    while stream.ready:
        pieces += advance([stream])
    np.testing.assert_allclose(np.concatenate(pieces), expected, rtol=0, atol=5e-5)


def test_all_of_a_ladder_is_recorded_at_start(codec: Codec) -> None:
    """`Codec.record` says how far it is; later sizes are not recorded. Stand-ins replace the networks."""
    recorded = {"flow": 0, "vocoder": 0}

    def stand_in(name: str, result: Any) -> Any:
        def capture(function: Any) -> Any:
            recorded[name] += 1
            return lambda: result

        return capture

    in_flow, in_vocoder = (
        stand_in(name, result) for name, result in (("flow", torch.zeros(32, 80, 272)), ("vocoder", ()))
    )
    voices = {"v": codec.voice(None)}
    parts = codec.decoder.flow.model, codec.decoder.hift
    own = Codec(codec.params, *parts, voices, CPU, capture=in_flow)
    made = own.decoder.batched(torch.float32, in_vocoder, StreamSchedule(), 4608)
    progress = list(made.record())
    assert made.ladder is not None and made.vocoder is not None and made.vocoder.ladder is not None
    total = len(made.ladder.sizes) + len(made.vocoder.ladder.sizes)
    assert progress == [(k + 1, total) for k in range(total)]
    assert recorded == {"flow": len(made.ladder.sizes), "vocoder": len(made.vocoder.ladder.sizes)}
    assert list(replace(made, vocoder=None).record()) == []
    assert made.vocoder.size(1, 1) == (1, made.vocoder.ladder.frames[0])
    assert made.vocoder.size(3, 5000) == (3, 5000)
