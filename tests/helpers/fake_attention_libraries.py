"""Stand-ins for flash-attn and FlashInfer, which need a GPU: what their documentation says they compute, in
PyTorch, behind the signatures that the packages have (attention_signatures.json)."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from antiphon.kernels import flashinfer_attention, registry
from antiphon.kernels.attention_libraries import LIBRARIES

__all__ = ["PACKAGES", "asked_for", "fake_library", "parameters_of", "signature_of"]

PACKAGES: dict[str, Any] = json.loads(
    Path(__file__).with_name("attention_signatures.json").read_text("utf-8")
)
"""Of each package the version that was read, and of each function the file and the parameters: name, kind,
and the default if there is one"""
HALVES = (torch.float16, torch.bfloat16)
DECODE = "BatchDecodeWithPagedKVCacheWrapper"
PREFILL = "BatchPrefillWithPagedKVCacheWrapper"


def signature_of(package: str, function: str) -> inspect.Signature:
    """As it was stored."""
    parameters = []
    for name, kind, *default in PACKAGES[package]["functions"][function]["parameters"]:
        value = ast.literal_eval(default[0]) if default else inspect.Parameter.empty
        parameters.append(inspect.Parameter(name, getattr(inspect.Parameter, kind), default=value))
    return inspect.Signature(parameters)


def parameters_of(signature: inspect.Signature) -> list[list[str]]:
    """As they are stored."""
    return [
        [p.name, p.kind.name, *([] if p.default is inspect.Parameter.empty else [repr(p.default)])]
        for p in signature.parameters.values()
    ]


def _declared(package: str, function: str) -> Callable[[Callable[[Any], Any]], Callable[..., Any]]:
    """Decorates what computes a function of all its arguments by name: calls must fit the signature."""
    signature = signature_of(package, function)

    def declare(compute: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return compute(SimpleNamespace(**bound.arguments))

        return call

    return declare


def _check(condition: bool, message: str) -> None:
    """What the libraries raise."""
    if not condition:
        raise RuntimeError(message)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> Tensor:
    """q (n, heads, head_dim), k and v (m, kv heads, head_dim). The causal mask is aligned to the bottom right
    corner; rows that see nothing are zeros. In float64, so that no rounding is like ours."""
    group = q.shape[1] // k.shape[1]
    keys, values = (x.double().repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.double(), keys) * scale
    if causal:
        seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        scores = scores.masked_fill(~seen, -torch.inf)
    weights = scores.softmax(-1).nan_to_num(0.0)
    return torch.einsum("hqk,khd->qhd", weights, values).to(q.dtype)


# --- flash-attn -----------------------------------------------------------------------------------


def _fake_flash_attn(calls: Counter[str], dtypes: tuple[torch.dtype, ...]) -> dict[str, Any]:
    def check(q: Tensor, k: Tensor, v: Tensor, given: Any) -> None:
        """As csrc/flash_attn/flash_api.cpp does."""
        _check(q.dtype in dtypes, "FlashAttention only support fp16 and bf16 data type")
        _check(k.dtype == q.dtype == v.dtype, "query and key must have the same dtype")
        _check(q.stride(-1) == k.stride(-1) == v.stride(-1) == 1, "must have contiguous last dimension")
        _check(k.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256")
        _check(q.shape[-1] % 8 == 0 and q.shape[-1] <= 256, "head dimension at most 256")
        _check(given.block_table.dtype == torch.int32, "block_table must have dtype torch.int32")
        _check(given.block_table.stride(-1) == 1, "block_table must have contiguous last dimension")
        assert given.window_size == (-1, -1) and given.softcap == 0.0 and given.alibi_slopes is None

    @_declared("flash-attn", "flash_attn_with_kvcache")
    def with_kvcache(given: Any) -> Tensor:
        calls["flash_attn_with_kvcache"] += 1
        q, k, v, lengths = given.q, given.k_cache, given.v_cache, given.cache_seqlens
        check(q, k, v, given)
        _check(lengths.dtype == torch.int32 and lengths.is_contiguous(), "seqlens_k must have dtype int32")
        _check(lengths.shape == given.block_table.shape[:1] == q.shape[:1], "CHECK_SHAPE")
        assert given.k is None and given.v is None and given.rotary_cos is None
        assert not given.return_softmax_lse and given.cache_batch_idx is None
        out = torch.empty_like(q)
        for i, length in enumerate(lengths.tolist()):
            keys, values = (_paged(x, given.block_table[i], length) for x in (k, v))
            out[i] = _attend(q[i], keys, values, given.softmax_scale, causal=given.causal)
        return out

    @_declared("flash-attn", "flash_attn_varlen_func")
    def varlen(given: Any) -> Tensor:
        calls["flash_attn_varlen_func"] += 1
        q, k, v = given.q, given.k, given.v
        check(q, k, v, given)
        for bounds in (given.cu_seqlens_q, given.cu_seqlens_k):
            _check(bounds.dtype == torch.int32 and bounds.is_contiguous(), "must have dtype int32")
            _check(bounds.shape == (len(given.block_table) + 1,), "CHECK_SHAPE(cu_seqlens, batch_size + 1)")
        assert given.dropout_p == 0.0 and not given.return_attn_probs
        starts, lengths = given.cu_seqlens_q.tolist(), given.cu_seqlens_k.diff().tolist()
        counts = given.cu_seqlens_q.diff()
        assert int(counts.max()) <= given.max_seqlen_q and max(lengths) <= given.max_seqlen_k
        # With a maximum of 1 it takes q for (batch_size, heads, head_dim).
        assert given.max_seqlen_q > 1 or bool((counts == 1).all())
        out = torch.empty_like(q)
        for i, length in enumerate(lengths):
            keys, values = (_paged(x, given.block_table[i], length) for x in (k, v))
            rows = slice(starts[i], starts[i + 1])
            out[rows] = _attend(q[rows], keys, values, given.softmax_scale, causal=given.causal)
        return out

    return {"flash_attn_with_kvcache": with_kvcache, "flash_attn_varlen_func": varlen}


def _paged(cache: Tensor, table: Tensor, length: int) -> Tensor:
    """The first positions of the pages that a table names; entries beyond them are not looked at."""
    pages = table[: -(-length // cache.shape[1])].long()
    return cache[pages].flatten(0, 1)[:length]


# --- FlashInfer -----------------------------------------------------------------------------------


class _Plan:
    """What both wrappers keep of a plan: lengths from pages, as `flashinfer.page.get_seq_lens` has them."""

    def __init__(
        self, pages: tuple[Tensor, Tensor, Tensor], starts: Tensor, given: Any, head_dim: int
    ) -> None:
        indptr, indices, last_page_len = pages
        assert all(x.dtype == torch.int32 and x.is_contiguous() for x in (*pages, starts))
        assert len(indptr) == len(starts) == len(last_page_len) + 1 and int(indptr[-1]) == len(indices)
        assert given.num_qo_heads % given.num_kv_heads == 0
        assert bool((last_page_len <= given.page_size).all())
        self.lengths = (indptr.diff() - 1).clamp(min=0) * given.page_size + last_page_len
        self.indptr, self.indices, self.starts = indptr.tolist(), indices, starts.tolist()
        self.heads = given.num_qo_heads, given.num_kv_heads, head_dim
        self.page_size, self.scale = given.page_size, given.sm_scale

    def run(self, given: Any, *, causal: bool, dtypes: tuple[torch.dtype, torch.dtype]) -> Tensor:
        q, (k, v) = given.q, given.paged_kv_cache
        num_heads, num_kv_heads, head_dim = self.heads
        assert (q.dtype, k.dtype, v.dtype) == (*dtypes, dtypes[1]), "the planned data types"
        assert q.shape == (self.starts[-1], num_heads, head_dim), "q.shape[0] does not match qo_indptr[-1]"
        assert k.shape == v.shape == (len(k), self.page_size, num_kv_heads, head_dim)
        out = torch.empty_like(q)
        for i, length in enumerate(self.lengths.tolist()):
            table = self.indices[self.indptr[i] : self.indptr[i + 1]]
            keys, values = (_paged(x, table, length) for x in (k, v))
            rows = slice(self.starts[i], self.starts[i + 1])
            out[rows] = _attend(q[rows], keys, values, self.scale, causal=causal)
        return out


def _fake_flashinfer(calls: Counter[str], dtypes: tuple[torch.dtype, ...]) -> dict[str, Any]:
    def check_made(given: Any) -> None:
        buffer = given.float_workspace_buffer
        assert buffer.dtype == torch.uint8 and buffer.numel() >= 1 << 20 and buffer.data_ptr() % 16 == 0
        assert given.kv_layout == "NHD" and given.backend == "fa2" and not given.use_cuda_graph

    def check_planned(given: Any) -> None:
        assert given.q_data_type in dtypes
        assert given.pos_encoding_mode == "NONE" and given.window_left == -1 and given.sm_scale is not None

    @_declared("flashinfer-python", f"{DECODE}.__init__")
    def make_decode(given: Any) -> None:
        check_made(given)
        assert given.use_tensor_cores

    @_declared("flashinfer-python", f"{DECODE}._plan_impl")
    def plan_decode(given: Any) -> None:
        check_planned(given)
        starts = torch.arange(len(given.last_page_len) + 1, dtype=torch.int32)
        pages = given.indptr, given.indices, given.last_page_len
        given.self.planned = _Plan(pages, starts, given, given.head_dim)
        given.self.dtypes = given.q_data_type, given.kv_data_type

    def plan_by_keywords(*args: Any, **kwargs: Any) -> None:
        """The public method hands its arguments on."""
        signature_of("flashinfer-python", f"{DECODE}.plan").bind(*args, **kwargs)
        assert len(args) <= 8, "what follows page_size is deprecated by position"
        plan_decode(*args, **kwargs)

    @_declared("flashinfer-python", f"{DECODE}.run")
    def run_decode(given: Any) -> Tensor:
        calls["decode"] += 1
        planned: _Plan = given.self.planned
        return planned.run(given, causal=False, dtypes=given.self.dtypes)

    @_declared("flashinfer-python", f"{PREFILL}.__init__")
    def make_prefill(given: Any) -> None:
        check_made(given)

    @_declared("flashinfer-python", f"{PREFILL}.plan")
    def plan_prefill(given: Any) -> None:
        check_planned(given)
        assert given.custom_mask is None
        pages = given.paged_kv_indptr, given.paged_kv_indices, given.paged_kv_last_page_len
        given.self.planned = _Plan(pages, given.qo_indptr, given, given.head_dim_qk)
        given.self.causal = given.causal
        given.self.dtypes = given.q_data_type, given.kv_data_type

    @_declared("flashinfer-python", f"{PREFILL}.run")
    def run_prefill(given: Any) -> Tensor:
        calls["prefill"] += 1
        planned: _Plan = given.self.planned
        return planned.run(given, causal=given.self.causal, dtypes=given.self.dtypes)

    decode = {"__init__": make_decode, "plan": plan_by_keywords, "run": run_decode}
    prefill = {"__init__": make_prefill, "plan": plan_prefill, "run": run_prefill}
    return {DECODE: type(DECODE, (), decode), PREFILL: type(PREFILL, (), prefill)}


# --- in their place -------------------------------------------------------------------------------

FAKES = {"flash-attn": _fake_flash_attn, "flashinfer": _fake_flashinfer}


@contextmanager
def fake_library(backend: str, dtypes: tuple[torch.dtype, ...] = HALVES) -> Iterator[Counter[str]]:
    """The backend's library is a stand-in that takes these dtypes, on the CPU, and counts its calls."""
    calls: Counter[str] = Counter()
    module = ModuleType(LIBRARIES[backend].module)
    vars(module).update(FAKES[backend](calls, dtypes))
    known = registry._IMPLEMENTATIONS["paged_attention"]
    here = replace(known[backend], is_available=lambda: True, supports=lambda _, dtype: dtype in dtypes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        patch.setitem(known, backend, here)
        yield calls


@contextmanager
def asked_for(backend: str) -> Iterator[Counter[str]]:
    """Engines may name the backend on a CPU in float32: layers go op by op as on a GPU, and heads of the
    random model, which are small, are taken."""
    with (
        registry.without("decoder_layers", "cpp"),  # outermost: it puts other tables in place at its end
        fake_library(backend, (torch.float32,)) as calls,
        pytest.MonkeyPatch.context() as patch,
    ):
        if backend == "flashinfer":
            library = replace(LIBRARIES[backend], head_dims=(16,))
            patch.setitem(LIBRARIES, backend, library)
            patch.setattr(flashinfer_attention, "LIBRARY", library)
        yield calls
