"""A decode step in one call: from ids to the likeliest ids that follow, by the C++ kernels.

It computes what `decoder_layers` and `argmax_head` compute of rows of a table, to the last bit. Of a model
small enough for a CPU the rest is what counts: for a request or two, the tensors of a batch's numbers, the
rows that are looked up, and the calls between the kernels take a fifth of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from antiphon.kernels.checks import address
from antiphon.kernels.decoder_layers import CppDecoderLayers
from antiphon.kernels.decoder_stack import DecoderLayers
from antiphon.kernels.linear import FORMATS, CppLinear, Linear
from antiphon.kernels.quantized import QuantizedWeight
from antiphon.kernels.quantized_cache import Caches, cache_address, layer_strides

__all__ = ["DecodeStep", "WindowEntries", "runs_natively"]

Table: TypeAlias = "Tensor | QuantizedWeight"
NOTHING: list[int] = []
"""Read in C++, never written"""


def runs_natively(layers: DecoderLayers, *products: Linear) -> bool:
    """Whether these are C++ kernels, of which a step can be made."""
    return isinstance(layers, CppDecoderLayers) and all(isinstance(each, CppLinear) for each in products)


class DecodeStep:
    """Rows of `source` through layers and their norm; the likeliest outputs of a head come out."""

    def __init__(
        self,
        source: Table,
        layers: DecoderLayers,
        head: Linear,
        caches: Sequence[Caches],
        *,
        kept: Tensor | None = None,
        windows: Tensor | None = None,
    ) -> None:
        """
        source: (n, hidden), contiguous; a table of embeddings, in any format, or float32 states.
        caches: keys and values of each layer, as `decoder_layers` takes them.
        kept: float32 (m, hidden), contiguous, which gets what the head reads of the rows that are to be kept.
        windows: of layers with fusion, see `FusionBatch.cache`.

        Raises ValueError if something is not of the C++ kernels.
        """
        from antiphon.kernels import _C

        if not isinstance(layers, CppDecoderLayers) or not isinstance(head, CppLinear):
            raise ValueError("layers, head: expected those of backend 'cpp'")
        self._tensors = (source, layers, head, caches, kept, windows)
        """So that the addresses stay good"""
        layer_stride, layer_scale_stride = layer_strides(caches)
        self._step = _C.DecodeStep(
            decoder=layers.decoder,
            source=_table_address(source),
            num_rows=_num_rows(source),
            head=head.packed,
            out_features=head.out_features,
            cache=cache_address(*caches[0]),
            layer_stride=layer_stride,
            layer_scale_stride=layer_scale_stride,
            kept=0 if kept is None else address(kept),
            num_kept=0 if kept is None else len(kept),
            windows=0 if windows is None else address(windows),
            window=0 if windows is None else windows.shape[1],
        )

    def __call__(
        self,
        ids: list[int],
        positions: list[int],
        slots: list[int],
        block_tables: list[list[int]],
        *,
        keep: list[int] = NOTHING,
        fused_tokens: list[int] = NOTHING,
        fused_rows: list[int] = NOTHING,
        fused_valid: list[int] = NOTHING,
    ) -> list[int]:
        """Rows `ids` of the source, one position of one sequence each -> the head's likeliest output of each.

        slots, block_tables: where a row's keys and values go, and the blocks of its sequence up to there.
        keep: for each row, where its state goes; or nothing. fused_...: see `FusionBatch`; the positions are
        those of the rows.

        Raises ValueError for lists that do not fit each other or the tables; positions, slots and blocks must
        lie within the caches.
        """
        return self._step.run(
            ids, positions, slots, block_tables, keep, fused_tokens, fused_rows, fused_valid
        )


class WindowEntries:
    """Writes text ids' keys and values of all top layers to their window slots, see `fusion_cache_write`."""

    def __init__(
        self, source: Table, product: Linear, cos_sin: Tensor, windows: Tensor, *, head_dim: int
    ) -> None:
        """source: (n, width), contiguous. product: (width, layers * 2 * heads * head_dim). cos_sin: float32
        (positions, head_dim), contiguous. windows: see `FusionBatch.cache`."""
        from antiphon.kernels import _C

        if not isinstance(product, CppLinear):
            raise ValueError("product: expected one of backend 'cpp'")
        self._tensors = (source, product, cos_sin, windows)
        rows, window, layers, _, width = windows.shape
        self._entries = _C.WindowEntries(
            source=_table_address(source),
            num_rows=_num_rows(source),
            width=product.in_features,
            product=product.packed,
            cos_sin=address(cos_sin),
            windows=address(windows),
            num_slots=rows * window,
            num_layers=layers,
            num_heads=width // head_dim,
            head_dim=head_dim,
        )

    def write(self, ids: list[int], slots: list[int], positions: list[int]) -> None:
        """Raises ValueError for lists that do not fit each other, the table or the windows."""
        self._entries.write(ids, slots, positions)


def _num_rows(table: Table) -> int:
    return len(table.values if isinstance(table, QuantizedWeight) else table)


def _table_address(table: Table) -> tuple[int, int, int]:
    values = table.values if isinstance(table, QuantizedWeight) else table
    if not values.is_contiguous():
        raise ValueError(f"source: expected it contiguous, got strides {values.stride()}")
    scales = address(table.scales) if isinstance(table, QuantizedWeight) else 0
    return address(values), scales, FORMATS[values.dtype]
