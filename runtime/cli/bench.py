"""`antiphon bench`: benchmarks, each with its own options."""

from __future__ import annotations

import importlib

import typer

from antiphon.cli import signals
from antiphon.cli.usage import run_command

__all__ = ["app"]

BENCHMARKS = {
    "engine": ("engine", "Units/s and text tokens/s of the engine, and their share of the bandwidth floor."),
    "codec": ("codec", "Seconds of compute per second of speech, whole and streamed, beside a plain codec."),
    "streaming": (
        "streaming",
        "Distance of streamed speech from the whole, and the seams between its chunks.",
    ),
    "formats": (
        "formats",
        "Weights in 32, 16 and 8 bits: their memory, and how many replies stay the same.",
    ),
    "host": ("host", "What a step costs the processor while a GPU computes the rest."),
    "kernels": (
        "kernel_bench",
        "Time of each kernel, its share of the machine's bandwidth or matrix rate, and its ratio to PyTorch.",
    ),
    "peers": (
        "peers.command",
        "Tokens per second of the LLM alone, beside llama.cpp, transformers and vLLM, on a CPU.",
    ),
    "speech": (
        "speech",
        "Spoken questions and answers from end to end: time to the first sound, and speech per second.",
    ),
    "text": (
        "text_backends",
        "Text and spoken replies with vLLM's text beside the native backend's, in turns, on a CPU.",
    ),
    "turns": (
        "turns",
        "Where turns end in questions with a pause inside: share that is cut in the middle, and delay.",
    ),
    "simulate": (
        "simulate.command",
        "A fleet under a day's traffic, simulated: GPUs needed, first audio, the price of an hour of speech.",
    ),
    "serve": (
        "serve",
        "A server under load, as its clients see it: first text, first audio, gaps, throughput, failures.",
    ),
}
"""By the command's name: the module of `antiphon.bench` that has it as `run`, and what it measures."""

app = typer.Typer(name="bench", help="Measure throughput and latency.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


def _add(name: str, module: str, about: str) -> None:
    """A command that imports the benchmark when it runs, and leaves it all options, --help included."""

    @app.command(
        name,
        help=about,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    )
    def pass_on(context: typer.Context) -> None:
        with signals.at_once():
            run = importlib.import_module(f"antiphon.bench.{module}").run
        benchmark = typer.Typer(add_completion=False)
        benchmark.command()(run)
        status = run_command(benchmark, f"antiphon bench {name}", context.args)
        if status:
            raise typer.Exit(status)


for _name, (_module, _about) in BENCHMARKS.items():
    _add(_name, _module, _about)
