"""What is Triton's own in paged attention: tiles, splits of the context, 16 bits, sizes on the device alone.

Memory that a kernel is given is full of NaN, its scratch included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from paged_sequences import Paged, moved, whole
from torch import Tensor

from antiphon.kernels.paged_attention import paged_attention_reference

pytest.importorskip("triton")

Check = Callable[[Tensor, Tensor, Tensor], None]
Span = tuple[int, int]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3, device=DEVICE).new_empty(2).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def attend(
    paged: Paged,
    spans: Sequence[Span],
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    num_splits: int | None = None,
) -> Tensor:
    """The launch itself, with queries where `rope_cache_write` leaves them."""
    from antiphon.kernels.triton.paged_attention import paged_attention as launch

    caches = paged.caches(block_size, device=DEVICE, dtype=dtype)
    batch = moved(paged.batch(spans, block_size), DEVICE)
    out = launch(queries(paged, spans, dtype), *caches, batch, paged.head_dim**-0.5, num_splits=num_splits)
    return out.cpu()


def queries(paged: Paged, spans: Sequence[Span], dtype: torch.dtype) -> Tensor:
    """(tokens, heads, head_dim), a part of wider rows"""
    q = paged.queries(spans)
    width = paged.num_heads * paged.head_dim
    qkv = torch.full((len(q), width + 2 * paged.num_kv_heads * paged.head_dim), torch.nan)
    qkv[:, :width] = q.flatten(1)
    return qkv.to(DEVICE, dtype)[:, :width].view(q.shape)


def in_pytorch(paged: Paged, spans: Sequence[Span], dtype: torch.dtype = torch.float32) -> Tensor:
    q, caches = paged.queries(spans).to(dtype), paged.caches(16, dtype=dtype)
    return paged_attention_reference(q, *caches, paged.batch(spans, 16), paged.head_dim**-0.5)


LENGTHS = (40, 3, 70, 20)
SPANS = {
    "decoding": [(39, 40), (2, 3), (69, 70), (19, 20)],
    "decoding, one empty": [(39, 40), (3, 3), (69, 70), (19, 20)],
    "a few each": [(36, 40), (0, 3), (65, 70), (18, 20)],
    "mixed": [(39, 40), (0, 3), (45, 70), (20, 20)],
    "all in the last": [(40, 40), (3, 3), (70, 70), (0, 20)],
    "as many as sequences, in one": [(40, 40), (3, 3), (66, 70), (20, 20)],
}


@pytest.mark.slow
@pytest.mark.pairwise(queries_of=SPANS, num_splits=[1, 3], heads=[(2, 2), (16, 1), (3, 1)])
@pytest.mark.long
def test_tiles_and_splits(
    queries_of: str, num_splits: int, heads: tuple[int, int], assert_within_budget: Check
) -> None:
    paged, spans = Paged.random(LENGTHS, *heads, 8), SPANS[queries_of]
    found = attend(paged, spans, num_splits=num_splits)
    assert_within_budget(found, in_pytorch(paged, spans), paged.exact(spans))


@pytest.mark.parametrize("num_splits", [1, 5])
@pytest.mark.parametrize("lengths", [(0,), (1,), (0, 1, 0), (0, 0, 9, 0), (1, 2, 1)], ids=str)
def test_empty_and_tiny(lengths: tuple[int, ...], num_splits: int) -> None:
    paged = Paged.random(lengths, 4, 2, 6)
    found = attend(paged, whole(paged), num_splits=num_splits)
    torch.testing.assert_close(found.double(), paged.exact(whole(paged)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block_size", [1, 3, 16, 100])
def test_any_block_size(block_size: int, assert_within_budget: Check) -> None:
    paged = Paged.random((50, 33), 2, 1, 16)
    spans = [(49, 50), (10, 33)]
    found = attend(paged, spans, block_size, num_splits=2)
    assert_within_budget(found, in_pytorch(paged, spans), paged.exact(spans))


@pytest.mark.slow
@pytest.mark.parametrize("num_seqs", [128, 129, 257])
@pytest.mark.long
def test_many_sequences(num_seqs: int, assert_within_budget: Check) -> None:
    """Tiles look for their sequence among 128 at a time; every third has no query."""
    paged = Paged.random([1 + i % 3 for i in range(num_seqs)], 1, 1, 2)
    spans = [(length - 1 if i % 3 else length, length) for i, length in enumerate(paged.lengths)]
    spans[-1] = (0, paged.lengths[-1])
    found = attend(paged, spans)
    assert_within_budget(found, in_pytorch(paged, spans), paged.exact(spans))


@pytest.mark.slow
@pytest.mark.pairwise(dtype=[torch.bfloat16, torch.float16], num_splits=[1, 3], head_dim=[6, 40, 250])
@pytest.mark.long
def test_in_16_bits(
    dtype: torch.dtype, num_splits: int, head_dim: int, assert_within_half_budget: Check
) -> None:
    paged = Paged.random(LENGTHS, 6, 2, head_dim).rounded(dtype)
    for name in ("decoding", "a few each"):
        found = attend(paged, SPANS[name], dtype=dtype, num_splits=num_splits)
        expected = in_pytorch(paged, SPANS[name], dtype)
        assert_within_half_budget(found, expected, paged.exact(SPANS[name]))


def test_larger_tiles_than_a_prompt_and_smaller(assert_within_half_budget: Check) -> None:
    """In 16 bits a tile of a narrow head has 128 queries."""
    paged = Paged.random((200, 128, 129), 1, 1, 16).rounded(torch.float16)
    spans = [(5, 200), (0, 128), (0, 129)]
    found = attend(paged, spans, dtype=torch.float16)
    assert_within_half_budget(found, in_pytorch(paged, spans, torch.float16), paged.exact(spans))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_splits", [1, 3])
def test_rows_without_keys_are_zeros(num_splits: int, dtype: torch.dtype) -> None:
    """They pad a recorded batch: each has one query and no keys. NaN of theirs would go through all layers,
    and spoil whatever looks at the whole batch, such as a scale of quantized rows."""
    from antiphon.kernels.triton.paged_attention import paged_attention as launch

    paged = Paged.random((40, 9), 4, 2, 8).rounded(dtype)
    spans = [(39, 40), (8, 9)]
    batch, (keys, values) = paged.batch(spans, 16), paged.caches(16, device=DEVICE, dtype=dtype)
    pad = torch.nn.functional.pad
    padded = type(batch)(
        positions=pad(batch.positions, (0, 3)),
        slot_mapping=pad(batch.slot_mapping, (0, 3), value=-1),
        cu_seqlens_q=torch.arange(6, dtype=torch.int32),
        context_lens=pad(batch.context_lens, (0, 3)),
        block_table=pad(batch.block_table, (0, 60, 0, 3)),
    )
    q = pad(paged.queries(spans).to(dtype), (0, 0, 0, 0, 0, 3), value=1.0).to(DEVICE)
    found = launch(q, keys, values, moved(padded, DEVICE), 8**-0.5, num_splits=num_splits).cpu()
    assert torch.equal(found[2:], torch.zeros_like(found[2:]))
    close = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found[:2].double(), paged.exact(spans), rtol=close, atol=close)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in rows of padding
@pytest.mark.parametrize("num_splits", [1, 3])
def test_padding_of_a_captured_batch(num_splits: int) -> None:
    """A graph is captured for more tokens, sequences and blocks than a step has; what is there comes out."""
    from antiphon.kernels.triton.paged_attention import paged_attention as launch

    paged = Paged.random((40, 9), 4, 2, 8)
    spans = [(39, 40), (8, 9)]
    batch, (keys, values) = paged.batch(spans, 16), paged.caches(16, device=DEVICE)
    pad = torch.nn.functional.pad
    padded = type(batch)(
        positions=pad(batch.positions, (0, 3)),
        slot_mapping=pad(batch.slot_mapping, (0, 3), value=-1),
        cu_seqlens_q=pad(batch.cu_seqlens_q, (0, 3), value=2),
        context_lens=pad(batch.context_lens, (0, 3)),
        block_table=pad(batch.block_table, (0, 60, 0, 3)),
    )
    q = pad(paged.queries(spans), (0, 0, 0, 0, 0, 3), value=torch.nan).to(DEVICE)
    found = launch(q, keys, values, moved(padded, DEVICE), 8**-0.5, num_splits=num_splits)
    torch.testing.assert_close(found[:2].cpu().double(), paged.exact(spans), rtol=1e-5, atol=1e-6)


def test_queries_of_any_strides() -> None:
    from antiphon.kernels.triton.paged_attention import paged_attention as launch

    paged = Paged.random((9, 20), 4, 2, 10)
    spans = [(0, 9), (19, 20)]
    caches, batch = paged.caches(16, device=DEVICE), moved(paged.batch(spans, 16), DEVICE)
    q = paged.queries(spans).to(DEVICE)
    for strided in (q.transpose(0, 1).contiguous().transpose(0, 1), q.mT.contiguous().mT):
        found = launch(strided, *caches, batch, 10**-0.5).cpu()
        torch.testing.assert_close(found.double(), paged.exact(spans), rtol=1e-5, atol=1e-6)


def test_splits_are_chosen_by_shapes() -> None:
    """None where there are enough programs or few keys; never so many that one has less than 128 keys."""
    from antiphon.kernels.triton.paged_attention import choose_num_splits as choose

    assert choose(512, 100_000) == choose(8, 200) == choose(8, 0) == 1
    assert choose(8, 4096) == 32
    assert choose(8, 100_000) == choose(1, 100_000) == 64
    assert choose(256, 100_000) == 2


def test_the_chosen_splits(assert_within_budget: Check) -> None:
    """One sequence that is long enough to be split without being told to."""
    paged = Paged.random((700,), 2, 1, 4)
    spans = [(699, 700)]
    assert_within_budget(attend(paged, spans), in_pytorch(paged, spans), paged.exact(spans))
