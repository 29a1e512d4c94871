"""Engines whose text comes from vLLM: from a stand-in, or from a real one that ANTIPHON_VLLM_PYTHON names."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from antiphon import Engine
from antiphon.model.checkpoint.llm_folder import export_llm

__all__ = ["VARIABLE", "fake_python", "notes_in", "real_python", "vllm_engine", "with_wider_heads"]

FAKE = Path(__file__).with_name("fake_vllm")
VARIABLE = "ANTIPHON_VLLM_PYTHON"
MIN_HEAD_DIM = 32
"""vLLM's attention on a CPU has no smaller heads."""


def real_python() -> str | None:
    return os.environ.get(VARIABLE)


def fake_python(folder: Path) -> str:
    """An interpreter that has the stand-in, as a program in this folder."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{FAKE}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def vllm_engine(python: str, model: Path | None = None, *, env: Any = None, **settings: Any) -> Engine:
    """env: variables of vLLM's process. Other settings are the engine's, or `text_backend_args`."""
    arguments = {
        "python": python,
        "enforce_eager": True,
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1"} | (env or {}),
    }
    arguments |= settings.pop("text_backend_args", {})
    own: dict[str, Any] = {"kv_cache_bytes": 32 << 20, "max_model_len": 2048} | settings
    return Engine(
        model, device="cpu", progress=False, text_backend="vllm", text_backend_args=arguments, **own
    )


def notes_in(path: Path, kind: str) -> list[Any]:
    """What the stand-in has kept of one kind: "args", "ask", "abort" or "forget"."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [about for what, about in map(json.loads, lines) if what == kind]


def with_wider_heads(checkpoint: Path, folder: Path) -> Path:
    """The LLM of a checkpoint with heads of at least 32 numbers, most of them 0: the same scores.

    Of a head of d numbers, i and i + d/2 are rotated together, at the rate theta ** (-2i / d). Of one of m
    times as many, mi and mi + md/2 are rotated at that rate. Scores are divided by sqrt(md), so queries are
    multiplied by sqrt(m).
    """
    export_llm(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    size = config["head_dim"]
    times = max(1, -(-MIN_HEAD_DIM // size))
    half = torch.arange(size // 2) * times
    places = torch.cat([half, half + times * size // 2])
    tensors = load_file(folder / "model.safetensors")
    for name, weight in tensors.items():
        kind = name.split(".")[-2]
        if kind in ("q_proj", "k_proj", "v_proj"):
            heads = weight.unflatten(0, (-1, size))
            wide = heads.new_zeros(len(heads), times * size, heads.shape[-1])
            wide[:, places] = heads * times**0.5 if kind == "q_proj" else heads
            tensors[name] = wide.flatten(0, 1)
        elif kind == "o_proj":
            heads = weight.unflatten(1, (-1, size))
            wide = heads.new_zeros(len(heads), heads.shape[1], times * size)
            wide[:, :, places] = heads
            tensors[name] = wide.flatten(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"head_dim": times * size}))
    return folder
