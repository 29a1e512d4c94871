"""`antiphon generate`: one request, answered on the terminal, in a sound file, or as JSON."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import options
from antiphon.cli.options import Modalities
from antiphon.cli.terminal import EventPrinter
from antiphon.config import EngineConfig
from antiphon.errors import AntiphonError
from antiphon.types import Completion, Event, Finished, Image, Part, Request, SamplingParams, Speech

if TYPE_CHECKING:
    from antiphon.engine import Engine

__all__ = ["generate", "run"]

SOUND_FILES = (".wav", ".flac", ".ogg")
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the number of the signal."""


def generate(
    text: Annotated[str | None, typer.Option("--text", "-t", metavar="TEXT", help="What to ask.")] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option("--audio", "-a", metavar="FILE", help="Speech: wav, flac, ogg or mp3."),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", metavar="FILE", help="Picture.")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Ask the packaged question about the packaged picture.")
    ] = False,
    system: options.System = None,
    voice: options.Voice = None,
    modalities: Annotated[
        Modalities | None,
        typer.Option(help="What to answer with; without it speech if there is --out, else text."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where the speech goes: .wav, .flac or .ogg."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, and nothing else.")
    ] = False,
    model: options.ModelFolder = None,
    codec: options.CodecFolder = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    block_size: options.BlockSize = EngineConfig.block_size,
    temperature: options.Temperature = SamplingParams.temperature,
    top_p: options.TopP = SamplingParams.top_p,
    top_k: options.TopK = SamplingParams.top_k,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    max_units: options.MaxUnits = SamplingParams.max_units,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Ends a text reply.", rich_help_panel="Sampling")
    ] = None,
) -> None:
    """Answer one request: transcript and text as they come, speech into a file.

    --audio, --image and --stop may be given several times.
    """
    content = demo_content() if demo else []
    content += [Image(path) for path in image or []] + [Speech(path) for path in audio or []]
    content += [text] if text is not None else []
    if not content:
        raise typer.BadParameter(
            "give at least one of --text, --audio, --image or --demo", param_hint="input"
        )
    if modalities is None:
        modalities = Modalities.SPEECH if out is not None else Modalities.TEXT
    if out is not None:
        _check_out(out, modalities, model, codec)
    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        max_tokens=max_tokens,
        max_units=max_units,
        stop=tuple(stop or ()),
    )
    request = Request(content, modalities.of_request, system, voice, sampling_params=params)
    printer = None if as_json else EventPrinter()
    with options.open_engine(model, codec, device, dtype, block_size) as engine:
        completion = run(engine, request, None if printer is None else printer.show)
        if out is not None and completion.audio is not None and completion.sample_rate_hz is not None:
            from antiphon.codec import write_audio

            write_audio(out, completion.audio, completion.sample_rate_hz)
        if printer is not None:
            printer.finish(completion, out)
        else:
            typer.echo(json.dumps(as_record(completion, out)))
    if completion.finish_reason == "abort":
        raise typer.Exit(INTERRUPTED)


def run(engine: Engine, request: Request, show: Callable[[Event], None] | None = None) -> Completion:
    """Answers one request on an engine that has no other, showing events as they come.

    Ctrl-C aborts the request: the completion holds what there is. Raises InvalidRequest for a bad request,
    AntiphonError for one that failed on the way.
    """
    request_id = engine.add_request(request, stream_audio=False)  # nobody listens before the file is there
    completion = None
    with _interrupts() as interrupted:
        while engine.has_unfinished():
            for event in engine.step():
                if isinstance(event, Finished):
                    completion = event.completion
                elif show is not None:
                    show(event)
            if interrupted.is_set():
                engine.abort(request_id)
    assert completion is not None, "an engine finishes every request that it took"
    if completion.finish_reason == "error":
        raise AntiphonError(completion.error or "the request failed")
    return completion


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Is set by Ctrl-C, which raises nothing in here: an engine does not survive an exception inside a step.
    A second Ctrl-C does raise, for a step that does not end."""
    interrupted = threading.Event()

    def note(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def demo_content() -> list[Part]:
    """The packaged picture and the packaged spoken question about it."""
    media = files("antiphon.assets") / "demo"
    return [Image((media / "shapes.png").read_bytes()), Speech((media / "question.wav").read_bytes())]


def as_record(completion: Completion, file: Path | None) -> dict[str, Any]:
    """A completion for machines: all its fields, with the path of its file in place of the samples."""
    audio = str(file) if file is not None and completion.audio is not None else None
    return dataclasses.asdict(dataclasses.replace(completion, audio=None)) | {"audio": audio}


def _check_out(out: Path, modalities: Modalities, model: Path | None, codec: Path | None) -> None:
    if modalities is Modalities.TEXT:
        raise typer.BadParameter("is for speech, but --modalities is text", param_hint="--out")
    if model is not None and codec is None:
        raise typer.BadParameter("needs --codec, which makes speech of units", param_hint="--out")
    if out.suffix.lower() not in SOUND_FILES:
        raise typer.BadParameter(
            f"expected a name that ends with {', '.join(SOUND_FILES)}, got {out.name}", param_hint="--out"
        )
    if not out.absolute().parent.is_dir():
        raise typer.BadParameter(f"{out.parent} is not a folder", param_hint="--out")
