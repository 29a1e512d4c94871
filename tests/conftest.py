"""Hypothesis profiles (HYPOTHESIS_PROFILE=ci draws the same examples every time), one thread per process,
no network, and the option --cases."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import network_guard
import pytest
import torch
from hypothesis import settings

import antiphon  # noqa: F401  # before any test imports onnxruntime, whose telemetry it switches off

network_guard.watch()

# A process that a shell without job control starts in the background ignores Ctrl-C, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Without a GPU, Triton kernels run in its interpreter, which has to be chosen before triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# No deadlines: the machines that run these tests are shared, and a slow test is no failure.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases",
        type=int,
        metavar="N",
        help="run at most N cases of each parametrized test, spread over all of them",
    )


@pytest.hookimpl(trylast=True)  # to choose from what -k and -m leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    most = config.getoption("--cases")
    if most is None:
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = {item for group in cases.values() for item in spread(group, most)}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def spread(group: list[pytest.Item], most: int) -> list[pytest.Item]:
    """The middles of `most` equal parts of a list; all of a list that is not longer."""
    count = min(most, len(group))
    return [group[(2 * part + 1) * len(group) // (2 * count)] for part in range(count)]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The tests' models are small: threads that wait for each other cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Fails for attempts that were refused in another thread, or whose error was swallowed."""
    yield
    attempts = network_guard.forget_attempts()
    assert not attempts, f"the test reached for the network: {', '.join(attempts)}"
