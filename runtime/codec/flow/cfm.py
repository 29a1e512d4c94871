"""Conditional flow matching (arXiv 2210.02747) with classifier-free guidance: ten Euler
steps from noise to mel."""

from __future__ import annotations

import torch
from torch import Tensor

from antiphon.codec.batches import Ladder
from antiphon.codec.exported import TENSORRT, Exported
from antiphon.codec.flow.cpp_unet import OneCallUNet
from antiphon.codec.flow.fused_unet import FusedUNet, is_fused_on
from antiphon.codec.flow.graphed_unet import Estimator, GraphedEstimator
from antiphon.codec.flow.onnx_unet import OnnxUNet
from antiphon.codec.flow.packed_unet import PackedUNet
from antiphon.codec.flow.solver import Solver, schedule
from antiphon.codec.flow.tensorrt_unet import TensorrtUNet
from antiphon.codec.flow.unet import UNet
from antiphon.codec.layers.packed import has_onednn
from antiphon.device.cuda_graph import Capture
from antiphon.kernels.registry import cpp_available

__all__ = ["FlowMatching"]


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
        exported: Exported | None = None,
    ) -> None:
        """dtype: that of the estimator's products. capture: records the integration at a few sizes; None: it
        runs kernel by kernel. is_alone: our own kernels, and onnxruntime, run on the caller's thread alone.
        exported: what computes the velocity instead, in the precision of the export; nothing is recorded."""
        velocity: Estimator = estimator
        times, steps = schedule()
        with torch.inference_mode():
            self._time_bias = estimator.time_bias(times.to(device))
        if exported is not None:
            self._time_bias = times[:, None].to(device)
            capture = None
            if exported.runtime == TENSORRT:
                velocity = TensorrtUNet(estimator, exported.folder, device)
            else:
                velocity = OnnxUNet(estimator, exported.folder, 1 if is_alone else None)
        elif device.type == "cpu" and dtype == torch.float32 and cpp_available() and capture is None:
            velocity = OneCallUNet(estimator, is_alone=is_alone)
        elif device.type == "cuda" and is_fused_on(device, dtype):
            velocity = FusedUNet(estimator, dtype)
        elif device.type == "cuda" or dtype != torch.float32 or has_onednn(device, dtype):
            velocity = PackedUNet(estimator, dtype)
        self.solver = Solver(velocity, steps, cfg_rate)
        self._recorded = None if capture is None else GraphedEstimator(self.solver, capture)

    def use(self, ladder: Ladder) -> None:
        """From now on, record batches of these sizes, and no others."""
        if self._recorded is not None:
            self._recorded.use(ladder)

    def close(self) -> None:
        """From now on, record nothing more."""
        if self._recorded is not None:
            self._recorded.close()

    def integrate(
        self, z: Tensor, mu: Tensor, speaker: Tensor, prompt: Tensor, mask: Tensor | None
    ) -> Tensor:
        """z, mu, prompt: (batch, 80, frames); speaker: (batch, 80); mask: (batch, 1, frames) or None.

        Returns mel (batch, 80, frames); its values on padding are meaningless.
        """
        given = torch.cat([z, mu, speaker[:, :, None].expand(-1, -1, z.shape[2]), prompt], dim=1)
        if self._recorded is None:
            return self.solver(given, self._time_bias, mask)
        return self._recorded(
            given, self._time_bias, mask
        ).clone()  # the next replay writes to the same memory
