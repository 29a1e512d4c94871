"""From the folder of a checkpoint to a `ModelConfig`: config.json, generation_config.json, tokenizer.json.

A checkpoint has the form of Stream-Omni's (arXiv 2506.13642): a Hugging Face Llama configuration with the
extra keys of LLaVA-OneVision for pictures and Stream-Omni's own for speech.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from antiphon.config import ModelConfig, RopeScaling, SpeechPrompt
from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import is_folder, is_there, read_json, shown
from antiphon.model.checkpoint.known_keys import HARMLESS_CONFIG_KEYS
from antiphon.model.checkpoint.quantization import take_quantization
from antiphon.model.checkpoint.settings import Settings
from antiphon.model.checkpoint.shards import read_headers
from antiphon.model.checkpoint.tensors import SPEECH_TABLES, TEXT_TABLES
from antiphon.model.checkpoint.vision_settings import take_vision
from antiphon.text.tokenizer_file import read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["LoadFormat", "check_folder", "read_checkpoint", "read_config"]

LoadFormat: TypeAlias = Literal["auto", "dummy"]
"""Where weights come from: "auto" from safetensors files, "dummy" from a random generator."""

MAX_COUNT = 1024
"""Bound on the numbers of layers and heads, and on the size of a head."""
MIN_POSITIONS = 16
"""A model made for fewer positions has no room for a prompt."""
MAX_WINDOW = 64
"""Text tokens that a unit attends to: their keys and values are kept for every request."""
MAX_LAG = 4096

SPEECH_PROMPTS: tuple[SpeechPrompt, ...] = ("soft", "collapsed")


def read_config(folder: Path, *, load_format: LoadFormat = "auto") -> ModelConfig:
    """What a checkpoint computes; see `read_checkpoint`."""
    return read_checkpoint(folder, load_format=load_format)[0]


def read_checkpoint(folder: Path, *, load_format: LoadFormat = "auto") -> tuple[ModelConfig, Tokenizer]:
    """Read what a checkpoint computes, and its tokenizer.json, which names the ids.

    The sizes of the vocabularies are those of the tables in the weight files, whose text vocabulary may
    already include the units; with load_format "dummy", which needs no weight files, they are those of
    config.json.

    Args:
        folder: the checkpoint.
        load_format: see `LoadFormat`.

    Raises:
        CheckpointError: a file is missing or corrupt, a key is missing, of a wrong type or out of range,
            asks for something not implemented, or is unknown and not off. Names file, key, expected, found.
    """
    check_folder(folder)
    settings = Settings(folder / "config.json", read_json(folder / "config.json"))
    config = _take_config(settings, folder)
    settings.refuse_unknown(HARMLESS_CONFIG_KEYS)
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    config = _with_special_ids(config, folder, tokenizer)
    if load_format == "auto":
        config = _with_table_rows(config, folder)
    _check_ids(config, folder)
    stop_ids = _read_stop_ids(folder, settings, config.text_vocab_size)
    return replace(config, stop_token_ids=stop_ids), tokenizer


def check_folder(folder: Path) -> None:
    """Raise `CheckpointError` unless this is a folder."""
    if not is_folder(folder):
        found = "a file" if is_there(folder) else "nothing there"
        raise CheckpointError(f"{folder}: expected the folder of a checkpoint, found {found}")


# --- config.json ----------------------------------------------------------------------------------


def _take_config(settings: Settings, folder: Path) -> ModelConfig:
    """Everything in config.json that matters; the ids are filled in later."""
    if settings.text("model_type") != "stream_omni_llama":
        raise settings.error("model_type", "'stream_omni_llama'")
    _check_fixed(settings)
    take_quantization(settings)

    hidden_size = settings.integer("hidden_size")
    num_heads = settings.integer("num_attention_heads", high=MAX_COUNT)
    num_kv_heads = settings.integer("num_key_value_heads", num_heads, high=MAX_COUNT)
    if num_heads % num_kv_heads:
        raise settings.error("num_key_value_heads", f"a divisor of num_attention_heads ({num_heads})")
    if settings.take("head_dim") is None and hidden_size % num_heads:
        raise settings.error("hidden_size", f"a multiple of num_attention_heads ({num_heads})")
    head_dim = settings.integer("head_dim", hidden_size // num_heads, high=MAX_COUNT)
    if head_dim % 2:
        raise settings.error("head_dim", f"an even number, not {head_dim}: rotary embedding rotates pairs")
    vocab_size = settings.integer("vocab_size", high=2**24)
    text_vocab_size = settings.integer("text_vocab_size", vocab_size, high=2**24)
    if text_vocab_size > vocab_size:
        raise settings.error("text_vocab_size", f"at most vocab_size ({vocab_size})")
    # Hugging Face writes 1e30 if a tokenizer has no limit
    max_positions = settings.integer("max_position_embeddings", low=MIN_POSITIONS, high=10**30)
    max_tokens = settings.integer("tokenizer_model_max_length", max_positions, low=MIN_POSITIONS, high=10**31)
    speech_prompt = settings.take("speech_prompt") or "soft"
    if speech_prompt not in SPEECH_PROMPTS:
        raise settings.error("speech_prompt", " or ".join(map(repr, SPEECH_PROMPTS)))
    rope_theta, rope_scaling = _take_rope(settings)

    config = ModelConfig(
        hidden_size=hidden_size,
        intermediate_size=settings.integer("intermediate_size"),
        num_hidden_layers=settings.integer("num_hidden_layers", high=MAX_COUNT),
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=settings.positive("rms_norm_eps", high=1.0),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        max_position_embeddings=min(max_positions, max_tokens),
        text_vocab_size=text_vocab_size,
        vocab_size=vocab_size,
        audio_vocab_size=settings.integer("audio_vocab_size"),
        # the paper's numbers, which the released model uses if its config has none
        num_bottom_audio_layers=settings.integer("num_bottom_audio_layers", 3, high=MAX_COUNT),
        num_top_audio_layers=settings.integer("num_top_audio_layers", 5, high=MAX_COUNT),
        vision=None,
        fusion_window=settings.integer("fusion_window", 5, high=MAX_WINDOW),
        fusion_lag=settings.integer("fusion_lag", 3, high=MAX_LAG),
        speech_prompt=speech_prompt,
    )
    return take_vision(settings, folder, config)


def _check_fixed(settings: Settings) -> None:
    """Switches of the Llama and LLaVA code for which only one setting is implemented."""
    settings.fixed("hidden_act", "silu")
    settings.fixed("pretraining_tp", 1)
    settings.fixed("partial_rotary_factor", 1.0, 1)
    settings.fixed("mm_projector_type", "mlp2x_gelu")
    settings.fixed("mm_vision_select_layer", -2)
    settings.fixed("mm_vision_select_feature", "patch")
    settings.fixed("mm_newline_position", "one_token")
    for name in ("sliding_window", "mm_resampler_type"):
        settings.fixed(name)
    for name in ("attention_bias", "mlp_bias", "tie_word_embeddings", "use_sliding_window", "s2"):
        settings.fixed(name, False)
    for name in ("mm_use_im_start_end", "mm_use_im_patch_token", "is_encoder_decoder", "add_cross_attention"):
        settings.fixed(name, False)


def _take_rope(settings: Settings) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary embedding.

    Written as `rope_theta` and `rope_scaling`, or, since transformers 5, as one `rope_parameters`.
    """
    scaling, parameters = settings.nested("rope_scaling"), settings.nested("rope_parameters")
    if scaling is not None and parameters is not None:
        raise settings.error("rope_parameters", "no such key beside rope_scaling")
    nested = parameters or scaling
    if nested is None:
        return settings.positive("rope_theta"), None
    inner = None if nested.take("rope_theta") is None else nested.positive("rope_theta")
    theta = settings.positive("rope_theta", inner)
    if inner is not None and inner != theta:
        raise nested.error("rope_theta", f"the rope_theta of config.json ({theta})")
    return theta, _take_rope_scaling(nested)


