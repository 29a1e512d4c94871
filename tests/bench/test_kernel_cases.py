"""The benchmarks of the kernels, on small sizes: every op has one, its counts are right, and what is compared
computes the same."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from antiphon.bench.kernels.case import Case, Setting
from antiphon.bench.kernels.ctc_collapse import numpy_by_frame, numpy_by_row, vectorised
from antiphon.bench.sizes import Sizes, model_configs, read_sizes
from antiphon.kernels import backends, ctc_collapse, ops

SIZES = Sizes(
    hidden=32,
    intermediate=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    num_layers=2,
    num_top_layers=2,
    text_vocab=100,
    num_units=40,
)
SETTING = Setting(SIZES, torch.float32, torch.device("cpu"))


def cases(op: str) -> Iterator[Case]:
    found: Iterator[Case] = importlib.import_module(f"antiphon.bench.kernels.{op}").cases(SETTING)
    return found


def small_cases(op: str) -> list[Case]:
    return [case for case in cases(op) if case.num_bytes < 4 << 20]


def num_bytes(values: object) -> int:
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    if isinstance(values, (tuple, list)):
        return sum(num_bytes(value) for value in values)
    return 0


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("op", ops())
def test_every_op_has_a_benchmark(op: str) -> None:
    found = list(cases(op))
    assert found
    assert len({case.shape for case in found}) == len(found)
    assert all(case.num_bytes > 0 and case.num_ops >= 0 for case in found)


@pytest.mark.parametrize("op", ops())
def test_backends_and_references_agree(op: str) -> None:
    for case in small_cases(op)[:2]:
        expected = tensors(case.call(*seeded_inputs(case, "torch"), backend="torch"))
        for name in set(backends(op)) - {"torch", "triton"}:
            agree(tensors(case.call(*seeded_inputs(case, name), backend=name)), expected)
        if case.reference is not None:
            agree(tensors(case.reference(*seeded_inputs(case, "torch")))[:1], expected[:1])


def seeded_inputs(case: Case, backend: str) -> tuple[Any, ...]:
    torch.manual_seed(1)
    return case.inputs(backend)


def tensors(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [value for value in result if isinstance(value, Tensor)] if isinstance(result, tuple) else []


def agree(found: list[Tensor], expected: list[Tensor]) -> None:
    for own, right in zip(found, expected, strict=True):
        if own.is_floating_point() and right.is_floating_point():
            torch.testing.assert_close(own, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "op", ["argmax", "masked_group_norm", "rms_norm", "rms_norm_residual", "silu_mul", "snake"]
)
def test_bytes_are_those_of_inputs_and_outputs(op: str) -> None:
    weights = {"masked_group_norm": 2 * 256, "snake": 256}  # of channels: too few to be counted
    for case in small_cases(op):
        inputs = case.inputs("torch")
        moved = num_bytes(inputs) + num_bytes(case.call(*inputs, backend="torch"))
        assert moved - 4 * weights.get(op, 0) <= case.num_bytes <= moved


def test_bytes_and_operations_of_a_product() -> None:
    for case in small_cases("linear"):
        rows, n, m = map(int, case.shape.split(",")[0].split(" x "))
        x, weight = case.inputs("torch")
        assert x.shape == (rows, n)
        assert (weight.in_features, weight.out_features) == (n, m)
        assert case.num_bytes == num_bytes(x) + weight.num_bytes + 4 * rows * m
        assert case.num_ops == 2 * rows * n * m


def test_bytes_of_collapse_count_what_is_kept() -> None:
    case = small_cases("ctc_collapse")[0]
    torch.manual_seed(0)
    labels, cu_seqlens, blank = case.inputs("torch")
    found = ctc_collapse(labels, cu_seqlens, blank)
    torch.manual_seed(0)
    [again, *_] = list(cases("ctc_collapse"))
    assert again.num_bytes == num_bytes((labels, cu_seqlens, *found))


@pytest.mark.parametrize("other", [numpy_by_frame, numpy_by_row, vectorised])
def test_collapse_is_compared_with_what_does_the_same(other: Any) -> None:
    for case in small_cases("ctc_collapse"):
        inputs = case.inputs("torch")
        for own, right in zip(other(*inputs), ctc_collapse(*inputs), strict=True):
            assert torch.equal(torch.as_tensor(own), right)


def test_labels_are_like_those_of_speech() -> None:
    labels, cu_seqlens, blank = list(cases("ctc_collapse"))[2].inputs("torch")
    kept = len(ctc_collapse(labels, cu_seqlens, blank).ids)
    assert 0.1 < kept / len(labels) < 0.2  # some 4.5 text tokens a second of 25 labels
    assert 0.4 < (labels == blank).float().mean() < 0.8


def test_sizes_are_read_from_configs() -> None:
    assert read_sizes("8b").head_dim == 128
    assert read_sizes("8b").vocab == 132352
    assert model_configs() == ["8b", "97m"]
    with pytest.raises(ValueError, match="config: expected one of 8b, 97m, got '9b'"):
        read_sizes("9b")


def test_the_released_size_has_the_parameters_of_the_release() -> None:
    sizes = read_sizes("8b")
    kv = sizes.num_kv_heads * sizes.head_dim
    layer = sizes.hidden * (2 * sizes.hidden + 2 * kv + 3 * sizes.intermediate)
    assert round(2 * (3 * layer) / 1e9, 2) == 1.31  # GB of the bottom layers in 16 bits
