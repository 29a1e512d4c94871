"""A convolution over the frames of a ragged batch: each row is convolved as it would be alone.

Frames come before channels, so a linear layer may follow without a transposition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from antiphon.kernels.checks import FLOATS, check, check_integer, check_range
from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.registry import on_triton_floats, register, resolve, triton_available

__all__ = ["masked_conv", "masked_conv_reference", "valid_frames"]


def masked_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None = None,
    *,
    stride: int = 1,
    mask_output: bool = False,
    backend: str | None = None,
) -> Tensor:
    """x (rows, frames, in), weight (taps, out, in), bias (out) -> (rows, ceil(frames / stride), out)

    Frame t of the result sees the taps' frames around frame t * stride of x; taps must be odd. Frames before
    the first one and from the row's length on count as zero. x is in weight's dtype or in float32, and is
    rounded to weight's dtype. Bias and result are float32, or float64 if weight is.
    lengths: (rows,) int32, valid frames of each row; None: all are valid.
    mask_output: the result is zero on frames that are not valid; otherwise it is the bias and what the last
        valid frames add to it.

    Raises ValueError naming the argument whose shape, dtype or device does not fit.
    """
    stride = check_integer("stride", stride, 1)
    check("weight", weight, FLOATS, ("taps", "out", "in"))
    taps, out_channels, in_channels = weight.shape
    if taps % 2 == 0:
        raise ValueError(f"weight: expected an odd number of taps, got {tuple(weight.shape)}")
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    dtypes = (weight.dtype,) if weight.dtype == wide else (weight.dtype, wide)
    check("x", x, dtypes, ("rows", "frames", in_channels), ("weight", weight), note=" on {device}")
    check("bias", bias, wide, (out_channels,), ("x", x), note=" on {device}")
    if lengths is not None:
        check("lengths", lengths, torch.int32, x.shape[:1], ("x", x), note=" on {device}")
        check_range("lengths", lengths, 0, x.shape[1])
    if type(mask_output) is not bool:
        raise ValueError(f"mask_output: expected a bool, got {mask_output!r:.40}")
    conv = resolve("masked_conv", backend, x.device, weight.dtype, x, weight, bias)
    out: Tensor = conv(x, weight, bias, lengths, stride, mask_output)
    return out


@register("masked_conv", "triton", is_available=triton_available, supports=on_triton_floats)
def _masked_conv_triton(
    x: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, stride: int, mask_output: bool
) -> Tensor:
    from antiphon.kernels.triton.masked_conv import masked_conv as launch

    return launch(x, weight, bias, lengths, stride, mask_output)


@register("masked_conv", "torch")
def masked_conv_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: Tensor | None = None,
    stride: int = 1,
    mask_output: bool = False,
) -> Tensor:
    rows, frames, in_channels = x.shape
    taps, out_channels, _ = weight.shape
    if not frames:
        return at_least_float32(x.new_empty(rows, 0, out_channels, dtype=weight.dtype))
    valid = None if lengths is None else valid_frames(lengths, frames)
    if valid is not None:
        x = x.masked_fill(~valid, 0)
    padded = F.pad(at_least_float32(x.to(weight.dtype)), (0, 0, taps // 2, taps // 2))
    windows = padded.unfold(1, taps, stride)  # (rows, frames', in, taps)
    kernel = at_least_float32(weight).permute(2, 0, 1).reshape(in_channels * taps, out_channels)
    out = windows.reshape(rows, windows.shape[1], in_channels * taps) @ kernel + bias
    return out.masked_fill(~valid[:, ::stride], 0) if mask_output and valid is not None else out


def valid_frames(lengths: Tensor, frames: int) -> Tensor:
    """(rows, frames, 1), True on the first `lengths` frames of each row"""
    return (torch.arange(frames, device=lengths.device) < lengths[:, None])[:, :, None]
