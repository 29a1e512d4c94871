"""`antiphon bench serve`: a server under load, as its clients see it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.progress import Progress

from antiphon.aio.async_engine import AsyncEngine
from antiphon.bench.kernel_report import check_plot
from antiphon.bench.options import JsonFile, check_output, read_counts, record_of, write_record
from antiphon.bench.serving.comparing import Change, change_of
from antiphon.bench.serving.http_client import HttpClient, HttpError
from antiphon.bench.serving.load import Limits, Run
from antiphon.bench.serving.measuring import Load, Plan, measure
from antiphon.bench.serving.plot import plot_load
from antiphon.bench.serving.processes import run_until_signal, server_process
from antiphon.bench.serving.questions import WORKLOAD, Question, read_workload
from antiphon.bench.serving.realtime_target import RealtimeTarget, TurnEnd
from antiphon.bench.serving.report import changed, tables, verdict
from antiphon.bench.serving.summary import Summary, breaking_rate
from antiphon.bench.serving.targets import EngineTarget, HttpTarget, Target
from antiphon.bench.simulate.recorded import trace_of
from antiphon.bench.simulate.traffic import write_trace
from antiphon.device.machine import cpu_name
from antiphon.errors import AntiphonError

__all__ = ["run"]

BASE_URL = "http://127.0.0.1:8000/v1"
KEY_VARIABLE = "ANTIPHON_API_KEY"
NUM_REQUESTS = 32
CONCURRENCY = "1,4,16"
ENGINE_PANEL = "Engine, for --in-process and --compare"
SERVER_PANEL = "Server"


@dataclass(frozen=True)
class _EngineOptions:
    """As `antiphon serve` has them."""

    model: Path | None
    codec: Path | None
    device: str
    dtype: str
    max_num_seqs: int | None
    vocoder_workers: int | None = None

    def arguments(self) -> list[str]:
        """Those that are given, for a command line."""
        given = {f"--{name.replace('_', '-')}": value for name, value in asdict(self).items()}
        return [
            word
            for name, value in given.items()
            if value not in (None, "auto")
            for word in (name, str(value))
        ]

    def load(self) -> AsyncEngine:
        given = {"max_num_seqs": self.max_num_seqs, "vocoder_workers": self.vocoder_workers}
        settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return AsyncEngine(self.model, codec=self.codec, device=self.device, dtype=self.dtype, **settings)


def run(
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=f"Address of the API, as OpenAI's clients take it. Default: {BASE_URL}.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help=f"Default: {KEY_VARIABLE}.", rich_help_panel=SERVER_PANEL),
    ] = None,
    served_model_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Default: the first that the server lists.", rich_help_panel=SERVER_PANEL
        ),
    ] = None,
    voice: Annotated[str, typer.Option(help="Name of a voice.", rich_help_panel=SERVER_PANEL)] = "alloy",
    audio_format: Annotated[
        str, typer.Option(metavar="pcm16|wav", help="Of the speech.", rich_help_panel=SERVER_PANEL)
    ] = "pcm16",
    extra_body: Annotated[
        str,
        typer.Option(
            metavar="JSON", help="Fields to add to the body of each request.", rich_help_panel=SERVER_PANEL
        ),
    ] = "{}",
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N,...",
            help=f"Closed loop: requests at a time. Default: {CONCURRENCY}, if there is no --rate.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(metavar="R,...", help="Open loop: requests per second, which arrive at random."),
    ] = None,
    num_requests: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Requests of each load. Default: {NUM_REQUESTS}, if there is no --duration-s."
        ),
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option(min=0.1, help="No request of a load is sent after this.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="After this a request has failed.")] = 600.0,
    num_warmups: Annotated[int, typer.Option(min=0, help="Requests before, which do not count.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each load; all replies count.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the order of questions, and of the arrivals.")] = 0,
    workload: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Questions to ask: questions.json, sounds and pictures.",
            show_default=False,
        ),
    ] = WORKLOAD,
    target_ms: Annotated[
        float, typer.Option(min=1, help="Limit on p95 of the time to first audio, which a rate may break.")
    ] = 500.0,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Ask an engine in this process, without HTTP.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Start a server, and ask it and an engine in this process, in turns."),
    ] = False,
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime",
            help="Speak the questions over the realtime protocol. Times count from the last sample of "
            "speech, where the client commits, and where the server finds the end of the turn.",
        ),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", metavar="FOLDER", help="Checkpoint.", rich_help_panel=ENGINE_PANEL),
    ] = None,
    codec: Annotated[
        Path | None,
        typer.Option(
            "--codec", "-c", metavar="FOLDER", help="CosyVoice folder.", rich_help_panel=ENGINE_PANEL
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.", rich_help_panel=ENGINE_PANEL)
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16 or auto.", rich_help_panel=ENGINE_PANEL)
    ] = "auto",
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="Requests computed at a time.", rich_help_panel=ENGINE_PANEL)
    ] = None,
    vocoder_workers: Annotated[
        str | None,
        typer.Option(
            metavar="N,...",
            help="Processes that make speech. With --in-process several numbers, such as 0,2: an engine for "
            "each, asked in turns.",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = None,
    json_out: JsonFile = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write what was asked and answered, for `antiphon bench simulate`."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the figures, .png, .svg or .pdf.")
    ] = None,
) -> None:
    """A server under load, as its clients see it: first text, first audio, gaps, throughput, failures.

    Asks recorded and typed questions, some about pictures, and has the replies streamed in speech. The server
    may be any that speaks OpenAI's chat completions with audio.
    """
    workers = [] if vocoder_workers is None else read_counts(vocoder_workers, "--vocoder-workers", 0)
    if len(workers) > 1 and not in_process:
        raise typer.BadParameter("several numbers need --in-process", param_hint="--vocoder-workers")
    options = _EngineOptions(model, codec, device, dtype, max_num_seqs, workers[0] if workers else None)
    _check_targets(options, base_url, in_process=in_process, compare=compare)
    if realtime and (in_process or compare or rate is not None):
        raise typer.BadParameter("asks a server, N at a time, alone", param_hint="--realtime")
    _check_outputs(json_out, plot)
    check_output(trace, "--trace")
    plan = Plan(
        loads=_read_loads(concurrency, rate),
        questions=_read_questions(workload, only_spoken=realtime),
        limits=Limits(
            num_requests if num_requests is not None or duration_s is not None else NUM_REQUESTS,
            duration_s,
            timeout_s,
        ),
        repeats=repeats,
        num_warmups=num_warmups,
        seed=seed,
    )
    if trace is not None and (len(plan.loads) * repeats > 1 or compare or realtime):
        raise typer.BadParameter("holds one run of one load on one target", param_hint="--trace")
    traced: list[tuple[str, str, Run]] = []
    if api_key is None:
        api_key = os.environ.get(KEY_VARIABLE)
    if audio_format not in ("pcm16", "wav"):
        raise typer.BadParameter(f"expected pcm16 or wav, got {audio_format!r}", param_hint="--audio-format")
    fields = {"voice": voice, "audio_format": audio_format, "extra": _read_extra(extra_body)}
    with ExitStack() as stack:
        if compare:
            key = {} if api_key is None else {KEY_VARIABLE: api_key}
            base_url = stack.enter_context(server_process(options.arguments(), key)) + "/v1"
        try:
            client = None if in_process else HttpClient(base_url or BASE_URL, api_key)
        except ValueError as wrong:
            raise typer.BadParameter(str(wrong), param_hint="--base-url") from wrong
        engines: dict[str, AsyncEngine] = {}
        if in_process or compare:
            numbers: list[int | None] = [*workers] if workers else [None]
            for number in numbers:
                name = "in process" if len(workers) < 2 else f"{number} vocoder workers"
                engines[name] = replace(options, vocoder_workers=number).load()
                stack.callback(engines[name].close)
        spoken_to = (base_url or BASE_URL, api_key) if realtime else None
        found = run_until_signal(
            _measure(plan, client, engines, served_model_name, fields, spoken_to, traced)
        )
    about = "an engine in this process" if in_process else base_url or BASE_URL
    if compare:
        about = "antiphon serve, and an engine in this process"
    title = f"{about}, asked from {cpu_name()}"
    breaks_at = breaking_rate([s for s in found if s.target == found[0].target], target_ms / 1000)
    console = Console()
    for table in tables(found, title):
        console.print(table)
    console.print(verdict(found, target_ms), highlight=False, markup=False)
    changes = _changes(traced)
    for change in changes:
        console.print(changed(change), highlight=False, markup=False)
    if json_out is not None:
        command = _command(plan, compare=compare, in_process=in_process, base_url=base_url, realtime=realtime)
        command += f" --vocoder-workers {vocoder_workers}" if vocoder_workers is not None else ""
        runs = [asdict(summary) for summary in found]
        record = record_of(title, command, target_ms=target_ms, first_rate_beyond=breaks_at, runs=runs)
        if changes:
            record["changes"] = [asdict(change) for change in changes]
        write_record(json_out, record)
    if trace is not None:
        write_trace(trace, [arrival for *_, run in traced for arrival in trace_of(run)])
    if plot is not None:
        plot_load(found, target_ms / 1000, title, plot)


def _changes(traced: list[tuple[str, str, Run]]) -> list[Change]:
    """How each target differs from the first, at each load."""
    runs: dict[tuple[str, str], list[Run]] = {}
    for target, load, run in traced:
        runs.setdefault((load, target), []).append(run)
    first = traced[0][0] if traced else ""
    return [
        change
        for (load, target), of_target in runs.items()
        if target != first
        for change in change_of(load, (target, first), of_target, runs[load, first])
    ]


async def _measure(
    plan: Plan,
    client: HttpClient | None,
    engines: Mapping[str, AsyncEngine],
    model: str | None,
    fields: dict[str, Any],
    spoken_to: tuple[str, str | None] | None,
    traced: list[tuple[str, str, Run]],
) -> list[Summary]:
    """spoken_to: address and key of a server to be asked over the realtime protocol. traced: gets all
    runs, with their targets and loads."""
    targets: list[Target] = []
    try:
        if client is not None and spoken_to is not None:
            name = model or await _first_model(client)
            targets += [RealtimeTarget(*spoken_to, name, turn_end) for turn_end in get_args(TurnEnd)]
        elif client is not None:
            targets.append(HttpTarget(client, model or await _first_model(client), **fields))
        targets += [EngineTarget(engine, name) for name, engine in engines.items()]
        with Progress(transient=True) as progress:
            task = progress.add_task("warming up", total=plan.limits.num_requests)
            return await measure(
                plan,
                targets,
                lambda target, load: progress.reset(task, description=f"{target.name}, {load}"),
                lambda _: progress.advance(task),
                lambda target, load, run: traced.append((target.name, f"{load}", run)),
            )
    finally:
        if client is not None:
            client.close()


async def _first_model(client: HttpClient) -> str:
    try:
        async with client.send("GET", "/models") as answer:
            content = await answer.whole()
            if answer.status != 200:
                raise AntiphonError(f"the server's models: expected status 200, got {answer.status}")
            return str(json.loads(content)["data"][0]["id"])
    except HttpError as error:
        raise AntiphonError(str(error)) from error
    except (ValueError, LookupError, TypeError) as error:
        raise AntiphonError("the server's models: expected a list; give --served-model-name") from error


def _read_loads(concurrency: str | None, rate: str | None) -> list[Load]:
    if concurrency is None and rate is None:
        concurrency = CONCURRENCY
    loads = [] if concurrency is None else [Load(n) for n in read_counts(concurrency, "--concurrency")]
    return loads + ([] if rate is None else [Load(rate=each) for each in _read_rates(rate)])


def _read_rates(numbers: str) -> list[float]:
    try:
        rates = [float(number) for number in numbers.split(",")]
    except ValueError:
        rates = [0.0]
    if not all(0 < rate <= 1e4 and math.isfinite(rate) for rate in rates):
        raise typer.BadParameter(
            f"expected numbers above 0 separated by commas, got {numbers!r}", param_hint="--rate"
        )
    return rates


def _read_questions(folder: Path, *, only_spoken: bool) -> list[Question]:
    try:
        questions = read_workload(folder)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{folder}: {error}", param_hint="--workload") from error
    if only_spoken:
        questions = [question for question in questions if question.sound is not None]
    if not questions:
        raise typer.BadParameter(f"{folder}: expected a question with a sound", param_hint="--workload")
    return questions


def _read_extra(text: str) -> dict[str, Any]:
    try:
        extra = json.loads(text)
    except (ValueError, RecursionError):
        extra = None
    if not isinstance(extra, dict):
        raise typer.BadParameter(f"expected a JSON object, got {text[:100]!r}", param_hint="--extra-body")
    return extra


def _check_targets(options: _EngineOptions, base_url: str | None, *, in_process: bool, compare: bool) -> None:
    if in_process and compare:
        raise typer.BadParameter("does both already", param_hint="--compare")
    if base_url is not None and (in_process or compare):
        raise typer.BadParameter("is of no use with --in-process or --compare", param_hint="--base-url")
    if options.codec is not None and options.model is None:
        raise typer.BadParameter("needs --model: the packaged checkpoint has its own", param_hint="--codec")
    if options.model is not None and options.codec is None:
        raise typer.BadParameter("needs --codec, with which it hears and speaks", param_hint="--model")
    if (arguments := options.arguments()) and not (in_process or compare):
        raise typer.BadParameter("needs --in-process or --compare", param_hint=arguments[0])


def _check_outputs(json_out: Path | None, plot: Path | None) -> None:
    """Check now what would fail after minutes of measuring."""
    for hint, path in (("--json", json_out), ("--plot", plot)):
        check_output(path, hint)
    if plot is not None:
        try:
            check_plot(plot)
        except (ImportError, ValueError) as wrong:
            raise typer.BadParameter(str(wrong), param_hint="--plot") from wrong


def _command(plan: Plan, *, compare: bool, in_process: bool, base_url: str | None, realtime: bool) -> str:
    words = ["antiphon bench serve", *(["--realtime"] if realtime else [])]
    words += ["--compare"] if compare else ["--in-process"] if in_process else []
    words += [f"--base-url {base_url}"] if base_url is not None and not compare else []
    for name, values in (
        ("--concurrency", [load.concurrency for load in plan.loads if load.rate is None]),
        ("--rate", [f"{load.rate:g}" for load in plan.loads if load.rate is not None]),
    ):
        words += [f"{name} {','.join(map(str, values))}"] if values else []
    for name, value in (
        ("--num-requests", plan.limits.num_requests),
        ("--duration-s", plan.limits.duration_s),
    ):
        words += [f"{name} {value}"] if value is not None else []
    return " ".join([*words, f"--repeats {plan.repeats} --seed {plan.seed}"])
