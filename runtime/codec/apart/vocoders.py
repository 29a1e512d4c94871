"""Processes that make speech, and a thread for each that starts another when it ends."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch

from antiphon.codec.apart.process import VocoderProcess
from antiphon.codec.apart.stream import StreamApart
from antiphon.codec.batches import Ladder
from antiphon.codec.codec import Codec
from antiphon.codec.voices import Voice
from antiphon.config import StreamSchedule
from antiphon.device.dtypes import DTYPES
from antiphon.errors import AntiphonError, EngineDead
from antiphon.plain import told
from antiphon.process.at_exit import EXIT_WAIT_S, end_before_exit, start_thread
from antiphon.process.forking import num_threads

__all__ = ["Vocoders"]

MAX_FAILED_STARTS = 3
"""Processes that may end one after the other before their codec is loaded; then speech that waits fails."""
LOOK_UP_S = 0.1
"""How often it is checked whether a process is loaded, or all are closed."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 30.0
"""Before another is started, if the last one has made nothing."""

logger = logging.getLogger("antiphon.vocoder")


class _Slot:
    """The place of one process, and of those that follow it."""

    def __init__(self, codec: Mapping[str, Any]) -> None:
        self.codec = codec
        self.process: VocoderProcess | None = None
        self.num_fruitless = 0
        """Processes that have ended one after the other without having made anything."""
        self.num_failed_starts = 0
        """Those of them that were never ready."""
        self.last_words = ""
        self.bell: SimpleQueue[None] = SimpleQueue()
        """Rings when all are closed. A finalizer can put to it, whatever it interrupts."""

    @property
    def pause_s(self) -> float:
        """Before another process is started in this place."""
        if not self.num_fruitless:
            return 0.0
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.num_fruitless, 20))


