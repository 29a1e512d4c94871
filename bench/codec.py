"""`antiphon bench codec`: seconds of compute per second of speech, whole and streamed, alone and together,
beside a plain implementation measured in the same run."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from antiphon.bench.busy import Busy, busy_processes
from antiphon.bench.codec_error import CodecError, codec_error
from antiphon.bench.codec_flops import codec_flops
from antiphon.bench.dummy_codec import dummy_codec, read_params
from antiphon.bench.matrix_rate import matrix_rate, synchronize
from antiphon.bench.options import (
    Device,
    Dtype,
    EnforceEager,
    JsonFile,
    Repeats,
    Threads,
    check_output,
    device_name,
    dtype_name,
    read_counts,
    read_device,
    read_dtype,
    record_of,
    use_threads,
    write_record,
)
from antiphon.bench.plain_codec import PlainCodec
from antiphon.bench.spans import replaced
from antiphon.codec import Codec
from antiphon.codec.exported import ONNXRUNTIME, Exported

__all__ = ["CodecRun", "bench_codec", "run"]

FIRST_UNITS = 15
"""After this number of units a stream of the default schedule can speak."""


@dataclass(frozen=True)
class CodecRun:
    """Medians over the repeats of one way to decode utterances of one length."""

    way: str
    """plain (`PlainCodec`, float32), whole (`Codec.decode`), onnx (the same, the flow by onnxruntime) or
    streamed (`Codec.stream`, unit by unit)"""
    num_utterances: int
    audio_s: float
    """Of one utterance"""
    compute_s_per_s: float
    """Seconds of compute per second of audio, all utterances together"""
    plain_ratio: float
    """plain's compute_s_per_s divided by this one: how many times faster, repeat by repeat"""
    flow_share: float | None
    f0_share: float | None
    hift_share: float | None
    """Shares of the time; the rest is noise, source and bookkeeping"""
    first_audio_s: float | None
    """Until the first samples of a stream, once its first 15 units are there"""
    flop_per_s: float | None
    """The operations of a whole decode divided by the time taken; None for streams, which compute some of
    them twice"""
    matrix_share: float | None
    """flop_per_s divided by that of a large matrix product in the same precision, repeat by repeat"""


@dataclass
class _Clock:
    """Where the time of a call went."""

    device: torch.device
    spent_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def watching(self, codec: Codec) -> Iterator[None]:
        flow, hift = codec.decoder.flow, codec.decoder.hift
        with (
            replaced(flow.generate, self._timed(flow.generate, "flow")),
            replaced(hift.f0, self._timed(hift.f0, "f0")),
            replaced(hift.forward, self._timed(hift.forward, "hift")),
        ):
            yield

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            synchronize(self.device)
            start = time.perf_counter()
            result = function(*args)
            synchronize(self.device)
            self.spent_s[part] = self.spent_s.get(part, 0) + time.perf_counter() - start
            return result

        return call


@dataclass
class _Taken:
    """Measurements of one row, one entry for each repeat."""

    total_s: list[float] = field(default_factory=list)
    parts_s: list[dict[str, float]] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)


def bench_codec(
    config: str,
    seconds: list[float],
    batch_sizes: list[int],
    *,
    dtype: torch.dtype,
    repeats: int,
    device: torch.device | None = None,
    enforce_eager: bool = False,
    onnx_folder: Path | None = None,
    seed: int = 0,
) -> tuple[list[CodecRun], CodecError]:
    """Runs for each length: plain, then whole, by onnxruntime and streamed for each number of utterances at a
    time; and the error of the first length's utterance. onnx_folder: what onnxruntime computes the flow from,
    made in float32 if it is not there; None: it is left out."""
    params = read_params(config)
    codec = dummy_codec(params, dtype, device, enforce_eager=enforce_eager)
    onnx = None
    if onnx_folder is not None:
        if not onnx_folder.exists():
            from antiphon.export.folder import export_flow
            from antiphon.export.sources import FlowSource

            export_flow(FlowSource(params.flow, codec.decoder.flow.model, {}), onnx_folder)
        onnx = dummy_codec(params, dtype, device, exported=Exported(ONNXRUNTIME, onnx_folder))
    plain = PlainCodec(codec)
    rng = random.Random(seed)
    runs: list[CodecRun] = []
    error = None
    for length in seconds:
        num_units = max(1, round(length * codec.unit_rate_hz))
        utterances = [
            [rng.randrange(codec.num_units_vocab) for _ in range(num_units)] for _ in range(max(batch_sizes))
        ]
        error = error or codec_error(plain, utterances[0])
        runs += _bench_length(codec, onnx, plain, utterances, batch_sizes, repeats)
    assert error is not None, "there is at least one length"
    return runs, error