def _take_rope_scaling(nested: Settings) -> RopeScaling | None:
    key = "type" if nested.take("rope_type") is None else "rope_type"
    nested.take("type")  # the older name, which may be present besides the newer one
    kind = nested.text(key, "default")
    if kind == "default":
        nested.refuse_unknown(())
        return None
    if kind != "llama3":
        raise nested.error(key, "'llama3' or 'default' (nothing else is implemented)")
    scaling = RopeScaling(
        factor=nested.positive("factor"),
        low_freq_factor=nested.positive("low_freq_factor"),
        high_freq_factor=nested.positive("high_freq_factor"),
        original_max_position_embeddings=nested.integer("original_max_position_embeddings"),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise nested.error("high_freq_factor", f"more than low_freq_factor ({scaling.low_freq_factor})")
    nested.refuse_unknown(())
    return scaling


# --- ids ------------------------------------------------------------------------------------------


def _read_stop_ids(folder: Path, settings: Settings, text_vocab_size: int) -> frozenset[int]:
    """`eos_token_id` of generation_config.json, or else of config.json: one id or several."""
    name = "eos_token_id"
    path = folder / "generation_config.json"
    place = Settings(path, read_json(path)) if is_there(path) else settings
    if place.take(name) is None:
        place = settings
    ids = place.take(name)
    listed = ids if isinstance(ids, list) else [ids]
    if not listed or not all(isinstance(i, int) and not isinstance(i, bool) for i in listed):
        raise place.error(name, "an id or a list of ids (or one in generation_config.json)")
    if min(listed) < 0 or max(listed) >= text_vocab_size:
        raise place.error(name, f"ids below the {text_vocab_size} rows of the text tables")
    return frozenset(listed)


def _with_special_ids(config: ModelConfig, folder: Path, tokenizer: Tokenizer) -> ModelConfig:
    path = folder / "tokenizer.json"

    def id_of(token: str) -> int:
        token_id = tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"{path}: {token}: expected in the vocabulary, found no such token")
        return int(token_id)

    first = id_of("<Audio_0>")
    for unit in range(config.audio_vocab_size):
        found = id_of(f"<Audio_{unit}>")
        if found != first + unit:
            raise CheckpointError(
                f"{path}: <Audio_{unit}>: expected id {first + unit} (the ids of units follow each other, "
                f"and <Audio_0> is {first}), found {found}"
            )
    return replace(
        config,
        bos_token_id=id_of("<|begin_of_text|>"),
        blank_token_id=id_of("<|reserved_special_token_0|>"),
        eot_token_id=id_of("<|eot_id|>"),
        first_unit_id=first,
    )


