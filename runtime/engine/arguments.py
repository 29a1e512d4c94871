"""Checks and resolves the arguments that callers give an engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from antiphon.config import EngineConfig, EngineSettings
from antiphon.device.dtypes import DTYPES, dtype_of
from antiphon.errors import CheckpointError, ConfigError, InvalidRequest
from antiphon.inputs.copies import plain_options
from antiphon.model.checkpoint.quantizing import check_pattern
from antiphon.model.schemes import SCHEMES, Scheme
from antiphon.plain import kind, reading, shown
from antiphon.prompt import Prompt
from antiphon.types import Request, SamplingParams

if TYPE_CHECKING:
    from antiphon.codec import Codec
    from antiphon.model.checkpoint.loading import Progress
    from antiphon.model.vllm.settings import VllmSettings
    from antiphon.outputs.speech_maker import MakerApart

__all__ = [
    "QUANTIZATIONS",
    "EngineArguments",
    "all_requests",
    "bounded",
    "check_choice",
    "check_keep",
    "check_library",
    "check_quantization",
    "check_text_backend",
    "check_vocoder_backend",
    "engine_config",
    "given_id",
    "model_folder",
    "one_each",
    "open_codec",
]

QUANTIZATIONS = tuple(SCHEMES)
TEXT_BACKENDS = ("native", "vllm")
DEFAULT_MAX_TOKENS = 1024
"""For text-only replies whose request sets no limit."""
MAX_PATTERNS = 1000
MAX_REQUESTS = 1_000_000
"""The most requests that `generate` takes at a time: it holds all of them, and an iterable may never end."""


class EngineArguments(EngineSettings, total=False):
    """All keyword arguments of `Engine`; its docstring describes them."""

    codec: str | os.PathLike[str] | Codec | None
    device: str | torch.device
    dtype: str | torch.dtype
    codec_dtype: str | torch.dtype
    quantization: str | None
    quantization_keep: Sequence[str]
    load_format: Literal["auto", "dummy"]
    text_backend: str
    text_backend_args: Mapping[str, Any] | None
    vocoder_backend: str
    vocoder_workers: int
    vocoder_device: str | torch.device | None
    vocoders: Callable[[Codec], MakerApart] | None
    speech_prompt: str
    progress: bool | Progress


def engine_config(settings: EngineSettings) -> EngineConfig:
    """The config of an engine's settings. A ConfigError names a setting that does not exist or is wrong."""
    known = sorted(field.name for field in fields(EngineConfig))
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; its settings are {', '.join(known)}"
            raise ConfigError(f"Engine: it has no setting {shown(name)}{hint}")
    return EngineConfig(**settings)


def check_choice(name: str, value: object, only: str | None) -> None:
    if (value is not None or only is not None) and (type(value) is not str or value != only):
        raise ConfigError(f"{name}: expected {only!r}, the only choice, got {shown(value)}")


def check_quantization(value: object) -> None:
    if value is not None and (type(value) is not str or value not in QUANTIZATIONS):
        raise ConfigError(
            f"quantization: expected None or one of {', '.join(map(repr, QUANTIZATIONS))}, got {shown(value)}"
        )


def check_keep(value: object) -> tuple[str, ...]:
    """Patterns of modules, as `quantization_keep` takes them."""
    if issubclass(type(value), (str, bytes)) or not issubclass(type(value), Iterable):
        raise ConfigError(f"quantization_keep: expected a list of patterns, got {kind(value)}")
    with reading("quantization_keep"):
        found = tuple(islice(iter(value), MAX_PATTERNS + 1))  # type: ignore[call-overload]
    if len(found) > MAX_PATTERNS:
        raise ConfigError(f"quantization_keep: expected at most {MAX_PATTERNS} patterns, got more")
    for pattern in found:
        if type(pattern) is not str:
            raise ConfigError(f"quantization_keep: expected patterns that are str, got {kind(pattern)}")
        check_pattern(pattern)
    return found


def check_library(scheme: Scheme, place: torch.device) -> None:
    """Raise ConfigError if the library that computes a scheme is not installed, or not used on such a
    device."""
    library = scheme.library
    if library is not None and place.type != "cpu":
        raise ConfigError(
            f"quantization: expected None, 'int8' or 'int8-weight-only' on {place.type}, "
            f"got {scheme.name!r}, which is for the CPU alone"
        )
    if library is not None and find_spec(library) is None:
        raise ConfigError(
            f"quantization: {scheme.name!r} needs the package {library}, which is not installed: "
            f"pip install 'antiphon[{library}]'"
        )


def check_text_backend(value: object, arguments: object, load_format: object) -> VllmSettings | None:
    """What vLLM is to be run with; None if the LLM is ours."""
    if type(value) is not str or value not in TEXT_BACKENDS:
        raise ConfigError(
            f"text_backend: expected one of {', '.join(map(repr, TEXT_BACKENDS))}, got {shown(value)}"
        )
    if value == "native":
        if arguments is not None:
            raise ConfigError(f"text_backend_args: expected None with 'native', got {kind(arguments)}")
        return None
    if load_format != "auto":
        raise ConfigError(f"load_format: expected 'auto' with text_backend 'vllm', got {shown(load_format)}")
    from antiphon.model.vllm.settings import VllmSettings

    return VllmSettings.parse(arguments)