def _bench_length(
    codec: Codec,
    onnx: Codec | None,
    plain: PlainCodec,
    utterances: list[list[int]],
    batch_sizes: list[int],
    repeats: int,
) -> list[CodecRun]:
    first = utterances[0]
    flops = codec_flops(codec.params, len(first))
    audio_s = len(plain.decode(first)) / codec.sample_rate_hz
    ways = {"whole": codec, **({} if onnx is None else {"onnx": onnx}), "streamed": codec}
    rows = [("plain", 1), *((way, size) for way in ways for size in batch_sizes)]
    taken = {row: _Taken() for row in rows}
    for way, size in rows[1:]:
        _DECODERS[way](ways[way], utterances[:size])  # warms up
    rates, plain_rates = [], []
    # One of each in turn, so that whatever else the machine does slows all of them alike.
    for _ in range(repeats):
        rates.append(matrix_rate(codec.dtype, codec.device))
        in_float32 = codec.dtype == torch.float32
        plain_rates.append(rates[-1] if in_float32 else matrix_rate(torch.float32, codec.device))
        for (way, size), row in taken.items():
            clock = _Clock(codec.device)
            start = time.perf_counter()
            if way == "plain":
                plain.decode(first)
            else:
                with clock.watching(ways[way]):
                    first_s = _DECODERS[way](ways[way], utterances[:size])
                if first_s is not None:
                    row.first_s.append(first_s)
            row.total_s.append(time.perf_counter() - start)
            row.parts_s.append(clock.spent_s)
    plain_s = taken["plain", 1].total_s
    runs = []
    for (way, size), row in taken.items():
        peaks = plain_rates if way == "plain" else rates
        flop_per_s = [size * flops.total / total for total in row.total_s]
        whole = way != "streamed"
        runs.append(
            CodecRun(
                way=way,
                num_utterances=size,
                audio_s=audio_s,
                compute_s_per_s=statistics.median(row.total_s) / (size * audio_s),
                plain_ratio=_median_ratio([size * s for s in plain_s], row.total_s),
                **{
                    f"{part}_share": None
                    if way == "plain"
                    else _median_ratio([parts.get(part, 0.0) for parts in row.parts_s], row.total_s)
                    for part in ("flow", "f0", "hift")
                },
                first_audio_s=statistics.median(row.first_s) if row.first_s else None,
                flop_per_s=statistics.median(flop_per_s) if whole else None,
                matrix_share=_median_ratio(flop_per_s, peaks) if whole else None,
            )
        )
    return runs


