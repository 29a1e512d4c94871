"""The current GPU of a thread and its stream, with a stand-in for CUDA."""

from __future__ import annotations

import threading

import pytest
import torch
from fake_cuda import FakeCuda, FakeStream

from antiphon.device.current import Streams, current_device
from antiphon.device.place import resolve_device
from antiphon.errors import ConfigError
from antiphon.process.forking import check_device

CPU = torch.device("cpu")


def test_current_within_the_context(cuda: FakeCuda) -> None:
    with current_device(torch.device("cuda", 1)):
        assert cuda.current.index == 1
        with current_device(CPU):
            assert cuda.current.index == 1
    assert cuda.current.index == 0


def test_a_gpu_without_a_number_is_the_current_one_from_then_on(cuda: FakeCuda) -> None:
    with current_device(torch.device("cuda", 1)):
        found = [resolve_device(name) for name in ("cuda", torch.device("cuda"), "cuda:0", "cpu")]
    assert [str(device) for device in found] == ["cuda:1", "cuda:1", "cuda:0", "cpu"]


def test_a_forked_child_of_a_process_that_used_a_gpu_is_told_so(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not what torch says of a current device that is asked for there."""
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(ConfigError, match="a GPU cannot be used in a process forked from one that used it"):
        check_device(resolve_device("auto"))


def test_threads_one_after_the_other_share_a_stream(cuda: FakeCuda) -> None:
    streams, used = Streams(torch.device("cuda", 1)), []

    def run() -> None:
        with streams.one():
            used.append((cuda.current.index, cuda.current_stream()))

    for _ in range(5):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert used == [(1, cuda.streams[0])] * 5
    assert len(cuda.streams) == 1


def test_threads_side_by_side_have_one_each(cuda: FakeCuda) -> None:
    streams, used = Streams(torch.device("cuda", 0)), list[FakeStream]()
    both = threading.Barrier(2, timeout=30)

    def run() -> None:
        with streams.one():
            used.append(cuda.current_stream())
            both.wait()

    for _ in range(3):
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(cuda.streams) == len(set(map(id, used))) == 2


def test_a_thread_that_dies_gives_its_stream_back(cuda: FakeCuda) -> None:
    streams = Streams(torch.device("cuda", 0))
    for _ in range(3):
        with pytest.raises(KeyError), streams.one():
            raise KeyError
    assert len(cuda.streams) == 1


def test_nothing_on_a_cpu(cuda: FakeCuda) -> None:
    with Streams(CPU).one():
        assert not cuda.streams
