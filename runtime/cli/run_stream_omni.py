"""`antiphon run-stream-omni`: takes the flags of the released scripts, and prints what they print."""

from __future__ import annotations

import hashlib
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import options, signals
from antiphon.cli.generate import run
from antiphon.cli.inputs import check_texts, image_input, speech_input, use_stdin_once
from antiphon.cli.sound_file import write_sound
from antiphon.cli.streams import say, show_error
from antiphon.cli.terminal import printable
from antiphon.config import EngineConfig
from antiphon.types import Part, Request, SamplingParams

if TYPE_CHECKING:
    from antiphon.types import Completion

__all__ = ["run_stream_omni"]

GREEDY = 0.001
"""Temperatures up to this pick the most likely id, as with the released code."""
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".webm")
LAYOUT = "llama_3"
"""Part of the names of the released code's layouts that are the one of these models."""
SCRIPTS_PANEL = "Accepted for the scripts' sake"


class InferenceType(str, Enum):
    """What goes in and what comes out."""

    TEXT_TO_TEXT = "text_to_text"
    TEXT_TO_SPEECH = "text_to_speech"
    SPEECH_TO_TEXT = "speech_to_text"
    SPEECH_TO_SPEECH = "speech_to_speech"

    @property
    def hears(self) -> bool:
        return self.value.startswith("speech")

    @property
    def speaks(self) -> bool:
        return self.value.endswith("speech")


def run_stream_omni(
    query: Annotated[str, typer.Option(help="What to ask: text, or the path of a recording.")],
    model_path: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Stream-Omni checkpoint. Default: the small packaged one."),
    ] = None,
    codec: options.CodecFolder = None,
    image_file: Annotated[
        str | None, typer.Option(metavar="FILES", help="Pictures, separated by --sep.")
    ] = None,
    sep: Annotated[str, typer.Option(metavar="TEXT", help="What separates pictures.")] = ",",
    inference_type: Annotated[
        InferenceType | None,
        typer.Option(help="Default: speech to speech for a recording, otherwise text to speech."),
    ] = None,
    t2t: Annotated[bool, typer.Option("--t2t", help="Text to text.")] = False,
    t2s: Annotated[bool, typer.Option("--t2s", help="Text to speech.")] = False,
    s2t: Annotated[bool, typer.Option("--s2t", help="Speech to text.")] = False,
    s2s: Annotated[bool, typer.Option("--s2s", help="Speech to speech.")] = False,
    temperature: Annotated[
        float, typer.Option(help="0 always picks the most likely.", rich_help_panel=options.SAMPLING_PANEL)
    ] = 0.0,
    top_p: Annotated[
        float | None,
        typer.Option("--top_p", "--top-p", help="Default: 1.", rich_help_panel=options.SAMPLING_PANEL),
    ] = None,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max_new_tokens",
            "--max-new-tokens",
            min=1,
            help="Limit on units of a spoken reply, or on tokens of a written one.",
            rich_help_panel=options.SAMPLING_PANEL,
        ),
    ] = 1024,
    num_beams: Annotated[
        int,
        typer.Option("--num_beams", "--num-beams", help="Only 1.", rich_help_panel=SCRIPTS_PANEL),
    ] = 1,
    model_base: Annotated[
        str | None, typer.Option(help="Not supported.", rich_help_panel=SCRIPTS_PANEL)
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="No effect.", rich_help_panel=SCRIPTS_PANEL)] = None,
    conv_mode: Annotated[
        str | None,
        typer.Option(help="Only layouts of Llama 3, which all models have.", rich_help_panel=SCRIPTS_PANEL),
    ] = None,
    load_8bit: Annotated[
        bool,
        typer.Option("--load-8bit", help="Weights of the layers in int8.", rich_help_panel=SCRIPTS_PANEL),
    ] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    codec_dtype: options.CodecDtype = "auto",
    vocoder_backend: options.VocoderBackend = "torch",
    vocoder_workers: options.VocoderWorkers = 0,
    vocoder_device: options.VocoderDevice = None,
) -> None:
    """Do what the released code's scripts do, with their flags.

    Speech is written to ./output_<md5>.wav.
    """
    _refuse(num_beams, model_base, conv_mode)
    check_texts({"--query": query, "--image-file": image_file, "--sep": sep})
    kind = _kind(query, inference_type, {"--t2t": t2t, "--t2s": t2s, "--s2t": s2t, "--s2s": s2s})
    if model_path is not None and codec is None and (kind.hears or kind.speaks):
        raise typer.BadParameter(
            "needs --codec, which turns units into speech and back", param_hint=kind.value
        )
    is_greedy = temperature <= GREEDY
    params = SamplingParams(
        temperature=0.0 if is_greedy else temperature,
        top_p=1.0 if is_greedy or top_p is None else top_p,
        max_tokens=None if kind.speaks else max_new_tokens,
        max_units=max_new_tokens if kind.speaks else SamplingParams.max_units,
    )
    request = Request(
        _content(query, image_file, sep, kind),
        ("text", "audio") if kind.speaks else ("text",),
        sampling_params=params,
    )
    note = signals.Note()
    with options.open_engine(
        model_path,
        codec,
        device=device,
        dtype=dtype,
        codec_dtype=codec_dtype,
        vocoder_backend=vocoder_backend,
        vocoder_workers=vocoder_workers,
        vocoder_device=vocoder_device,
        quantization="int8" if load_8bit else None,
        block_size=EngineConfig.block_size,
    ) as engine:
        with signals.noted(note):  # what was made is kept
            completion = run(engine, request, None, note, signals.PATIENCE_S)
            error = _print(completion, kind)
        if note.number is not None:
            signals.stop(note.number)
    if error is not None:
        show_error(error)
        raise typer.Exit(1)


