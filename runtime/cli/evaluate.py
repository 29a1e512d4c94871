"""`antiphon eval`: the paper's tables, and what a change costs in meaning."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import eval_options, options, signals
from antiphon.cli.eval_runs import check, in_process, open_engine, over_http, print_table, show
from antiphon.cli.streams import say

if TYPE_CHECKING:
    from antiphon.evaluation.sweep import Point

__all__ = ["app"]

app = typer.Typer(
    name="eval", help="Evaluate a model: the paper's tables, and what a change costs.", no_args_is_help=True
)
TASKS = {
    "asr": "Recognition: word error, and time per utterance of the bottom layers alone.",
    "spoken-qa": "Spoken questions: right answers, as text and as speech that a listener transcribes.",
    "visit": "Pictures and spoken questions, judged from 1 to 5 by a language model.",
    "vqa": "Pictures and typed questions in LLaVA's format: right answers by each set's rule.",
    "tts": "Text to speech to text: word error of what a listener hears.",
    "duplex": "Recordings with pauses: turns that are cut, and the delay of the others.",
}
DEFAULTS = eval_options.Model()


@app.callback()
def _group() -> None:
    pass


def _add(task: str, about: str) -> None:
    @app.command(task, help=about)
    def run(
        data: eval_options.Data = None,
        out: eval_options.Out = None,
        set_name: eval_options.SetName = None,
        limit: eval_options.Limit = None,
        server: eval_options.Server = None,
        api_key: eval_options.ApiKey = None,
        concurrency: eval_options.Concurrency = 16,
        reply: eval_options.Reply = "speech",
        ask: eval_options.Ask = "speech",
        language: eval_options.Language = "en",
        rule: eval_options.Rule = "exact",
        image_folder: eval_options.ImageFolder = None,
        answers: eval_options.Answers = None,
        listener: eval_options.Listener = None,
        judge: eval_options.JudgeUrl = None,
        judge_model: eval_options.JudgeModel = "gpt-4o",
        utmos: eval_options.Utmos = None,
        timed: eval_options.Timed = 20,
        detection: eval_options.Detection = "server_vad",
        activity: eval_options.Activity = "auto",
        silence_ms: eval_options.SilenceMs = 500,
        max_tokens: options.MaxTokens = None,
        max_units: options.MaxUnits = 1500,
        voice: options.Voice = None,
        model: options.ModelFolder = None,
        codec: options.CodecFolder = None,
        device: options.Device = "auto",
        dtype: options.Dtype = "auto",
        codec_dtype: options.CodecDtype = "auto",
        quantization: options.Quantization = None,
        kv_cache_dtype: options.KVCacheDtype = "auto",
        vocoder_backend: options.VocoderBackend = "torch",
        window: eval_options.Window = None,
        lag: eval_options.Lag = None,
        first_units: eval_options.FirstUnits = None,
    ) -> None:
        with signals.at_once():
            from antiphon.evaluation.options import Options
        asked = Options(
            task, reply, ask, language, rule, max_tokens, max_units, voice, detection, activity, silence_ms
        )
        chosen = eval_options.Model(
            model, codec, device, dtype, codec_dtype, quantization, kv_cache_dtype, vocoder_backend,
            window, lag, first_units,
        )  # fmt: skip
        stages = eval_options.Stages(listener, judge, judge_model, timed, utmos)
        source = eval_options.Source(data, image_folder, answers, set_name, limit)
        folder = out or Path(f"eval-{task}")
        if server is not None:
            if chosen != DEFAULTS:
                raise typer.BadParameter(
                    "asks a model that is running: leave the model's options out", param_hint="--server"
                )
            show(folder, over_http(folder, source, asked, stages, server, api_key, concurrency))
            return
        check(asked, source, has_judge=judge is not None)
        with open_engine(chosen) as engine:
            show(folder, in_process(folder, source, asked, stages, chosen, engine))


for _task, _about in TASKS.items():
    _add(_task, _about)


@app.command()
def demo(
    out: eval_options.Out = None,
    listener: eval_options.Listener = None,
    timed: eval_options.Timed = 5,
    max_units: options.MaxUnits = 375,
) -> None:
    """Evaluate the packaged model on the cases that come with it, all tasks on one page."""
    with signals.at_once():
        from antiphon.evaluation.evaluating import PAGE
        from antiphon.evaluation.options import Options
        from antiphon.evaluation.page import write_page
    folder, chosen = out or Path("eval-demo"), eval_options.Model()
    stages, reports = eval_options.Stages(listener, None, "", timed), []
    for task in TASKS:
        check(Options(task), eval_options.Source())
    with open_engine(chosen) as engine:
        for task in TASKS:
            own = folder / task
            asked = Options(task, max_units=max_units)
            report = in_process(own, eval_options.Source(), asked, stages, chosen, engine)
            reports.append((own, report))
            print_table(report)
    about = "The packaged model of Antiphon on the few cases that come with it"
    write_page(folder / PAGE, "Evaluation of the packaged model", about, reports)
    say(str(folder / PAGE))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Of another, over the same cases.")],
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write this file.")
    ] = None,
    num: Annotated[int, typer.Option("--show", min=0, help="Cases answered differently to show.")] = 10,
) -> None:
    """What changed from one run to another, and whether chance could have done it."""
    from rich.console import Console

    from antiphon.evaluation.comparison import compare as compared_runs
    from antiphon.evaluation.tables import comparison_table
    from antiphon.files.writing import write_whole

    compared = compared_runs(first, second)
    Console().print(comparison_table(compared))
    for name, (one, other) in compared.settings.items():
        say(f"{name}: {one} → {other}")
    for case in compared.changed[:num]:
        say(f"{case['id']}\n  A: {case['first']}\n  B: {case['second']}")
    if json_out is not None:
        write_whole(json_out, json.dumps(compared.as_json(), ensure_ascii=False, indent=1).encode() + b"\n")


@app.command()
def sweep(
    task: Annotated[str, typer.Argument(help="asr, spoken-qa, visit, vqa or tts.")],
    data: eval_options.Data = None,
    out: eval_options.Out = None,
    set_name: eval_options.SetName = None,
    limit: eval_options.Limit = None,
    windows: Annotated[str, typer.Option(metavar="W,..", help="Fusion windows.")] = "",
    lags: Annotated[str, typer.Option(metavar="K,..", help="Fusion lags.")] = "",
    quantizations: Annotated[str, typer.Option(metavar="SCHEME,..", help="Schemes; none: without.")] = "",
    vocoder_backends: Annotated[str, typer.Option(metavar="BACKEND,..", help="Backends.")] = "",
    first_units: Annotated[
        str, typer.Option(metavar="N,..", help="Units before the first chunk of speech.")
    ] = "",
    reply: eval_options.Reply = "speech",
    language: eval_options.Language = "en",
    rule: eval_options.Rule = "exact",
    image_folder: eval_options.ImageFolder = None,
    answers: eval_options.Answers = None,
    listener: eval_options.Listener = None,
    timed: eval_options.Timed = 20,
    max_units: options.MaxUnits = 1500,
    model: options.ModelFolder = None,
    codec: options.CodecFolder = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Run a task under every combination of settings, and draw its figure against its time."""
    with signals.at_once():
        from antiphon.evaluation.options import Options
        from antiphon.evaluation.sweep import draw_sweep, grid, point_of
    if task not in TASKS or task == "duplex":
        raise typer.BadParameter(f"expected asr, spoken-qa, visit, vqa or tts, got {task!r}")
    axes = {
        "window": _split(windows, "--windows", int),
        "lag": _split(lags, "--lags", int),
        "quantization": [None if each == "none" else each for each in _split(quantizations, "", str)],
        "vocoder_backend": _split(vocoder_backends, "", str),
        "first_units": _split(first_units, "--first-units", int),
    }
    if not any(axes.values()):
        raise typer.BadParameter("expected at least one of --windows, --lags, --quantizations, ...")
    folder, asked = out or Path(f"eval-sweep-{task}"), Options(task, reply, "speech", language, rule)
    asked = dataclasses.replace(asked, max_units=max_units)
    base = eval_options.Model(model, codec, device, dtype)
    source = eval_options.Source(data, image_folder, answers, set_name, limit)
    stages = eval_options.Stages(listener, None, "", timed)
    points: list[Point] = []
    check(asked, source)
    for values in grid(axes):
        chosen = dataclasses.replace(base, **values)
        name = " ".join(f"{axis}={value}" for axis, value in values.items())
        own = folder / name.replace("/", "_").replace(" ", ",")
        with open_engine(chosen, quiet=bool(points)) as engine:
            report = in_process(own, source, asked, stages, chosen, engine)
        points.append(point_of(name, report))
        print_table(report, name)
    draw_sweep(points, f"{task}, {points[0].figure.num_cases} cases", folder / "sweep.png")
    say(str(folder / "sweep.png"))


def _split(text: str, hint: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(each.strip()) for each in text.split(",") if each.strip()]
    except ValueError as error:
        raise typer.BadParameter(
            f"expected numbers separated by commas, got {text!r}", param_hint=hint
        ) from error
