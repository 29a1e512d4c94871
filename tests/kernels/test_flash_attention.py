"""The way to flash-attn, which is not here: in its place stands what its documentation says it computes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from devices import device_of
from paged_sequences import Paged, moved
from torch import Tensor

from antiphon.kernels import registry
from antiphon.kernels.paged_attention import _paged_attention_flash, paged_attention_reference
from antiphon.model.batch import prompt_keys

Check = Callable[[Tensor, Tensor, Tensor], None]
CPU = torch.device("cpu")
SPANS = [[(0, 5), (0, 33)], [(3, 5), (16, 33)], [(4, 5), (0, 33)]]


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """Since 2.1 the causal mask is aligned to the bottom right corner; nheads is a multiple of nheads_k."""
    assert q.dtype in (torch.float16, torch.bfloat16)
    assert causal and dropout_p == 0.0 and softmax_scale is not None
    assert (int(cu_seqlens_q.diff().max()), int(cu_seqlens_k.diff().max())) == (max_seqlen_q, max_seqlen_k)
    out = torch.empty_like(q)
    group = q.shape[1] // k.shape[1]
    bounds = zip(cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), strict=True)
    (q0, k0), *rest = bounds
    for q1, k1 in rest:
        keys, values = (x[k0:k1].float().repeat_interleave(group, dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[q0:q1].float(), keys) * softmax_scale
        seen = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril(k1 - k0 - (q1 - q0))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        out[q0:q1] = torch.einsum("hqk,khd->qhd", weights, values).to(q.dtype)
        q0, k0 = q1, k1
    return out


@pytest.fixture
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)


@pytest.mark.usefixtures("flash_attn")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("spans", SPANS, ids=str)
@pytest.mark.parametrize("block_size", [4, 16])
def test_prompts(
    dtype: torch.dtype, spans: list[tuple[int, int]], block_size: int, assert_within_half_budget: Check
) -> None:
    paged = Paged.random((5, 33), 6, 2, 8).rounded(dtype)
    batch = paged.batch(spans, block_size)
    table = np.array([[0 if block > 2**19 else block for block in row] for row in batch.block_table.tolist()])
    lengths, ends = [end - start for start, end in spans], [end for _, end in spans]
    keys = prompt_keys(table.astype(np.int32), lengths, ends, block_size, CPU)
    q, caches = paged.queries(spans).to(dtype), paged.caches(block_size, dtype=dtype)
    scale = paged.head_dim**-0.5
    found = _paged_attention_flash(q, *caches, replace(batch, prompt_keys=keys), scale)
    keys64, values64 = caches[0].double(), caches[1].double()
    exact = paged_attention_reference(q.double(), keys64, values64, batch, scale)
    assert_within_half_budget(found, paged_attention_reference(q, *caches, batch, scale), exact)


def test_decoding_goes_on_in_triton(assert_within_half_budget: Check) -> None:
    """Without the package even: it is not asked for."""
    paged = Paged.random((5, 33), 6, 2, 8).rounded(torch.float16)
    spans, device = [(4, 5), (32, 33)], device_of("triton")
    q, caches = paged.queries(spans).to(device, torch.float16), paged.caches(16, None, device, torch.float16)
    batch, scale = moved(paged.batch(spans, 16), device), paged.head_dim**-0.5
    keys64, values64 = caches[0].double(), caches[1].double()
    exact = paged_attention_reference(q.double(), keys64, values64, batch, scale)
    found = _paged_attention_flash(q, *caches, batch, scale)
    assert_within_half_budget(found, paged_attention_reference(q, *caches, batch, scale), exact)


def test_it_is_tried_first_where_it_is() -> None:
    known = registry._IMPLEMENTATIONS["paged_attention"]
    order = list(known)
    assert order.index("flash-attn") < order.index("triton")
    supports = known["flash-attn"].supports
    cuda = torch.device("cuda")
    assert supports(cuda, torch.bfloat16) and supports(cuda, torch.float16)
    assert not supports(cuda, torch.float32)
    assert not supports(CPU, torch.bfloat16)
    assert not known["flash-attn"].is_available()
