"""Weights side by side: none overlaps another, wherever they lie products are the same."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from antiphon.kernels import linear
from antiphon.kernels.huge_pages import BLOCK_BYTES, CACHE_LINE, HUGE_PAGE, WeightMemory
from antiphon.kernels.linear import CppLinear
from antiphon.kernels.quantized import quantize_int8

DTYPES = (torch.uint8, torch.float16, torch.float32)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5000), st.sampled_from(DTYPES)), max_size=30))
def test_no_weight_touches_another(wanted: list[tuple[int, int, torch.dtype]]) -> None:
    memory = WeightMemory()
    weights = [memory.empty((rows, columns), dtype) for rows, columns, dtype in wanted]
    for number, weight in enumerate(weights):
        weight.fill_(number)
    for number, (weight, (rows, columns, dtype)) in enumerate(zip(weights, wanted, strict=True)):
        assert weight.shape == (rows, columns) and weight.dtype == dtype and weight.is_contiguous()
        assert weight.data_ptr() % CACHE_LINE == 0
        assert (weight == number).all()


def test_weights_follow_each_other_from_a_huge_page_on() -> None:
    memory = WeightMemory()
    first, second = (memory.empty((1024, 512), torch.uint8) for _ in range(2))
    assert first.data_ptr() % HUGE_PAGE == 0
    assert second.data_ptr() == first.data_ptr() + first.nbytes


def test_what_does_not_fit_begins_a_block_and_what_is_large_has_its_own() -> None:
    memory = WeightMemory()
    quarter = BLOCK_BYTES // 4
    parts = [memory.empty((quarter,), torch.uint8) for _ in range(5)]
    large = memory.empty((quarter + 1,), torch.uint8)
    after = memory.empty((8,), torch.uint8)
    storages = [part.untyped_storage().data_ptr() for part in parts]
    assert len(set(storages[:4])) == 1 and storages[4] != storages[0]
    assert large.untyped_storage().data_ptr() not in storages and large.data_ptr() % HUGE_PAGE == 0
    assert after.untyped_storage().data_ptr() == storages[4], "the block goes on"


def test_weights_outlive_the_memory_they_were_taken_from() -> None:
    memory = WeightMemory()
    first, second = (memory.empty((8,), torch.uint8).fill_(number) for number in (1, 2))
    del memory
    gc.collect()
    assert (first == 1).all() and (second == 2).all()


@pytest.mark.best_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_product_is_the_same_wherever_its_weight_lies(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(70, 130), torch.randn(3, 130)
    given_weight = quantize_int8(weight) if dtype == torch.int8 else weight.to(dtype)
    memory = WeightMemory()
    together = [linear(given_weight, backend="cpp", memory=memory) for _ in range(2)]
    alone = linear(given_weight, backend="cpp")
    storages = set()
    for product in together:
        assert isinstance(product, CppLinear)
        storages.add(product.panels.untyped_storage().data_ptr())
        assert torch.equal(product(x), alone(x))
    assert len(storages) == 1
