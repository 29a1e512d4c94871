"""The three stacks and their tables, as callables on ragged batches. Nothing here knows about requests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon.config import ModelConfig, UnitHead
from antiphon.kernels.argmax_head import argmax_head
from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.decoder_layers import DecoderGeometry, DecoderLayer, DecoderLayers, decoder_layers
from antiphon.kernels.fusion_attention import FusionBatch
from antiphon.kernels.huge_pages import WeightMemory
from antiphon.kernels.library_linear import LibraryLinear
from antiphon.kernels.linear import Linear, linear
from antiphon.kernels.quantized import QuantizedWeight
from antiphon.kernels.quantized_cache import Caches
from antiphon.kernels.registry import cpp_available
from antiphon.kernels.rope import inverse_frequencies, rope_table
from antiphon.kernels.soft_embedding import soft_embedding
from antiphon.model.weights import LayerWeights, Matrix, OmniWeights

__all__ = ["OmniModel", "computing_dtype"]

LayerCaches = Sequence[Caches]


class OmniModel:
    """Bottom layers hear, the LLM thinks, top layers speak (arXiv 2506.13642, figure 2).

    Takes over `weights`: matrices are repacked one by one for the backend that multiplies with them,
    and each original is dropped before the next, so that no two copies of all are held.
    """

    def __init__(
        self, weights: OmniWeights, config: ModelConfig, max_positions: int, unit_head: UnitHead = "all"
    ) -> None:
        """unit_head: see `EngineSettings`."""
        self.config = config
        self.device = weights.norm.device
        self.dtype = computing_dtype(weights.norm.dtype, self.device)
        """That of activations, and of a KV cache that is not quantized"""
        self.cos_sin = rope_table(
            inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling),
            max_positions,
            self.device,
        )
        self.weights = weights
        self.geometry = DecoderGeometry(
            config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rms_norm_eps
        )
        self.has_library_products = False
        """Whether a library multiplies some matrices, with threads of its own."""
        self._memory = WeightMemory()
        self._layer_bytes: list[int] = []
        self.products: list[Linear] = []
        """Those of all layers and of fusion"""
        self.bottom_layers: DecoderLayers = self._stack(weights.bottom_layers, weights.audio_norm)
        self.has_llm = bool(weights.layers)
        """Otherwise it is elsewhere, see `without_llm`."""
        self.text_layers: DecoderLayers = (
            self._stack(weights.layers, weights.norm) if self.has_llm else self._no_layers()
        )
        self.top_layers: DecoderLayers = self._stack(weights.top_layers, weights.top_audio_norm)
        self.ctc_head = self._take("audio_to_text_proj")
        self.lm_head = self._take("lm_head")
        self._unit_ids: list[int] | None = None
        self._unit_id_table: Tensor | None = None
        if unit_head == "units":
            self._keep_units()
        self.unit_head = self._take("audio_lm_head")
        self.fusion_kv = self._take("fusion_kv")
        self.products.append(self.fusion_kv)

    @staticmethod
    def without_llm(weights: OmniWeights) -> OmniWeights:
        """The same weights once the LLM's layers and head have been let go of: they are computed elsewhere.
        The table of text ids stays, since what was heard is read through it."""
        weights.layers.clear()
        weights.lm_head = weights.norm.new_empty(1, len(weights.norm)).zero_()
        return weights

    def hear(self, ids: Tensor, batch: AttentionBatch, caches: LayerCaches) -> Tensor:
        """Bottom layers over text and unit ids int64 (tokens) -> H (tokens, hidden)."""
        x = self._rows(self.weights.audio_embed_tokens, ids)
        return self.bottom_layers(x, batch, caches, None)

    def ctc_labels(self, hidden: Tensor) -> Tensor:
        """H (rows, hidden) -> frame labels int64 (rows)"""
        return argmax_head(hidden, self.ctc_head, checked=False)[0][:, 0]

    def soft_embedding(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """H (rows, hidden) -> what the LLM reads (rows, hidden), and the frame labels int64 (rows)"""
        return soft_embedding(hidden, self.ctc_head, self.weights.embed_tokens)

    def embed_text(self, ids: Tensor) -> Tensor:
        return self._rows(self.weights.embed_tokens, ids)

    def think(
        self, x: Tensor, batch: AttentionBatch, caches: LayerCaches, wanted: Tensor | None = None
    ) -> Tensor:
        """LLM layers over embeddings (tokens, hidden), consumed -> what `lm_head` reads (tokens, hidden)

        wanted: int64 (n,), ascending, the tokens whose rows come out; None: all
        """
        return self.text_layers(x, batch, caches, None, wanted)

    def fusion_entries(self, ids: Tensor) -> Tensor:
        """Text ids (n) -> keys (not rotated) and values of all top layers (n, layers, 2, heads * head_dim)"""
        kv = self.fusion_kv(self._rows(self.weights.text_to_audio_proj, ids))
        return kv.view(len(ids), self.config.num_top_audio_layers, 2, self.config.q_size)

    def speak(
        self,
        hidden: Tensor,
        batch: AttentionBatch,
        caches: LayerCaches,
        fusion: FusionBatch | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Top layers over H (tokens, hidden), consumed -> what `unit_head` reads (tokens, hidden)

        wanted: int64 (n,), ascending, the tokens whose rows come out; None: all
        """
        return self.top_layers(hidden, batch, caches, fusion, wanted)

    def units_of(self, picked: list[int]) -> list[int]:
        """The unit ids of outputs of `unit_head`."""
        return picked if self._unit_ids is None else [self._unit_ids[output] for output in picked]

    def units_on_device(self, picked: Tensor) -> Tensor:
        """The same for int64 (rows)"""
        return picked if self._unit_id_table is None else self._unit_id_table.index_select(0, picked)

    def num_bytes_read(self) -> dict[str, int]:
        """Bytes of weights that one step of each part reads: the lower bound for decoding one row."""
        bottom, text, top = self._layer_bytes
        return {
            "bottom": bottom + self.ctc_head.num_bytes,
            "text": text + self.lm_head.num_bytes,
            "top": top + self.unit_head.num_bytes,
            "fusion": self.fusion_kv.num_bytes,
        }

    def _no_layers(self) -> DecoderLayers:
        self._layer_bytes.append(0)

        def no_layers(
            x: Tensor,
            batch: AttentionBatch,
            caches: LayerCaches,
            fusion: FusionBatch | None,
            wanted: Tensor | None = None,
        ) -> Tensor:
            raise AssertionError("the LLM is elsewhere")

        return no_layers

    def _stack(self, layers: list[LayerWeights], norm: Tensor) -> DecoderLayers:
        packed = [_packed(layers.pop(0), self.dtype, self._memory) for _ in range(len(layers))]
        products = [product for layer in packed for product in _products(layer)]
        self._layer_bytes.append(sum(product.num_bytes for product in products))
        self.products += products
        backend = None
        if any(isinstance(product, LibraryLinear) for product in products):
            self.has_library_products, backend = True, "torch"
        norm = norm.to(self.dtype)
        # the scheduler's plans make batches, caches and windows fit, see `model/batch.py`
        return decoder_layers(packed, norm, self.geometry, self.cos_sin, backend=backend, checked=False)

    def _rows(self, table: Matrix, ids: Tensor) -> Tensor:
        rows = table.embed(ids) if isinstance(table, QuantizedWeight) else F.embedding(ids, table)
        return rows.to(self.dtype)

    def _keep_units(self) -> None:
        """Drop the outputs of the unit head that are neither units nor stop ids."""
        config, head = self.config, self.weights.audio_lm_head
        outputs = head.values.shape[0] if isinstance(head, QuantizedWeight) else head.shape[0]
        units = range(config.first_unit_id, config.first_unit_id + config.audio_vocab_size)
        self._unit_ids = sorted(id_ for id_ in {*config.stop_token_ids, *units} if id_ < outputs)
        self._unit_id_table = torch.tensor(self._unit_ids, device=self.device)
        rows = self._unit_id_table
        kept = head.rows(rows) if isinstance(head, QuantizedWeight) else head.index_select(0, rows)
        self.weights.audio_lm_head = kept

    def _take(self, name: str) -> Linear:
        weight: Matrix = getattr(self.weights, name)
        setattr(self.weights, name, self.cos_sin.new_empty(0))
        return linear(weight, memory=self._memory)


def computing_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in with weights stored in another. On the CPU, weights of fewer bits are widened
    where they are read, and all else is float32."""
    return torch.float32 if device.type == "cpu" and cpp_available() else stored


def _packed(layer: LayerWeights, dtype: torch.dtype, memory: WeightMemory) -> DecoderLayer:
    return DecoderLayer(
        input_norm=layer.input_norm.to(dtype),
        qkv=linear(layer.qkv, memory=memory),
        o=linear(layer.o, memory=memory),
        post_norm=layer.post_norm.to(dtype),
        gate_up=linear(layer.gate_up, memory=memory),
        down=linear(layer.down, memory=memory),
        fusion_q=linear(layer.fusion.q, memory=memory) if layer.fusion else None,
        fusion_o=linear(layer.fusion.o, memory=memory) if layer.fusion else None,
    )


def _products(layer: DecoderLayer) -> list[Linear]:
    matrices = (layer.qkv, layer.o, layer.gate_up, layer.down, layer.fusion_q, layer.fusion_o)
    return [matrix for matrix in matrices if matrix is not None]
