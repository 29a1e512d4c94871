"""Options that commands share, and the engine that they ask for."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import signals
from antiphon.cli.streams import show_error

if TYPE_CHECKING:
    from antiphon.engine.engine import Engine

__all__ = [
    "BlockSize",
    "CodecDtype",
    "CodecFolder",
    "Device",
    "Dtype",
    "InputDevice",
    "KVCacheDtype",
    "MaxTokens",
    "MaxUnits",
    "Modalities",
    "ModelFolder",
    "OutputDevice",
    "Play",
    "Seed",
    "System",
    "Temperature",
    "TextBackend",
    "TextBackendArg",
    "TopK",
    "TopP",
    "VocoderBackend",
    "VocoderDevice",
    "VocoderWorkers",
    "Voice",
    "check_codec",
    "open_engine",
    "text_backend_args",
]

MODEL_PANEL = "Model"
SAMPLING_PANEL = "Sampling"
SOUND_PANEL = "Sound"


class Modalities(str, Enum):
    TEXT = "text"
    SPEECH = "speech"

    @property
    def of_request(self) -> tuple[str, ...]:
        return ("text",) if self is Modalities.TEXT else ("text", "audio")


ModelFolder = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        metavar="FOLDER",
        help="Stream-Omni checkpoint. Default: the small packaged one.",
        rich_help_panel=MODEL_PANEL,
    ),
]
CodecFolder = Annotated[
    Path | None,
    typer.Option(
        "--codec",
        "-c",
        metavar="FOLDER",
        help="CosyVoice folder, which lets --model hear and speak.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.", rich_help_panel=MODEL_PANEL)]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.", rich_help_panel=MODEL_PANEL)]
CodecDtype = Annotated[
    str,
    typer.Option(
        help="Of the speech codec: float32, bfloat16, float16 or auto: float16 on a GPU, float32 on a CPU.",
        rich_help_panel=MODEL_PANEL,
    ),
]
VocoderBackend = Annotated[
    str,
    typer.Option(
        metavar="BACKEND",
        help="Of the speech codec: torch; on a CPU onnxruntime:DIR, on a GPU tensorrt:DIR, for a folder that "
        "`antiphon export flow` wrote from this codec.",
        rich_help_panel=MODEL_PANEL,
    ),
]
VocoderWorkers = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Processes that make speech, apart from the one that computes the model; 0: none.",
        rich_help_panel=MODEL_PANEL,
    ),
]
VocoderDevice = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Where speech is made, such as cuda:1; with --vocoder-workers also several, as cuda:1,cuda:2. "
        "Default: as --device.",
        rich_help_panel=MODEL_PANEL,
    ),
]
TextBackend = Annotated[
    str,
    typer.Option(
        metavar="native|vllm",
        help="What computes the LLM: this program, or vLLM in a process of its own.",
        rich_help_panel=MODEL_PANEL,
    ),
]
TextBackendArg = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="With vllm: python=PATH, the interpreter that has it; model=DIR, a folder of `antiphon export "
        "llm`; env.NAME=VALUE, a variable of its process; or one of its engine arguments. May be given "
        "several times.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Quantization = Annotated[
    str | None,
    typer.Option(
        metavar="SCHEME",
        help="int8: the weights of the layers, and what they multiply, in 8 bits; int8-weight-only: the "
        "weights alone; bitsandbytes, bitsandbytes-4bit: by that library, on a CPU.",
        rich_help_panel=MODEL_PANEL,
    ),
]
QuantizationKeep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Modules that are not quantized, such as lm_head or 'model.layers.0.*'; may be given several "
        "times.",
        rich_help_panel=MODEL_PANEL,
    ),
]
KVCacheDtype = Annotated[
    str,
    typer.Option(
        metavar="auto|int8",
        help="int8: the KV cache in 8 bits, which holds nearly four times as many positions as in float32.",
        rich_help_panel=MODEL_PANEL,
    ),
]
BlockSize = Annotated[
    int,
    typer.Option(min=1, help="Positions per block of the KV cache.", rich_help_panel=MODEL_PANEL),
]
System = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="System message, instead of the model's default; '' for none."),
]
Voice = Annotated[str | None, typer.Option(metavar="NAME", help="Which of the codec's voices to speak with.")]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="0 always picks the most likely token.", rich_help_panel=SAMPLING_PANEL)
]
TopP = Annotated[
    float,
    typer.Option(
        help="Sample from the likeliest tokens up to this probability; 1 keeps all.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        min=0,
        help="Sample from this many of the likeliest tokens; 0 keeps all.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Seed for sampling; the same seed gives the same reply.", rich_help_panel=SAMPLING_PANEL
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Limit on text tokens. Default: 1024 for a text reply, none for a spoken one.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
MaxUnits = Annotated[
    int,
    typer.Option(
        min=1, help="Limit on speech units, of which 25 make a second.", rich_help_panel=SAMPLING_PANEL
    ),
]
Play = Annotated[
    bool,
    typer.Option(
        "--play", help="Play the reply on the loudspeaker as it is made.", rich_help_panel=SOUND_PANEL
    ),
]
InputDevice = Annotated[
    str | None,
    typer.Option(
        "--input-device",
        metavar="DEVICE",
        help="Number or name of the microphone; `antiphon doctor` lists them.",
        rich_help_panel=SOUND_PANEL,
    ),
]
OutputDevice = Annotated[
    str | None,
    typer.Option(
        "--output-device",
        metavar="DEVICE",
        help="Number or name of the loudspeaker.",
        rich_help_panel=SOUND_PANEL,
    ),
]


def check_codec(model: Path | None, codec: Path | None) -> None:
    """Refuse a codec without the model that it is for."""
    if codec is not None and model is None:
        raise typer.BadParameter("needs --model: the packaged checkpoint has its own", param_hint="--codec")


def text_backend_args(backend: str, given: list[str] | None) -> dict[str, Any] | None:
    """`text_backend_args` of an engine: values are JSON, or else strings."""
    if backend == "native" and not given:
        return None
    found: dict[str, Any] = {}
    env: dict[str, str] = {}
    for choice in given or ():
        name, equals, text = choice.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"expected KEY=VALUE, got {choice!r}", param_hint="--text-backend-arg")
        if name.startswith("env."):
            env[name.removeprefix("env.")] = text
            continue
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found | ({"env": env} if env else {})


def open_engine(
    model: Path | None,
    codec: Path | None,
    *,
    device: str,
    dtype: str,
    codec_dtype: str,
    vocoder_backend: str = "torch",
    vocoder_workers: int = 0,
    vocoder_device: str | None = None,
    text_backend: str = "native",
    text_backend_arg: list[str] | None = None,
    quantization: str | None,
    kv_cache_dtype: str = "auto",
    block_size: int,
) -> Engine:
    """Loads the engine; if it is the packaged checkpoint, says what that can be asked."""
    check_codec(model, codec)
    with signals.at_once():  # there is nothing yet that has to end in order
        from antiphon.assets.embedded import EMBEDDED_WORLD
        from antiphon.engine.engine import Engine

        engine = Engine(
            model,
            codec=codec,
            device=device,
            dtype=dtype,
            codec_dtype=codec_dtype,
            quantization=quantization,
            vocoder_backend=vocoder_backend,
            vocoder_workers=vocoder_workers,
            vocoder_device=vocoder_device,
            text_backend=text_backend,
            text_backend_args=text_backend_args(text_backend, text_backend_arg),
            kv_cache_dtype=kv_cache_dtype,  # type: ignore[arg-type]  # it is checked there
            block_size=block_size,
        )
    if model is None:
        show_error(f"no --model: {EMBEDDED_WORLD}")
    return engine
