"""The part that hears: the bottom speech layers with the CTC head.

Expected is what the runtime's own kernels make of each row by itself, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from antiphon.codec.exported import fingerprint
from antiphon.codec.tensorrt.profile import Profile, Span
from antiphon.export.listening_network import ListeningNetwork
from antiphon.export.model_folder import ModelSource, read_listening
from antiphon.export.onnx_file import traced
from antiphon.export.part import PRECISIONS, Bound, Compared, EnginePlan, Part, Port, Precision, Run
from antiphon.export.tries import listening_tries
from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.decoder_layers import DecoderGeometry, DecoderLayer, decoder_layers
from antiphon.kernels.linear import Linear, linear
from antiphon.kernels.rope import inverse_frequencies, rope_table
from antiphon.model.weights import LayerMatrix

if TYPE_CHECKING:
    import onnx

__all__ = ["LISTENING_PART", "Heard", "log_probs_of"]

EXAMPLE_TOKENS = 7
BATCHES = (
    (1,),
    (2,),
    (3,),
    (16,),
    (51,),
    (150,),
    (1000,),
    (300, 1),
    (300, 151, 77, 2, 1),
    tuple(range(1, 17)),
)
QUICK_BATCHES = ((1,), (2,), (51,), (40, 1, 23))
TOKENS: tuple[str | int, ...] = ("batch", "tokens")


def _inputs(source: ModelSource) -> tuple[Port, ...]:
    num_ids = source.config.first_unit_id + source.config.audio_vocab_size
    return Port("ids", TOKENS, torch.int64, num_ids), Port("mask", TOKENS)


def _outputs(source: ModelSource) -> tuple[Port, ...]:
    vocabulary = source.config.text_vocab_size
    return Port("labels", TOKENS, torch.int64), Port("log_probs", (*TOKENS, vocabulary))


def _graph(source: ModelSource, precision: Precision, base: onnx.ModelProto | None) -> onnx.ModelProto:
    network = ListeningNetwork(source.weights, source.config, PRECISIONS[precision])
    example = torch.zeros(2, EXAMPLE_TOKENS, dtype=torch.int64), torch.ones(2, EXAMPLE_TOKENS)
    return traced(network, _inputs(source), example, _outputs(source))


def _weights(source: ModelSource) -> str:
    config = source.config
    rotation = config.head_dim, config.rope_theta, config.rope_scaling
    params = config.num_attention_heads, config.num_key_value_heads, *rotation, config.rms_norm_eps
    return fingerprint(params, ListeningNetwork(source.weights, config, torch.float32))


def log_probs_of(source: ModelSource, rows: Sequence[Tensor]) -> list[Tensor]:
    """ids int64 (tokens) of each row to log-probabilities (tokens, text_vocab), one row at a time by the
    runtime's kernels."""
    config, weights = source.config, source.weights
    norm = weights.audio_norm
    frequencies = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    layers = [
        DecoderLayer(
            input_norm=layer.input_norm,
            qkv=_packed(layer.qkv),
            o=_packed(layer.o),
            post_norm=layer.post_norm,
            gate_up=_packed(layer.gate_up),
            down=_packed(layer.down),
        )
        for layer in weights.bottom_layers
    ]
    geometry = DecoderGeometry(
        config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rms_norm_eps
    )
    table = rope_table(frequencies, max(map(len, rows)))
    hear, head = decoder_layers(layers, norm, geometry, table), _packed(weights.audio_to_text_proj)
    assert isinstance(weights.audio_embed_tokens, Tensor), "int8 is refused where a checkpoint is read"
    results = []
    for ids in rows:
        count = len(ids)
        batch = AttentionBatch(
            positions=torch.arange(count, dtype=torch.int32),
            slot_mapping=torch.arange(count),
            cu_seqlens_q=torch.tensor([0, count], dtype=torch.int32),
            context_lens=torch.tensor([count], dtype=torch.int32),
            block_table=torch.zeros(1, 1, dtype=torch.int32),
        )
        # One block that holds the whole row.
        caches = torch.zeros(len(layers), 2, 1, count, config.num_key_value_heads, config.head_dim)
        hidden = hear(F.embedding(ids, weights.audio_embed_tokens), batch, [(k, v) for k, v in caches], None)
        results.append(torch.log_softmax(head(hidden), dim=-1))
    return results


def _packed(matrix: LayerMatrix) -> Linear:
    return linear(matrix)


@dataclass(frozen=True, eq=False)
class Heard:
    """Rows of ids, padded with numbers that are no ids, and what the runtime hears in each by itself."""

    ids: Tensor
    mask: Tensor
    """(batch, tokens)"""
    log_probs: Sequence[Tensor]
    """Of each row (tokens, text_vocab)"""

    @classmethod
    def drawn(cls, source: ModelSource, sizes: Sequence[int], generator: torch.Generator) -> Heard:
        """A few text ids, as in a prompt, then units."""
        config = source.config
        rows = []
        for size in sizes:
            text = torch.randint(config.text_vocab_size, (size,), generator=generator)
            units = torch.randint(config.audio_vocab_size, (size,), generator=generator)
            spoken = torch.arange(size) >= min(5, size // 2)
            rows.append(torch.where(spoken, units + config.first_unit_id, text))
        return cls.of(source, rows)

    @classmethod
    def of(cls, source: ModelSource, rows: Sequence[Tensor]) -> Heard:
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), -(2**40))
        for row, own in zip(ids, rows, strict=True):
            row[: len(own)] = own
        mask = (torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]).float()
        with torch.inference_mode():
            return cls(ids, mask, log_probs_of(source, rows))


def _compare(heard: Heard, run: Run) -> Mapping[str, Compared]:
    labels, log_probs = run(heard.ids, heard.mask)
    found = [row[: len(right)] for row, right in zip(log_probs, heard.log_probs, strict=True)]
    return {"log_probs": (found, heard.log_probs), "labels": _compared_labels(heard, labels)}


def _compare_engine(heard: Heard, run: Run) -> Mapping[str, Compared]:
    (labels,) = run(heard.ids, heard.mask)
    return {"labels": _compared_labels(heard, labels)}


def _compared_labels(heard: Heard, labels: Tensor) -> Compared:
    """How likely the labels are, beside the likeliest: the same, unless two are about level."""
    chosen = [
        row.gather(1, label[: len(row), None].clamp(min=0))[:, 0]
        for row, label in zip(heard.log_probs, labels, strict=True)
    ]
    return chosen, [row.amax(1) for row in heard.log_probs]


QUESTIONS = Profile((Span(1, 128, 256),), Span(1, 1, 4))
LONG_QUESTIONS = Profile((Span(1, 512, 1024),), Span(1, 1, 1))
LISTENING_PART = Part(
    kind="listening",
    file="listening.onnx",
    about="the bottom speech layers with the CTC head",
    folder="model",
    read=read_listening,
    inputs=_inputs,
    outputs=_outputs,
    graph=_graph,
    weights=_weights,
    size="tokens",
    batches=BATCHES,
    quick_batches=QUICK_BATCHES,
    trial=Heard.drawn,
    compare=_compare,
    bounds={
        "fp32": {"log_probs": Bound(1e-4, is_relative=True), "labels": Bound(1e-3, is_relative=False)},
        "fp16": {"log_probs": Bound(5e-3, is_relative=True), "labels": Bound(1e-1, is_relative=False)},
    },
    engine=EnginePlan(
        (QUESTIONS, LONG_QUESTIONS),
        listening_tries,
        outputs=("labels",),
        why="log_probs, which are as large as the vocabulary for each token",
        compare=_compare_engine,
        results=("labels",),
    ),
)
