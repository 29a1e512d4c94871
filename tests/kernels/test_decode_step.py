"""A step in one call computes what the ops that it is made of compute, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from antiphon.kernels import linear, quantize_int8
from antiphon.kernels.argmax_head import argmax_head
from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.decode_step import DecodeStep, WindowEntries, runs_natively
from antiphon.kernels.decoder_layers import decoder_layers
from antiphon.kernels.decoder_stack import DecoderGeometry, DecoderLayer, DecoderLayers
from antiphon.kernels.fusion_attention import FusionBatch, fusion_cache_write
from antiphon.kernels.linear import Linear
from antiphon.kernels.quantized import QuantizedWeight
from antiphon.kernels.quantized_cache import Caches
from antiphon.kernels.registry import cpp_available
from antiphon.kernels.rope import rope_table

pytestmark = pytest.mark.skipif(not cpp_available(), reason="needs the C++ kernels")

HIDDEN, HEADS, KV_HEADS, SIZE, VOCAB, WINDOW, LAYERS = 72, 4, 2, 20, 130, 3, 2
GEOMETRY = DecoderGeometry(HEADS, KV_HEADS, SIZE, 1e-5)
FORMATS = ("float32", "bfloat16", "float16", "int8", "int8 of both")


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


generator = torch.Generator().manual_seed(5)
COS_SIN = rope_table(10000.0 ** -(torch.arange(0, SIZE, 2) / SIZE), 64, torch.device("cpu"))


def stored(matrix: Tensor, format_: str) -> Tensor | QuantizedWeight:
    if format_.startswith("int8"):
        return quantize_int8(matrix, dynamic=format_ != "int8")
    dtype: torch.dtype = getattr(torch, format_)
    return matrix.to(dtype)


def rows_of(table: Tensor | QuantizedWeight, ids: Sequence[int]) -> Tensor:
    places = torch.tensor(ids)
    return table.embed(places) if isinstance(table, QuantizedWeight) else table[places].float()


class Stack:
    """Layers with fusion, a head and tables in one format, and two equal caches: one for each way."""

    def __init__(self, format_: str) -> None:
        def product(out: int, in_: int) -> Linear:
            return linear(stored(random(out, in_) / in_**0.5, format_), backend="cpp")

        width = HEADS * SIZE
        layers = [
            DecoderLayer(
                input_norm=random(HIDDEN),
                qkv=product((HEADS + 2 * KV_HEADS) * SIZE, HIDDEN),
                o=product(HIDDEN, width),
                post_norm=random(HIDDEN),
                gate_up=product(2 * 96, HIDDEN),
                down=product(HIDDEN, 96),
                fusion_q=product(width, HIDDEN),
                fusion_o=product(HIDDEN, width),
            )
            for _ in range(LAYERS)
        ]
        self.table = stored(random(VOCAB, HIDDEN), format_)
        self.layers: DecoderLayers = decoder_layers(layers, random(HIDDEN), GEOMETRY, COS_SIN, backend="cpp")
        self.head = product(VOCAB, HIDDEN)
        self.to_entries = product(LAYERS * 2 * width, HIDDEN)
        numbers = random(2, LAYERS, 9, 4, KV_HEADS, SIZE)
        self.caches: list[list[Caches]] = [
            [(keys, values) for keys, values in numbers.clone().transpose(0, 1)] for _ in range(2)
        ]
        windows = random(6, WINDOW, LAYERS, 2, width)
        self.windows = [windows.clone(), windows.clone()]


POSITIONS, TABLES = [5, 0, 11, 3], [[2, 7], [4], [1, 0, 8], [3]]
SLOTS = [7 * 4 + 1, 4 * 4, 8 * 4 + 3, -1]
IDS = [VOCAB - 1, 0, 17, 17]


def batch() -> AttentionBatch:
    widest = max(map(len, TABLES))
    return AttentionBatch(
        positions=torch.tensor(POSITIONS, dtype=torch.int32),
        slot_mapping=torch.tensor(SLOTS),
        cu_seqlens_q=torch.arange(len(IDS) + 1, dtype=torch.int32),
        context_lens=torch.tensor([position + 1 for position in POSITIONS], dtype=torch.int32),
        block_table=torch.tensor([row + [0] * (widest - len(row)) for row in TABLES], dtype=torch.int32),
    )


@pytest.mark.parametrize("format_", FORMATS)
def test_it_equals_the_ops_it_is_made_of(format_: str) -> None:
    stack = Stack(format_)
    assert runs_natively(stack.layers, stack.head, stack.to_entries)
    fused, rows, valid = [0, 2, 3], [5, 0, 2], [3, 1, 0]
    kept = torch.zeros(7, HIDDEN)
    step = DecodeStep(
        stack.table, stack.layers, stack.head, stack.caches[0], kept=kept, windows=stack.windows[0]
    )
    found = step(
        IDS,
        POSITIONS,
        SLOTS,
        TABLES,
        keep=[6, 1, 3, 0],
        fused_tokens=fused,
        fused_rows=rows,
        fused_valid=valid,
    )
    fusion = FusionBatch(
        tokens=torch.tensor(fused),
        rows=torch.tensor(rows),
        num_valid=torch.tensor(valid, dtype=torch.int32),
        positions=torch.tensor([POSITIONS[token] for token in fused], dtype=torch.int32),
        cache=stack.windows[1],
    )
    states = stack.layers(rows_of(stack.table, IDS), batch(), stack.caches[1], fusion)
    assert found == argmax_head(states, stack.head, backend="cpp")[0][:, 0].tolist()
    assert torch.equal(kept[[6, 1, 3, 0]], states) and not kept[[2, 4, 5]].any()
    for one, other in zip(stack.caches[0], stack.caches[1], strict=True):
        for keys, expected in zip(one, other, strict=True):
            assert isinstance(keys, Tensor) and isinstance(expected, Tensor) and torch.equal(keys, expected)


@pytest.mark.parametrize("format_", FORMATS)
def test_entries_equal_the_ops_they_are_made_of(format_: str) -> None:
    stack = Stack(format_)
    slots, places = [0, 17, 4], [9, 0, 2]
    WindowEntries(stack.table, stack.to_entries, COS_SIN, stack.windows[0], head_dim=SIZE).write(
        IDS[:3], slots, places
    )
    kv = stack.to_entries(rows_of(stack.table, IDS[:3])).view(3, LAYERS, 2, HEADS * SIZE)
    fusion_cache_write(
        kv,
        torch.tensor(slots),
        torch.tensor(places, dtype=torch.int32),
        COS_SIN,
        stack.windows[1],
        head_dim=SIZE,
        backend="cpp",
    )
    assert torch.equal(stack.windows[0], stack.windows[1])


def test_lists_that_do_not_fit_are_refused() -> None:
    stack = Stack("float32")
    step = DecodeStep(
        stack.table,
        stack.layers,
        stack.head,
        stack.caches[0],
        kept=torch.zeros(2, HIDDEN),
        windows=stack.windows[0],
    )
    one = [3], [0], [0], [[0]]
    assert len(step(*one)) == 1
    for ids in ([VOCAB], [-1], [3, 4], []):
        with pytest.raises(ValueError, match=r"id lies outside|differ in number"):
            step(ids, *one[1:])
    with pytest.raises(ValueError, match="a row to keep lies outside"):
        step(*one, keep=[2])
    with pytest.raises(ValueError, match="rows to keep and ids differ"):
        step(*one, keep=[0, 1])
    with pytest.raises(ValueError, match="a fused token lies outside"):
        step(*one, fused_tokens=[1], fused_rows=[0], fused_valid=[1])
    with pytest.raises(ValueError, match="entries of fusion differ"):
        step(*one, fused_tokens=[0], fused_rows=[], fused_valid=[1])
    with pytest.raises(TypeError):
        step([None], *one[1:])  # type: ignore[list-item]
    entries = WindowEntries(stack.table, stack.to_entries, COS_SIN, stack.windows[0], head_dim=SIZE)
    for ids, slots, places in (([VOCAB], [0], [0]), ([0], [18], [0]), ([0], [0], [0, 1])):
        with pytest.raises(ValueError, match=r"lies outside|differ in number"):
            entries.write(ids, slots, places)


def test_only_packed_weights_and_whole_tables_are_taken() -> None:
    stack = Stack("float32")
    other = linear(random(VOCAB, HIDDEN), backend="torch")
    assert not runs_natively(stack.layers, other)
    with pytest.raises(ValueError, match="expected those of backend 'cpp'"):
        DecodeStep(stack.table, stack.layers, other, stack.caches[0])
    with pytest.raises(ValueError, match="expected one of backend 'cpp'"):
        WindowEntries(stack.table, other, COS_SIN, stack.windows[0], head_dim=SIZE)
    with pytest.raises(ValueError, match="source: expected it contiguous"):
        DecodeStep(random(HIDDEN, VOCAB).T, stack.layers, stack.head, stack.caches[0])
