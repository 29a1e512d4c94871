"""What one thread may do while another records a graph, as the vocoder's does beside the model's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import torch

from antiphon.bench.device.figures import Figure, Machine
from antiphon.device.cuda_graph import CudaCapture
from antiphon.device.current import Streams

__all__ = ["capture"]

NUM_RECORDINGS = 10


def capture(machine: Machine) -> Iterator[Figure]:
    """Steps of this thread while another records; and recordings after all earlier ones were dropped."""
    if machine.device.type != "cuda":
        return
    faults: list[str] = []
    recorder = CudaCapture(machine.device)
    small = torch.ones(256, 256, device=machine.device)

    def chain() -> torch.Tensor:
        y = small
        for _ in range(300):
            y = (y @ small).relu() * 1e-3
        return y

    def record() -> None:
        try:
            with Streams(machine.device).one(), torch.inference_mode():
                for _ in range(NUM_RECORDINGS):
                    recorder(chain)()
        except Exception as error:  # noqa: BLE001 - told as a figure
            faults.append(f"recording: {type(error).__name__}: {error}")

    weight, x = machine.randn(4096, 4096), machine.randn(8, 4096)
    thread = threading.Thread(target=record)
    thread.start()
    steps = []
    while thread.is_alive():
        start = time.perf_counter()
        try:
            (x @ weight).sum().item()
            torch.ones(64, pin_memory=True).to(machine.device, non_blocking=True)
        except Exception as error:  # noqa: BLE001
            faults.append(f"computing: {type(error).__name__}: {error}")
            break
        steps.append(1e3 * (time.perf_counter() - start))
    thread.join()
    steps.sort()
    yield Figure("faults of recording beside a computing thread", len(faults), "", 0, "; ".join(faults)[:500])
    if steps:
        yield Figure("step beside a recording, median", steps[len(steps) // 2], "ms")
        yield Figure("step beside a recording, longest", steps[-1], "ms")
