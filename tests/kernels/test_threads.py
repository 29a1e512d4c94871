"""The C++ kernels' threads: how many there are shows in no result, nor does who calls at the same time."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch
from torch import Tensor

from antiphon.bench.busy import busy_processes
from antiphon.kernels import _C, linear, set_num_threads
from antiphon.kernels.threads import openmp_threads

Draw = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = _C.num_threads()
    yield
    set_num_threads(before)


def test_the_number_does_not_count(randn: Draw) -> None:
    """Up and down again: helpers that are not wanted stay out of it."""
    product, x = linear(randn(500, 300), backend="cpp"), randn(100, 300)
    set_num_threads(1)
    expected = product(x)
    for count in (2, 5, 3, 1, 4):
        set_num_threads(count)
        assert _C.num_threads() == count
        for _ in range(10):
            assert torch.equal(product(x), expected)


def test_there_is_always_one() -> None:
    set_num_threads(0)
    assert _C.num_threads() == 1


def test_callers_at_the_same_time(randn: Draw) -> None:
    """One of them gets the helpers, the others work alone."""
    set_num_threads(3)
    weights = [randn(400, 200, seed=i) for i in range(4)]
    x = randn(50, 200)
    expected = [linear(weight, backend="cpp")(x) for weight in weights]
    wrong: list[int] = []

    def call(i: int) -> None:
        product = linear(weights[i], backend="cpp")
        wrong.extend(i for _ in range(100) if not torch.equal(product(x), expected[i]))

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.slow
def test_on_cores_that_others_use(randn: Draw) -> None:
    """Where helpers are taken off their cores in the middle of a chunk, results are the same, and no caller
    waits for a helper that was not called. Whether one rests meanwhile is the system's affair, and not seen
    here."""
    set_num_threads(os.cpu_count() or 1)
    product, x = linear(randn(2000, 500), backend="cpp"), randn(30, 500)
    expected = product(x)
    with busy_processes(os.cpu_count() or 1):
        ends = time.monotonic() + 2
        while time.monotonic() < ends:
            assert torch.equal(product(x), expected)
            time.sleep(random.choice((0, 0.0001, 0.001)))  # helpers spin, fall asleep or are asleep


@pytest.mark.slow
def test_a_forked_child_has_threads_of_its_own() -> None:
    """Its parent's are not there any more, and must not be waited for."""
    code = """
import os, torch
from antiphon.kernels import linear, set_num_threads
from antiphon.kernels.threads import openmp_threads
set_num_threads(3)
product, x = linear(torch.randn(400, 200), backend="cpp"), torch.randn(50, 200)
expected = product(x)
child = os.fork()
same = all(torch.equal(product(x), expected) for _ in range(20))
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_torch_beside_the_kernels() -> None:
    """One thread's number is changed, for a while; threads that begin meanwhile have theirs."""
    before = torch.get_num_threads()
    elsewhere: list[int] = []
    with openmp_threads(before + 2):
        inside = torch.get_num_threads()
        thread = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        with openmp_threads(None):
            assert torch.get_num_threads() == inside
        with openmp_threads(1):
            assert torch.get_num_threads() == 1
        with suppress(RuntimeError), openmp_threads(1):
            raise RuntimeError
        assert torch.get_num_threads() == inside
    assert inside == (before + 2 if torch.backends.openmp.is_available() else before)
    assert elsewhere == [before]
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_importing_starts_no_threads() -> None:
    code = """
import threading, os
import antiphon, antiphon.kernels
from antiphon.kernels import _C
assert threading.active_count() == 1
before = len(os.listdir("/proc/self/task"))
_C.rms_norm(0, 0, 0, 0, 0, 1e-5)
assert len(os.listdir("/proc/self/task")) == before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
