"""`hift`: the module that is exported is the vocoder's function, and windows give the whole's samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from antiphon.codec import Codec
from antiphon.codec.checkpoint.hyperparams import HOP, HiftParams
from antiphon.codec.hift.hift import Hift
from antiphon.codec.hift.source import draw
from antiphon.errors import CheckpointError
from antiphon.export.hift import HIFT_PART, HiftSource, Trial, read_hift
from antiphon.export.part import PRECISIONS, Precision
from antiphon.export.verify import difference
from antiphon.export.vocoder import VocoderNetwork

CONTEXT = 19
"""Frames of mel to either side that a sample depends on."""


@pytest.fixture(scope="module")
def vocoder(folder: Path) -> HiftSource:
    return read_hift(folder)


@pytest.fixture(params=["golden", "odd"])
def any_vocoder(
    request: pytest.FixtureRequest,
    vocoder: HiftSource,
    odd_hift_params: HiftParams,
    randomized: Callable[[nn.Module], Any],
) -> HiftSource:
    if request.param == "golden":
        return vocoder
    return HiftSource(odd_hift_params, randomized(Hift(odd_hift_params)), {})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rows_of_a_padded_batch_are_those_of_the_codec(any_vocoder: HiftSource, precision: Precision) -> None:
    """Whole utterances, and the ends of longer ones; what the padding holds does not matter."""
    before = {name: value.clone() for name, value in any_vocoder.model.state_dict().items()}
    network = VocoderNetwork(any_vocoder.model, PRECISIONS[precision])
    kinds = set()
    for number, sizes in enumerate([(1,), (2,), (23, 1, 31)]):
        trial = Trial.drawn(any_vocoder, sizes, torch.Generator().manual_seed(number))
        kinds |= set(trial.skipped)
        with torch.inference_mode():
            compared = HIFT_PART.compare(trial, lambda *given: list(network(*given)))
        off = {result: difference(*rows) for result, rows in compared.items()}
        assert off["cycles"].largest < 1e-9, sizes
        assert not off["samples"].num_nan
        assert (off["samples"].rms if precision == "fp16" else off["samples"].relative) < (
            1e-2 if precision == "fp16" else 1e-4
        ), sizes
    assert kinds == {0, CONTEXT}
    after = any_vocoder.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert {value.dtype for value in after.values()} == {torch.float32}


def drawn(source: HiftSource, frames: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """mel, noise and phase of an utterance"""
    generator = torch.Generator().manual_seed(seed)
    draws = draw(source.params, seed, 0, frames, torch.device("cpu"))
    noise = draws.noise.view(1, frames, HOP, -1)
    return torch.randn(1, 80, frames, generator=generator), noise, draws.phase[None]


def test_a_stream_of_windows_is_the_whole(vocoder: HiftSource) -> None:
    """Each window begins 19 frames before its sound, and is given the phases of the window before."""
    network = VocoderNetwork(vocoder.model, torch.float32)
    frames, chunk = 90, 17
    mel, noise, phase = drawn(vocoder, frames, 5)
    zero = torch.zeros(1, vocoder.params.num_waves, dtype=torch.float64)
    at_first = torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        whole, ends = network(mel, torch.ones(1, 1, frames), noise, phase, at_first, zero)
        parts, cycles = [], zero
        for begin in range(0, frames, chunk):
            end = min(begin + chunk, frames)
            low, high = max(0, begin - CONTEXT), min(end + CONTEXT, frames)
            window = slice(low, high)
            made, at_ends = network(
                mel[:, :, window],
                torch.ones(1, 1, high - low),
                noise[:, window],
                phase,
                torch.tensor([begin - low]),
                cycles,
            )
            parts.append(made[:, (begin - low) * HOP : (end - low) * HOP])
            torch.testing.assert_close(at_ends[:, begin - low : end - low], ends[:, begin:end])
            cycles = at_ends[:, end - 1 - low]
    streamed = torch.cat(parts, dim=1)
    assert streamed.shape == whole.shape
    assert float((streamed - whole).abs().max()) < 1e-4 * float(whole.abs().max())


def test_it_says_what_the_codec_says(codec: Codec, vocoder: HiftSource) -> None:
    """From a mel and a seed, through the codec's own interface."""
    network = VocoderNetwork(vocoder.model, torch.float32)
    mel, noise, phase = drawn(vocoder, 40, seed=3)
    zero = torch.zeros(1, vocoder.params.num_waves, dtype=torch.float64)
    with torch.inference_mode():
        found, _ = network(mel, torch.ones(1, 1, 40), noise, phase, torch.zeros(1, dtype=torch.int64), zero)
    expected = torch.from_numpy(codec.vocode(mel[0].numpy(), seed=3))
    assert float((found[0] - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_a_row_without_a_frame_leaves_the_others_alone(vocoder: HiftSource) -> None:
    network = VocoderNetwork(vocoder.model, torch.float32)
    mel, noise, phase = (part.repeat_interleave(2, dim=0) for part in drawn(vocoder, 12, 1))
    mask, start = torch.ones(2, 1, 12), torch.zeros(2, dtype=torch.int64)
    cycles = torch.zeros(2, vocoder.params.num_waves, dtype=torch.float64)
    with torch.inference_mode():
        both, _ = network(mel, mask, noise, phase, start, cycles)
        mask[1] = 0
        found, _ = network(mel, mask, noise, phase, start, cycles)
    torch.testing.assert_close(found[0], both[0], rtol=0, atol=1e-6)
    assert found.isfinite().all()


def test_a_folder_without_a_vocoder(folder_copy: Path) -> None:
    (folder_copy / "hift.pt").unlink()
    with pytest.raises(CheckpointError, match=r"hift\.pt: no such file"):
        read_hift(folder_copy)
