"""Hypothesis profiles (HYPOTHESIS_PROFILE=ci draws the same examples every time), one thread per process,
no network, the CPU for what names no device, and the options --cases, --share, --long-part and --on-gpu."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import network_guard
import pytest
import torch
from hypothesis import settings

import antiphon  # noqa: F401  # before any test imports onnxruntime, whose telemetry it switches off

T = TypeVar("T")

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
    parser.addoption(
        "--share",
        type=int,
        metavar="N",
        help="run one in N tests of each file, at least one, spread over the file",
    )
    parser.addoption(
        "--long-part",
        type=part,
        metavar="K/N",
        help="of the tests that are marked long, run the K-th of N parts",
    )
    parser.addoption(
        "--on-gpu",
        action="store_true",
        help="engines and codecs that name no device run on the GPU, where there is one",
    )


def part(text: str) -> tuple[int, int]:
    """Which one, from 0, and of how many."""
    which, _, count = text.partition("/")
    if not (which.isdecimal() and count.isdecimal() and 1 <= int(which) <= int(count)):
        raise ValueError
    return int(which) - 1, int(count)


@pytest.hookimpl(trylast=True)  # to choose from what -k and -m leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    most, share = config.getoption("--cases"), config.getoption("--share")
    chosen = list(items)
    if (long_part := config.getoption("--long-part")) is not None:
        which, count = long_part
        functions = grouped([item for item in items if item.get_closest_marker("long")], function_of)
        elsewhere = {
            item for index, tests in enumerate(functions) if index % count != which for item in tests
        }
        chosen = [item for item in chosen if item not in elsewhere]
    if most is not None:
        chosen = [item for group in grouped(chosen, function_of) for item in spread(group, most)]
    if share is not None:
        for_files = (grouped(group, function_of) for group in grouped(chosen, lambda item: str(item.path)))
        chosen = [
            item for tests in for_files for test in spread(tests, -(-len(tests) // share)) for item in test
        ]
    kept = set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def function_of(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def grouped(items: list[pytest.Item], key: Callable[[pytest.Item], str]) -> list[list[pytest.Item]]:
    """The items by their key, in the order in which the keys come."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def spread(group: list[T], most: int) -> list[T]:
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


@pytest.fixture(scope="session", autouse=True)
def auto_is_the_cpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where there is a GPU, it is for the tests that name it. Engines and codecs of the device "auto", here
    and in processes that tests start, run on the CPU, for which results are given to the last bit."""
    if request.config.getoption("--on-gpu") or not torch.cuda.is_available():
        yield
        return
    torch.cuda.init()
    torch.cuda.device_count()  # kept from here on, when only other processes lose sight of the GPU
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("antiphon.device.place._automatic", lambda: torch.device("cpu"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Fails for attempts that were refused in another thread, or whose error was swallowed."""
    yield
    attempts = network_guard.forget_attempts()
    assert not attempts, f"the test reached for the network: {', '.join(attempts)}"


@pytest.fixture
def own_threads() -> Callable[[], set[threading.Thread]]:
    """Gives our threads that run and were started in this test. Engines of other tests may still be there."""

    def ours() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("antiphon")}

    others = ours()
    return lambda: ours() - others
