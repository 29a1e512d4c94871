"""`antiphon bench text`: the engine with vLLM's text beside the native one: same weights, in turns."""

from __future__ import annotations

import random
import statistics
import string
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from antiphon.bench.options import (
    Config,
    JsonFile,
    Repeats,
    Threads,
    check_output,
    device_name,
    read_config,
    read_counts,
    read_device,
    record_of,
    use_threads,
    write_record,
)
from antiphon.bench.peers.weights import write_weights
from antiphon.engine.engine import Engine
from antiphon.types import Completion, Request, SamplingParams

__all__ = ["BackendRun", "bench_text", "run"]

Backend = Literal["native", "vllm"]
Reply = Literal["text", "spoken"]
MAX_MODEL_LEN = 1024
PAUSE_S = 0.05
"""In which the threads of the engine before fall asleep"""


@dataclass(frozen=True)
class BackendRun:
    """Of one backend, kind of reply and number of requests: medians over the turns."""

    backend: Backend
    reply: Reply
    num_requests: int
    per_s: float
    """Ids of all requests, of text or of units, over the whole time, prompts included"""
    least_per_s: float
    most_per_s: float
    first_text_s: float
    """Until a request had its first text, the median of all"""
    same_ids: int
    """Replies with the native backend's ids of text and units, of all turns"""
    num_compared: int


@dataclass(frozen=True)
class _Turn:
    done: list[Completion]
    total_s: float


def bench_text(
    config: str,
    vllm: Mapping[str, Any],
    *,
    batch_sizes: list[int],
    prompt_chars: int,
    tokens: int,
    units: int,
    repeats: int,
    device: torch.device,
    say: Callable[[str], None],
    seed: int = 0,
) -> list[BackendRun]:
    """vllm: the engine's `text_backend_args`. say: is told what happens."""
    rng = random.Random(seed)
    asked: dict[Reply, tuple[tuple[str, ...], SamplingParams, int]] = {
        "text": (("text",), SamplingParams(max_tokens=tokens, ignore_eos=True), tokens),
        "spoken": (("text", "units"), SamplingParams(max_units=units, ignore_eos=True), units),
    }
    runs: list[BackendRun] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        say(f"writing the weights of {config}")
        written = write_weights(config, folder)
        settings: dict[str, Any] = {
            "device": device,
            "max_num_seqs": max(batch_sizes),
            "max_model_len": MAX_MODEL_LEN,
            "enable_prefix_caching": False,
            "progress": False,
        }
        say("loading both engines")
        engines: dict[Backend, Engine] = {
            "native": stack.enter_context(Engine(written.model, **settings)),
            "vllm": stack.enter_context(
                Engine(
                    written.model,
                    text_backend="vllm",
                    text_backend_args={"model": str(written.llm), **vllm},
                    **settings,
                )
            ),
        }
        for size in batch_sizes:
            for reply, (modalities, params, num_ids) in asked.items():
                turns: dict[Backend, list[_Turn]] = {name: [] for name in engines}
                for turn in range(repeats + 1):
                    texts = [
                        "".join(rng.choices(string.ascii_lowercase, k=prompt_chars)) for _ in range(size)
                    ]
                    requests = [Request(text, modalities) for text in texts]
                    for name in list(engines) if turn % 2 else list(engines)[::-1]:
                        time.sleep(PAUSE_S)
                        begin = time.perf_counter()
                        done = engines[name].generate(requests, params)
                        if turn:  # the first one warms up
                            turns[name].append(_Turn(done, time.perf_counter() - begin))
                say(f"{size} at a time, {reply}: done")
                runs += [
                    _summary(name, reply, own, turns["native"], size * num_ids) for name, own in turns.items()
                ]
    return runs


def _summary(
    backend: Backend, reply: Reply, own: Sequence[_Turn], native: Sequence[_Turn], num_ids: int
) -> BackendRun:
    pairs = [
        (one, other)
        for turn, beside in zip(own, native, strict=True)
        for one, other in zip(turn.done, beside.done, strict=True)
    ]
    rates = [num_ids / turn.total_s for turn in own]
    return BackendRun(
        backend=backend,
        reply=reply,
        num_requests=len(own[0].done),
        per_s=statistics.median(rates),
        least_per_s=min(rates),
        most_per_s=max(rates),
        first_text_s=statistics.median(one.metrics.ttft_s or 0.0 for one, _ in pairs),
        same_ids=sum(
            (one.text_ids, one.unit_ids) == (other.text_ids, other.unit_ids) for one, other in pairs
        ),
        num_compared=len(pairs),
    )


def run(
    python: Annotated[str, typer.Option(metavar="PATH", help="The Python of an environment that has vLLM.")],
    config: Config = "auto",
    batch: Annotated[str, typer.Option(help="Requests at a time, separated by commas.")] = "1,16",
    prompt_chars: Annotated[
        int, typer.Option(min=1, max=256, help="Letters of each question; 77 make a prompt of 100 ids.")
    ] = 77,
    tokens: Annotated[int, typer.Option(min=2, max=512, help="New ids of each text reply.")] = 128,
    units: Annotated[int, typer.Option(min=2, max=512, help="Units of each spoken reply.")] = 128,
    threads: Threads = 0,
    repeats: Repeats = 5,
    enforce_eager: Annotated[
        bool, typer.Option("--enforce-eager", help="vLLM without torch.compile, which loads in less time.")
    ] = False,
    json: JsonFile = None,
) -> None:
    """Text and spoken replies by the engine with `text_backend="vllm"` beside "native", in turns, on a CPU.

    The weights are random. vLLM gets as many threads as torch has here; while one engine works, the other
    waits.
    """
    batch_sizes = read_counts(batch, "--batch")
    device = read_device("cpu")
    chosen = read_config(config, device)
    check_output(json, "--json")
    use_threads(threads)
    count = torch.get_num_threads()
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": f"0-{count - 1}"}
    console = Console(stderr=True)
    runs = bench_text(
        chosen,
        {"python": python, "enforce_eager": enforce_eager, "env": env},
        batch_sizes=batch_sizes,
        prompt_chars=prompt_chars,
        tokens=tokens,
        units=units,
        repeats=repeats,
        device=device,
        say=lambda line: console.print(line, markup=False, highlight=False),
    )
    title = f"{chosen}, {tokens} ids of text or {units} units: {device_name(device)}"
    Console().print(_table(title, runs))
    if json is not None:
        command = (
            f"antiphon bench text --python PYTHON --config {chosen} --batch {batch} "
            f"--prompt-chars {prompt_chars} --tokens {tokens} --units {units} --repeats {repeats}"
            + (" --enforce-eager" if enforce_eager else "")
        )
        write_record(json, record_of(title, command, rows=[asdict(one) for one in runs]))


def _table(title: str, runs: Sequence[BackendRun]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=0)
    table.add_column("", no_wrap=True)
    for name in ("requests", "per s", "least", "most", "first text ms", "ids as native"):
        table.add_column(name, justify="right")
    for one in runs:
        table.add_row(
            f"{one.reply} replies, {one.backend}",
            str(one.num_requests),
            f"{one.per_s:.0f}",
            f"{one.least_per_s:.0f}",
            f"{one.most_per_s:.0f}",
            f"{one.first_text_s * 1000:.0f}",
            f"{one.same_ids}/{one.num_compared}",
        )
    return table
