"""Recording as a CUDA graph does it, on any device.

As there, operators on tensors are recorded: a replay runs no Python, so decisions made while recording stay
as they were, all other tensors are those of the recording, and reading a value is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["FxCapture"]

Result = TypeVar("Result", bound="Tensor | tuple[Tensor, ...]")


class FxCapture:
    def __init__(self) -> None:
        self.num_recorded = 0
        self.num_replayed = 0

    def __call__(self, function: Callable[[], Result]) -> Callable[[], Result]:
        self.num_recorded += 1
        function()  # recorded after a first call, as for a CUDA graph
        graph = make_fx(function)()
        result: Result = tree_map(torch.empty_like, graph())

        def replay() -> Result:
            self.num_replayed += 1
            for place, value in zip(tree_leaves(result), tree_leaves(graph()), strict=True):
                place.copy_(value)
            return result

        return replay

    def wait(self) -> None:
        """Everything is done at once."""
