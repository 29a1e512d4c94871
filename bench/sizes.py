"""The numbers of a model that its kernels' shapes are made of, from a folder of bench/configs."""

from __future__ import annotations

import json
from dataclasses import dataclass

from antiphon.bench.checkpoint import CONFIGS

__all__ = ["Sizes", "read_sizes"]


@dataclass(frozen=True)
class Sizes:
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    """Of the LLM"""
    num_top_layers: int
    text_vocab: int
    num_units: int

    @property
    def vocab(self) -> int:
        """Rows of the heads over text and units"""
        return self.text_vocab + self.num_units


def read_sizes(config: str) -> Sizes:
    """Raises ValueError where there is no such folder."""
    path = CONFIGS / config / "config.json"
    if not path.is_file():
        raise ValueError(f"config: expected one of {', '.join(model_configs())}, got {config!r}")
    values = json.loads(path.read_text(encoding="utf-8"))
    heads = values["num_attention_heads"]
    return Sizes(
        hidden=values["hidden_size"],
        intermediate=values["intermediate_size"],
        num_heads=heads,
        num_kv_heads=values["num_key_value_heads"],
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        num_layers=values["num_hidden_layers"],
        num_top_layers=values["num_top_audio_layers"],
        text_vocab=values["text_vocab_size"],
        num_units=values["audio_vocab_size"],
    )


def model_configs() -> list[str]:
    """The folders of bench/configs that describe a model."""
    return sorted(path.parent.name for path in CONFIGS.glob("*/config.json"))
