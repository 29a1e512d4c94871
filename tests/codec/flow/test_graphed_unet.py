"""The estimator recorded at a few sizes gives each row what it gets without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codec_fixtures import flow_input
from fx_capture import FxCapture
from hypothesis import given
from hypothesis import strategies as st
from plain_capture import PlainCapture
from torch import Tensor, nn

from antiphon.codec import Codec
from antiphon.codec.batches import Ladder, bucket_rows
from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.flow.graphed_unet import MAX_ELEMENTS, GraphedEstimator, bucket_frames
from antiphon.codec.flow.packed_unet import PackedUNet
from antiphon.codec.flow.unet import UNet
from antiphon.codec.layers.padding import frame_mask, pad_rows


@pytest.fixture(scope="module")
def unet(odd_flow_params: FlowParams, randomized: Callable[[nn.Module], Any]) -> UNet:
    made: UNet = randomized(UNet(odd_flow_params.estimator))
    return made


@pytest.fixture
def capture() -> FxCapture:
    return FxCapture()


def rows_of(lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(320, length, generator=generator) for length in lengths]


@given(st.integers(1, 5000))
def test_bucket_frames(frames: int) -> None:
    bucket = bucket_frames(frames)
    assert frames <= bucket < frames + max(16, frames / 8 + 1)
    assert bucket % 2 == 0
    assert bucket_frames(bucket) == bucket


def test_sizes_are_few() -> None:
    assert len({bucket_frames(frames) for frames in range(1, 2049)}) == 40
    assert [bucket_rows(rows) for rows in (1, 3, 5, 8, 9, 17, 25, 129)] == [1, 4, 8, 8, 12, 24, 32, 256]


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lengths", [[1], [16], [17, 2, 33]], ids=str)
@pytest.mark.long
def test_rows_equal_those_without(unet: UNet, capture: FxCapture, packed: bool, lengths: list[int]) -> None:
    estimator = PackedUNet(unet, torch.float32, onednn=False) if packed else unet
    graphed = GraphedEstimator(estimator, capture)
    rows, time_bias = rows_of(lengths), unet.time_bias(torch.tensor([0.3]))[0]
    found = graphed(pad_rows(rows), time_bias, frame_mask(lengths, torch.device("cpu")))
    assert found.shape == (len(lengths), 80, max(lengths))
    for row, own in zip(rows, found, strict=True):
        alone = unet(row[None], time_bias)[0]
        torch.testing.assert_close(own[:, : row.shape[1]], alone, rtol=0, atol=1e-5)
        assert not own[:, row.shape[1] :].any()


@pytest.mark.long
@pytest.mark.slow
@torch.inference_mode()
def test_a_size_is_recorded_once_and_sees_every_input(unet: UNet, capture: FxCapture) -> None:
    """All sizes below have the same bucket; inputs, masks and times differ, and leave nothing behind."""
    graphed = GraphedEstimator(unet, capture)
    for k, lengths in enumerate([[30, 20, 25], [17, 31, 18, 3], [32, 32, 32], [19, 17, 32, 32]]):
        rows, time_bias = rows_of(lengths), unet.time_bias(torch.tensor([k / 4]))[0]
        found = graphed(pad_rows(rows), time_bias, frame_mask(lengths, torch.device("cpu")))
        for row, own in zip(rows, found, strict=True):
            alone = unet(row[None], time_bias)[0]
            torch.testing.assert_close(own[:, : row.shape[1]], alone, rtol=0, atol=1e-5)
    assert (capture.num_recorded, capture.num_replayed) == (1, 4)


@pytest.mark.slow
@pytest.mark.long
@torch.inference_mode()
def test_broken_input_of_one_batch_does_not_reach_the_next(unet: UNet, capture: FxCapture) -> None:
    graphed, time_bias = GraphedEstimator(unet, capture), unet.time_bias(torch.tensor([0.3]))[0]
    assert graphed(torch.full((4, 320, 30), float("nan")), time_bias).isnan().all()
    (row,) = rows_of([20])
    found = graphed(row[None].expand(3, -1, -1), time_bias)
    torch.testing.assert_close(found[2], unet(row[None], time_bias)[0], rtol=0, atol=1e-5)
    assert capture.num_recorded == 1


def first_channels(x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """An estimator, as far as sizes go."""
    return x[:, :80] + 0


@torch.inference_mode()
def test_the_size_used_longest_ago_is_dropped(capture: FxCapture) -> None:
    graphed = GraphedEstimator(first_channels, capture, max_graphs=2)
    for frames in (10, 20, 10, 40, 10, 20):  # 20 is dropped for 40, and recorded again
        graphed(torch.zeros(1, 320, frames), torch.zeros(1))
    assert (capture.num_recorded, capture.num_replayed) == (4, 6)


@torch.inference_mode()
def test_large_sizes_are_not_recorded(capture: FxCapture) -> None:
    graphed = GraphedEstimator(first_channels, capture)
    assert graphed(torch.zeros(16, 1, MAX_ELEMENTS // 16 + 1), torch.zeros(1)).shape[0] == 16
    assert capture.num_recorded == 0


@torch.inference_mode()
def test_a_ladder_is_all_that_is_recorded(capture: FxCapture) -> None:
    graphed = GraphedEstimator(first_channels, capture)
    graphed.use(Ladder((2, 4), (16, 32)))
    for rows, frames in ((1, 16), (2, 3), (3, 32), (5, 16), (2, 33)):
        assert graphed(torch.zeros(rows, 320, frames), torch.zeros(1)).shape == (rows, 80, frames)
    assert (capture.num_recorded, capture.num_replayed) == (2, 3)
    graphed.close()
    assert graphed(torch.ones(4, 320, 16), torch.zeros(1)).all()
    assert graphed(torch.ones(2, 320, 16), torch.zeros(1)).all()
    assert (capture.num_recorded, capture.num_replayed) == (2, 4)


@pytest.mark.slow
@pytest.mark.long
def test_a_codec_that_records(codec: Codec, folder: Path) -> None:
    """Speech whole, batched and streamed is what it is without."""
    capture = PlainCapture()
    loaded = Codec.from_pretrained(folder, device="cpu")
    graphed = Codec(
        loaded.params,
        loaded.decoder.flow.model,
        loaded.decoder.hift,
        {"v": loaded.voice(None)},
        loaded.device,
        capture=capture,
    )
    units = [[k % 50 for k in range(n)] for n in (5, 40, 17)]
    rows = [flow_input(graphed, own, seed=k) for k, own in enumerate(units)]
    for own, mel, k in zip(units, graphed.decoder.flow.generate(rows), range(3), strict=True):
        np.testing.assert_allclose(mel, codec.mel(own, seed=k), rtol=0, atol=2e-5)
    stream, plain = graphed.stream(seed=3), codec.stream(seed=3)
    for start in range(0, 40, 8):
        more = units[1][start : start + 8]
        found, expected = (s.push(more, final=start == 32) for s in (stream, plain))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)  # the source magnifies the mel's error
    # One batch of three rows and the stream's three chunks.
    assert (capture.num_recorded, capture.num_replayed) == (4, 4)
