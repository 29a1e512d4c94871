"""Times from data sheets: what must be read and computed, at a share of what a GPU promises."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from antiphon.bench.checkpoint import CONFIGS
from antiphon.bench.codec_flops import codec_flops
from antiphon.bench.dummy_codec import read_params
from antiphon.bench.simulate.costs import MODEL, SPEECH, Served, Work
from antiphon.bench.simulate.gpus import Gpu
from antiphon.bench.sizes import Sizes, read_sizes
from antiphon.codec.batches import flow_ladder
from antiphon.codec.checkpoint.hyperparams import CodecParams
from antiphon.codec.codec import CUDA_BATCH_FRAMES
from antiphon.config import CacheConfig, EngineConfig, ModelConfig
from antiphon.errors import ConfigError

__all__ = ["FloorCosts", "model_config"]

BYTES = {"bfloat16": 2, "int8": 1}
"""Of a weight, by format."""
ACTIVATION_BYTES = 2
"""Of a key or a value."""
LAUNCH_S = 1e-6
"""From one kernel of a recording to the next (docs/gpu.md)."""
LAYER_KERNELS, TOP_LAYER_KERNELS, HEAD_KERNELS = 9, 12, 3
STEP_S, STEP_ROW_S = 0.17e-3, 13e-6
"""What the device waits for the host in a step, and for each request in it (bench/results/host_xeon.json)."""
PREPARE_S, PREPARE_PER_S, PREPARE_PICTURE_S = 5e-3, 20e-3, 30e-3
"""A request is read on the host, beside the device: for itself, for each second of speech (its tokenizer is a
network on the CPU) and for each picture. Of the order of what a Xeon takes."""
INTAKE_S = 0.2e-3
SPEECH_KERNELS = 10 * 200 + 200
"""In the flow's ten steps, and after them."""
TOWER_WEIGHTS, TOWER_POSITIONS = 4.1e8, 729
"""Of the vision tower without its last layer, for each tile."""
PROMPT_IDS = 55
ENGINE_BYTES = 3e9
"""Beside weights and cache: activations, recordings, the codec, the driver."""


