"""Options that several benchmarks share, how they are read, and the record that a benchmark writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated

import torch
import typer

from antiphon.bench.sizes import model_configs
from antiphon.device.dtypes import DTYPES, usual_codec_dtype
from antiphon.device.machine import cpu_name
from antiphon.device.place import resolve_device
from antiphon.errors import ConfigError
from antiphon.files.writing import check_writable, write_whole

__all__ = [
    "CodecDtype",
    "Config",
    "Device",
    "Dtype",
    "EnforceEager",
    "JsonFile",
    "Repeats",
    "Threads",
    "check_output",
    "device_name",
    "dtype_name",
    "read_codec_dtype",
    "read_config",
    "read_counts",
    "read_device",
    "read_dtype",
    "record_of",
    "use_threads",
    "write_record",
]

Config = Annotated[
    str, typer.Option(help="The model's size, a folder of bench/configs; auto: 97m, on a GPU 8b.")
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="auto (float32 on a CPU, bfloat16 on a GPU) or a name.")]
CodecDtype = Annotated[
    str, typer.Option(help="Of the codec: auto (float32 on a CPU, float16 on a GPU) or a name.")
]
EnforceEager = Annotated[bool, typer.Option("--enforce-eager", help="On a GPU: without CUDA graphs.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures to this file.")
]
Repeats = Annotated[int, typer.Option(min=1, help="Runs of each row; the median counts.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")]


def read_device(name: str) -> torch.device:
    """auto is a GPU if there is one. A GPU becomes the current one, on which kernels are launched."""
    try:
        device = resolve_device(name)
    except ConfigError as unknown:
        raise typer.BadParameter(str(unknown), param_hint="--device") from unknown
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def read_dtype(name: str, device: torch.device, hint: str = "--dtype") -> torch.dtype:
    """auto is float32 on a CPU and bfloat16 on a GPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise typer.BadParameter(f"expected auto, {', '.join(DTYPES)}, got {name!r}", param_hint=hint)
    return DTYPES[name]


def read_codec_dtype(name: str, device: torch.device, hint: str = "--dtype") -> torch.dtype:
    """auto is what it is to `Codec`."""
    return usual_codec_dtype(device) if name == "auto" else read_dtype(name, device, hint)


def read_config(name: str, device: torch.device) -> str:
    """auto is the released size on a GPU, and one that fits everywhere on a CPU."""
    if name == "auto":
        return "8b" if device.type == "cuda" else "97m"
    if name not in model_configs():
        known = ", ".join(["auto", *model_configs()])
        raise typer.BadParameter(f"expected one of {known}, got {name!r}", param_hint="--config")
    return name


def read_counts(numbers: str, hint: str, least: int = 1) -> list[int]:
    """Numbers separated by commas. least: 1, or 0"""
    parts = [number.strip() for number in numbers.split(",")]
    counts = [int(part) if re.fullmatch(r"[0-9]{1,6}", part) else -1 for part in parts]
    if min(counts) < least:
        kind = "positive" if least else "whole"
        raise typer.BadParameter(
            f"expected {kind} numbers separated by commas, got {numbers!r}", param_hint=hint
        )
    return counts


def use_threads(threads: int) -> None:
    """0 leaves torch's choice."""
    if threads:
        torch.set_num_threads(threads)


def check_output(path: Path | None, hint: str) -> None:
    """Check now what would fail after minutes of measuring."""
    if path is None:
        return
    try:
        check_writable(path)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint=hint) from error


def record_of(title: str, command: str, **found: object) -> dict[str, object]:
    """What was found, with what a reader needs to find it again."""
    return {"title": title, "date": date.today().isoformat(), "command": command, **found}


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """As JSON, whole or not at all."""
    write_whole(path, (json.dumps(record, indent=1) + "\n").encode())


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """For titles and records of what was measured"""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"
