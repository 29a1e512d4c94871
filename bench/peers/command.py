"""`antiphon bench peers`: tokens per second of the LLM alone, beside llama.cpp, transformers and vLLM."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from antiphon.bench.busy import Busy, busy_processes
from antiphon.bench.options import (
    Config,
    JsonFile,
    Repeats,
    check_output,
    read_config,
    read_counts,
    read_device,
    record_of,
    write_record,
)
from antiphon.bench.peers.measuring import OURS, ROWS, PeerRun, bench_peers
from antiphon.bench.peers.weights import write_weights
from antiphon.device.machine import cpu_name
from antiphon.process.cores import within_quota

__all__ = ["run"]

OTHERS = [program for program in dict.fromkeys(row.program for row in ROWS) if program != OURS]


def run(
    python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help=f"The Python of an environment that has {', '.join(OTHERS[:-1])} or {OTHERS[-1]}; may be "
            "given several times. llama.cpp wants llama-cpp-python, gguf and safetensors there.",
        ),
    ] = None,
    config: Config = "auto",
    batch: Annotated[str, typer.Option(help="Requests at a time, separated by commas.")] = "1,16",
    prompt_chars: Annotated[
        int, typer.Option(min=1, max=256, help="Letters of each question; 77 make a prompt of 100 ids.")
    ] = 77,
    tokens: Annotated[int, typer.Option(min=2, max=128, help="New ids of each request.")] = 128,
    threads: Annotated[int, typer.Option(min=0, help="Of each engine; 0: one for each core.")] = 0,
    repeats: Repeats = 5,
    busy: Busy = 0,
    json: JsonFile = None,
) -> None:
    """Same weights, same prompts, one engine at a time, in turns.

    The LLM's weights are random, and written in the form that each engine loads. An engine that is not given,
    or does not load, is left out. On a CPU.
    """
    pythons = {OURS: sys.executable} | dict(_named(choice) for choice in python or ())
    batch_sizes = read_counts(batch, "--batch")
    chosen = read_config(config, read_device("cpu"))
    check_output(json, "--json")
    threads = threads or within_quota(os.cpu_count() or 1)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        console.print(f"writing the weights of {chosen}")
        written = write_weights(chosen, Path(folder))
        with busy_processes(busy):
            runs = bench_peers(
                written,
                pythons,
                batch_sizes=batch_sizes,
                prompt_chars=prompt_chars,
                tokens=tokens,
                threads=threads,
                repeats=repeats,
                say=lambda line: console.print(line, markup=False, highlight=False),
            )
    title = (
        f"An LLM of {written.num_parameters / 1e6:.0f} M parameters, {tokens} new ids: {cpu_name()}, "
        f"{threads} threads" + (f", beside {busy} busy processes" if busy else "")
    )
    for size in batch_sizes:
        Console().print(_table(title, [one for one in runs if one.num_requests == size]))
    if json is not None:
        command = (
            f"antiphon bench peers --config {chosen} --batch {batch} --prompt-chars {prompt_chars} "
            f"--tokens {tokens} --threads {threads} --repeats {repeats}{f' --busy {busy}' if busy else ''}"
        )
        found = {"machine": cpu_name(), "threads": threads, "rows": [asdict(one) for one in runs]}
        write_record(json, record_of(title, command, **found))


def _named(choice: str) -> tuple[str, str]:
    name, _, path = choice.partition("=")
    if name not in OTHERS or not path:
        raise typer.BadParameter(
            f"expected NAME=PATH with one of {', '.join(OTHERS)}, got {choice!r}", param_hint="--python"
        )
    if not os.access(path, os.X_OK) or Path(path).is_dir():
        raise typer.BadParameter(
            f"expected a Python interpreter, found none at {path}", param_hint="--python"
        )
    return name, path


def _table(title: str, runs: Sequence[PeerRun]) -> Table:
    table = Table(
        title=f"{title}, {runs[0].num_requests} at a time", title_justify="left", box=SIMPLE, padding=0
    )
    table.add_column("", no_wrap=True)
    for name in ("tokens/s", "least", "most", "decoding", "ours / it", "ids as ours", "others"):
        table.add_column(name, justify="right")
    bits = runs[0].bits
    for one in sorted(runs, key=lambda each: (-each.bits, -each.tokens_per_s)):
        if one.bits != bits:
            table.add_section()
            bits = one.bits
        later = one.after_first_per_s
        table.add_row(
            one.name,
            f"{one.tokens_per_s:.0f}",
            f"{one.least_tokens_per_s:.0f}",
            f"{one.most_tokens_per_s:.0f}",
            "" if later is None else f"{later:.0f}",
            f"{one.ours_beside:.2f}",
            f"{one.same_ids}/{one.num_compared}",
            f"{one.others:.0%}",
        )
    return table
