"""Precision on a GPU. The settings can be read and written without one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from antiphon.device.place import exact_float32, sum_in_float32

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
MATMUL = torch.backends.cuda.matmul
REDUCED = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


@pytest.fixture
def reduced() -> Iterator[None]:
    before = {name: getattr(MATMUL, name) for name in REDUCED}
    for name in REDUCED:
        setattr(MATMUL, name, True)
    yield
    for name, value in before.items():
        setattr(MATMUL, name, value)


@pytest.mark.usefixtures("reduced")
def test_sums_stay_in_float32_from_the_start_on() -> None:
    sum_in_float32(CPU)
    assert all(getattr(MATMUL, name) for name in REDUCED)
    sum_in_float32(CUDA)
    assert not any(getattr(MATMUL, name) for name in REDUCED)


@pytest.mark.parametrize("allowed", [True, False])
def test_other_code_may_look_at_the_precision_meanwhile(allowed: bool) -> None:
    """In any thread: torch's older switches once raised there, while speech was made."""
    faults = []

    def look() -> None:
        try:
            assert not torch.backends.cudnn.allow_tf32
            assert not MATMUL.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                assert not torch.backends.cudnn.allow_tf32
        except BaseException as error:  # noqa: BLE001 - told below
            faults.append(error)

    def settings() -> tuple[Any, ...]:
        cudnn: Any = torch.backends.cudnn
        precisions = [place.fp32_precision for place in (MATMUL, cudnn.conv, cudnn.rnn)]
        return cudnn.allow_tf32, torch.get_float32_matmul_precision(), *precisions

    before = settings()
    try:
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
        given = settings()
        with exact_float32(CUDA):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert not faults
        assert settings() == given
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = before[0]
        MATMUL.fp32_precision = before[2]
    assert settings() == before


def test_where_others_have_made_the_switches_differ_they_stay() -> None:
    cudnn: Any = torch.backends.cudnn
    try:
        cudnn.conv.fp32_precision = "ieee"
        with exact_float32(CUDA):
            assert cudnn.conv.fp32_precision == cudnn.rnn.fp32_precision == "ieee"
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("ieee", "tf32")
    finally:
        cudnn.allow_tf32 = True
