"""A few threads that work off calls, and that neither the interpreter's end nor a fault leaves behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from antiphon.errors import EngineDead, EngineOverloaded
from antiphon.plain import told
from antiphon.process.at_exit import end_before_exit, start_thread
from antiphon.process.faults import as_exception

__all__ = ["Workers"]

P = ParamSpec("P")
R = TypeVar("R")


class Workers:
    """Calls in the order in which they came, on as many threads as are needed, `max_threads` at most.

    Where `ThreadPoolExecutor` would not do: at the interpreter's end it works off all that waits; a call that
    no thread can be started for stays queued, though `submit` has raised; a SystemExit in a call comes out of
    its future, and ends the event loop that waits for it.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        # A simple one can be put to by a finalizer, in the middle of anything.
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._num_open = 0
        """Calls that wait or run."""
        self._is_stopped = False
        end_before_exit(self)

    @property
    def is_stopped(self) -> bool:
        """Whether no call is begun any more."""
        return self._is_stopped

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """The call's result to come, or its error, which is an Exception.

        Raises EngineDead after `stop`, EngineOverloaded where not one thread can be started.
        """
        future: Future[R] = Future()
        with self._lock:
            if self._is_stopped:
                raise EngineDead("the engine is closed")
            self._num_open += 1
            try:
                self._have_threads()
            except BaseException:
                self._num_open -= 1
                raise
            call = partial(function, *args, **kwargs)
            self._calls.put(lambda: _settle(future, None if self._is_stopped else call))
            if self.is_stopped:  # meanwhile: the threads may be gone, and a new one has nothing to end it
                self._refuse_waiting()
                self.stop()
        return future

    def stop(self) -> None:
        """Begin no call any more; those that wait get EngineDead. Takes no lock, for finalizers."""
        self._is_stopped = True
        for _ in range(self._max_threads):
            self._calls.put(None)

    def join(self, timeout_s: float | None = None) -> None:
        """After `stop`: wait for the calls that run."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        """Settle what waits, once it was stopped."""
        num_ends = 0
        with suppress(Empty):
            while True:
                if (call := self._calls.get_nowait()) is not None:
                    call()
                else:
                    num_ends += 1
        for _ in range(num_ends):
            self._calls.put(None)

    def _have_threads(self) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= min(self._max_threads, self._num_open):
            return
        try:
            thread = start_thread(self._run, self._name)
        except Exception as error:
            if not self._threads:
                raise EngineOverloaded(f"no thread can be started to read it: {told(error)}") from error
            return  # those that are there do it, one after the other
        self._threads.append(thread)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # whatever it holds is not wanted while this waits
            with self._lock:
                self._num_open -= 1


def _settle(future: Future[Any], call: Callable[[], Any] | None) -> None:
    """Whatever the call does, the future is done and the thread goes on."""
    if not future.set_running_or_notify_cancel():
        return
    error: BaseException | None = EngineDead("the engine is closed")
    result = None
    if call is not None:
        try:
            result, error = call(), None
        except BaseException as raised:  # noqa: BLE001 - it belongs to whoever waits for the result
            error = as_exception(raised)
    with suppress(BaseException):  # of callbacks, which are told by then
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
