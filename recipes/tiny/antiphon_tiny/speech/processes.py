"""Work on all cores."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

__all__ = ["process_per_core"]


def process_per_core() -> ProcessPoolExecutor:
    """Processes that compute on one thread each; spawned: forked ones would inherit locks."""
    return ProcessPoolExecutor(
        os.cpu_count(), get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
