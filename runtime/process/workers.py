"""A few threads that run queued calls. None is left behind by a fault or at the interpreter's end."""

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
    """Runs calls in the order in which they came, on as many threads as are needed, `max_threads` at most.

    `ThreadPoolExecutor` will not do: at the interpreter's end it runs everything that is queued; a call that
    no thread can be started for stays queued, though `submit` has raised; and a SystemExit in a call comes
    out of its future and ends the event loop that waits for it.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        # A finalizer can put to a SimpleQueue, whatever it interrupts.
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._num_open = 0
        """Calls that are waiting or running."""
        self._is_stopped = False
        end_before_exit(self)

    @property
    def is_stopped(self) -> bool:
        """Whether no more calls are started."""
        return self._is_stopped

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """A future of the call's result, or of its error, which is always an Exception.

        Raises EngineDead after `stop`, and EngineOverloaded if not a single thread can be started.
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
            if self.is_stopped:  # just now: the threads may be gone, and nothing would end a new one
                self._refuse_waiting()
                self.stop()
        return future

    def stop(self) -> None:
        """Start no more calls; those that are waiting get EngineDead. Takes no lock, so finalizers may call
        it."""
        self._is_stopped = True
        for _ in range(self._max_threads):
            self._calls.put(None)

    def join(self, timeout_s: float | None = None) -> None:
        """After `stop`: wait for the calls that are running."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        """Settle the calls that are waiting, after `stop`."""
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
            return  # the threads that exist will run it
        self._threads.append(thread)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # so that what it holds is not kept while this waits
            with self._lock:
                self._num_open -= 1


def _settle(future: Future[Any], call: Callable[[], Any] | None) -> None:
    """Run the call and settle its future. Whatever the call does, the thread goes on."""
    if not future.set_running_or_notify_cancel():
        return
    error: BaseException | None = EngineDead("the engine is closed")
    result = None
    if call is not None:
        try:
            result, error = call(), None
        except BaseException as raised:  # noqa: BLE001 - it belongs to whoever waits for the result
            error = as_exception(raised)
    with suppress(BaseException):  # from callbacks; the future is settled by then
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