@dataclass(frozen=True)
class FloorCosts:
    """A released-size model, or another folder of bench/configs, on one GPU of a data sheet.

    A pass takes as long as reading its weights and its keys and values, or as computing its products,
    whichever is longer, at `efficiency` of the data sheet, and a moment for each kernel. Speech is computed
    at `codec_efficiency`. Steps and speech take turns on the device: together they are no faster than one
    after the other.
    """

    gpu: Gpu
    config: str = "8b"
    weights: str = "bfloat16"
    efficiency: float = 0.7
    codec_efficiency: float = 0.1
    settings: EngineConfig = field(default_factory=EngineConfig)
    launch_s: float = LAUNCH_S
    host: float = 1.0
    """Factor of all that the host does."""
    slowed: Mapping[str, Mapping[str, float]] = field(
        default_factory=lambda: {MODEL: {SPEECH: 1.0}, SPEECH: {MODEL: 1.0, SPEECH: 1.0}}
    )
    rates: Sequence[float] = ()

    @cached_property
    def sizes(self) -> Sizes:
        return read_sizes(self.config)

    @property
    def served(self) -> Served:
        """Raises ConfigError if the model does not fit the GPU."""
        return self._served

    @cached_property
    def _served(self) -> Served:
        model, settings = model_config(self.config), self.settings
        one = CacheConfig(
            1,
            settings.block_size,
            model.num_hidden_layers,
            model.num_speech_layers,
            model.num_key_value_heads,
            model.head_dim,
            ACTIVATION_BYTES,
        )
        room = self.gpu.memory_bytes * settings.gpu_memory_utilization - self.weight_bytes - ENGINE_BYTES
        longest = min(settings.max_model_len, model.max_position_embeddings)
        useful = settings.max_num_seqs * sum(
            -(-longest // size) for size in (one.text_block_size, one.speech_block_size)
        )
        num_blocks = min(int(room // one.block_bytes), useful)
        if num_blocks < 2:
            raise ConfigError(
                f"{self.gpu.name}: expected more than the {self.weight_bytes / 1e9:.1f} GB of weights and "
                f"{ENGINE_BYTES / 1e9:g} GB beside them, got {self.gpu.memory_bytes / 1e9:g} GB of memory, "
                f"of which {settings.gpu_memory_utilization:.0%} are used"
            )
        return Served(
            name=f"{self.config} in {self.weights} on {self.gpu.name}",
            model=model,
            cache=CacheConfig(num_blocks, *(getattr(one, name) for name in _CACHE_FIELDS)),
            settings=settings,
            max_batch_frames=CUDA_BATCH_FRAMES,
            ladder=flow_ladder(self._codec.flow, settings.stream_schedule, CUDA_BATCH_FRAMES),
            num_speech_threads=1,
            num_prompt_ids=PROMPT_IDS,
            picture_side=27,
            picture_tiles=5,
        )

    # --- weights ------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> dict[str, int]:
        """Numbers in the weights of each part of a step."""
        sizes, config = self.sizes, model_config(self.config)
        q, kv = sizes.num_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
        layer = sizes.hidden * (2 * q + 2 * kv + 3 * sizes.intermediate)
        return {
            "bottom": config.num_bottom_audio_layers * layer,
            "ctc_head": sizes.text_vocab * sizes.hidden,
            "text": sizes.num_layers * layer,
            "lm_head": sizes.text_vocab * sizes.hidden,
            "top": sizes.num_top_layers * (layer + 2 * sizes.hidden * q),
            "unit_head": sizes.vocab * sizes.hidden,
            "fusion": sizes.num_top_layers * 2 * sizes.hidden * q,
        }

    @property
    def weight_bytes(self) -> float:
        """Of the whole model: also the tables of embeddings, which a step reads a row of."""
        tables = (self.sizes.text_vocab + self.sizes.vocab) * self.sizes.hidden
        return sum(self.parts.values()) * BYTES[self.weights] + (tables + TOWER_WEIGHTS) * 2

    # --- times --------------------------------------------------------------------------------

    def pass_s(self, work: Work) -> float:
        parts, model = self.parts, self.served.model
        ops = weights = 0.0
        if work.stack == "bottom":
            layers, kernels = model.num_bottom_audio_layers, LAYER_KERNELS
            weights = parts["bottom"] + parts["ctc_head"]
            # units of a prompt become soft embeddings, too: shares of all labels times their table
            ops = work.tokens * (parts["bottom"] + (1 if work.is_decode else 2) * parts["ctc_head"])
        elif work.stack == "text":
            layers, kernels = model.num_hidden_layers, LAYER_KERNELS
            weights = parts["text"] + parts["lm_head"]
            ops = work.tokens * parts["text"] + work.picks * parts["lm_head"]
            ops += work.picture_tiles * TOWER_POSITIONS * TOWER_WEIGHTS
        else:
            layers, kernels = model.num_top_audio_layers, TOP_LAYER_KERNELS
            # that new text comes into the windows is counted in each step
            weights = parts["top"] + parts["unit_head"] + parts["fusion"]
            ops = work.tokens * parts["top"] + work.picks * (parts["unit_head"] + parts["fusion"])
            if work.is_decode:  # it hears its units, too
                layers += model.num_bottom_audio_layers
                weights += parts["bottom"] + parts["ctc_head"]
                ops += work.picks * (parts["bottom"] + parts["ctc_head"])
        cached = work.context * layers * 2 * model.num_key_value_heads * model.head_dim * ACTIVATION_BYTES
        per_s = self.gpu.int8_per_s if self.weights == "int8" else self.gpu.bf16_per_s
        read_s = (weights * BYTES[self.weights] + cached) / self.gpu.bytes_per_s
        return (
            max(read_s, 2 * ops / per_s) / self.efficiency
            + (layers * kernels + 2 * HEAD_KERNELS) * self.launch_s
        )

    def step_s(self, rows: int) -> float:
        return self.host * (STEP_S + STEP_ROW_S * rows)

    def speech_s(self, frames: Sequence[int], final_frames: Sequence[int]) -> float:
        # a batch computes its longest chunk's frames for all
        flow = len(frames) * max(frames, default=0) * self._flops_per_frame[0]
        sound = sum(final_frames) * self._flops_per_frame[1]
        return (flow + sound) / self.gpu.bf16_per_s / self.codec_efficiency + SPEECH_KERNELS * self.launch_s

    def prepare_s(self, speech_s: float, num_pictures: int) -> float:
        return self.host * (PREPARE_S + PREPARE_PER_S * speech_s + PREPARE_PICTURE_S * num_pictures)

    def intake_s(self) -> float:
        return self.host * INTAKE_S

    def wake_s(self, kind: str, pause_s: float) -> float:
        return 0.0  # not known

    @cached_property
    def _codec(self) -> CodecParams:
        return read_params("codec_300m")

    @cached_property
    def _flops_per_frame(self) -> tuple[float, float]:
        """Of the flow, and of what makes sound of its frames; by a chunk of two seconds with its context."""
        num_units = self.settings.stream_schedule.max_units + self.settings.stream_schedule.context_units
        flops = codec_flops(self._codec, num_units)
        frames = self._codec.flow.mel_frames(num_units)
        return flops.flow / frames, (flops.f0 + flops.hift) / frames


_CACHE_FIELDS = (
    "block_size",
    "num_text_layers",
    "num_speech_layers",
    "num_kv_heads",
    "head_dim",
    "dtype_bytes",
)


def model_config(config: str) -> ModelConfig:
    """What the scheduler asks of the model of a folder of bench/configs; ids are numbers that nothing else
    has."""
    sizes = read_sizes(config)
    values = json.loads((CONFIGS / config / "config.json").read_text(encoding="utf-8"))
    return ModelConfig(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        rms_norm_eps=values["rms_norm_eps"],
        rope_theta=values["rope_theta"],
        rope_scaling=None,
        max_position_embeddings=values["max_position_embeddings"],
        text_vocab_size=sizes.text_vocab,
        vocab_size=sizes.vocab,
        audio_vocab_size=sizes.num_units,
        num_bottom_audio_layers=values["num_bottom_audio_layers"],
        num_top_audio_layers=sizes.num_top_layers,
        vision=None,
        blank_token_id=sizes.text_vocab - 1,
        eot_token_id=sizes.text_vocab - 2,
        stop_token_ids=frozenset((sizes.text_vocab - 2,)),
        first_unit_id=sizes.text_vocab,
    )
