"""The vocoder's trunk in one call, against the modules that it is made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import HiftParams
from antiphon.codec.hift.cpp_trunk import OneCallTrunk, parts_of
from antiphon.codec.hift.hift import Hift, Snake
from antiphon.codec.layers.padding import pad_rows
from antiphon.kernels import _C
from antiphon.kernels.hift import CppHift

Draw = Callable[..., Tensor]

LENGTHS = [(1,), (2,), (17,), (6, 6), (1, 2, 17)]


@pytest.fixture(scope="module", params=[24, 128], ids=["odd", "even"])
def hift(request: pytest.FixtureRequest) -> Hift:
    """Of 24 channels, levels have 12 and 6: less than a vector."""
    torch.manual_seed(0)
    params = HiftParams(
        base_channels=request.param,
        nb_harmonics=8,
        nsf_alpha=0.1,
        nsf_sigma=0.003,
        nsf_voiced_threshold=10.0,
        lrelu_slope=0.1,
        audio_limit=0.99,
        cond_channels=16,
    )
    hift = Hift(params).eval().requires_grad_(False)
    for part in hift.modules():
        if isinstance(part, Snake):
            nn.init.uniform_(part.alpha, 0.2, 3.0)
    return hift


def inputs(randn: Draw, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    mel = pad_rows([3 * randn(80, length, seed=seed) for seed, length in enumerate(lengths)])
    source = pad_rows([3 * randn(18, 64 * length + 1, seed=9 + seed) for seed, length in enumerate(lengths)])
    return mel, source


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_equals_the_modules(hift: Hift, isa: str, randn: Draw, lengths: tuple[int, ...]) -> None:
    mel, source = inputs(randn, lengths)
    exact = deepcopy(hift).double().plain_trunk(mel.double(), source.double(), lengths)
    plain = hift.plain_trunk(mel, source, lengths)
    found = OneCallTrunk(hift)(mel, source, lengths)
    for row, length in enumerate(lengths):
        valid = slice(64 * length + 1)
        error = (found - exact)[row, :, valid].abs().max()
        budget = max(2 * (plain - exact)[row, :, valid].abs().max(), 1e-6 * exact[row, :, valid].abs().max())
        assert error <= budget
        assert not found[row, :, 64 * length + 1 :].any()


def test_a_row_depends_neither_on_its_batch_nor_on_the_number_of_threads(
    hift: Hift, isa: str, randn: Draw
) -> None:
    lengths = (21, 1, 12)
    mel, source = inputs(randn, lengths)
    run, alone = OneCallTrunk(hift), OneCallTrunk(hift, is_alone=True)
    before = _C.num_threads()
    try:
        _C.set_num_threads(3)
        found = run(mel, source, lengths)
        assert torch.equal(alone(mel, source, lengths), found)
        for row, length in enumerate(lengths):
            valid = slice(64 * length + 1)
            single = run(mel[row : row + 1, :, :length], source[row : row + 1, :, valid], [length])
            assert torch.equal(single, found[row : row + 1, :, valid])
    finally:
        _C.set_num_threads(before)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4, 1e9])
def test_the_sine_of_any_number(hift: Hift, isa: str, randn: Draw, scale: float) -> None:
    """Of a phase that float32 still knows it is that of the modules; of others, the result is finite."""
    mel, source = inputs(randn, (5,))
    source = scale * source
    found, plain = OneCallTrunk(hift)(mel, source, [5]), hift.plain_trunk(mel, source, [5])
    assert found.isfinite().all()
    if scale <= 30:
        torch.testing.assert_close(found, plain, rtol=0, atol=2e-5 * float(plain.abs().max()))
    source[0, 0, 0] = torch.nan
    assert OneCallTrunk(hift)(mel, source, [5]).isnan().any()


def test_it_is_stopped_between_its_layers(hift: Hift, randn: Draw) -> None:
    class Enough(Exception):
        pass

    calls: list[int] = []

    def stop_point() -> None:
        calls.append(len(calls))
        if len(calls) == 2:
            raise Enough

    run = CppHift(*parts_of(hift))
    mel, source = inputs(randn, (600,))  # takes a hundred milliseconds or more
    with pytest.raises(Enough):
        run(mel, source, [600], stop_point=stop_point)
    assert calls == [0, 1]


def test_weights_that_do_not_fit_are_named(hift: Hift) -> None:
    pre, levels, post, geometry = parts_of(hift)
    CppHift(pre, levels, post, geometry)
    with pytest.raises(ValueError, match=r"levels: expected at least one, got none"):
        CppHift(pre, [], post, geometry)
    with pytest.raises(ValueError, match=r"levels\[0\]\.up\.weight: expected \(in, out, 2 \* rate\)"):
        CppHift(pre, [replace(levels[0], rate=4), levels[1]], post, geometry)
    with pytest.raises(
        ValueError, match=r"levels\[1\]\.source_down: 1 taps have no stride of 1 with a padding of 1"
    ):
        CppHift(pre, [levels[0], replace(levels[1], source_padding=1)], post, geometry)
    short = replace(levels[0].source_block, dilations=(1, 3))
    with pytest.raises(ValueError, match=r"levels\[0\]\.source_block: expected three pairs"):
        CppHift(pre, [replace(levels[0], source_block=short), levels[1]], post, geometry)
    with pytest.raises(ValueError, match=r"conv_pre\.weight: expected torch\.float32"):
        CppHift(replace(pre, weight=pre.weight.double()), levels, post, geometry)
    with pytest.raises(ValueError, match=r"conv_post\.weight: expected an odd number of taps, got"):
        CppHift(pre, levels, replace(post, weight=post.weight[:, :, 1:]), geometry)
    block = levels[0].blocks[0]
    cut = replace(block, alphas1=[block.alphas1[0], block.alphas1[1][1:], block.alphas1[2]])
    narrow = replace(levels[0], blocks=[cut])
    with pytest.raises(ValueError, match=r"levels\[0\]\.blocks\[0\]\.alphas1\[1\]: expected torch\.float32"):
        CppHift(pre, [narrow, levels[1]], post, geometry)


def test_arguments_that_do_not_fit_are_named(hift: Hift, randn: Draw) -> None:
    run = CppHift(*parts_of(hift))
    mel, source = inputs(randn, (4, 4))
    for lengths in ([4], [4, 0], [4, 5]):
        with pytest.raises(ValueError, match=r"lengths: expected 2 numbers of 1 to 4, got \["):
            run(mel, source, lengths)
    with pytest.raises(ValueError, match=r"mel: expected torch\.float32 \(batch, 80, frames\)"):
        run(mel.double(), source, [4, 4])
    with pytest.raises(ValueError, match=r"source: expected torch\.float32 \(2, 18, 257\)"):
        run(mel, source[:, :, 1:], [4, 4])
