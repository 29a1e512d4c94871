"""Conditional flow matching (arXiv 2210.02747) with classifier-free guidance: ten Euler
steps from noise to mel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from antiphon.codec.batches import Ladder
from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.flow.cpp_unet import OneCallUNet
from antiphon.codec.flow.graphed_unet import Estimator, GraphedEstimator
from antiphon.codec.flow.packed_unet import PackedUNet
from antiphon.codec.flow.unet import UNet
from antiphon.codec.layers.packed import has_onednn
from antiphon.codec.stopping import stop_point
from antiphon.device.cuda_graph import Capture
from antiphon.kernels.registry import cpp_available

__all__ = ["FlowMatching", "schedule"]

NUM_STEPS = 10


def schedule(num_steps: int = NUM_STEPS) -> tuple[Tensor, list[float]]:
    """Times (num_steps,) at which the velocity is evaluated, and the lengths of the steps.

    The grid is 1 - cos(pi/2 k / num_steps). Time is added up step by step in float32, and each step aims at
    the next point of the grid, so that rounding does not build up; it affects the mel by 1e-6.
    """
    grid = 1 - torch.cos(torch.linspace(0, 1, num_steps + 1, dtype=torch.float32) * 0.5 * math.pi)
    t, step = grid[0], grid[1] - grid[0]
    times: list[Tensor] = []
    steps: list[float] = []
    for k in range(1, num_steps + 1):
        times.append(t)
        steps.append(step.item())
        t = t + step
        if k < num_steps:
            step = grid[k + 1] - t
    return torch.stack(times), steps


class FlowMatching:
    """Integrates the estimator's velocity over the fixed schedule.

    Guidance runs as one batch: the conditioned rows, then the same rows with mu, speaker and prompt zero.
    The state and its steps are float32, whatever the precision of the estimator's products.
    """

    def __init__(
        self,
        estimator: UNet,
        cfg_rate: float,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        capture: Capture | None = None,
        *,
        is_alone: bool = False,
    ) -> None:
        """dtype: that of the estimator's products. capture: records the estimator at a few sizes; None: it
        runs kernel by kernel. is_alone: our own kernels run on the caller's thread alone."""
        self.estimator: Estimator = estimator
        if device.type == "cpu" and dtype == torch.float32 and cpp_available():
            self.estimator = OneCallUNet(estimator, is_alone=is_alone)
        elif dtype != torch.float32 or has_onednn(device, dtype):
            self.estimator = PackedUNet(estimator, dtype)
        if capture is not None:
            self.estimator = GraphedEstimator(self.estimator, capture)
        self.cfg_rate = cfg_rate
        times, self._steps = schedule()
        with torch.inference_mode():
            self._time_bias = estimator.time_bias(times.to(device))

    def use(self, ladder: Ladder) -> None:
        """From now on, record batches of these sizes, and no others."""
        if isinstance(self.estimator, GraphedEstimator):
            self.estimator.use(ladder.times(2))  # guidance runs as one batch

    def close(self) -> None:
        """From now on, record nothing more."""
        if isinstance(self.estimator, GraphedEstimator):
            self.estimator.close()

    def integrate(
        self, z: Tensor, mu: Tensor, speaker: Tensor, prompt: Tensor, mask: Tensor | None
    ) -> Tensor:
        """z, mu, prompt: (batch, 80, frames); speaker: (batch, 80); mask: (batch, 1, frames) or None.

        Returns mel (batch, 80, frames); its values on padding are meaningless.
        """
        batch, _, frames = z.shape
        inputs = z.new_zeros(2 * batch, 4 * MEL_BANDS, frames)
        inputs[:batch, MEL_BANDS:] = torch.cat(
            [mu, speaker[:, :, None].expand(-1, -1, frames), prompt], dim=1
        )
        both = None if mask is None else mask.repeat(2, 1, 1)
        x = z
        for step, time_bias in zip(self._steps, self._time_bias, strict=True):
            stop_point()
            inputs[:batch, :MEL_BANDS] = x
            inputs[batch:, :MEL_BANDS] = x
            guided, free = self.estimator(inputs, time_bias, both).chunk(2)
            x = x + step * ((1 + self.cfg_rate) * guided - self.cfg_rate * free)
        return x
