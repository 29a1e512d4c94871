"""`antiphon bench`: benchmarks, each with its own options."""

from __future__ import annotations

import typer

from antiphon.cli import signals

__all__ = ["app"]

app = typer.Typer(name="bench", help="Measure throughput and latency.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


# The benchmark reads its own options, including --help; this command only finds it.
@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def engine(context: typer.Context) -> None:
    """Units/s and text tokens/s of the engine, and their share of the bandwidth floor."""
    with signals.at_once():
        from antiphon.bench.engine import main
    main(context.args)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def codec(context: typer.Context) -> None:
    """Seconds of compute per second of speech, whole and streamed, compared with a plain codec."""
    with signals.at_once():
        from antiphon.bench.codec import main
    main(context.args)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def streaming(context: typer.Context) -> None:
    """Distance of streamed speech from the whole, and the seams between its chunks."""
    with signals.at_once():
        from antiphon.bench.streaming import main
    main(context.args)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def kernels(context: typer.Context) -> None:
    """Time of each kernel, its share of the machine's bandwidth or matrix rate, and its ratio to PyTorch."""
    with signals.at_once():
        from antiphon.bench.kernel_bench import main
    main(context.args)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def speech(context: typer.Context) -> None:
    """Spoken questions and answers, end to end: time to the first sound, and speech per second."""
    with signals.at_once():
        from antiphon.bench.speech import main
    main(context.args)
