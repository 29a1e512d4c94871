"""`antiphon run-batch`: a file of requests, answered into a file of results."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from antiphon.cli import options, signals
from antiphon.cli.inputs import about
from antiphon.cli.serve import NO_EXTRA
from antiphon.cli.spinner import Spinner
from antiphon.cli.streams import say, show_error
from antiphon.config import EngineConfig
from antiphon.errors import ConfigError
from antiphon.files.results_file import ResultsFile

if TYPE_CHECKING:
    from rich.progress import Progress

    from antiphon.aio.async_engine import AsyncEngine

__all__ = ["run_batch"]

STDIN = "-"
MB = 1 << 20
LOOK_S = 0.05
"""How often it is looked whether a signal has come."""
TIMEOUT_S = 30 * 86400.0
"""Of one request: nobody waits for it."""
AHEAD = 2
"""Requests under way for each that is computed: while some are read and written, the engine has others."""


def run_batch(
    input_file: Annotated[
        Path,
        typer.Option(
            "--input-file", "-i", metavar="FILE", help="Requests, one JSON object a line; - reads stdin."
        ),
    ],
    output_file: Annotated[
        Path,
        typer.Option(
            "--output-file", "-o", metavar="FILE", help="Results; those that are there are not made again."
        ),
    ],
    served_model_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name that requests call the model by. Default: its folder's."),
    ] = None,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Longest line of the input, in MiB.")] = 64,
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
    quantization_keep: options.QuantizationKeep = None,
    kv_cache_dtype: options.KVCacheDtype = EngineConfig.kv_cache_dtype,
    attention_backend: options.AttentionBackend = EngineConfig.attention_backend,
    block_size: options.BlockSize = EngineConfig.block_size,
    max_model_len: Annotated[
        int | None,
        typer.Option(min=2, help="Longest sequence, in positions.", rich_help_panel=options.MODEL_PANEL),
    ] = None,
    max_num_seqs: Annotated[
        int,
        typer.Option(min=1, help="Requests computed at a time.", rich_help_panel=options.MODEL_PANEL),
    ] = EngineConfig.max_num_seqs,
) -> None:
    """Answer a file of requests, in OpenAI's batch format, without a server.

    Each line is {"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}. Results
    are written as they complete, in any order. A run that was ended, however that happened, is continued by
    the same command. A line that is no request has a result that says why.
    """
    options.check_codec(model, codec)
    with signals.at_once():
        try:
            from antiphon.aio.async_engine import AsyncEngine
            from antiphon.server.batch import RESULT_PREFIX, Finished, read_result
            from antiphon.server.settings import ServerSettings
        except ModuleNotFoundError as error:
            raise ConfigError(f"{NO_EXTRA} ({error})") from error
    finished = Finished()
    with _opened(input_file) as requests, _results(output_file) as results:
        if results.is_same(requests):
            raise typer.BadParameter("is the input, too", param_hint="--output-file")
        try:
            results.resume(partial(read_result, finished=finished), RESULT_PREFIX)
        except OSError as error:
            raise typer.BadParameter(about(output_file, error), param_hint="--output-file") from error
        settings: dict[str, Any] = {"block_size": block_size, "max_num_seqs": max_num_seqs}
        settings |= {"quantization": quantization, "quantization_keep": quantization_keep or ()}
        settings |= {"kv_cache_dtype": kv_cache_dtype, "attention_backend": attention_backend}
        settings["text_backend"] = text_backend
        settings["text_backend_args"] = options.text_backend_args(text_backend, text_backend_arg)
        if max_model_len is not None:
            settings["max_model_len"] = max_model_len
        with signals.at_once(), Spinner(options.loading(model)) as spinner:
            engine = AsyncEngine(
                model,
                codec=codec,
                device=device,
                dtype=dtype,
                codec_dtype=codec_dtype,
                vocoder_backend=vocoder_backend,
                vocoder_workers=vocoder_workers,
                vocoder_device=vocoder_device,
                progress=spinner.advance,
                **settings,
            )
        if model is None:
            from antiphon.assets.embedded import EMBEDDED_WORLD

            show_error(f"no --model: {EMBEDDED_WORLD}")
        serving = ServerSettings(
            served_model_name=served_model_name,
            max_body_bytes=max_body_mb * MB,
            request_timeout_s=TIMEOUT_S,
            max_kept_audio_bytes=0,  # no later request can know the id of a reply
        )
        counts: Counter[str] = Counter()
        with signals.noted(patience_s=signals.PATIENCE_S) as note, _bar() as bar:
            work = _answer(engine, serving, requests, results, finished, counts, bar, AHEAD * max_num_seqs)
            asyncio.run(_until_signal(work, note, bar))
    told = [
        f"{counts[kind]} {kind}" for kind in ("answered", "failed", "refused", "finished") if counts[kind]
    ]
    say(f"{output_file}: {', '.join(told) or 'nothing to answer'}")


async def _answer(
    engine: AsyncEngine,
    settings: Any,
    requests: BinaryIO,
    results: ResultsFile,
    finished: Any,
    counts: Counter[str],
    bar: Progress,
    concurrency: int,
) -> None:
    from antiphon.server.app import create_app
    from antiphon.server.batch import answer_batch

    size = os.fstat(requests.fileno())
    task = bar.add_task("", total=size.st_size if stat.S_ISREG(size.st_mode) else None)
    read = 0

    async def lines() -> AsyncIterator[bytes | None]:
        nonlocal read
        while line := await asyncio.to_thread(requests.readline, settings.max_body_bytes):
            read += len(line)
            if len(line) == settings.max_body_bytes and not line.endswith(b"\n"):
                while not line.endswith(b"\n") and (line := await asyncio.to_thread(requests.readline, MB)):
                    read += len(line)
                yield None
            else:
                yield line

    def note(kind: str) -> None:
        counts[kind] += 1
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        bar.update(task, completed=read, description=told)

    app = create_app(lambda: engine, settings)
    async with app.router.lifespan_context(app):
        await answer_batch(
            app, lines(), results.write, concurrency=concurrency, finished=finished, noted=note
        )


async def _until_signal(work: Any, note: signals.Note, bar: Progress) -> None:
    """Waits for the work. A signal ends the process: every result is in its file already."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait([task], timeout=LOOK_S)
        if note.number is not None:
            bar.stop()
            signals.end(note.number)
    task.result()


def _bar() -> Progress:
    """On stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _opened(path: Path) -> BinaryIO:
    """The requests, which may come from a pipe and are never in memory as a whole."""
    if str(path) == STDIN:
        return open(0, "rb", closefd=False)
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise OSError("expected a file or a pipe")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(about(path, error), param_hint="--input-file") from error


def _results(path: Path) -> ResultsFile:
    try:
        return ResultsFile(path)
    except OSError as error:
        raise typer.BadParameter(about(path, error), param_hint="--output-file") from error
