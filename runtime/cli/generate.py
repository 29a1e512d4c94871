"""`antiphon generate`: one request, answered on the terminal, in a sound file, or as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import options, signals
from antiphon.cli.inputs import check_texts, image_input, speech_input, text_input, use_stdin_once
from antiphon.cli.options import Modalities
from antiphon.cli.sound_file import STDOUT, Written, check_sound_file, write_sound
from antiphon.cli.speaker import Speaker
from antiphon.cli.streams import say, show_error
from antiphon.cli.terminal import EventPrinter
from antiphon.config import EngineConfig
from antiphon.errors import AntiphonError
from antiphon.types import (
    AudioDelta,
    Completion,
    Event,
    Finished,
    Image,
    Part,
    Request,
    SamplingParams,
    Speech,
)

if TYPE_CHECKING:
    from antiphon.engine.engine import Engine

__all__ = ["generate", "run"]


def generate(
    text: Annotated[
        str | None, typer.Option("--text", "-t", metavar="TEXT", help="What to ask; - reads stdin.")
    ] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option("--audio", "-a", metavar="FILE", help="Speech: wav, flac, ogg or mp3; - reads stdin."),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", metavar="FILE", help="Picture; - reads stdin.")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Ask the packaged question about the packaged picture.")
    ] = False,
    system: options.System = None,
    voice: options.Voice = None,
    modalities: Annotated[
        Modalities | None,
        typer.Option(help="What to answer with. Default: speech with --out or --play, otherwise text."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File for the speech: .wav, .flac or .ogg; - writes wav to stdout, and text to stderr.",
        ),
    ] = None,
    play: options.Play = False,
    output_device: options.OutputDevice = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    model: options.ModelFolder = None,
    codec: options.CodecFolder = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    codec_dtype: options.CodecDtype = "auto",
    vocoder_backend: options.VocoderBackend = "torch",
    vocoder_workers: options.VocoderWorkers = 0,
    vocoder_device: options.VocoderDevice = None,
    text_backend: options.TextBackend = "native",
    text_backend_arg: options.TextBackendArg = None,
    quantization: options.Quantization = None,
    kv_cache_dtype: options.KVCacheDtype = EngineConfig.kv_cache_dtype,
    block_size: options.BlockSize = EngineConfig.block_size,
    temperature: options.Temperature = SamplingParams.temperature,
    top_p: options.TopP = SamplingParams.top_p,
    top_k: options.TopK = SamplingParams.top_k,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    max_units: options.MaxUnits = SamplingParams.max_units,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="End a text reply at this string.", rich_help_panel="Sampling"),
    ] = None,
) -> None:
    """Answer one request: transcript and text as they come, speech into a file.

    --audio, --image and --stop may be given several times. Files may be pipes. The sound file is written
    whole or not at all.
    """
    if text is None and not (audio or image or demo):
        raise typer.BadParameter(
            "give at least one of --text, --audio, --image or --demo", param_hint="input"
        )
    check_texts({"--text": text, "--system": system, "--voice": voice, "--stop": stop})
    if modalities is None:
        modalities = Modalities.SPEECH if out is not None or play else Modalities.TEXT
    if play:
        _check_speech("--play", modalities, model, codec)
    elif output_device is not None:
        raise typer.BadParameter("is for --play", param_hint="--output-device")
    if out is not None:
        _check_out(out, modalities, model, codec, as_json=as_json)
    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        max_tokens=max_tokens,
        max_units=max_units,
        stop=tuple(stop or ()),
    )
    use_stdin_once({"--image": image, "--audio": audio, "--text": text})
    content = demo_content() if demo else []
    content += [image_input(path) for path in image or []] + [speech_input(path) for path in audio or []]
    content += [text_input(text)] if text is not None else []
    request = Request(content, modalities.of_request, system, voice, sampling_params=params)
    # Speech that was asked for is worth making even if nobody reads its text any more.
    printer = None if as_json else EventPrinter(err=str(out) == STDOUT, goes_on=out is not None)
    note = signals.Note()
    with ExitStack() as stack:
        speaker = stack.enter_context(Speaker(output_device)) if play else None  # before the model is loaded
        engine = stack.enter_context(
            options.open_engine(
                model,
                codec,
                device=device,
                dtype=dtype,
                codec_dtype=codec_dtype,
                vocoder_backend=vocoder_backend,
                vocoder_workers=vocoder_workers,
                vocoder_device=vocoder_device,
                text_backend=text_backend,
                text_backend_arg=text_backend_arg,
                quantization=quantization,
                kv_cache_dtype=kv_cache_dtype,
                block_size=block_size,
            )
        )
        with signals.noted(note):  # what was made is kept
            show = None if printer is None else printer.show
            completion = run(engine, request, show, note, signals.PATIENCE_S, speaker)
            written = _write(out, completion)
            if printer is None:
                say(json.dumps(as_record(completion, written.file)))
            else:
                printer.finish(completion, out, written.file, is_played=play)
            if written.error is not None:
                show_error(written.error)
            if speaker is not None:
                speaker.wait(lambda: note.number is not None)
        if note.number is not None:
            signals.stop(note.number)
    if printer is not None and printer.lost is not None:
        raise printer.lost
    if written.error is not None:
        raise typer.Exit(1)


def run(
    engine: Engine,
    request: Request,
    show: Callable[[Event], None] | None = None,
    note: signals.Note | None = None,
    patience_s: float | None = None,
    speaker: Speaker | None = None,
) -> Completion:
    """Answers one request on an engine that has no other, showing events as they come.

    speaker: plays the reply as it is made; None: its speech is made whole, not in chunks.
    Ctrl-C aborts the request: the completion then holds what was made so far, and `note` the signal. If that
    takes longer than `patience_s`, the process ends. Raises InvalidRequest for a bad request, AntiphonError
    for one that fails later, and what `show` raises; the engine is then free for the next request.
    """
    note = note or signals.Note()
    prompt = engine.prepare(request)
    completion = None
    with signals.noted(note, patience_s=patience_s):
        request_id = engine.add_prepared(request, prompt, stream_audio=speaker is not None)
        if speaker is not None:
            speaker.begin()
        try:
            while completion is None and engine.has_unfinished():
                for event in engine.step():
                    if event.request_id != request_id:  # left over from one that was given up
                        continue
                    if isinstance(event, Finished):
                        completion = event.completion
                    elif isinstance(event, AudioDelta) and speaker is not None:
                        speaker.play(event.samples, event.sample_rate_hz)
                    elif show is not None:
                        show(event)
                if note.number is not None:
                    if speaker is not None:
                        speaker.stop()
                    engine.abort(request_id)
                    signals.forget()
        except BaseException:
            engine.abort(request_id)
            if speaker is not None:
                speaker.stop()
            raise
    if speaker is not None:
        speaker.finish()
    assert completion is not None, "an engine finishes every request that it took"
    if completion.finish_reason == "error":
        raise AntiphonError(completion.error or "the request failed")
    return completion


def _write(out: Path | None, completion: Completion) -> Written:
    """Writes the speech that was made, if there is any."""
    if (
        out is None
        or completion.audio is None
        or completion.sample_rate_hz is None
        or not len(completion.audio)
    ):
        return Written(None)
    return write_sound(out, completion.audio, completion.sample_rate_hz)


def demo_content() -> list[Part]:
    """The packaged picture and the packaged spoken question about it."""
    media = files("antiphon.assets") / "demo"
    return [Image((media / "shapes.png").read_bytes()), Speech((media / "question.wav").read_bytes())]


def as_record(completion: Completion, file: Path | None) -> dict[str, Any]:
    """A completion for programs: all its fields, with the path of its file in place of the samples."""
    audio = str(file) if file is not None and completion.audio is not None else None
    return dataclasses.asdict(dataclasses.replace(completion, audio=None)) | {"audio": audio}


def _check_out(
    out: Path, modalities: Modalities, model: Path | None, codec: Path | None, *, as_json: bool
) -> None:
    _check_speech("--out", modalities, model, codec)
    if as_json and str(out) == STDOUT:
        raise typer.BadParameter("`-` is stdout, where --json goes", param_hint="--out")
    check_sound_file(out)


def _check_speech(hint: str, modalities: Modalities, model: Path | None, codec: Path | None) -> None:
    if modalities is Modalities.TEXT:
        raise typer.BadParameter("is for speech, but --modalities is text", param_hint=hint)
    if model is not None and codec is None:
        raise typer.BadParameter("needs --codec, which turns units into speech", param_hint=hint)
