"""Hypothesis profiles (HYPOTHESIS_PROFILE=ci draws the same examples every time), one thread for all, and no
network for any."""

from __future__ import annotations

import os
from collections.abc import Iterator

import network_guard
import pytest
import torch
from hypothesis import settings

import antiphon  # noqa: F401  # before any test imports onnxruntime, whose telemetry it switches off

network_guard.watch()

# Without a GPU the Triton kernels run in its interpreter, which has to be chosen before triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# No deadlines: the machines that run these tests are shared, and time is no test result.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models of the tests are small: threads that wait for each other cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """What was refused in another thread, or swallowed, is told here."""
    yield
    attempts = network_guard.forget_attempts()
    assert not attempts, f"the test reached for the network: {', '.join(attempts)}"
