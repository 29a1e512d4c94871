"""The velocity estimator of `unet.py`, run by onnxruntime from a file that `antiphon export flow` wrote."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.exported import FLOW, fingerprint, flow_file, open_network
from antiphon.codec.flow.unet import UNet
from antiphon.codec.stopping import stop_point

__all__ = ["OnnxUNet"]

MAX_SCORE_BYTES = 2**29
"""Of the scores of one attention, which take the most memory: rows that would take more go one after the
other."""


class OnnxUNet:
    """`UNet.forward` on the CPU; the file's precision decides how close it comes. It embeds time itself: in
    place of a row of biases, it is given the time."""

    def __init__(self, unet: UNet, folder: Path, num_threads: int | None = None) -> None:
        """num_threads: None for all that may compute. Raises CheckpointError if the folder has no file that
        was made from these weights."""
        path = flow_file(folder)
        mel, row = [None, MEL_BANDS, None], [None, MEL_BANDS]
        self._num_heads = unet.params.num_heads
        self._network = open_network(
            path,
            FLOW,
            fingerprint(unet.params, unet),
            [mel, [None, 1, None], mel, [None], row, mel],
            num_threads,
        )

    def __call__(self, x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `UNet.forward`, but time_bias is (1,), the time. The speaker is the same on all frames."""
        batch, _, frames = x.shape
        most = max(1, MAX_SCORE_BYTES // (4 * self._num_heads * frames * frames))
        valid = x.new_ones(batch, 1, frames) if mask is None else mask
        parts = []
        for rows, own in zip(x.split(most), valid.split(most), strict=True):
            stop_point()
            state, mu, speaker, prompt = rows.split(MEL_BANDS, dim=1)
            given = (state, own, mu, time_bias.expand(len(rows)), speaker[:, :, 0], prompt)
            parts.append(torch.from_numpy(self._network.run(*(each.numpy() for each in given))))
        return torch.cat(parts)
