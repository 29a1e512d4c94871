"""`antiphon bench`: benchmarks, each with options of its own."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(name="bench", help="Measure throughput and latency.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


# The benchmark reads its own options, help included; this one only finds it.
@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def engine(context: typer.Context) -> None:
    """Units/s and text tokens/s of the engine, and their share of the bandwidth floor."""
    from antiphon.bench.engine import main

    main(context.args)
