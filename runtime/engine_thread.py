"""The one thread that steps an engine: commands come in by a queue, events go out to mailboxes."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue

import torch

from antiphon.commands import Abort, Add, Close, Command, Leave, Revise
from antiphon.engine import Engine
from antiphon.errors import EngineDead, EngineOverloaded, InvalidRequest
from antiphon.mailbox import Mailbox, ring
from antiphon.ownership import check_process
from antiphon.text.prompt import Prompt
from antiphon.types import Completion, Event, Finished, Request, SamplingParams

__all__ = ["EngineThread"]

NUM_PREPARE_THREADS = 4
"""Requests that are read at a time. Few: they share the interpreter with the engine's thread."""

logger = logging.getLogger("antiphon")


class EngineThread:
    """Runs from construction until `stop`, `close`, the interpreter's exit, or a failure of the engine.

    Public methods may be called from any thread. It sleeps while no request runs, and looks at what
    it was told between steps. Requests are prepared by a few threads beside it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.started_s = time.monotonic()
        self.cause: BaseException | None = None
        """What the engine died of; None while it lives, and when it was closed."""
        # May be put to by a finalizer while its thread is inside the same queue, as `queue.Queue` may not.
        self._inbox: SimpleQueue[Command] = SimpleQueue()
        self._lock = threading.Lock()
        # Under the lock. No finalizer takes it.
        self._has_ended = False
        self._preparing: set[Mailbox] = set()
        # The thread's own.
        self._streams: dict[str, Mailbox] = {}
        self._aborted: set[str] = set()
        """Ids whose last event the engine has yet to tell."""
        self._workers = ThreadPoolExecutor(NUM_PREPARE_THREADS, thread_name_prefix="antiphon-prepare")
        # A daemon, or the interpreter would wait for it before it calls what `atexit` has.
        self._thread = threading.Thread(target=self._run, name="antiphon-engine", daemon=True)
        self._pid = os.getpid()
        engine.hand_over(self._thread)
        self._thread.start()
        atexit.register(self.close)

    @property
    def is_alive(self) -> bool:
        """Whether requests are served."""
        return not self._has_ended and self._pid == os.getpid()

    @property
    def num_preparing(self) -> int:
        """Requests whose files are being read, or wait for it."""
        return len(self._preparing)

    def open(
        self, request: Request, sampling_params: SamplingParams | None, *, is_open: bool = False
    ) -> Mailbox:
        """Have a request prepared and run; its events come to a mailbox of the running event loop.

        What is found wrong with it later comes there too. is_open: its user still speaks, see
        `Engine.open_request`. Raises InvalidRequest, EngineOverloaded or EngineDead.
        """
        self.check_process()
        arrived_s = time.perf_counter()
        if not isinstance(request, Request):
            raise InvalidRequest(f"request: expected a Request, found {type(request).__name__}")
        if sampling_params is not None and not isinstance(sampling_params, SamplingParams):
            raise InvalidRequest(
                f"sampling_params: expected SamplingParams or None, found {type(sampling_params).__name__}"
            )
        # An id that is no string is refused when the request is prepared.
        request_id = request.request_id if isinstance(request.request_id, str) else None
        mailbox = Mailbox(asyncio.get_running_loop(), request_id)
        with self._lock:
            if self._has_ended:
                raise self._dead()
            # Before its files are read: the requests that are being read are what holds most memory.
            num_waiting = len(self._preparing) + self.engine.scheduler.num_waiting
            if num_waiting >= self.engine.config.max_num_waiting:
                raise EngineOverloaded(f"{num_waiting} requests are waiting already")
            prepared = self._workers.submit(self._prepare, mailbox, request, is_open)
            self._preparing.add(mailbox)
        # Outside of the lock: the callback is called here if all is done by now.
        prepared.add_done_callback(partial(self._pass_on, mailbox, request, sampling_params, arrived_s))
        return mailbox

    def leave(self, mailbox: Mailbox) -> None:
        """Nobody reads the mailbox any more. Takes no lock, for finalizers to call it."""
        mailbox.is_over = True
        self._inbox.put(Leave(mailbox))

    def abort(self, request_id: str) -> Future[bool]:
        """Abort a request wherever it is; done when its blocks are free. False: there is none."""
        self.check_process()
        done: Future[bool] = Future()
        with self._lock:
            if self._has_ended:
                done.set_result(False)
            else:
                self._inbox.put(Abort(request_id, done))
        return done

    def revise(
        self, mailbox: Mailbox, units: Sequence[int] | None, *, committed_s: float | None = None
    ) -> Future[None]:
        """Tell the engine what was heard so far of an open request that it has taken, see `Revise`."""
        self.check_process()
        done: Future[None] = Future()
        with self._lock:
            if self._has_ended:
                done.set_exception(self._dead())
            else:
                self._inbox.put(Revise(mailbox, units, done, committed_s))
        return done

    def check_process(self) -> None:
        """Raise EngineDead in a forked child."""
        check_process("engine", self._pid)

    def stop(self) -> None:
        """Have the thread end after its step. Takes no lock, for finalizers to call it."""
        self._inbox.put(Close())

    def close(self) -> None:
        """`stop`, and wait until all threads have ended. In a forked child there are none."""
        if self._pid != os.getpid():
            return
        self.stop()
        self._thread.join()
        self._workers.shutdown(cancel_futures=True)

    # --- in the threads that prepare ------------------------------------------------------------

    def _prepare(self, mailbox: Mailbox, request: Request, is_open: bool) -> Prompt | None:
        if mailbox.is_over:
            return None
        return self.engine.prepare_open(request) if is_open else self.engine.prepare(request)

    def _pass_on(
        self,
        mailbox: Mailbox,
        request: Request,
        sampling_params: SamplingParams | None,
        arrived_s: float,
        prepared: Future[Prompt | None],
    ) -> None:
        if prepared.cancelled():
            return  # by `close`, when every mailbox has its error
        # Whatever it is, it concerns this request alone.
        if (error := prepared.exception()) is None:
            self._inbox.put(Add(mailbox, request, sampling_params, arrived_s, prepared.result()))
            return
        with self._lock:
            self._preparing.discard(mailbox)
        mailbox.fail(error)
        ring([mailbox])

    # --- in the engine's thread -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            if (device := self.engine.model.device).type == "cuda":
                torch.cuda.set_device(device)  # each thread has its own, which begins as GPU 0
            while self._obey():
                if self.engine.has_unfinished():
                    self._step()
        except BaseException as error:
            logger.exception("the engine has failed")
            self.cause = error
        self._end()

    def _obey(self) -> bool:
        """Do what was asked for; sleep while nothing is and nothing runs. False: to close."""
        while True:
            try:
                command = self._inbox.get(block=not self.engine.has_unfinished())
            except Empty:
                return True
            match command:
                case Add():
                    self._add(command)
                case Leave():
                    self._leave(command.mailbox)
                case Abort():
                    found = self._abort(command.request_id)
                    if command.done.set_running_or_notify_cancel():
                        command.done.set_result(found)
                case Revise():
                    self._revise(command)
                case Close():
                    return False

    def _add(self, command: Add) -> None:
        mailbox, request = command.mailbox, command.request
        if request.request_id in self._aborted:
            self._step()  # tells the end of the request that had this id before
        if command.prompt is not None and not mailbox.is_over:
            try:
                request_id = self.engine.add_prepared(
                    request, command.prompt, command.sampling_params, arrived_s=command.arrived_s
                )
            except (InvalidRequest, EngineOverloaded) as error:
                mailbox.fail(error)
                ring([mailbox])
            else:
                mailbox.request_id, mailbox.is_taken = request_id, True
                self._streams[request_id] = mailbox
                if command.prompt.is_open:
                    ring([mailbox])
        # Last: if the engine dies of it, its stream is told like all others.
        with self._lock:
            self._preparing.discard(mailbox)

    def _revise(self, command: Revise) -> None:
        if not command.done.set_running_or_notify_cancel():
            return
        request_id = command.mailbox.request_id
        try:
            # The id may be another's by now, or its end not told yet.
            is_here = request_id is not None and self._streams.get(request_id) is command.mailbox
            if request_id is None or not is_here or request_id in self._aborted:
                raise InvalidRequest("the request has ended")
            if command.committed_s is not None:
                self.engine.commit(request_id, command.units, committed_s=command.committed_s)
            elif command.units is not None:
                self.engine.update_speech(request_id, command.units)
        except InvalidRequest as error:
            command.done.set_exception(error)
        except BaseException as error:
            self.cause = error
            command.done.set_exception(self._dead())
            raise
        else:
            command.done.set_result(None)

    def _leave(self, mailbox: Mailbox) -> None:
        request_id = mailbox.request_id
        # The id may be another's by now.
        if request_id is not None and self._streams.get(request_id) is mailbox:
            del self._streams[request_id]
            self._abort_running(request_id)

    def _abort(self, request_id: str) -> bool:
        with self._lock:
            preparing = [m for m in self._preparing if m.request_id == request_id and not m.is_over]
        for mailbox in preparing:
            mailbox.put([Finished(request_id, Completion(request_id, finish_reason="abort"))])
            mailbox.is_over = True
        ring(preparing)
        return self._abort_running(request_id) or bool(preparing)

    def _abort_running(self, request_id: str) -> bool:
        found = self.engine.abort(request_id)
        if found:
            self._aborted.add(request_id)
        return found

    def _step(self) -> None:
        events = self.engine.step()
        self._aborted.clear()
        self._deliver(events)

    def _deliver(self, events: Iterable[Event]) -> None:
        batches: dict[Mailbox, list[Event]] = {}
        for event in events:
            if (mailbox := self._streams.get(event.request_id)) is not None:
                batches.setdefault(mailbox, []).append(event)
                if isinstance(event, Finished):
                    del self._streams[event.request_id]
        for mailbox, batch in batches.items():
            mailbox.put(batch)
        ring(batches)
        for mailbox in batches:
            if mailbox.is_abandoned:
                self._leave(mailbox)

    def _end(self) -> None:
        """Tell everybody who waits for something, and let go of the engine."""
        with self._lock:
            self._has_ended = True
            mailboxes = [*self._preparing, *self._streams.values()]
            self._preparing.clear()
        for mailbox in mailboxes:
            mailbox.fail(self._dead())
        ring(mailboxes)
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, Abort) and command.done.set_running_or_notify_cancel():
                command.done.set_result(False)
            if isinstance(command, Revise) and command.done.set_running_or_notify_cancel():
                command.done.set_exception(self._dead())
        self.engine.close()
        atexit.unregister(self.close)

    def _dead(self) -> EngineDead:
        """A new one for each that it is raised to: an exception carries one traceback."""
        if self.cause is None:
            return EngineDead("the engine is closed")
        error = EngineDead(f"the engine has failed: {type(self.cause).__name__}: {self.cause}")
        error.__cause__ = self.cause
        return error
