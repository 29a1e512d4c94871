"""Counts the kernels that Triton compiles while requests are served, each of which holds up all of them."""

from __future__ import annotations

import threading
from typing import Any

from antiphon.kernels.registry import triton_available

__all__ = ["LateCompiles"]


class LateCompiles:
    """From `start` to `stop`, `count` is the number of variants that were compiled, or loaded from Triton's
    files, by any thread of the process. Without Triton it stays 0."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._is_counting = False

    def start(self) -> None:
        """The hook that others may have set is called as before."""
        self._is_counting = True
        if not triton_available():
            return
        import triton

        before = triton.knobs.runtime.jit_post_compile_hook
        if isinstance(before, _Hook):  # of another engine of this process: one hook serves all
            before.counters.append(self)
        else:
            triton.knobs.runtime.jit_post_compile_hook = _Hook(before, [self])

    def stop(self) -> None:
        self._is_counting = False
        if not triton_available():
            return
        import triton

        hook = triton.knobs.runtime.jit_post_compile_hook
        if isinstance(hook, _Hook) and self in hook.counters:
            hook.counters.remove(self)
            if not hook.counters:
                triton.knobs.runtime.jit_post_compile_hook = hook.before

    def add(self) -> None:
        if self._is_counting:
            with self._lock:
                self.count += 1


class _Hook:
    def __init__(self, before: Any, counters: list[LateCompiles]) -> None:
        self.before = before
        self.counters = counters

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for counter in list(self.counters):
            counter.add()
        return None if self.before is None else self.before(*args, **kwargs)
