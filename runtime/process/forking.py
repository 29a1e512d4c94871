"""What a forked child inherits: its parent's memory, and none of its threads but the one that forked.

Three things in that memory wait for threads that are gone. OpenMP (GCC's) keeps a team for each thread that
ever computed: the forking thread's is dismissed before the fork. If that was impossible, since no code of
ours was loaded to do it, that thread computes alone in the child. An onnxruntime session waits in its
destructor, so it is never destroyed. And what belongs to an engine of the parent is refused (`ownership`).
The pool of the C++ kernels looks after itself.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from pathlib import Path

import torch

from antiphon.errors import ConfigError
from antiphon.kernels.threads import openmp_library, set_num_threads
from antiphon.process.cores import within_quota
from antiphon.process.origin import FIRST_PID, TORCH_CAME_FIRST

__all__ = ["check_device", "keep_in_children", "make_ready", "num_threads", "num_threads_of_quota"]

OMP_PAUSE_SOFT = 1
PF_FORKNOEXEC = 0x40
"""One of Linux's process flags: the process was forked, and has not begun another program."""


class _Process:
    """What is known about this process, as opposed to any engine."""

    def __init__(self) -> None:
        self.ready_pid: int | None = None
        """The process in which OpenMP is known to work, in any thread."""
        self.lone_thread: int | None = None
        """The thread that has lost its team, and torch's threads with it."""
        self.num_threads = 1
        self.has_hooks = False
        self.is_dismissed = False
        """Whether the team of the thread that forks was dismissed."""
        self.immortals: weakref.WeakSet[object] = weakref.WeakSet()

    def make_ready(self) -> None:
        if not self.has_hooks:
            self.has_hooks = True
            os.register_at_fork(before=self._before_fork, after_in_child=self._in_child)
        if self.ready_pid != os.getpid():
            if self._may_have_lost_team():
                self._compute_alone()
            count = torch.get_num_threads() if self.lone_thread is None else self.num_threads
            if within_quota(count) < count:
                set_num_threads(within_quota(count))
            self.ready_pid = os.getpid()

    def _may_have_lost_team(self) -> bool:
        names = openmp_library()
        if names is None or hasattr(names, "kmp_set_blocktime"):
            return False  # LLVM's and Intel's OpenMP start afresh in a child
        return os.getpid() != FIRST_PID or (TORCH_CAME_FIRST and _was_forked())

    def _compute_alone(self) -> None:
        self.lone_thread = threading.get_ident()
        self.num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        # For threads that begin later, which have no team to lose.
        setter = threading.Thread(target=torch.set_num_threads, args=(self.num_threads,))
        setter.start()
        setter.join()

    def _before_fork(self) -> None:
        names = openmp_library()
        self.is_dismissed = (
            self.ready_pid == os.getpid()
            and self.lone_thread != threading.get_ident()
            and names is not None
            and hasattr(names, "omp_pause_resource_all")
            and names.omp_pause_resource_all(OMP_PAUSE_SOFT) == 0
        )

    def _in_child(self) -> None:
        if self.is_dismissed:
            self.ready_pid, self.lone_thread = os.getpid(), None
        for immortal in self.immortals:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(immortal))


_process = _Process()


def make_ready() -> None:
    """Make sure that torch can compute in this process, and in those forked from it. Whoever makes an engine
    or a codec calls this before computing anything."""
    _process.make_ready()


def num_threads() -> int:
    """How many threads may compute, this one included: torch's number, or fewer under a CPU quota."""
    _process.make_ready()
    alone = _process.lone_thread == threading.get_ident()
    return within_quota(_process.num_threads if alone else torch.get_num_threads())


def num_threads_of_quota() -> int | None:
    """How many of torch's threads a CPU quota leaves; None: all."""
    count = torch.get_num_threads()
    return within_quota(count) if within_quota(count) < count else None


def keep_in_children(session: object) -> None:
    """Never destroy the session in a child that is forked while it lives."""
    _process.immortals.add(session)


def check_device(device: torch.device) -> None:
    """Raise ConfigError for a GPU in a child of a process that used one."""
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ConfigError(
            "device: a GPU cannot be used in a process forked from one that used it; "
            "start processes by 'spawn' or 'forkserver'"
        )


def _was_forked() -> bool:
    """Whether this process was forked by the program that it runs. True if the system cannot tell."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        flags = int(stat.rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return sys.platform != "linux"
    return bool(flags & PF_FORKNOEXEC)
