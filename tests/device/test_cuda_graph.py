"""Recordings, with a stand-in for CUDA that fails where a GPU would."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
import torch
from fake_cuda import FakeCuda
from torch import Tensor

from antiphon.device.cuda_graph import NUM_WARM_UPS, CudaCapture

SECOND = torch.device("cuda", 1)


def test_recorded_on_a_stream_of_its_device(cuda: FakeCuda) -> None:
    """From a thread whose current GPU is another one, as it is at first."""
    seen = []

    def function() -> Tensor:
        seen.append((cuda.current.index, cuda.current_stream()))
        return torch.ones(2)

    replay = CudaCapture(SECOND)(function)
    assert [index for index, _ in seen] == [1] * (NUM_WARM_UPS + 1)
    assert cuda.recorded_on[0].index == 1
    assert cuda.current.index == 0
    assert torch.equal(replay(), torch.ones(2))


def test_one_stream_for_all_recordings_of_one_and_another_for_another(cuda: FakeCuda) -> None:
    """A stream of each recording would hold memory and a workspace of its own, 32 times over."""
    one, other = CudaCapture(SECOND), CudaCapture(SECOND)
    kept = [capture(lambda: torch.ones(1)) for capture in (one, one, other, one)]
    assert len(cuda.streams) == 2
    assert cuda.recorded_on == [cuda.streams[i] for i in (0, 0, 1, 0)]
    assert len(kept) == 4


def test_one_recording_at_a_time_in_the_process(cuda: FakeCuda) -> None:
    """As when a second engine starts while the first one's vocoder meets a new size."""
    faults = []

    def function() -> Tensor:
        time.sleep(0.002)
        return torch.ones(1)

    def run() -> None:
        try:
            capture = CudaCapture(torch.device("cuda", 0))
            for _ in range(4):
                capture(function)
        except BaseException as error:  # noqa: BLE001 - told below
            faults.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(cuda.recorded_on) == 12


def test_goes_on_after_all_its_recordings_were_dropped(cuda: FakeCuda) -> None:
    """A pool ends with its last graph: the next recording into it once failed an assertion of torch."""
    capture = CudaCapture(SECOND)
    first, second = (capture(lambda: torch.ones(1)) for _ in range(2))
    dropped = weakref.ref(second)
    del first, second
    gc.collect()
    assert dropped() is None
    assert capture(lambda: torch.ones(3))().shape == (3,)


def test_a_recording_that_fails_leaves_the_next_one_possible(cuda: FakeCuda) -> None:
    capture = CudaCapture(SECOND)
    calls = iter(range(9))

    def function() -> Tensor:
        if next(calls) == NUM_WARM_UPS:
            raise MemoryError
        return torch.ones(1)

    with pytest.raises(MemoryError):
        capture(function)
    assert torch.equal(capture(function)(), torch.ones(1))
