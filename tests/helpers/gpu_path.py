"""The way of a GPU, taken on a CPU: each op by Triton where it can, and what would be launched is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from antiphon.kernels import checks, registry

__all__ = ["counting_launches", "take_gpu_path"]

ALLOCATE = {"empty", "new_empty", "empty_like"}


def take_gpu_path(patch: pytest.MonkeyPatch) -> None:
    """Each op by Triton where it can, by torch where not; what is looked at on a CPU alone is not."""

    def choose(op: str, device: torch.device, dtype: torch.dtype) -> str:
        has_it = "triton" in registry.backends(op) and registry.takes(op, "triton", device, dtype)
        return "triton" if has_it else "torch"

    patch.setattr(registry, "choose", choose)
    patch.setattr(checks, "values_are_at_hand", lambda _: False)
    module = import_module("antiphon.kernels.decoder_layers")  # beside which there is the op of that name
    patch.setattr(module, "_products_add", lambda _: True)


@contextmanager
def counting_launches() -> Iterator[Counter[str]]:
    """Counts Triton kernels, which compute nothing and leave zeros, and operators, which compute."""
    from triton.runtime.interpreter import GridExecutor

    counted = _Operators()
    empty = torch.empty

    def launch(executor: Any, *args: Any, **kwargs: Any) -> None:
        counted.launches[executor.fn.__name__] += 1

    def zeros(*args: Any, **kwargs: Any) -> Tensor:
        with counted.paused():
            return empty(*args, **kwargs).fill_(0)

    with pytest.MonkeyPatch.context() as patch, counted:
        patch.setattr(GridExecutor, "__call__", launch)
        patch.setattr(torch, "empty", zeros)
        yield counted.launches


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: Counter[str] = Counter()
        self._is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._is_paused = True
        yield
        self._is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts an operator that computes: it writes to what it was given, or makes memory of its own."""
        result = func(*args, **kwargs or {})
        name = func.overloadpacket.__name__
        writes = any(each.alias_info and each.alias_info.is_write for each in func._schema.arguments)
        computes = writes or not _storages(result) <= _storages((args, kwargs))
        if computes and name not in ALLOCATE and not self._is_paused:
            self.launches[name] += 1
        return result


def _storages(tree: Any) -> set[int]:
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return {leaf.untyped_storage().data_ptr() for leaf in leaves}
