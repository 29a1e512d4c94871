"""The estimator of a GPU gives what the plain one does, in few launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fx_capture import FxCapture
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from antiphon.bench.dummy_codec import read_params
from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.flow.fused_unet import OPS, FusedUNet, doubling_taps, is_fused_on
from antiphon.codec.flow.graphed_unet import GraphedEstimator
from antiphon.codec.flow.solver import Solver, schedule
from antiphon.codec.flow.unet import UNet
from antiphon.codec.layers.padding import frame_mask, pad_rows
from antiphon.kernels import backends, registry
from antiphon.kernels.masked_conv import masked_conv_reference

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Measure = Callable[[Any, Any], float]
Randomized = Callable[[nn.Module], Any]
MAX_LAUNCHES = 250
IS_NO_LAUNCH = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view")


@pytest.fixture(scope="module")
def unet(odd_flow_params: FlowParams, randomized: Randomized) -> UNet:
    made: UNet = randomized(UNet(odd_flow_params.estimator))
    return made


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def batch_of(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    return pad_rows([random(320, length) for length in lengths]), frame_mask(lengths, CPU)


@pytest.mark.parametrize("lengths", [(1,), (2,), (13,), (24, 24), (1, 2, 3), (20, 7, 20)], ids=str)
@torch.inference_mode()
def test_equals_plain(unet: UNet, lengths: tuple[int, ...]) -> None:
    x, mask = batch_of(lengths)
    time_bias, kept = unet.time_bias(torch.tensor([0.3]))[0], x.clone()
    found = FusedUNet(unet, torch.float32, backend="torch")(x, time_bias, mask)
    torch.testing.assert_close(found, unet(x, time_bias, mask), rtol=0, atol=5e-6)
    assert torch.equal(x, kept)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [(13,), (1, 2, 3)], ids=str)
@torch.inference_mode()
def test_kernels_of_a_gpu(
    unet: UNet, relative_error: Measure, dtype: torch.dtype, lengths: tuple[int, ...]
) -> None:
    x, mask = batch_of(lengths)
    time_bias = unet.time_bias(torch.tensor([0.3]))[0]
    found = FusedUNet(unet, dtype, backend="triton")(x, time_bias, mask)
    error = relative_error(found, unet(x, time_bias, mask))
    assert error < {torch.float32: 5e-6, torch.float16: 0.004, torch.bfloat16: 0.03}[dtype]
    assert not any(found[row, :, length:].any() for row, length in enumerate(lengths))


def test_a_transposed_convolution_is_one_of_width_3(randomized: Randomized) -> None:
    conv = randomized(nn.ConvTranspose1d(5, 7, 4, stride=2, padding=1))
    x = random(2, 9, 5)
    both = masked_conv_reference(x, doubling_taps(conv.weight), conv.bias.repeat(2))
    torch.testing.assert_close(both.view(2, 18, 7), conv(x.mT).mT)


def test_where_it_is_used() -> None:
    assert not is_fused_on(CPU, torch.float32)
    assert all("triton" in backends(op) for op in OPS)
    assert is_fused_on(torch.device("cuda"), torch.float16)


class Launches(TorchDispatchMode):
    """Counts operators that compute or copy, and Triton kernels, which do nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in IS_NO_LAUNCH:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def released() -> UNet:
    """Of the released size; what is in its weights does not matter."""
    with torch.device("meta"):
        made = UNet(read_params("codec_300m").flow.estimator)
    return made.to_empty(device="cpu").requires_grad_(False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [(96, 96), (160, 96, 160, 96), (250,) * 32], ids=len)
@torch.inference_mode()
def test_launches(
    released: UNet, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, lengths: tuple[int, ...]
) -> None:
    """With guidance's two rows for each stream; of chunks of up to 2.5 s with their context."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    x = torch.empty(len(lengths), 320, max(lengths))
    time_bias, mask = released.time_bias(torch.zeros(1))[0], frame_mask(lengths, CPU)
    fused = FusedUNet(released, dtype, backend="triton")
    launches = Launches()

    def launch(self: Any, *args: Any, **kwargs: Any) -> None:
        launches.names.append(self.fn.__name__)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch)
    with launches:
        fused(x, time_bias, mask)
    assert len(launches.names) <= MAX_LAUNCHES, {name: launches.names.count(name) for name in launches.names}
    assert launches.names.count("_norm_attention_kernel") == 64


@pytest.mark.slow
@pytest.mark.long
@torch.inference_mode()
def test_all_steps_are_one_recording(unet: UNet) -> None:
    times, steps = schedule(2)
    solver = Solver(FusedUNet(unet, torch.float32, backend="torch"), steps, 0.7)
    capture = FxCapture()
    recorded, time_bias = GraphedEstimator(solver, capture), unet.time_bias(times)
    for lengths in ((13, 13), (9, 14)):
        x, mask = batch_of(lengths)
        plain = Solver(unet, steps, 0.7)(x, time_bias, mask)
        found = recorded(x, time_bias, mask)
        for row, length in enumerate(lengths):
            torch.testing.assert_close(found[row, :, :length], plain[row, :, :length], rtol=0, atol=2e-5)
    assert (capture.num_recorded, capture.num_replayed) == (1, 2)


def test_without_one_of_the_kernels_it_is_not_used() -> None:
    with registry.without("norm_attention", "triton"):
        assert not is_fused_on(torch.device("cuda"), torch.float16)
