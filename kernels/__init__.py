"""The kernels, one op per file, each usable on its own. `backend` is a name, or None to choose by device."""

from antiphon.kernels.argmax import argmax
from antiphon.kernels.argmax_head import argmax_head
from antiphon.kernels.ctc_collapse import CollapsedLabels, ctc_collapse
from antiphon.kernels.decoder_layers import DecoderGeometry, DecoderLayer, decoder_layers
from antiphon.kernels.fusion_attention import FusionBatch, fusion_attention, fusion_cache_write
from antiphon.kernels.linear import Linear, linear
from antiphon.kernels.masked_conv import masked_conv
from antiphon.kernels.masked_group_norm import masked_group_norm
from antiphon.kernels.norm_attention import norm_attention
from antiphon.kernels.norm_feed_forward import FeedForward, norm_feed_forward
from antiphon.kernels.normal_rows import normal_rows
from antiphon.kernels.paged_attention import AttentionBatch, paged_attention, rope_cache_write
from antiphon.kernels.quantized import QuantizedWeight, quantize_int8, quantize_rows
from antiphon.kernels.quantized_cache import QuantizedCache, quantize_heads
from antiphon.kernels.registry import backends, ops
from antiphon.kernels.rms_norm import rms_norm, rms_norm_residual
from antiphon.kernels.rope import apply_rope, inverse_frequencies, rope_table
from antiphon.kernels.sample import sample
from antiphon.kernels.silu_mul import silu_mul
from antiphon.kernels.snake import snake
from antiphon.kernels.soft_embedding import soft_embedding
from antiphon.kernels.threads import set_num_threads

__all__ = [
    "AttentionBatch",
    "CollapsedLabels",
    "DecoderGeometry",
    "DecoderLayer",
    "FeedForward",
    "FusionBatch",
    "Linear",
    "QuantizedCache",
    "QuantizedWeight",
    "apply_rope",
    "argmax",
    "argmax_head",
    "backends",
    "ctc_collapse",
    "decoder_layers",
    "fusion_attention",
    "fusion_cache_write",
    "inverse_frequencies",
    "linear",
    "masked_conv",
    "masked_group_norm",
    "norm_attention",
    "norm_feed_forward",
    "normal_rows",
    "ops",
    "paged_attention",
    "quantize_heads",
    "quantize_int8",
    "quantize_rows",
    "rms_norm",
    "rms_norm_residual",
    "rope_cache_write",
    "rope_table",
    "sample",
    "set_num_threads",
    "silu_mul",
    "snake",
    "soft_embedding",
]
