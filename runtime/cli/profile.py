"""`antiphon profile`: where the time of an engine's run goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import options, signals
from antiphon.cli.inputs import check_texts, image_input, speech_input, text_input, use_stdin_once
from antiphon.errors import InvalidRequest
from antiphon.process.footprint import use_passing_caches
from antiphon.types import Part, Request, SamplingParams

if TYPE_CHECKING:
    from antiphon.bench.profile import Profile

__all__ = ["profile"]


def profile(
    model: options.ModelFolder = None,
    codec: options.CodecFolder = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Random weights of this size instead of a checkpoint: a folder of bench/configs.",
        ),
    ] = None,
    num_requests: Annotated[int, typer.Option("--requests", min=1, help="Requests at a time.")] = 4,
    prompt_units: Annotated[
        int, typer.Option(min=1, help="Length of the spoken prompts, which are random units.")
    ] = 100,
    max_units: Annotated[int, typer.Option(min=1, help="Units in each answer; 25 make a second.")] = 64,
    text: Annotated[
        str | None, typer.Option("--text", "-t", metavar="TEXT", help="Ask this in writing instead.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option("--audio", "-a", metavar="FILE", help="Ask this in speech instead.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", "-i", metavar="FILE", help="Picture to go with the question.")
    ] = None,
    fused: Annotated[
        bool,
        typer.Option("--fused", help="On a CPU: time each stack of layers as one call, as it normally runs."),
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a Chrome trace, for chrome://tracing or Perfetto."),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures to this file.")
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    codec_dtype: options.CodecDtype = "auto",
    vocoder_backend: options.VocoderBackend = "torch",
) -> None:
    """Serve some requests, and show where the time goes, by stage and op.

    Parts are timed from within the process. On a GPU, each part waits for its kernels, so the run takes
    longer than usual; the parts are also NVTX ranges there.
    """
    check_texts({"--text": text, "--config": config})
    if image is not None and text is None and audio is None:
        raise InvalidRequest("--image: expected --text or --audio with it, got neither")
    if codec is not None and model is None and config is None:
        raise typer.BadParameter("needs --model: the packaged checkpoint has its own", param_hint="--codec")
    if trace is not None:
        use_passing_caches()  # PyTorch's profiler imports its compiler
    if config is not None and model is not None:
        raise typer.BadParameter("cannot be used with --model", param_hint="--config")
    with signals.at_once():
        from rich.console import Console

        from antiphon.bench import profile as bench
        from antiphon.bench.options import check_output
        from antiphon.bench.sizes import model_configs
    if config is not None and config not in model_configs():
        raise typer.BadParameter(
            f"expected one of {', '.join(model_configs())}, got {config!r}", param_hint="--config"
        )
    check_output(trace, "--trace")
    check_output(json_out, "--json")
    use_stdin_once({"--image": image, "--audio": audio, "--text": text})
    requests = _requests(num_requests, max_units, text, audio, image)
    settings: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "codec_dtype": codec_dtype,
        "vocoder_backend": vocoder_backend,
        "enable_prefix_caching": False,
    }
    with bench.profiled_engine(model, codec, config, fused=fused, **settings) as engine:
        found: Profile = bench.profile(
            engine,
            requests,
            num_requests=num_requests,
            prompt_units=prompt_units,
            max_units=max_units,
            name=config,
            trace=trace,
        )
    Console().print(bench.table(found))
    if json_out is not None:
        bench.write_json(found, json_out)


def _requests(
    count: int, max_units: int, text: str | None, audio: Path | None, image: Path | None
) -> list[Request] | None:
    """The requests to serve; None stands for requests of random units."""
    if text is None and audio is None:
        return None
    parts: list[Part] = [image_input(image)] if image is not None else []
    parts += [speech_input(audio)] if audio is not None else []
    parts += [text_input(text)] if text is not None else []
    params = SamplingParams(max_units=max_units, ignore_eos=True)
    return [Request(parts, modalities=("text", "audio"), sampling_params=params) for _ in range(count)]
