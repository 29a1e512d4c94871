"""The ten Euler steps from noise to mel, with guidance, as one function that can be recorded whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.flow.graphed_unet import Estimator
from antiphon.codec.stopping import stop_point

__all__ = ["NUM_STEPS", "Solver", "schedule"]

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


class Solver:
    """Called as an estimator is, with all times at once. Returns the mel instead of a velocity."""

    def __init__(self, estimator: Estimator, steps: Sequence[float], cfg_rate: float) -> None:
        self.estimator = estimator
        self.steps = steps
        self.cfg_rate = cfg_rate

    def __call__(self, x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (batch, 4 * 80, frames), the noise and what the velocity is conditioned on; time_bias: one row
        for each step; mask: (batch, 1, frames) or None. Returns (batch, 80, frames)."""
        batch = x.shape[0]
        inputs = torch.cat([x, torch.zeros_like(x)])
        both = None if mask is None else mask.repeat(2, 1, 1)
        state = x[:, :MEL_BANDS]
        for step, bias in zip(self.steps, time_bias.unbind(), strict=True):
            stop_point()
            inputs[:batch, :MEL_BANDS] = state
            inputs[batch:, :MEL_BANDS] = state
            guided, free = self.estimator(inputs, bias, both).chunk(2)
            state = state + step * ((1 + self.cfg_rate) * guided - self.cfg_rate * free)
        return state
