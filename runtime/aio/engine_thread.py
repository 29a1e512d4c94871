"""The one thread that steps an engine: commands come in through a queue, events go out to mailboxes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

import torch

from antiphon.aio.commands import Abort, Add, Close, Command, Commit, Confirm, Leave, UpdateSpeech
from antiphon.aio.mailbox import LOOK_UP_S, Mailbox, ring
from antiphon.aio.subscribers import Subscribers
from antiphon.engine.engine import Engine
from antiphon.errors import EngineDead, InvalidRequest
from antiphon.inputs.copies import plain_options
from antiphon.plain import told
from antiphon.process.at_exit import end_before_exit, start_thread
from antiphon.process.faults import as_exception, log_fault
from antiphon.process.ownership import check_process
from antiphon.process.workers import Workers
from antiphon.prompt import Prompt
from antiphon.types import Completion, Finished, Request, SamplingParams

__all__ = ["EngineThread"]

NUM_PREPARE_THREADS = 4
"""Requests that are read at a time. Few: they share the interpreter with the engine's thread."""

T = TypeVar("T")


class EngineThread:
    """Runs from construction until `stop`, `close`, the interpreter's exit, or a failure of the engine.

    Public methods may be called from any thread. It sleeps while no request runs, and takes commands
    between steps. A few more threads prepare requests.

    However it ends, every caller that waits for something is told. If telling one fails, it finds out by
    itself: mailboxes and `answer` check from time to time whether the thread is alive.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.started_s = time.monotonic()
        self.cause: BaseException | None = None
        """What the engine died of; None while it is alive, and if it was closed."""
        # A finalizer may put to this queue while its thread is inside it; `queue.Queue` would not allow that.
        self._inbox: SimpleQueue[Command] = SimpleQueue()
        self._lock = threading.Lock()
        # What follows changes under the lock, which no finalizer takes.
        self._has_ended = False
        self._preparing: set[Mailbox] = set()
        self._subscribers = Subscribers(engine, self._ring, self._refuse)
        self._workers = Workers(NUM_PREPARE_THREADS, "antiphon-prepare")
        self._listeners: weakref.WeakSet[Workers] = weakref.WeakSet()
        self._has_let_go = False
        """The thread has let go of the engine in order."""
        self._pid = os.getpid()
        self._thread = start_thread(self._run, "antiphon-engine", before=engine.hand_over)
        end_before_exit(self)

    @property
    def is_alive(self) -> bool:
        """Whether requests are served."""
        return not self._has_ended and self._pid == os.getpid() and self._thread.is_alive()

    @property
    def error(self) -> str | None:
        """What the engine died of; None while it is alive, and if it was closed."""
        if self.cause is not None:
            return told(self.cause)
        return None if self._has_ended or self._thread.is_alive() else "the engine's thread has died"

    @property
    def num_preparing(self) -> int:
        """Requests whose files are being read, or wait to be."""
        return len(self._preparing)

    def start(
        self, request: Request, sampling_params: SamplingParams | None, *, is_growing: bool = False
    ) -> Mailbox:
        """Have a request prepared and run; its events come to a mailbox of the running event loop.

        Both arguments are plain, see `client_input`. What is found wrong with the request later comes to the
        mailbox, too. is_growing: its user is still speaking, see `Engine.open_request`. Raises
        EngineOverloaded or EngineDead.
        """
        self.check_process()
        arrived_s = time.perf_counter()
        mailbox = Mailbox(asyncio.get_running_loop(), request.request_id, self._why_nothing_comes)
        with self._lock:
            if not self.is_alive:
                raise self._dead()
            # Before its files are read: requests in preparation hold the most memory.
            self.engine.check_room(len(self._preparing))
            self._preparing.add(mailbox)
            try:
                self._workers.submit(
                    self._prepare_and_pass_on, mailbox, request, sampling_params, arrived_s, is_growing
                )
            except BaseException:
                self._preparing.discard(mailbox)
                raise
        return mailbox

    def leave(self, mailbox: Mailbox) -> None:
        """Nobody reads the mailbox any more. Takes no lock, so that finalizers can call it."""
        mailbox.is_over = True
        self._inbox.put(Leave(mailbox))

    def abort(self, request_id: str) -> Future[bool]:
        """Abort a request wherever it is; done when its blocks are free. False: there is no such request."""
        return self._send_named(Abort(request_id, Future()))

    def confirm(self, request_id: str, confirmed_s: float) -> Future[bool]:
        """Somebody waits for a speculative request. False: there is no such request."""
        return self._send_named(Confirm(request_id, confirmed_s, Future()))

    def update_speech(self, mailbox: Mailbox, units: Sequence[int]) -> Future[None]:
        """Replace the units heard so far of an open request that the engine has taken. `units` are plain."""
        return self._send(UpdateSpeech(mailbox, units, Future()))

    def commit(
        self, mailbox: Mailbox, units: Sequence[int] | None, committed_s: float, *, no_speech: bool
    ) -> Future[None]:
        """The user of such a request has finished, see `Commit`."""
        return self._send(Commit(mailbox, units, Future(), committed_s, no_speech))

    def _send_named(self, command: Abort | Confirm) -> Future[bool]:
        self.check_process()
        with self._lock:
            if not self.is_alive:
                command.done.set_result(False)
            else:
                self._inbox.put(command)
        return command.done

    def _send(self, command: UpdateSpeech | Commit) -> Future[None]:
        self.check_process()
        with self._lock:
            if not self.is_alive:
                command.done.set_exception(self._dead())
            else:
                self._inbox.put(command)
        return command.done

    def check_process(self) -> None:
        """Raise EngineDead in a forked child."""
        check_process("engine", self._pid)

    async def answer(self, done: Future[T]) -> T:
        """The result of a command. Raises EngineDead if the thread dies without an answer."""
        answer = asyncio.wrap_future(done)
        while not answer.done():
            is_over = not self._thread.is_alive()
            await asyncio.wait([answer], timeout=LOOK_UP_S)
            if is_over and not answer.done():
                answer.cancel()
                raise self._dead()
        return answer.result()

    def listener(self) -> Workers:
        """A thread for the audio of one session, which ends with the engine at the latest."""
        listener = Workers(1, "antiphon-listen")
        with self._lock:
            self._listeners.add(listener)
            if self._has_ended:
                listener.stop()
        return listener

    def stop(self) -> None:
        """Have the thread end after its step. Takes no lock, so that finalizers can call it."""
        self._inbox.put(Close())

    def close(self) -> None:
        """`stop`, and wait until all threads have ended. Does nothing in a forked child, which has none."""
        if self._pid != os.getpid():
            return
        self.stop()
        if threading.current_thread() is self._thread:
            return
        self._thread.join()
        with self._lock:
            workers = [self._workers, *self._listeners]
        for each in workers:
            each.stop()  # again, in case the thread could not
        if not self._has_let_go:
            self._guarded(self.engine.close)
        for each in workers:
            each.join()

    # --- in the threads that prepare ------------------------------------------------------------

    def _prepare_and_pass_on(
        self,
        mailbox: Mailbox,
        request: Request,
        sampling_params: SamplingParams | None,
        arrived_s: float,
        is_growing: bool,
    ) -> None:
        # Whatever is raised concerns this request alone.
        try:
            prompt = self._prepare(mailbox, request, is_growing)
            # Without its content, so that what a client gave is let go of, and finalized, in this thread.
            self._pass_on(Add(mailbox, plain_options(request), sampling_params, arrived_s, prompt))
        except BaseException as error:  # noqa: BLE001
            self._refuse(mailbox, error)

    def _prepare(self, mailbox: Mailbox, request: Request, is_growing: bool) -> Prompt | None:
        if mailbox.is_over:
            return None
        try:
            return self.engine.prepare(request, is_growing=is_growing)
        except Exception:
            raise
        except BaseException as error:  # from a picture's or sound's own code: it must not end the event loop
            raise InvalidRequest(f"request: it cannot be read: {told(error)}") from error

    def _pass_on(self, command: Add) -> None:
        self._inbox.put(command)

    def _refuse(self, mailbox: Mailbox, error: BaseException) -> None:
        """End a request with an error, wherever it is. May run in any thread."""
        mailbox.is_over = True  # if it was passed on, the engine does not take it
        with self._lock:
            self._preparing.discard(mailbox)
        mailbox.fail(as_exception(error))
        self._ring([mailbox])

    def _ring(self, mailboxes: Iterable[Mailbox]) -> None:
        try:
            ring(mailboxes)
        except BaseException as error:  # noqa: BLE001 - from a client's event loop; its readers look by themselves
            log_fault("an event loop could not be woken", error=error)

    # --- in the engine's thread -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            if (device := self.engine.model.device).type == "cuda":
                torch.cuda.set_device(device)  # each thread has its own current device, at first GPU 0
            while self._obey():
                if self.engine.has_unfinished():
                    self._subscribers.step()
        except BaseException as error:  # noqa: BLE001 - everybody is told
            self._die(error)
            log_fault("the engine has failed", error=error)
        try:
            self._end()
        except BaseException as error:  # noqa: BLE001 - readers find out by themselves
            self._die(error)
            log_fault("the engine could not be ended in order", error=error)

    def _die(self, error: BaseException) -> None:
        with self._lock:
            self.cause = self.cause or error
            self._has_ended = True

    def _obey(self) -> bool:
        """Carry out the commands; sleep while there are none and nothing runs. False: it is to close."""
        while True:
            try:
                command = self._inbox.get(block=not self.engine.has_unfinished())
            except Empty:
                return True
            match command:
                case Add():
                    self._add(command)
                case Leave():
                    self._subscribers.leave(command.mailbox)
                case Abort():
                    self._answer(command.done, partial(self._abort, command.request_id))
                case Confirm():
                    self._answer(command.done, partial(self._confirm, command))
                case UpdateSpeech():
                    self._answer(command.done, partial(self._subscribers.update_speech, command))
                case Commit():
                    self._answer(command.done, partial(self._subscribers.commit, command))
                case Close():
                    return False

    def _answer(self, done: Future[T], call: Callable[[], T]) -> None:
        """Carry out a command, and answer it. A request that is refused concerns nobody else."""
        is_wanted = done.set_running_or_notify_cancel()
        try:
            answer = call()
        except InvalidRequest as error:
            if is_wanted:
                done.set_exception(error)
        except BaseException as error:
            self._die(error)
            if is_wanted:
                done.set_exception(self._dead())
            raise
        else:
            if is_wanted:
                done.set_result(answer)

    def _add(self, command: Add) -> None:
        self._subscribers.add(command)
        # Last: if the engine fails meanwhile, `_end` tells this mailbox as it tells all others.
        with self._lock:
            self._preparing.discard(command.mailbox)

    def _abort(self, request_id: str) -> bool:
        with self._lock:
            preparing = [m for m in self._preparing if m.request_id == request_id and not m.is_over]
        for mailbox in preparing:
            mailbox.put([Finished(request_id, Completion(request_id, finish_reason="abort"))])
            mailbox.is_over = True
        ring(preparing)
        return self._subscribers.abort(request_id) or bool(preparing)

    def _confirm(self, command: Confirm) -> bool:
        with self._lock:
            preparing = [m for m in self._preparing if m.request_id == command.request_id and not m.is_over]
        for mailbox in preparing:
            mailbox.confirmed_s = command.confirmed_s
        return self._subscribers.confirm(command.request_id, command.confirmed_s) or bool(preparing)

    def _end(self) -> None:
        """Tell everybody who is waiting for something, and let go of the engine."""
        with self._lock:
            self._has_ended = True
            mailboxes = [*self._preparing, *self._subscribers.mailboxes]
            self._preparing.clear()
            listeners = list(self._listeners)
        ends: list[Callable[[], object]] = [
            *(partial(mailbox.fail, self._dead()) for mailbox in mailboxes),
            partial(self._ring, mailboxes),
            self._refuse_commands,
            self._workers.stop,
            *(listener.stop for listener in listeners),
        ]
        for end in ends:
            self._guarded(end)
        self._guarded(self.engine.close)
        self._has_let_go = True

    def _guarded(self, end: Callable[[], object]) -> None:
        try:
            end()
        except BaseException as error:  # noqa: BLE001 - the rest has to be done all the same
            log_fault("ending the engine failed in part", error=error)

    def _refuse_commands(self) -> None:
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, (Abort, Confirm)) and command.done.set_running_or_notify_cancel():
                command.done.set_result(False)
            if isinstance(command, (UpdateSpeech, Commit)) and command.done.set_running_or_notify_cancel():
                command.done.set_exception(self._dead())

    def _why_nothing_comes(self) -> Exception | None:
        """For readers; None while the thread is alive."""
        return None if self._thread.is_alive() else self._dead()

    def _dead(self) -> EngineDead:
        """A new error for each caller that gets one: an exception carries one traceback."""
        if (reason := self.error) is None:
            return EngineDead("the engine is closed")
        error = EngineDead(f"the engine has failed: {reason}")
        error.__cause__ = self.cause
        return error
