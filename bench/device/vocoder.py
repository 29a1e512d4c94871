"""Streams of the codec at the released size, alone and many together."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.bench.codec_flops import codec_flops
from antiphon.bench.device.figures import Figure, Machine
from antiphon.bench.dummy_codec import dummy_codec, read_params
from antiphon.bench.matrix_rate import matrix_rate, synchronize
from antiphon.bench.options import dtype_name
from antiphon.codec import Codec
from antiphon.codec.stream import advance

__all__ = ["codec"]

NUM_UNITS = 100


def codec(machine: Machine) -> Iterator[Figure]:
    """Each chunk of a stream, the first time, when it is recorded, and then."""
    params = read_params("codec_300m")
    flops = codec_flops(params, NUM_UNITS).total / (NUM_UNITS / params.flow.input_frame_rate)
    for dtype in machine.some((torch.float32, torch.float16)):
        if machine.is_small:
            rate, made = 1e10, Codec.from_pretrained(EMBEDDED_CODEC, machine.device)
        else:
            rate, made = matrix_rate(dtype, machine.device), dummy_codec(params, dtype, machine.device)
        for count in machine.some((1, 15)):
            name = f"{dtype_name(dtype)}, {count} stream{'s' * (count > 1)}"
            cold, warm = _chunks(machine, made, count), _chunks(machine, made, count)
            for index, ((first, _), (then, audio_s)) in enumerate(zip(cold, warm, strict=True)):
                floor_ms = 1e3 * count * audio_s * flops / rate
                note = f"the first time {1e3 * first:.0f} ms"
                label = f"{name}, chunk {index + 1} of {audio_s:.2f} s"
                yield Figure(label, 1e3 * then, "ms", floor_ms, note)
            made_s, took_s = count * sum(audio for _, audio in warm), sum(took for took, _ in warm)
            yield Figure(f"{name}, speech", made_s / took_s, "s a second")
        del made


def _chunks(machine: Machine, made: Codec, count: int) -> list[tuple[float, float]]:
    """Seconds that each chunk took, and seconds of its sound."""
    streams = [made.stream(seed=i) for i in range(count)]
    units = 30 if machine.is_small else NUM_UNITS
    for stream in streams:
        stream.add([7 * i % made.num_units_vocab for i in range(units)], final=False)
    chunks = []
    while all(stream.ready for stream in streams):
        start = time.perf_counter()
        waves = advance(streams)
        synchronize(machine.device)
        chunks.append((time.perf_counter() - start, len(waves[0]) / made.sample_rate_hz))
    return chunks
