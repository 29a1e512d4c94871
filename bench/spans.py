"""Where time goes: spans of code by name, nested as they are entered, separately in each thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import MethodType
from typing import Any

import torch

__all__ = ["Span", "Spans", "replaced"]

Path = tuple[str, ...]


@dataclass
class Span:
    calls: int = 0
    total_s: float = 0.0
    inside_s: float = 0.0
    """The part of it that was spent in spans inside."""

    @property
    def own_s(self) -> float:
        return self.total_s - self.inside_s


class Spans:
    """Adds up spans by the names from the outermost one inwards.

    On a GPU a span waits for the kernels that it launched, so that their time is its own; it is an NVTX range
    there, and a range of torch's profiler wherever that runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.by_path: dict[Path, Span] = {}
        self._lock = threading.Lock()
        self._here = threading.local()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        outer: Path = getattr(self._here, "path", ())
        self._here.path = path = (*outer, name)
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.nvtx.range_push(name)
        start = time.perf_counter()
        try:
            with torch.profiler.record_function(name):
                yield
                if on_gpu and not torch.cuda.is_current_stream_capturing():  # a recording cannot wait
                    torch.cuda.current_stream(self.device).synchronize()
        finally:
            spent_s = time.perf_counter() - start
            if on_gpu:
                torch.cuda.nvtx.range_pop()
            self._here.path = outer
            with self._lock:
                own = self.by_path.setdefault(path, Span())
                own.calls += 1
                own.total_s += spent_s
                if outer:
                    self.by_path.setdefault(outer, Span()).inside_s += spent_s

    def timed(self, function: Callable[..., Any], name: str | Callable[..., str]) -> Callable[..., Any]:
        """The function, with each call as a span. name: may be a function of the call's arguments."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.span(name if isinstance(name, str) else name(*args, **kwargs)):
                return function(*args, **kwargs)

        return call

    def tree(self) -> list[tuple[Path, Span]]:
        """Depth first; of siblings, the longest first."""

        def order(path: Path) -> list[tuple[float, str]]:
            heads = (path[: depth + 1] for depth in range(len(path)))
            return [(-self.by_path[head].total_s, head[-1]) for head in heads]

        return [(path, self.by_path[path]) for path in sorted(self.by_path, key=order)]


@contextmanager
def replaced(
    function: Callable[..., Any], other: Callable[..., Any], *, owner: object = None
) -> Iterator[None]:
    """For the length of the context `other` is called in place of `function`.

    function: a bound method, which only its own object loses, or what `owner`, a class or a module, has under
    the function's name.
    """
    name = function.__name__
    place = function.__self__ if owner is None and isinstance(function, MethodType) else owner
    if getattr(place, name, None) != function:
        raise ValueError(f"{name}: {place!r:.80} has no such function by that name")
    own = vars(place)
    had, before = name in own, own.get(name)
    setattr(place, name, other)
    try:
        yield
    finally:
        if had:
            setattr(place, name, before)
        else:
            delattr(place, name)
