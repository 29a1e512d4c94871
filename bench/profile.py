"""`antiphon profile`: where the time of an engine's run goes, by stage and by op."""

from __future__ import annotations

import errno
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from antiphon.bench.checkpoint import write_checkpoint
from antiphon.bench.engine import add_paced_request
from antiphon.bench.options import write_record
from antiphon.bench.spans import Span, Spans, replaced
from antiphon.codec.hift.vocoder import Vocoder
from antiphon.device.machine import cpu_name
from antiphon.engine.engine import Engine
from antiphon.files.writing import written_whole
from antiphon.kernels import registry
from antiphon.kernels.decoder_layers import TorchDecoderLayers
from antiphon.kernels.linear import CppLinear, TorchLinear, TritonLinear
from antiphon.model import kept_images as images_module
from antiphon.model import runner as runner_module
from antiphon.model.batch import attention_batch
from antiphon.model.sampler import pick_from_head
from antiphon.model.vision import image_features
from antiphon.model.windows import FusionWindows
from antiphon.outputs.request_output import OutputState
from antiphon.sched.plan import StackPlan
from antiphon.types import Finished, Request, SamplingParams, Units

__all__ = ["Profile", "profile", "profiled_engine", "profiling", "table"]

TEXT_RATE = 0.6
"""Text tokens that a unit of random weights asks for, see `bench.engine`."""


@dataclass(frozen=True)
class Profile:
    title: str
    wall_s: float
    num_requests: int
    num_units: int
    num_text_tokens: int
    audio_s: float
    spans: list[tuple[tuple[str, ...], Span]]
    """By their path from the outermost span inwards, depth first"""

    def as_json(self) -> dict[str, Any]:
        """Of plain values, spans as a list of objects."""
        fields = {name: value for name, value in vars(self).items() if name != "spans"}
        rows = [{"path": list(path), "own_s": span.own_s} | asdict(span) for path, span in self.spans]
        return fields | {"spans": rows}