def check_vocoder_backend(value: object, place: torch.device) -> None:
    from antiphon.codec.exported import Exported

    exported = Exported.parse("vocoder_backend", value)
    if exported is not None:
        exported.check_place("vocoder_backend", place)


def model_folder(model: Any) -> Path:
    with suppress(Exception):
        return Path(model)
    raise ConfigError(f"model: expected the path of a checkpoint's folder, got {shown(model)}")


def open_codec(
    codec: str | os.PathLike[str] | Codec | None,
    device: torch.device,
    dtype: str | torch.dtype,
    audio_vocab_size: int,
    *,
    enforce_eager: bool,
    backend: str = "torch",
    speaks: bool = True,
) -> Codec | None:
    """backend, speaks: of a codec given as a folder, see `Codec.from_pretrained`; they have been checked."""
    from antiphon.codec import Codec

    if dtype != "auto" and dtype_of(dtype) is None:
        raise ConfigError(f"codec_dtype: expected one of auto, {', '.join(DTYPES)}, got {shown(dtype)}")
    if codec is None:
        if backend != "torch":
            raise ConfigError(
                f"vocoder_backend: expected a codec's folder with {shown(backend)}, got no codec"
            )
        return None
    if isinstance(codec, Codec):
        codec.check_process()
        if dtype != "auto":
            raise ConfigError(
                f"codec_dtype: expected a codec given as a folder, got a Codec in {codec.dtype}"
            )
        if backend != "torch":
            raise ConfigError(
                f"vocoder_backend: expected a codec given as a folder with {shown(backend)}, got a Codec"
            )
    elif not isinstance(codec, (str, os.PathLike)):
        raise ConfigError(f"codec: expected the path of a codec's folder, or a Codec, got {shown(codec)}")
    else:
        codec = Codec.from_pretrained(
            codec, device, dtype, backend, enforce_eager=enforce_eager, speaks=speaks
        )
    if codec.num_units_vocab < audio_vocab_size:
        raise CheckpointError(
            f"codec: expected at least the model's {audio_vocab_size} units, found {codec.num_units_vocab}"
        )
    return codec


def all_requests(requests: object) -> list[Request]:
    """The requests that `Engine.generate` is given: one, or any iterable of at most `MAX_REQUESTS`. Each is
    checked when it is added."""
    if issubclass(type(requests), Request):
        return [requests]  # type: ignore[list-item]
    if issubclass(type(requests), (str, bytes)) or not issubclass(type(requests), Iterable):
        raise InvalidRequest(f"requests: expected a Request or a list of Request, got {kind(requests)}")
    with reading("requests"):
        found = list(islice(iter(requests), MAX_REQUESTS + 1))  # type: ignore[call-overload]
    if len(found) > MAX_REQUESTS:
        raise InvalidRequest(f"requests: expected at most {MAX_REQUESTS} of them, got more")
    return found


def given_id(request: object) -> str | None:
    """The id of a request that cannot be served, if it has a valid one."""
    try:
        return plain_options(request).request_id
    except InvalidRequest:
        return None


def one_each(params: object, num_requests: int) -> Sequence[Any]:
    """The params for each request, as they were given."""
    if params is None or issubclass(type(params), SamplingParams):
        return [params] * num_requests
    expected = f"SamplingParams, or a list of one for each of {num_requests} requests"
    if issubclass(type(params), (str, bytes)) or not issubclass(type(params), Iterable):
        raise InvalidRequest(f"sampling_params: expected {expected}, got {kind(params)}")
    with reading("sampling_params"):
        found = list(islice(iter(params), num_requests + 1))  # type: ignore[call-overload]
    if len(found) != num_requests:
        raise InvalidRequest(
            f"sampling_params: expected {expected}, got {'more' if len(found) > num_requests else len(found)}"
        )
    return found


def bounded(params: SamplingParams, prompt: Prompt, longest: int, *, speaks: bool) -> SamplingParams:
    """`params` with their limits lowered to what the longest sequence (max_model_len) allows.

    Raises InvalidRequest if that has no room for the prompt and one more position.
    """
    speech = prompt.speaking_ids if prompt.speaking_ids is not None else prompt.speech_ids
    room = {
        "max_tokens": longest - prompt.num_text_positions - len(prompt.closing),
        "max_units": longest - len(speech) - len(prompt.closing),
    }
    for left in room.values():
        if left < 1:
            raise InvalidRequest(
                f"the prompt has {longest - left} positions, "
                f"but the longest sequence (max_model_len) is {longest}"
            )
    max_tokens = params.max_tokens
    if max_tokens is None:
        max_tokens = room["max_tokens"] if speaks else DEFAULT_MAX_TOKENS
    return replace(
        params,
        max_tokens=min(max_tokens, room["max_tokens"]),
        max_units=min(params.max_units, room["max_units"]),
    )