class Vocoders:
    """A codec's decoder in processes of its own. Each computes what it is given and keeps nothing, so that
    any may go on with what another has begun, or was killed in."""

    def __init__(
        self,
        codec: Codec,
        folder: str | os.PathLike[str],
        devices: Sequence[torch.device],
        backend: str,
        *,
        enforce_eager: bool,
    ) -> None:
        """Starts the processes; `wait_ready` waits until they are loaded.

        codec: the same in this process, without networks. folder: where each loads its own from. devices:
        that of each process; backend, enforce_eager: as for `Codec.from_pretrained`. Each uses as many
        threads as this process would, since what torch computes may depend on that in the last bits.

        Raises EngineDead if one cannot be started.
        """
        self._codec = codec
        self._slots = [
            _Slot(
                {
                    "folder": str(Path(folder).absolute()),
                    "device": str(device),
                    "dtype": next(name for name, dtype in DTYPES.items() if dtype == codec.dtype),
                    "backend": backend,
                    "enforce_eager": enforce_eager,
                    "num_threads": num_threads() if device.type == "cpu" else None,
                }
            )
            for device in devices
        ]
        self.num_restarts = 0
        """Processes that were started in place of others."""
        self.ladder: Ladder | None = None
        self.max_batch_frames = 0
        self._lock = threading.Lock()
        self._is_loaded = threading.Event()
        self._is_closed = False
        self._pid = os.getpid()
        self._threads: list[threading.Thread] = []
        end_before_exit(self)
        try:
            for slot in self._slots:
                slot.process = VocoderProcess(slot.codec)
                self._threads.append(start_thread(partial(self._keep, slot), "antiphon-vocoder"))
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                raise EngineDead(f"a vocoder's process cannot be started: {told(error)}") from error
            raise

    @property
    def num_lanes(self) -> int:
        """How many batches are made at a time."""
        return len(self._slots)

    def wait_ready(self) -> None:
        """Wait until all are loaded. If one cannot be, closes all and raises CheckpointError, ConfigError or
        EngineDead."""
        try:
            for slot in self._slots:
                process = slot.process
                assert process is not None, "each slot has had a process since it was made"
                while not process.is_ready(LOOK_UP_S):
                    pass
                assert process.about is not None
                self.max_batch_frames = process.about["max_batch_frames"]
                if (ladder := process.about["ladder"]) is not None:
                    self.ladder = Ladder(tuple(ladder["rows"]), tuple(ladder["frames"]))
            self._is_loaded.set()
        except BaseException:
            self.close()
            raise

    # --- for those who make speech ------------------------------------------------------------

    def stream(self, voice: Voice, seed: int, schedule: StreamSchedule) -> StreamApart:
        """An utterance that they will speak."""
        return StreamApart(self._codec.params.flow, voice, seed, schedule)

    def lane(self) -> VocoderProcess | None:
        """A process to ask, until `release`; None: none is free and ready."""
        with self._lock:
            for process in self._processes():
                if not process.is_taken and _is_ready(process):
                    process.is_taken = True
                    return process
        return None

    def release(self, lane: VocoderProcess) -> None:
        """Others may ask it now."""
        lane.is_taken = False

    @property
    def failure(self) -> str | None:
        """Why no speech can be made: none of the last processes could be loaded. None while one may be."""
        for slot in self._slots:
            if slot.num_failed_starts < MAX_FAILED_STARTS:
                return None
            if (process := slot.process) is not None and _is_ready(process):
                slot.num_failed_starts = 0
                return None
        return f"no vocoder's process can be started: {self._slots[0].last_words}"

    @property
    def num_rows(self) -> list[int | None]:
        """Of each process: the requests whose speech it is making; None while it is being loaded."""
        return [
            process.num_rows if (process := slot.process) is not None and _is_ready(process) else None
            for slot in self._slots
        ]

    @property
    def pids(self) -> list[int]:
        """The system's numbers of those that run."""
        return [process.pid for process in self._processes() if process.is_alive]

    def stop(self) -> None:
        """End the processes. Takes no lock, so finalizers may call it. Does nothing in a forked child."""
        if self._pid != os.getpid():
            return
        self._is_closed = True
        for slot in self._slots:
            slot.bell.put(None)
        for process in self._processes():
            process.stop()

    def close(self) -> None:
        """`stop`, and wait for their ends."""
        if self._pid != os.getpid():
            return
        self.stop()
        deadline_s = time.monotonic() + EXIT_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _processes(self) -> list[VocoderProcess]:
        return [slot.process for slot in self._slots if slot.process is not None]

    # --- in the thread of a slot --------------------------------------------------------------

    def _keep(self, slot: _Slot) -> None:
        """Follow the slot's process to its end, and start another, until all are stopped."""
        while True:
            if (process := slot.process) is not None:
                if self._is_closed:  # `stop` may have come before it was in its slot
                    process.stop()
                process.follow()
                while not self._is_loaded.wait(LOOK_UP_S):  # else `wait_ready` says why it has ended
                    if self._is_closed:
                        return
                if not self._is_closed:
                    _note_end(slot, process)
            with suppress(Empty):
                slot.bell.get(timeout=slot.pause_s)
            if self._is_closed:
                return
            try:
                slot.process = VocoderProcess(slot.codec)
            except Exception as error:  # noqa: BLE001 - the system's limits
                slot.process, slot.last_words = None, told(error)
                slot.num_fruitless += 1
                slot.num_failed_starts += 1
            else:
                self.num_restarts += 1


def _is_ready(process: VocoderProcess) -> bool:
    try:
        return process.is_alive and process.is_ready()
    except AntiphonError:  # it ends
        return False


def _note_end(slot: _Slot, process: VocoderProcess) -> None:
    try:
        process.is_ready()  # it may have said why it ends
        slot.last_words = process.last_words()
    except AntiphonError as error:
        slot.last_words = str(error)
    slot.num_failed_starts = 0 if process.about is not None else slot.num_failed_starts + 1
    slot.num_fruitless = 0 if process.has_answered else slot.num_fruitless + 1
    logger.warning("a vocoder's process is started again: %s", slot.last_words)
