"""Frozen configurations. Derived values are properties; "auto" is resolved with `dataclasses.replace`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, TypedDict, get_args

from antiphon.errors import ConfigError
from antiphon.plain import MAX_INT, choice, flag, integer, kind, number

__all__ = [
    "AttentionBackend",
    "CacheConfig",
    "EngineConfig",
    "EngineSettings",
    "InputLimits",
    "KVCacheDtype",
    "ModelConfig",
    "RopeScaling",
    "StreamSchedule",
    "VisionConfig",
]

SpeechPrompt = Literal["soft", "collapsed"]
NoSpeech = Literal["answer", "empty", "error"]
UnitHead = Literal["all", "units"]
KVCacheDtype = Literal["auto", "int8"]
AttentionBackend = Literal["native", "flash-attn", "flashinfer"]

SCALE_BYTES = 4
"""Of a float32, one for each head of a position in an int8 KV cache."""

MAX_SCHEDULE_UNITS = 100_000
"""Over an hour of speech."""


def _integer(where: str, value: object, low: int, high: int) -> int:
    return integer(where, value, low, high, error=ConfigError)


def _set(frozen: object, read: Mapping[str, object]) -> None:
    """Replace given values, such as numpy scalars, by plain ones."""
    for name, value in read.items():
        object.__setattr__(frozen, name, value)


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1 frequency scaling (`rope_scaling` with rope_type "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class VisionConfig:
    """A SigLIP tower without its last encoder layer. Defaults: so400m-patch14-384."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    """Includes the layer that was removed; the file holds one fewer."""
    num_attention_heads: int = 16
    image_size: int = 384
    patch_size: int = 14
    num_channels: int = 3
    layer_norm_eps: float = 1e-6

    @property
    def num_kept_layers(self) -> int:
        return self.num_hidden_layers - 1

    @property
    def side(self) -> int:
        """Features per tile side."""
        return self.image_size // self.patch_size

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class ModelConfig:
    """What a Stream-Omni checkpoint computes: `config.json`, `generation_config.json` and special ids."""

    # Llama geometry, shared by the bottom, LLM and top stacks
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_position_embeddings: int
    """Longest sequence that the model was made for (the smaller of the config's two limits)."""
    # speech
    text_vocab_size: int
    """Rows of the text tables: embed_tokens, lm_head, audio_to_text_proj."""
    vocab_size: int
    """Rows of the speech tables: audio_embed_tokens, text_to_audio_proj, audio_lm_head."""
    audio_vocab_size: int
    num_bottom_audio_layers: int
    num_top_audio_layers: int
    # pictures
    vision: VisionConfig | None
    """None: the checkpoint has no vision tower and takes no pictures."""
    image_aspect_ratio: str = "anyres_max_9"
    image_grid_pinpoints: str | tuple[tuple[int, int], ...] = "(1x1),(6x6)"
    mm_patch_merge_type: str = "spatial_unpad"
    # ids
    bos_token_id: int = 0
    blank_token_id: int = 0
    """CTC blank: the id of <|reserved_special_token_0|>."""
    eot_token_id: int = 0
    """<|eot_id|>."""
    stop_token_ids: frozenset[int] = frozenset()
    first_unit_id: int = 0
    """The id of <Audio_0>."""
    # how text and speech are joined
    fusion_window: int = 5
    """W: how many text tokens a unit attends to (paper, 3.3)."""
    fusion_lag: int = 3
    """K: how many text tokens there must be before the first unit."""
    speech_prompt: SpeechPrompt = "soft"

    @property
    def num_speech_layers(self) -> int:
        """Layers of the speech track: bottom and top share positions and block table."""
        return self.num_bottom_audio_layers + self.num_top_audio_layers

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim


@dataclass(frozen=True)
class InputLimits:
    """Bounds on what one request may contain; more is an `InvalidRequest`. Each is at least 0 or 1."""

    max_images: int = 16
    max_image_bytes: int = 32 * 2**20
    max_image_pixels: int = 64_000_000
    """For each picture. A file is also refused if decoding it takes more than 10 bytes for each of these:
    WebP takes 18 bytes per pixel, JPEG 2000 of one tile 20."""
    max_audio_bytes: int = 64 * 2**20
    max_audio_s: float = 300.0
    """For all recordings of a request together."""
    max_transcribed_s: float = 3600.0
    """For the recording that `Engine.transcribe` is given, instead of max_audio_s: it is heard in pieces."""
    max_text_chars: int = 400_000
    max_messages: int = 256
    max_parts: int = 4096
    """Pieces of content in all messages together."""

    def __post_init__(self) -> None:
        read: dict[str, int | float] = {
            name: _integer(f"InputLimits.{name}", getattr(self, name), low, MAX_INT)
            for name, low in {
                "max_images": 0,
                "max_image_bytes": 1,
                "max_image_pixels": 1,
                "max_audio_bytes": 1,
                "max_text_chars": 0,
                "max_messages": 1,
                "max_parts": 1,
            }.items()
        }
        for name in ("max_audio_s", "max_transcribed_s"):
            read[name] = number(f"InputLimits.{name}", getattr(self, name), 0.0, error=ConfigError)
        _set(self, read)


@dataclass(frozen=True)
class CacheConfig:
    """Shape of the paged KV cache. A block is a fixed number of bytes that either track may take.

    The track with more layers keeps `block_size` positions in a block; the other, whose positions
    are smaller, keeps as many as fit.
    """

    num_blocks: int
    block_size: int
    """Positions per block of the track with more layers."""
    num_text_layers: int
    num_speech_layers: int
    num_kv_heads: int
    head_dim: int
    dtype_bytes: int
    has_scales: bool = False
    """Whether numbers are int8, with a float32 for each head of a position."""

    @property
    def text_block_size(self) -> int:
        return self._positions(self.num_text_layers)

    @property
    def speech_block_size(self) -> int:
        return self._positions(self.num_speech_layers)

    @property
    def block_numel(self) -> int:
        """Numbers in a block: keys and values of all layers of its track."""
        layers = max(self.num_text_layers, self.num_speech_layers)
        return prod((self.block_size, layers, 2, self.num_kv_heads, self.head_dim))

    @property
    def block_bytes(self) -> int:
        num_scales = self.block_numel // self.head_dim if self.has_scales else 0
        return self.block_numel * self.dtype_bytes + num_scales * SCALE_BYTES

    def _positions(self, num_layers: int) -> int:
        return self.block_size * max(self.num_text_layers, self.num_speech_layers) // num_layers


@dataclass(frozen=True)
class StreamSchedule:
    """How speech is cut into chunks. They grow: the first is short, so that sound comes early; later ones are
    longer and cheaper.

    A chunk of units d .. d+c-1 is computed together with units before it and with the first units after it,
    of which it keeps only the start of a cross-fade:

        | context: units and their mel | chunk: its mel is final | look-ahead |
        d - context_units              d                         d + c        d + c + lookahead_units

    Where chunks end depends only on the numbers of units, not on when they were pushed.
    """

    first_units: int = 15
    """Units needed before the first chunk is made, including the look-ahead; > lookahead_units."""
    growth: float = 2.0
    """Each chunk is this many times as long as the one before; >= 1."""
    max_units: int = 50
    """Longest chunk; bounds the time and memory of a step."""
    context_units: int = 25
    """Units before a chunk that it continues, a second by default; the cost is computing them again."""
    lookahead_units: int = 3
    """Units after a chunk that it sees, and over which it fades into the next."""

    def __post_init__(self) -> None:
        where = "StreamSchedule"
        read: dict[str, int | float] = {
            name: _integer(f"{where}.{name}", getattr(self, name), low, MAX_SCHEDULE_UNITS)
            for name, low in {"lookahead_units": 0, "context_units": 0, "max_units": 1}.items()
        }
        low = int(read["lookahead_units"]) + 1
        read["first_units"] = _integer(f"{where}.first_units", self.first_units, low, MAX_SCHEDULE_UNITS)
        read["growth"] = number(f"{where}.growth", self.growth, 1.0, error=ConfigError)
        _set(self, read)

    def chunk_units(self, index: int) -> int:
        """Length of chunk `index`, counted from 0."""
        first = self.first_units - self.lookahead_units
        if first >= self.max_units:
            return self.max_units
        # growth**index would overflow for a long stream.
        length = float(first)
        for _ in range(index):
            length *= self.growth
            if length >= self.max_units or self.growth == 1:
                break
        return min(int(length), self.max_units)


class EngineSettings(TypedDict, total=False):
    """How the engine serves, as keywords of `Engine`. `EngineConfig` has the defaults."""

    max_num_seqs: int
    """Requests that run at a time."""
    max_num_batched_tokens: int
    """Positions that one pass through a stack may hold."""
    max_num_waiting: int
    """Requests that may wait; one more is `EngineOverloaded`."""
    block_size: int
    """Positions per block of the KV cache, on the track with more layers."""
    text_lookahead: int
    """Text tokens that may be decoded before speech asks for them."""
    enable_prefix_caching: bool
    """Keep the blocks of finished requests, for later ones that begin with the same ids."""
    enforce_eager: bool
    """On a GPU: launch kernels one by one, not as CUDA graphs, which take seconds to record at the start."""
    max_model_len: int
    """Longest sequence of either track; the model's own limit if that is smaller."""
    gpu_memory_utilization: float
    """Share of a GPU's memory that may be in use in all, including other programs; above 0, at most 1."""
    kv_cache_bytes: int | None
    """Size of the KV cache. None: by the memory that is free (see `runtime/model/cache.py`)."""
    kv_cache_dtype: KVCacheDtype
    """What keys and values are kept in. "auto": the dtype that the model computes in; "int8": 8 bits, with a
    scale for each head of a position, for 3.8 times as many positions as in float32 (heads of 64)."""
    attention_backend: AttentionBackend
    """What computes attention over the KV cache. "native": our kernels; on a GPU in 16 bits also a library,
    if it is installed: "flash-attn" with a block_size of a multiple of 256, or "flashinfer", see docs/gpu.md.
    Attention to the windows of fusion is ours with each of them."""
    stream_schedule: StreamSchedule
    """How speech is made while its units are still coming."""
    seed: int
    """For requests without a seed, and for dummy weights."""
    limits: InputLimits
    """Bounds on what one request may contain."""
    no_speech: NoSpeech
    """What becomes of a request whose speech is silence or noise (`Completion.no_speech`): "answer": the
    model answers, whatever it heard; "empty": an empty reply, finish_reason "stop"; "error":
    finish_reason "error"."""
    unit_head: UnitHead
    """From which ids a unit is picked. "all": from the whole vocabulary of the unit head, like the released
    code; "units": from units and stop ids alone, which reads 4 of its 132 thousand rows and skips the text
    ids that a model may, but should not, pick there."""


@dataclass(frozen=True)
class EngineConfig:
    """The settings of an engine, checked. `EngineSettings` says what each of them means."""

    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_num_waiting: int = 4096
    block_size: int = 16
    text_lookahead: int = 32
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    max_model_len: int = 32768
    gpu_memory_utilization: float = 0.9
    kv_cache_bytes: int | None = None
    kv_cache_dtype: KVCacheDtype = "auto"
    attention_backend: AttentionBackend = "native"
    stream_schedule: StreamSchedule = StreamSchedule()
    seed: int = 0
    limits: InputLimits = InputLimits()
    no_speech: NoSpeech = "answer"
    unit_head: UnitHead = "all"

    def __post_init__(self) -> None:
        read: dict[str, object] = {
            name: _integer(name, getattr(self, name), low, high)
            for name, (low, high) in {
                "max_num_seqs": (1, 2**16),
                "max_num_batched_tokens": (1, 2**24),
                "max_num_waiting": (1, MAX_INT),
                "block_size": (1, 2**16),
                "text_lookahead": (0, MAX_INT),
                "max_model_len": (2, MAX_INT),
                "seed": (-MAX_INT, MAX_INT),
            }.items()
        }
        if self.kv_cache_bytes is not None:
            read["kv_cache_bytes"] = _integer("kv_cache_bytes", self.kv_cache_bytes, 0, MAX_INT)
        for name in ("enable_prefix_caching", "enforce_eager"):
            read[name] = flag(name, getattr(self, name), error=ConfigError)
        name = "gpu_memory_utilization"
        read[name] = number(name, self.gpu_memory_utilization, 0.0, 1.0, above=True, error=ConfigError)
        for name, expected in (("stream_schedule", StreamSchedule), ("limits", InputLimits)):
            value = getattr(self, name)
            if not issubclass(type(value), expected):
                raise ConfigError(f"{name}: expected {expected.__name__}, got {kind(value)}")
        name = "kv_cache_dtype"
        read[name] = choice(name, self.kv_cache_dtype, get_args(KVCacheDtype), error=ConfigError)
        name = "attention_backend"
        read[name] = choice(name, self.attention_backend, get_args(AttentionBackend), error=ConfigError)
        read["no_speech"] = choice("no_speech", self.no_speech, get_args(NoSpeech), error=ConfigError)
        read["unit_head"] = choice("unit_head", self.unit_head, get_args(UnitHead), error=ConfigError)
        _set(self, read)