@contextmanager
def profiled_engine(
    model: str | Path | None,
    codec: str | Path | None,
    config: str | None,
    *,
    fused: bool,
    **settings: Any,
) -> Iterator[Engine]:
    """An engine of a folder, of random weights (`config`: a folder of bench/configs), or the embedded one.

    fused: run a stack of layers as one call where there is such a call; otherwise op by op, which shows more
    and takes a little longer.
    """
    with ExitStack() as stack:
        if not fused:
            stack.enter_context(registry.without("decoder_layers", "cpp"))
        if config is not None:
            model = write_checkpoint(config, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            settings |= {"load_format": "dummy"}
        yield stack.enter_context(Engine(model, codec=codec, **settings))


@contextmanager
def profiling(engine: Engine, spans: Spans) -> Iterator[None]:
    """For the length of the context the engine's parts and all ops are spans. Nothing stays behind."""
    runner, scheduler, codec = engine.runner, engine.scheduler, engine.codec
    methods: list[tuple[Callable[..., Any], str | Callable[..., str]]] = [
        (engine.step, "step"),
        (scheduler.admit, "schedule"),
        (scheduler.schedule_bottom, "schedule"),
        (scheduler.schedule_text, "schedule"),
        (scheduler.schedule_top, "schedule"),
        (scheduler.complete_bottom, "schedule"),
        (scheduler.complete_text, "schedule"),
        (scheduler.complete_top, "schedule"),
        (scheduler.finish, "schedule"),
        (runner.run_bottom, _pass("bottom layers")),
        (runner.run_text, _pass("LLM")),
        (runner.run_top, _pass("top layers")),
    ]
    if engine.speech_worker is not None:
        methods += [(engine.speech_worker.poll, "wait for speech"), (engine.speech_worker.make, "speech")]
    if codec is not None:
        methods += [
            (codec.decoder.flow.condition, "flow's encoder"),
            (codec.decoder.flow.matching.integrate, "flow matching"),
            (codec.decoder.hift.f0, "pitch"),
            (codec.decoder.hift.forward, "HiFT"),
        ]
    functions: list[tuple[object, Callable[..., Any], str]] = [
        (runner_module, attention_batch, "batch"),
        (runner_module, pick_from_head, "pick"),
        (images_module, image_features, "vision tower"),
        (FusionWindows, FusionWindows.prepare, "fusion window"),
        (OutputState, OutputState.poll, "output"),
        (TorchDecoderLayers, TorchDecoderLayers.__call__, "layers"),
        (CppLinear, CppLinear.__call__, "linear"),
        (TorchLinear, TorchLinear.__call__, "linear"),
        (TritonLinear, TritonLinear.__call__, "linear"),
        (Vocoder, Vocoder.__call__, "HiFT"),
    ]
    with ExitStack() as stack:
        for method, label in methods:
            stack.enter_context(replaced(method, spans.timed(method, label)))
        for owner, function, label in functions:
            stack.enter_context(replaced(function, spans.timed(function, label), owner=owner))
        stack.enter_context(registry.instrumented(lambda op, function: spans.timed(function, op)))
        yield


def _pass(stack: str) -> Callable[[StackPlan], str]:
    """Names a pass of this stack by what it does: one position of each request, or prompts among them."""

    def name(plan: StackPlan) -> str:
        return f"{stack}, {'decode' if all(len(chunk) == 1 for chunk in plan.chunks) else 'prompts'}"

    return name


def profile(
    engine: Engine,
    requests: list[Request] | None,
    *,
    num_requests: int,
    prompt_units: int,
    max_units: int,
    name: str | None = None,
    trace: Path | None = None,
) -> Profile:
    """One run after one that warms up.

    requests: None for spoken prompts of random units, answered by max_units units each. name: of the model,
    for the title. trace: the file for a Chrome trace of the engine's thread.
    """
    _serve(engine, requests, num_requests, prompt_units, max_units)
    spans = Spans(engine.device)
    with ExitStack() as stack:
        stack.enter_context(profiling(engine, spans))
        profiler = stack.enter_context(torch.profiler.profile()) if trace is not None else None
        start = time.perf_counter()
        units, tokens, audio_s = _serve(engine, requests, num_requests, prompt_units, max_units)
        wall_s = time.perf_counter() - start
    if profiler is not None and trace is not None:
        _write_trace(profiler, trace)
    device = cpu_name() if engine.device.type == "cpu" else torch.cuda.get_device_name(engine.device)
    title = f"{name or engine.model_name}, {str(engine.model.dtype).removeprefix('torch.')}, {device}"
    count = num_requests if requests is None else len(requests)
    return Profile(title, wall_s, count, units, tokens, audio_s, spans.tree())


def _write_trace(profiler: torch.profiler.profile, path: Path) -> None:
    """Raises OSError if it cannot be written, which the profiler does not always report."""
    with written_whole(path) as part:
        profiler.export_chrome_trace(str(part))
        content = part.read_bytes()
        if not (path.suffix == ".gz" or content.rstrip().endswith(b"}")):
            raise OSError(errno.ENOSPC, "the trace was cut off, perhaps by a full disk", str(path))


def _serve(
    engine: Engine, requests: list[Request] | None, num_requests: int, prompt_units: int, max_units: int
) -> tuple[int, int, float]:
    """Units, text tokens and seconds of speech that came out."""
    rng = random.Random(0)
    if requests is not None:
        for request in requests:
            engine.add_request(request)
    else:
        for _ in range(num_requests):
            if engine.codec is None:
                add_paced_request(engine, prompt_units, max_units, TEXT_RATE, rng)
            else:
                prompt = Units(
                    [rng.randrange(engine.model_config.audio_vocab_size) for _ in range(prompt_units)]
                )
                params = SamplingParams(max_units=max_units, ignore_eos=True)
                engine.add_request(Request(prompt, modalities=("text", "audio")), params)
    units = tokens = 0
    audio_s = 0.0
    while engine.has_unfinished():
        for event in engine.step():
            if isinstance(event, Finished):
                done = event.completion
                units, tokens = units + len(done.unit_ids), tokens + len(done.text_ids)
                audio_s += done.metrics.audio_s or 0.0
    return units, tokens, audio_s


def table(found: Profile) -> Table:
    caption = (
        f"{found.num_requests} requests, {found.num_units} units, {found.num_text_tokens} text tokens, "
        f"{found.audio_s:.1f} s of speech in {found.wall_s:.2f} s. share: of that time, the speech "
        "thread's beside the engine's; own: without the spans below it"
    )
    rows = Table(title=found.title, caption=caption, padding=(0, 1))
    rows.add_column("part")
    for name in ("calls", "ms", "share", "own ms", "own"):
        rows.add_column(name, justify="right")
    for path, span in found.spans:
        if span.total_s < found.wall_s / 2000:
            continue  # too little to look for
        rows.add_row(
            "  " * (len(path) - 1) + path[-1],
            str(span.calls),
            f"{1000 * span.total_s:.1f}",
            f"{span.total_s / found.wall_s:.1%}",
            f"{1000 * span.own_s:.1f}",
            f"{span.own_s / found.wall_s:.1%}",
        )
    return rows


def write_json(found: Profile, path: Path) -> None:
    write_record(path, found.as_json())
