# The CPU kernels of csrc/cpu. Tensors are addresses (`Tensor.data_ptr()`), 0 for an argument left out; the
# wrappers in antiphon.kernels check and allocate. `isa` is an instruction set, "" the machine's best.

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

_Weight: TypeAlias = tuple[int, int, int]  # of its numbers and its scales the addresses, and its format
_Cache: TypeAlias = tuple[int, int, int, int, int, int, int, int]  # see CacheAddress in csrc/cpu/bindings.h

class Hift:
    def __init__(
        self,
        levels: Sequence[Any],
        conv_pre: Any,
        pre_taps: int,
        conv_post: Any,
        post_taps: int,
        mel_bands: int,
        base_channels: int,
        spectrum: int,
        slope: float,
        last_slope: float,
        isa: str = "",
    ) -> None: ...
    def run(
        self,
        mel: int,
        source: int,
        lengths: Sequence[int],
        frames: int,
        source_frames: int,
        y: int,
        is_alone: bool = False,
        stop_point: Callable[[], None] | None = None,
    ) -> None: ...

class UNet:
    def __init__(
        self,
        stages: Sequence[Any],
        final_block: Any,
        final_proj: Any,
        in_channels: int,
        out_channels: int,
        num_heads: int,
        head_dim: int,
        num_groups: int,
        eps: float,
        isa: str = "",
    ) -> None: ...
    def run(
        self,
        x: int,
        time_bias: int,
        lengths: Sequence[int],
        frames: int,
        y: int,
        is_alone: bool = False,
        stop_point: Callable[[], None] | None = None,
    ) -> None: ...

class Decoder:
    def __init__(
        self,
        layers: Sequence[tuple[int, int, Sequence[_Weight]]],
        hidden: int,
        intermediate: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        eps: float,
        cos_sin: int,
        final_norm: int,
        isa: str = "",
    ) -> None: ...
    def run(
        self,
        x: int,
        num_tokens: int,
        positions: int,
        slots: int,
        cache: _Cache,
        layer_stride: int,
        layer_scale_stride: int,
        cu_seqlens_q: int,
        context_lens: int,
        block_table: int,
        num_seqs: int,
        max_blocks: int,
        fusion_cache: int = 0,
        fusion_tokens: int = 0,
        fusion_rows: int = 0,
        fusion_valid: int = 0,
        fusion_positions: int = 0,
        num_fused: int = 0,
        window: int = 0,
        wanted: int = 0,
        num_wanted: int = 0,
    ) -> None: ...

class DecodeStep:
    def __init__(
        self,
        decoder: Decoder,
        source: _Weight,
        num_rows: int,
        head: _Weight,
        out_features: int,
        cache: _Cache,
        layer_stride: int,
        layer_scale_stride: int,
        kept: int = 0,
        num_kept: int = 0,
        windows: int = 0,
        window: int = 0,
    ) -> None: ...
    def run(
        self,
        ids: list[int],
        positions: list[int],
        slots: list[int],
        block_tables: list[list[int]],
        keep: list[int],
        fused_tokens: list[int],
        fused_rows: list[int],
        fused_valid: list[int],
    ) -> list[int]: ...

class WindowEntries:
    def __init__(
        self,
        source: _Weight,
        num_rows: int,
        width: int,
        product: _Weight,
        cos_sin: int,
        windows: int,
        num_slots: int,
        num_layers: int,
        num_heads: int,
        head_dim: int,
    ) -> None: ...
    def write(self, ids: list[int], slots: list[int], positions: list[int]) -> None: ...

def advise_huge_pages(begin: int, size: int) -> None: ...
def argmax(x: int, out: int, rows: int, size: int, isa: str = "") -> None: ...
def argmax_head(
    x: int,
    head: _Weight,
    subset: int,
    ids: int,
    logits: int,
    rows: int,
    in_features: int,
    out_features: int,
    ldx: int,
    top_k: int,
    subset_size: int,
    isa: str = "",
) -> None: ...
def best_isa() -> str: ...
def best_int8() -> str: ...
def ctc_collapse(
    labels: int,
    cu_seqlens: int,
    prev: int,
    ids: int,
    frames: int,
    cu_out: int,
    last: int,
    batch: int,
    total: int,
    blank: int,
    isa: str = "",
) -> int: ...
def fusion_attention(
    q: int,
    key: int,
    value: int,
    rows: int,
    num_valid: int,
    positions: int,
    cos_sin: int,
    out: int,
    num_tokens: int,
    num_heads: int,
    head_dim: int,
    row_stride: int,
    entry_stride: int,
    scale: float,
    isa: str = "",
) -> None: ...
def fusion_cache_write(
    kv: int,
    slots: int,
    positions: int,
    cos_sin: int,
    cache: int,
    num_tokens: int,
    num_layers: int,
    num_heads: int,
    head_dim: int,
    isa: str = "",
) -> None: ...
def index_range(values: int, count: int, itemsize: int) -> tuple[int, int]: ...
def index_repeats(values: int, count: int, itemsize: int, least: int) -> bool: ...
def index_rises(values: int, count: int, itemsize: int, most: int) -> bool: ...
def linear(
    x: int,
    weight: _Weight,
    residual: int,
    out: int,
    rows: int,
    in_features: int,
    out_features: int,
    ldx: int,
    ldo: int,
    isa: str = "",
) -> None: ...
def num_threads() -> int: ...
def paged_attention(
    q: int,
    ldq: int,
    cache: _Cache,
    cu_seqlens_q: int,
    context_lens: int,
    block_table: int,
    num_seqs: int,
    max_blocks: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    scale: float,
    out: int,
    isa: str = "",
) -> None: ...
def rms_norm_residual(
    x: int,
    residual: int,
    weight: int,
    out: int,
    total: int,
    rows: int,
    size: int,
    eps: float,
    isa: str = "",
) -> None: ...
def rms_norm(x: int, weight: int, out: int, rows: int, size: int, eps: float, isa: str = "") -> None: ...
def rope_cache_write(
    qkv: int,
    positions: int,
    cos_sin: int,
    slots: int,
    cache: _Cache,
    num_tokens: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    isa: str = "",
) -> None: ...
def sample(
    logits: int,
    temperature: int,
    top_k: int,
    top_p: int,
    seeds: int,
    positions: int,
    ids: int,
    rows: int,
    vocab: int,
    ldl: int,
) -> None: ...
def set_num_threads(count: int) -> None: ...
def silu_mul(gate_up: int, out: int, rows: int, size: int, isa: str = "") -> None: ...
def soft_embedding(
    x: int,
    head: _Weight,
    embedding: _Weight,
    out: int,
    labels: int,
    rows: int,
    in_features: int,
    vocab: int,
    width: int,
    ldx: int,
    lde: int,
    isa: str = "",
) -> None: ...
def wrong_sequences(
    cu_seqlens_q: int,
    context_lens: int,
    block_table: int,
    num_seqs: int,
    max_blocks: int,
    num_tokens: int,
    block_size: int,
    num_blocks: int,
) -> str: ...
