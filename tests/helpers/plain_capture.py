"""Recording that records nothing: each replay calls the function again and puts its result where the first
one was, as a CUDA graph does. For functions whose operators cannot be traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["PlainCapture", "recording"]

Result = TypeVar("Result", bound="Tensor | tuple[Tensor, ...]")


class PlainCapture:
    def __init__(self) -> None:
        self.num_recorded = 0
        self.num_replayed = 0

    def __call__(self, function: Callable[[], Result]) -> Callable[[], Result]:
        self.num_recorded += 1
        result: Result = tree_map(lambda tensor: tensor.clone(), function())

        def replay() -> Result:
            self.num_replayed += 1
            for place, value in zip(tree_leaves(result), tree_leaves(function()), strict=True):
                place.copy_(value)
            return result

        return replay

    def wait(self) -> None:
        """Everything is done at once."""


@contextmanager
def recording(capture: Any) -> Iterator[None]:
    """Engines that are made within the context record with this, as if they were on a GPU."""

    def capture_for(device: torch.device, *, enforce_eager: bool, priority: int = 0) -> Any:
        return None if enforce_eager else capture

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("antiphon.engine.engine.capture_for", capture_for)
        yield