def _check_ids(config: ModelConfig, folder: Path) -> None:
    """The ids of the tokenizer must lie in the tables."""
    last_unit = config.audio_vocab_size - 1
    for token, token_id, tables, rows in (
        ("<|begin_of_text|>", config.bos_token_id, "text", config.text_vocab_size),
        ("<|reserved_special_token_0|>", config.blank_token_id, "text", config.text_vocab_size),
        ("<|eot_id|>", config.eot_token_id, "text", config.text_vocab_size),
        (f"<Audio_{last_unit}>", config.first_unit_id + last_unit, "speech", config.vocab_size),
    ):
        if token_id >= rows:
            raise CheckpointError(
                f"{folder / 'tokenizer.json'}: {token}: expected an id below the {rows} rows of the {tables} "
                f"tables, found {token_id}"
            )


# --- rows of the tables ---------------------------------------------------------------------------


def _with_table_rows(config: ModelConfig, folder: Path) -> ModelConfig:
    """Take the sizes of the vocabularies from the weight files.

    The text tables have text_vocab_size rows, or vocab_size rows if the text vocabulary already
    includes the units; the speech tables have vocab_size rows, or in that case possibly
    audio_vocab_size more. A tensor that is missing or not a table is left for the loader to report.
    """
    files = read_headers(folder)

    def rows(tables: tuple[str, ...], allowed: tuple[int, ...]) -> int | None:
        found = None
        for name in tables:
            entry = files.entries.get(name)
            if entry is None or len(entry.shape) != 2:
                continue
            expected = allowed if found is None else (found,)
            if entry.shape[0] not in expected:
                counts = " or ".join(str(count) for count in dict.fromkeys(expected))
                raise CheckpointError(
                    f"{entry.file}: {name}: expected {counts} rows, found shape {shown(entry.shape)}"
                )
            found = entry.shape[0]
        return found

    text_rows = rows(TEXT_TABLES, (config.text_vocab_size, config.vocab_size)) or config.text_vocab_size
    speech_allowed: tuple[int, ...] = (config.vocab_size,)
    if text_rows == config.vocab_size:
        speech_allowed += (config.vocab_size + config.audio_vocab_size,)
    speech_rows = rows(SPEECH_TABLES, speech_allowed) or config.vocab_size
    return replace(config, text_vocab_size=text_rows, vocab_size=speech_rows)