def _refuse(num_beams: int, model_base: str | None, conv_mode: str | None) -> None:
    """BadParameter for what the scripts know and this does not."""
    if num_beams != 1:
        raise typer.BadParameter(
            f"beam search is not supported: expected 1, got {num_beams}", param_hint="--num_beams"
        )
    if model_base:
        raise typer.BadParameter(
            "weights apart from their base model are not supported: merge them, and leave it out",
            param_hint="--model-base",
        )
    if conv_mode is not None and LAYOUT not in conv_mode:
        raise typer.BadParameter(
            f"expected a layout of Llama 3, whose name has {LAYOUT!r} in it, got {conv_mode!r}",
            param_hint="--conv-mode",
        )


def _kind(query: str, given: InferenceType | None, flags: dict[str, bool]) -> InferenceType:
    chosen = [
        kind
        for kind, is_given in zip(InferenceType, flags.values(), strict=True)
        if is_given or kind is given
    ]
    if len(chosen) > 1:
        raise typer.BadParameter(f"give only one of it, {', '.join(flags)}", param_hint="--inference-type")
    if chosen:
        return chosen[0]
    is_recording = Path(query).suffix.lower() in SOUND_SUFFIXES
    return InferenceType.SPEECH_TO_SPEECH if is_recording else InferenceType.TEXT_TO_SPEECH


def _content(query: str, image_file: str | None, sep: str, kind: InferenceType) -> list[Part]:
    if not sep:
        raise typer.BadParameter("expected text, got ''", param_hint="--sep")
    paths = [Path(name) for name in image_file.split(sep)] if image_file else []
    use_stdin_once({"--image-file": paths, "--query": query if kind.hears else None})
    try:
        parts: list[Part] = [image_input(path) for path in paths]
    except typer.BadParameter as error:
        error.param_hint = "--image-file"
        raise
    try:
        parts.append(speech_input(Path(query)) if kind.hears else query)
    except typer.BadParameter as error:
        error.param_hint = "--query"
        raise
    return parts


def _print(completion: Completion, kind: InferenceType) -> str | None:
    """Print a reply under the scripts' headings. Returns why its speech is not where it should be."""
    if kind.hears:
        say(f"ASR Outputs:\n{printable(completion.transcript)}\n")
    say(f"LLM Outputs:\n{printable(completion.text)}\n")
    if not kind.speaks:
        return None
    tokens = "".join(f"<Audio_{unit}>" for unit in completion.units)
    say(f"Speech Tokens:\n{tokens}\n")
    if completion.audio is None or completion.sample_rate_hz is None or not len(completion.audio):
        return None
    name = f"output_{hashlib.md5(tokens.encode(), usedforsecurity=False).hexdigest()}.wav"
    written = write_sound(Path(name), completion.audio, completion.sample_rate_hz)
    if written.file is not None:
        where = f"./{name}" if written.error is None else str(written.file)
        say(f"Speech Outputs:\nAudio saved at {where}")
    return written.error
