"""The velocity estimator of `unet.py`, run by an engine that `antiphon export` built."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.exported import FLOW, fingerprint
from antiphon.codec.flow.unet import UNet
from antiphon.codec.stopping import stop_point
from antiphon.codec.tensorrt.engine import Context, opened
from antiphon.errors import CheckpointError

__all__ = ["TensorrtUNet"]

NUM_INPUTS = 6


class TensorrtUNet:
    """`UNet.forward` on a GPU; the engine's precision decides how close it comes. It embeds time itself: in
    place of a row of biases, it is given the time.

    What no profile holds, such as an utterance of a minute, is computed by the network in PyTorch, in
    float32. The result lasts until the next call.
    """

    def __init__(self, unet: UNet, folder: Path, device: torch.device) -> None:
        """Raises CheckpointError if the folder has no engine that was made from these weights and runs on
        this device, with the command that builds one; ConfigError if TensorRT is not installed."""
        self._unet = unet
        self.engine = opened(folder, FLOW, fingerprint(unet.params, unet), device)
        inputs, outputs = self.engine.inputs, self.engine.outputs
        if len(inputs) != NUM_INPUTS or len(outputs) != 1:
            raise CheckpointError(
                f"{self.engine.path}: expected {NUM_INPUTS} inputs and one output, found "
                f"{', '.join(inputs)} and {', '.join(outputs)}"
            )
        wrong = [name for name, dtype in self.engine.types.items() if dtype != torch.float32]
        if wrong:
            raise CheckpointError(
                f"{self.engine.path}: expected inputs and outputs of float32, but not {wrong[0]!r}"
            )
        self._names = [*inputs, *outputs]
        most = max(each.rows.most * each.frames.most for each in self.engine.profiles)
        rows = max(each.rows.most for each in self.engine.profiles)
        widths = (MEL_BANDS * most, most, MEL_BANDS * most, rows, MEL_BANDS * rows, MEL_BANDS * most)
        # Each of its own: addresses must be multiples of 256, which a row's is not.
        self._buffers = [torch.zeros(size, device=device) for size in (*widths, MEL_BANDS * most)]

    def __call__(self, x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `UNet.forward`, but time_bias is (1,), the time. The speaker is the same on all frames."""
        rows, _, frames = x.shape
        whole = self._fitting(rows, frames)
        if whole is not None:
            return self._velocity(whole, x, time_bias, mask)
        parts = []
        most = max((each.rows.most for each in self.engine.profiles if frames in each.frames), default=rows)
        masks = (None,) * len(x.split(most)) if mask is None else mask.split(most)
        for part, own in zip(x.split(most), masks, strict=True):
            stop_point()
            context = self._fitting(len(part), frames)
            if context is None:
                parts.append(self._unet(part, self._unet.time_bias(time_bias)[0], own))
            else:
                parts.append(self._velocity(context, part, time_bias, own).clone())
        return torch.cat(parts)

    def _fitting(self, rows: int, frames: int) -> Context | None:
        pairs = zip(self.engine.profiles, self.engine.contexts, strict=True)
        return next((made for each, made in pairs if rows in each.rows and frames in each.frames), None)

    def _velocity(self, context: Context, x: Tensor, time: Tensor, mask: Tensor | None) -> Tensor:
        rows, _, frames = x.shape
        mel, one, row = (rows, MEL_BANDS, frames), (rows, 1, frames), (rows, MEL_BANDS)
        shapes = (mel, one, mel, (rows,), row, mel, mel)
        tensors = [
            flat[: torch.Size(shape).numel()].view(shape)
            for flat, shape in zip(self._buffers, shapes, strict=True)
        ]
        state, valid, mu, t, speaker, prompt, velocity = tensors
        given = x.split(MEL_BANDS, dim=1)
        with self.engine.stream():
            state.copy_(given[0])
            mu.copy_(given[1])
            speaker.copy_(given[2][:, :, 0])
            prompt.copy_(given[3])
            t.copy_(time.expand(rows))
            if mask is None:
                valid.fill_(1.0)
            else:
                valid.copy_(mask)
            context.run(dict(zip(self._names, tensors, strict=True)))
        return velocity
