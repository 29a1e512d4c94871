"""Loads what an engine is made of, from the folders of a model and a codec."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from antiphon.assets.embedded import EMBEDDED_CODEC, EMBEDDED_MODEL
from antiphon.config import CacheConfig, EngineConfig, EngineSettings, ModelConfig
from antiphon.device.place import resolve_device
from antiphon.engine.arguments import (
    check_choice,
    check_keep,
    check_library,
    check_quantization,
    check_text_backend,
    check_vocoder_backend,
    engine_config,
    model_folder,
    open_codec,
)
from antiphon.engine.vocoder_place import VocoderPlace
from antiphon.errors import CheckpointError, ConfigError
from antiphon.inputs.processor import InputProcessor
from antiphon.kernels.threads import set_num_threads
from antiphon.model.attention import check_attention_backend
from antiphon.model.cache import cache_config, cache_layout
from antiphon.model.checkpoint.folder import read_checkpoint
from antiphon.model.checkpoint.loading import Progress, load_weights, resolve_dtype
from antiphon.model.checkpoint.quantization import scheme_of
from antiphon.model.omni import OmniModel, computing_dtype
from antiphon.model.schemes import SCHEMES
from antiphon.process.forking import check_device, make_ready, num_threads
from antiphon.process.load_threads import load_threads
from antiphon.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from antiphon.codec import Codec
    from antiphon.model.vllm.settings import VllmSettings
    from antiphon.model.vllm.text import VllmText
    from antiphon.model.weights import OmniWeights
    from antiphon.outputs.speech_maker import MakerApart

__all__ = ["Loaded", "load"]


@dataclass(frozen=True)
class Loaded:
    """A model and a codec in memory, and what follows from their settings. It never changes."""

    model_name: str
    device: torch.device
    dtype: torch.dtype
    """That of activations, and of a KV cache that is not quantized."""
    config: EngineConfig
    model_config: ModelConfig
    cache_config: CacheConfig
    tokenizer: Tokenizer
    codec: Codec | None
    inputs: InputProcessor
    model: OmniModel
    text: VllmText | None
    """Where the LLM is, if not in the model."""
    vocoders: MakerApart | None
    """Where speech is made, if not in this process."""


def load(
    model: str | os.PathLike[str] | None,
    *,
    codec: str | os.PathLike[str] | Codec | None,
    device: str | torch.device,
    dtype: str | torch.dtype,
    codec_dtype: str | torch.dtype,
    quantization: str | None,
    quantization_keep: Sequence[str],
    load_format: Literal["auto", "dummy"],
    text_backend: str,
    text_backend_args: Mapping[str, Any] | None,
    vocoder_backend: str,
    vocoder_workers: int,
    vocoder_device: str | torch.device | None,
    vocoders: Callable[[Codec], MakerApart] | None,
    speech_prompt: str,
    progress: bool | Progress,
    **settings: Unpack[EngineSettings],
) -> Loaded:
    """Check the arguments of `Engine`, which describes them, and load what they name. Raises what `Engine`
    does."""
    config = engine_config(settings)
    check_quantization(quantization)
    keep = check_keep(quantization_keep)
    vllm = check_text_backend(text_backend, text_backend_args, load_format)
    check_choice("speech_prompt", speech_prompt, "soft")
    folder = model_folder(model) if model is not None else EMBEDDED_MODEL
    if model is None and codec is None:
        codec = EMBEDDED_CODEC
    place = resolve_device(device)
    vocoder = VocoderPlace.parse(vocoder_workers, vocoder_device, codec, place)
    check_vocoder_backend(vocoder_backend, vocoder.devices[0])
    check_device(place)
    if quantization is not None:
        check_library(SCHEMES[quantization], place)
    make_ready()
    resolved = resolve_dtype(dtype, folder, place, load_format=load_format)
    model_config, tokenizer_file = read_checkpoint(folder, load_format=load_format)
    stored = scheme_of(folder)
    if keep and quantization is None and stored is None:
        raise ConfigError("quantization_keep: expected a quantization to leave modules out of, got None")
    if model_config.speech_prompt != "soft":
        raise CheckpointError(
            f"{folder / 'config.json'}: speech_prompt: expected 'soft', found {model_config.speech_prompt!r}"
        )
    config = replace(config, max_model_len=min(config.max_model_len, model_config.max_position_embeddings))
    computing = computing_dtype(resolved, place)
    layout = cache_layout(model_config, config, computing)
    check_attention_backend(config.attention_backend, layout, place, computing)
    tokenizer = Tokenizer.from_pretrained(folder, tokenizer_file)
    opened = open_codec(
        codec,
        vocoder.devices[0],
        codec_dtype,
        model_config.audio_vocab_size,
        enforce_eager=config.enforce_eager,
        backend=vocoder_backend,
        speaks=not vocoder.num_workers and vocoders is None,
    )
    inputs = InputProcessor(
        model_config, tokenizer, opened, config.limits, max_model_len=config.max_model_len
    )
    if place.type == "cpu":
        set_num_threads(num_threads())
    apart: MakerApart | None = None
    if opened is not None and isinstance(codec, (str, os.PathLike)):  # they load while the model does
        apart = (
            vocoders(opened)
            if vocoders is not None
            else vocoder.start(opened, codec, vocoder_backend, enforce_eager=config.enforce_eager)
        )
    text = None
    try:
        with load_threads(folder):
            weights = load_weights(
                folder,
                model_config,
                device=place,
                dtype=resolved,
                load_format=load_format,
                seed=config.seed,
                progress=progress,
                quantization=stored if quantization is None else SCHEMES[quantization],
                keep=keep,
            )
        if vllm is not None:
            text = _begin_vllm(
                vllm, folder, model_config, config, resolved, place, weights, progress=progress
            )
        with load_threads(folder):
            omni = OmniModel(weights, model_config, config.max_model_len, config.unit_head)
        if apart is not None:  # before it is asked how much memory is left
            apart.wait_ready()
        return Loaded(
            model_name=folder.name,
            device=place,
            dtype=computing,
            config=config,
            model_config=model_config,
            cache_config=cache_config(model_config, config, computing, place),
            tokenizer=tokenizer,
            codec=opened,
            inputs=inputs,
            model=omni,
            text=text,
            vocoders=apart,
        )
    except BaseException:
        for elsewhere in (text, apart):
            if elsewhere is not None:
                elsewhere.close()
        raise


def _begin_vllm(
    settings: VllmSettings,
    folder: Path,
    model_config: ModelConfig,
    config: EngineConfig,
    dtype: torch.dtype,
    place: torch.device,
    weights: OmniWeights,
    *,
    progress: bool | Progress,
) -> VllmText:
    """Start vLLM once our part of its weights has gone. On a GPU it then takes its share of the memory; what
    is left is for our cache."""
    from antiphon.model.vllm.process import WorkerProcess
    from antiphon.model.vllm.text import LlmFolder, VllmText

    OmniModel.without_llm(weights)
    if place.type == "cuda":
        torch.cuda.empty_cache()
    llm = LlmFolder(settings, folder, model_config, progress=progress)
    start = partial(
        WorkerProcess,
        settings.python,
        settings.engine_args(llm.path, config, dtype, place),
        settings.environment(llm.passing),
        llm.passing,
    )
    return VllmText(llm, start)
