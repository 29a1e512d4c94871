"""The weights of a network that runs in one call into C++: copied, laid out for its kernels, kept alive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from antiphon.kernels.checks import address, check
from antiphon.kernels.huge_pages import WeightMemory
from antiphon.kernels.linear import CppLinear, PackedAddress

__all__ = ["Convolution", "KeptWeights", "ProductAddress", "check_lengths"]

ProductAddress: TypeAlias = "tuple[PackedAddress, int]"
"""For the C++ kernels: a packed weight, and the address of its bias or 0."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution over frames, or a linear layer: weight (out, in, taps) or (out, in); or (in, out, taps)
    if it is transposed, as PyTorch has it. bias: (out,), or None."""

    weight: Tensor
    bias: Tensor | None


class KeptWeights:
    """The kernels get addresses, which are good as long as this object is there."""

    def __init__(self) -> None:
        self._kept: list[Tensor | CppLinear] = []
        self._memory = WeightMemory()

    def product(self, name: str, layer: Convolution, shape: tuple[int, int, int]) -> ProductAddress:
        """A product with `taps` frames side by side. shape: (out, in, taps) of the weight, in float32, which
        may be (out, in) if there is one tap. Raises ValueError naming what does not fit."""
        weight = layer.weight[:, :, None] if layer.weight.dim() == 2 else layer.weight
        check(f"{name}.weight", weight, torch.float32, shape)
        packed = CppLinear(weight.transpose(1, 2).flatten(1), self._memory)
        self._kept.append(packed)
        return packed.packed, 0 if layer.bias is None else self.vector(f"{name}.bias", layer.bias, shape[0])

    def vector(self, name: str, vector: Tensor, size: int) -> int:
        """Numbers of float32, (size,). Raises ValueError if they are not."""
        check(name, vector, torch.float32, (size,))
        copy = vector.detach().clone(memory_format=torch.contiguous_format)
        self._kept.append(copy)
        return address(copy)


def check_lengths(lengths: Sequence[int], batch: int, frames: int) -> None:
    """How many frames of each row are valid. Raises ValueError unless all are 1 to `frames`."""
    if len(lengths) != batch or not all(0 < length <= frames for length in lengths):
        raise ValueError(f"lengths: expected {batch} numbers of 1 to {frames}, got {list(lengths)}")
