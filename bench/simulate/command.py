"""`antiphon bench simulate`: a fleet under a day's traffic, without the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from antiphon.aio.async_engine import AsyncEngine
from antiphon.bench.options import JsonFile, check_output, record_of, write_record
from antiphon.bench.serving.measuring import Load
from antiphon.bench.serving.questions import read_workload
from antiphon.bench.simulate import report
from antiphon.bench.simulate.calibrate import Calibration
from antiphon.bench.simulate.check import check as checked
from antiphon.bench.simulate.flags import (
    CHECK_LOADS,
    engine_settings,
    read_costs_file,
    read_loads,
    read_replicas,
    read_scaling,
    read_times,
    read_traffic,
    refuse,
)
from antiphon.bench.simulate.fleet import simulate
from antiphon.bench.simulate.floors import BYTES
from antiphon.bench.simulate.gpus import GPUS
from antiphon.bench.simulate.measured import MeasuredCosts
from antiphon.bench.simulate.planning import replicas_needed
from antiphon.bench.simulate.results import Goal
from antiphon.bench.simulate.scaling import Failures
from antiphon.bench.simulate.traffic import busiest, write_trace
from antiphon.device.machine import cpu_name

__all__ = ["run"]

ENGINE_PANEL = "Engine, for --calibrate and --check"
FLEET_PANEL = "Fleet"
TIMES_PANEL = "Times"
CHECK_PANEL = "Check"
ALONE_ROUNDS = 3
"""Of measuring an engine, where it is not measured between loads"""


def run(
    traffic: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|day:N[:SEED]",
            help="Requests: a trace of JSON lines, or a day of about N, drawn from a curve.",
        ),
    ] = None,
    peak_s: Annotated[
        float | None, typer.Option(min=1.0, help="Only the busiest window of this length.")
    ] = None,
    write_traffic: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the requests as a trace, and do nothing else.")
    ] = None,
    replicas: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="At the beginning; auto: the fewest that reach --target-ms.",
            rich_help_panel=FLEET_PANEL,
        ),
    ] = "auto",
    target_ms: Annotated[
        float,
        typer.Option(min=1.0, help="Limit on p99 of the time to first audio.", rich_help_panel=FLEET_PANEL),
    ] = 500.0,
    mtbf_h: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Mean hours between failures of a replica.", rich_help_panel=FLEET_PANEL
        ),
    ] = None,
    restart_s: Annotated[
        float, typer.Option(min=0.0, help="Until it is back.", rich_help_panel=FLEET_PANEL)
    ] = 120.0,
    autoscale: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:MAX", help="Start and end replicas as speech waits.", rich_help_panel=FLEET_PANEL
        ),
    ] = None,
    scale_delay_s: Annotated[
        float, typer.Option(min=0.0, help="Until a new one takes requests.", rich_help_panel=FLEET_PANEL)
    ] = 120.0,
    waiting_audio_s: Annotated[
        float,
        typer.Option(
            min=0.1, help="Seconds of speech that may wait to begin, for each.", rich_help_panel=FLEET_PANEL
        ),
    ] = 20.0,
    gpu: Annotated[
        str | None,
        typer.Option(help=f"Floors of its data sheet: {', '.join(GPUS)}.", rich_help_panel=TIMES_PANEL),
    ] = None,
    config: Annotated[
        str, typer.Option(help="The model's size, a folder of bench/configs.", rich_help_panel=TIMES_PANEL)
    ] = "8b",
    weights: Annotated[
        str, typer.Option(metavar="|".join(BYTES), help="Their format.", rich_help_panel=TIMES_PANEL)
    ] = "bfloat16",
    efficiency: Annotated[
        float, typer.Option(help="Share of the data sheet that steps reach.", rich_help_panel=TIMES_PANEL)
    ] = 0.7,
    codec_efficiency: Annotated[
        float, typer.Option(help="Share of it that making speech reaches.", rich_help_panel=TIMES_PANEL)
    ] = 0.1,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="Requests computed at a time.", rich_help_panel=TIMES_PANEL)
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of --gpu: times that --calibrate has measured.",
            rich_help_panel=TIMES_PANEL,
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="US dollars for a replica's hour. Default: a round figure.",
            rich_help_panel=TIMES_PANEL,
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure an engine on this machine.", rich_help_panel=CHECK_PANEL),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Ask an engine and its simulation the same, side by side.",
            rich_help_panel=CHECK_PANEL,
        ),
    ] = False,
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N,...", help=f"Requests at a time. Default: {CHECK_LOADS}.", rich_help_panel=CHECK_PANEL
        ),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="R,...", help="Requests per second.", rich_help_panel=CHECK_PANEL)
    ] = None,
    num_requests: Annotated[
        int, typer.Option(min=1, help="Requests of each load.", rich_help_panel=CHECK_PANEL)
    ] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each load.", rich_help_panel=CHECK_PANEL)] = 1,
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
    seed: Annotated[int, typer.Option(help="Of failures, and of what --check asks.")] = 0,
    json_out: JsonFile = None,
) -> None:
    """GPUs needed, time to first audio and the price of an hour of speech, simulated.

    The engine's own scheduler and pacing serve the requests of a trace, on a clock that takes the time of
    each step from a GPU's data sheet, or from what was measured on a machine.
    """
    for hint, path in (("--json", json_out), ("--calibrate", calibrate), ("--write-traffic", write_traffic)):
        check_output(path, hint)
    if (model is None) != (codec is None):
        raise typer.BadParameter("needs --codec, as --codec needs --model", param_hint="--model")
    if calibrate is not None or check:
        refuse({"--traffic": traffic, "--gpu": gpu}, "is of no use with --calibrate or --check")
        loads = read_loads(concurrency, rate) if check else []
        known = None if costs is None else read_costs_file(costs)
        engine = AsyncEngine(model, codec=codec, device=device, **engine_settings(max_num_seqs))
        _measure(engine, calibrate, known, loads, num_requests, repeats, seed, json_out)
        return
    if traffic is None:
        raise typer.BadParameter("expected FILE or day:N", param_hint="--traffic")
    arrivals = read_traffic(traffic)
    speech_h = sum(arrival.reply_s for arrival in arrivals) / 3600
    if peak_s is not None:
        arrivals = busiest(arrivals, peak_s)
    if write_traffic is not None:
        write_trace(write_traffic, arrivals)
        return
    times, usual_price, caption = read_times(
        gpu, costs, config, weights, efficiency, codec_efficiency, max_num_seqs
    )
    price = usual_price if price is None else price
    failures = None if mtbf_h is None else Failures(mtbf_h * 3600, restart_s)
    scaling = None if autoscale is None else read_scaling(autoscale, scale_delay_s, waiting_audio_s)
    count = read_replicas(replicas)
    if scaling is not None:
        count = scaling.least if count is None else count
    with Progress(transient=True) as progress:
        task = progress.add_task("", total=len(arrivals))

        def trying(number: int) -> Callable[[int], None]:
            progress.reset(task, description=f"{number} replicas")
            return lambda ended: progress.update(task, completed=ended)

        if count is None:
            needed = replicas_needed(
                arrivals, times, Goal(target_ms / 1000), failures=failures, seed=seed, trying=trying
            )
            if needed is None:
                raise typer.BadParameter("no number of replicas reaches it", param_hint="--target-ms")
            count, found = needed
        else:
            found = simulate(
                arrivals, times, count, failures=failures, autoscaling=scaling, seed=seed, noted=trying(count)
            )
    title = f"{times.served.name}, {len(arrivals)} requests of {traffic}"
    console = Console()
    console.print(report.table(found, count, price, title, caption))
    if peak_s is not None and traffic.startswith("day:") and speech_h:
        told = f"as many all day: $ {count * 24 * price / speech_h:.3f} for an hour of speech"
        console.print(told, highlight=False, markup=False)
    if json_out is not None:
        command = f"antiphon bench simulate --traffic {traffic} --replicas {replicas}"
        write_record(json_out, record_of(title, command, times=caption, **report.record(found, count, price)))


def _measure(
    engine: AsyncEngine,
    calibrate: Path | None,
    known: MeasuredCosts | None,
    loads: list[Load],
    num_requests: int,
    repeats: int,
    seed: int,
    json_out: Path | None,
) -> None:
    with Progress(transient=True) as progress:
        task = progress.add_task("measuring the engine", total=None)
        with closing(engine):
            calibration = Calibration(engine)

            async def measure() -> None:
                if known is None or calibrate is not None:
                    for _ in range(1 if loads else ALONE_ROUNDS):
                        await calibration.watch()

            def times() -> MeasuredCosts:
                return calibration.costs() if known is None else known

            found = asyncio.run(
                checked(
                    engine,
                    read_workload(),
                    loads,
                    times,
                    measure,
                    num_requests=num_requests,
                    repeats=repeats,
                    seed=seed,
                    begun=lambda name: progress.update(task, description=name),
                )
            )
            all_times = calibration.costs() if known is None or calibrate is not None else known
        if calibrate is not None:
            write_record(calibrate, all_times.as_json())
        if not loads:
            return
    title = f"{all_times.served.name} on {cpu_name()}"
    Console().print(report.check_table(found, title))
    if json_out is not None:
        command = "antiphon bench simulate --check"
        for flag, numbers in (
            ("--concurrency", [f"{load.concurrency}" for load in loads if load.concurrency is not None]),
            ("--rate", [f"{load.rate:g}" for load in loads if load.rate is not None]),
        ):
            command += f" {flag} {','.join(numbers)}" if numbers else ""
        command += f" --num-requests {num_requests} --repeats {repeats}"
        runs = [report.check_record(one) for one in found]
        write_record(json_out, record_of(title, command, runs=runs, times=all_times.as_json()))