def _median_ratio(over: list[float], under: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def _decode_whole(codec: Codec, utterances: list[list[int]]) -> None:
    codec.decode(utterances, seeds=list(range(len(utterances))))


def _decode_streamed(codec: Codec, utterances: list[list[int]]) -> float | None:
    """Give units one by one, to all streams in turn. Returns how long the first samples of any stream took,
    once their units were there; None if they came with the last unit."""
    streams = [codec.stream(seed=seed) for seed in range(len(utterances))]
    first_s = None
    for k, column in enumerate(zip(*utterances, strict=True)):
        final = k == len(utterances[0]) - 1
        for stream, unit in zip(streams, column, strict=True):
            start = time.perf_counter()
            samples = stream.push([unit], final=final)
            if first_s is None and len(samples) and not final:
                first_s = time.perf_counter() - start
    return first_s


_DECODERS: dict[str, Callable[[Codec, list[list[int]]], float | None]] = {
    "whole": _decode_whole,
    "onnx": _decode_whole,
    "streamed": _decode_streamed,
}


def _numbers(text: str, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [0.0]
    if not all(0 < number < float("inf") for number in numbers):
        raise typer.BadParameter(
            f"expected positive numbers separated by commas, got {text!r}", param_hint=option
        )
    return numbers


def run(
    config: Annotated[str, typer.Option(help="The codec's size, a folder of bench/configs.")] = "codec_300m",
    seconds: Annotated[str, typer.Option(help="Lengths of the utterances, separated by commas.")] = "1,3,10",
    batch: Annotated[str, typer.Option(help="Utterances at a time, separated by commas.")] = "1,8",
    dtype: Dtype = "float32",
    device: Device = "auto",
    eager: EnforceEager = False,
    repeats: Repeats = 5,
    threads: Threads = 0,
    onnx: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="On a CPU, also measure the flow by onnxruntime, from this export of the same codec, which "
            "is made if it is not there.",
        ),
    ] = None,
    busy: Busy = 0,
    json_out: JsonFile = None,
) -> None:
    """Seconds of compute per second of speech, with random weights, beside those of a plain codec."""
    check_output(json_out, "--json")
    use_threads(threads)
    place = read_device(device)
    kind = read_dtype(dtype, place)
    if onnx is not None and place.type != "cpu":
        raise typer.BadParameter(f"cannot be used on {place.type}", param_hint="--onnx")
    lengths, batches = _numbers(seconds, "--seconds"), read_counts(batch, "--batch")
    with busy_processes(busy):
        runs, error = bench_codec(
            config,
            lengths,
            batches,
            dtype=kind,
            repeats=repeats,
            device=place,
            enforce_eager=eager,
            onnx_folder=onnx,
        )
    machine = device_name(place) + (", without graphs" if eager and place.type == "cuda" else "")
    machine += f", beside {busy} busy processes" if busy else ""
    title = f"{config}, {dtype_name(kind)}, {machine}, torch {torch.__version__}"
    Console().print(_table(title, runs, error))
    if json_out is not None:
        command = (
            f"antiphon bench codec --dtype {dtype_name(kind)} --seconds {seconds} --batch {batch} "
            f"--repeats {repeats} --device {place.type}{' --enforce-eager' if eager else ''}"
            f"{'' if onnx is None else ' --onnx DIR'}{f' --busy {busy}' if busy else ''}"
        )
        rows = [asdict(run) for run in runs]
        write_record(json_out, record_of(title, command, error=asdict(error), runs=rows))


def _table(title: str, runs: list[CodecRun], error: CodecError) -> Table:
    caption = (
        "compute: seconds per second of audio; faster: than plain, which is float32; first: audio after "
        f"{FIRST_UNITS} units; peak: share of a large matrix product. Against plain: log-mel "
        f"{error.mel_max:.1e} at most, {error.mel_mean:.1e} on average; waveform {error.wav_snr_db:.0f} dB "
        "over its error"
    )
    table = Table(title=title, caption=caption, padding=(0, 0))
    names = ("audio", "way", "compute", "faster", "flow", "f0", "HiFT", "first", "GFLOP/s", "peak")
    for name in names:
        table.add_column(name, justify="right")
    for run in runs:
        shares = (run.flow_share, run.f0_share, run.hift_share)
        table.add_row(
            f"{run.audio_s:.1f} s",
            run.way if run.num_utterances == 1 else f"{run.num_utterances} {run.way}",
            f"{run.compute_s_per_s:.2f}",
            f"{run.plain_ratio:.1f}x",
            *("" if share is None else f"{share:.0%}" for share in shares),
            "" if run.first_audio_s is None else f"{1000 * run.first_audio_s:.0f} ms",
            "" if run.flop_per_s is None else f"{run.flop_per_s / 1e9:.0f}",
            "" if run.matrix_share is None else f"{run.matrix_share:.0%}",
        )
    return table
