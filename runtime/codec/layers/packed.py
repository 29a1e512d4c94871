"""Linear layers and convolutions on (batch, frames, channels), with weights laid out once for oneDNN.

PyTorch passes a weight to oneDNN in its plain layout, so oneDNN reorders it in every call; with a hundred
frames, that costs as much as the product. Here the weight is reordered once, when it is loaded. Frames come
before channels, so that neither a convolution nor a linear layer after it needs a transposition.

If oneDNN is not built in, or cannot compute in this precision, plain PyTorch computes the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PackedConv", "PackedLinear", "has_onednn"]

HINT_ROWS = 128
"""Number of rows that the layout of a weight is chosen for; it works for any number."""
OPS = (
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_convolution_pointwise",
    "_convolution_transpose_pointwise",
    "_reorder_convolution_weight",
    "_reorder_convolution_transpose_weight",
)


def has_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights of this kind can be packed for oneDNN, using operators of `torch.compile`'s backend."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in OPS):
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class PackedLinear:
    """x W^T + b, then the exact GELU if `gelu`. Input and output are in `dtype`."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        *,
        gelu: bool = False,
        onednn: bool | None = None,
    ) -> None:
        """weight: (out, in); bias: (out,). onednn: None to use it if possible."""
        self.onednn = has_onednn(weight.device, dtype) if onednn is None else onednn
        self.gelu = gelu
        self.bias = None if bias is None else bias.to(dtype)
        weight = weight.to(dtype).contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, HINT_ROWS) if self.onednn else weight

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, frames, in) to (batch, frames, out)"""
        if self.onednn:
            activation, algorithm = ("gelu", "none") if self.gelu else ("none", "")
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self.weight, self.bias, activation, [], algorithm
            )
            return out
        out = F.linear(x, self.weight, self.bias)
        return F.gelu(out) if self.gelu else out

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual` (batch, frames, out), float32, plus the layer's result; may reuse its memory."""
        if self.onednn and residual.dtype == x.dtype:
            out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x, residual, self.weight, self.bias, "add"
            )
            return out
        return residual.add_(self(x))


class PackedConv:
    """A convolution over frames, transposed or not. Input and output are in `dtype`."""

    def __init__(
        self, conv: nn.Conv1d | nn.ConvTranspose1d, dtype: torch.dtype, *, onednn: bool | None = None
    ) -> None:
        """onednn: None to use it if possible."""
        self.transposed = isinstance(conv, nn.ConvTranspose1d)
        (stride,), (dilation,) = conv.stride, conv.dilation
        (padding,) = (int(part) for part in conv.padding)
        assert conv.groups == 1 and not any(conv.output_padding), "no convolution of the codec is grouped"
        self.stride, self.dilation, self.padding = [1, stride], [1, dilation], [0, padding]
        weight = conv.weight.to(dtype)[:, :, None]
        self.onednn = has_onednn(weight.device, dtype) if onednn is None else onednn
        self.bias = None if conv.bias is None else conv.bias.to(dtype)
        if self.onednn:
            ops, size = torch.ops.mkldnn, [1, conv.in_channels, 1, HINT_ROWS]
            if self.transposed:
                weight = ops._reorder_convolution_transpose_weight(
                    weight, self.padding, [0, 0], self.stride, self.dilation, 1, size
                )
            else:
                weight = ops._reorder_convolution_weight(
                    weight, self.padding, self.stride, self.dilation, 1, size
                )
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, frames, in) to (batch, frames', out)"""
        # Height 1 and channels last, which is how the frames are laid out.
        image = x.mT[:, :, None]
        if self.onednn:
            image = self._by_onednn(image)
        elif self.transposed:
            image = F.conv_transpose2d(
                image, self.weight, self.bias, self.stride, self.padding, dilation=self.dilation
            )
        else:
            image = F.conv2d(image, self.weight, self.bias, self.stride, self.padding, self.dilation)
        return image[:, :, 0].mT.contiguous()

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual` (batch, frames', out), float32, plus the result, in `residual`'s memory."""
        if self.onednn and not self.transposed and residual.dtype == x.dtype:
            torch.ops.mkldnn._convolution_pointwise_.binary(
                residual.mT[:, :, None],
                x.mT[:, :, None],
                self.weight,
                self.bias,
                self.padding,
                self.stride,
                self.dilation,
                1,
                "add",
                1.0,
                None,
                [],
                None,
            )
            return residual
        return residual.add_(self(x))

    def _by_onednn(self, image: Tensor) -> Tensor:
        ops = torch.ops.mkldnn
        if self.transposed:
            out: Tensor = ops._convolution_transpose_pointwise(
                image,
                self.weight,
                self.bias,
                self.padding,
                [0, 0],
                self.stride,
                self.dilation,
                1,
                "none",
                [],
                "",
            )
        else:
            out = ops._convolution_pointwise(
                image, self.weight, self.bias, self.padding, self.stride, self.dilation, 1, "none", [], ""
            )
        return out
