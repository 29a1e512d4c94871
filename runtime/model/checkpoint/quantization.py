"""What config.json says about quantized weights, in the words of compressed-tensors.

Read and written here is one scheme: int8 weights, symmetric, with a scale for each output channel, and
activations that stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from antiphon.files.checkpoint import read_json
from antiphon.model.checkpoint.settings import Settings

__all__ = ["SCALE_SUFFIX", "is_quantized", "quantization_config", "take_quantization"]

KEY = "quantization_config"
SCALE_SUFFIX = "_scale"
"""Beside `X.weight`, in int8, a file holds `X.weight_scale`."""
FORMATS = ("int-quantized", "naive-quantized")
"""Two names for one layout."""

# What was recorded while the numbers were found, and which modules were meant: the tensors show which were
# quantized.
HARMLESS = frozenset({"global_compression_ratio", "ignore", "version"})
HARMLESS_GROUP = frozenset({"targets"})
HARMLESS_WEIGHTS = frozenset({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"})


def is_quantized(folder: Path) -> bool:
    """Whether a checkpoint's config.json says so; raises what `take_quantization` raises."""
    return take_quantization(Settings(folder / "config.json", read_json(folder / "config.json")))


def take_quantization(settings: Settings) -> bool:
    """Whether the weights are quantized. Raises `CheckpointError` if they are in another scheme."""
    found = settings.nested(KEY)
    if found is None:
        return False
    if found.take("quant_method") is None:
        raise settings.error(KEY, "quant_method 'compressed-tensors'")
    found.fixed("quant_method", "compressed-tensors")
    _require(found, "format", *FORMATS)
    found.fixed("quantization_status", "compressed")
    groups = found.nested("config_groups")
    names = settings.take(KEY).get("config_groups")
    if groups is None or not names:
        raise found.error("config_groups", "an object that is not empty")
    for name in names:
        group = groups.nested(name)
        weights = None if group is None else group.nested("weights")
        if group is None:
            raise groups.error(name, "an object")
        if weights is None:
            raise group.error("weights", "an object")
        _require(weights, "num_bits", 8)
        _require(weights, "type", "int")
        _require(weights, "strategy", "channel")
        weights.fixed("symmetric", True)
        weights.fixed("dynamic", False)
        if weights.take("group_size") not in (None, -1):
            raise weights.error("group_size", "null or -1 (nothing else is implemented)")
        weights.refuse_unknown(HARMLESS_WEIGHTS)
        group.fixed("input_activations")
        group.fixed("output_activations")
        group.fixed("format", *FORMATS)
        group.refuse_unknown(HARMLESS_GROUP)
    found.refuse_unknown(HARMLESS)
    return True


def quantization_config(ignore: Collection[str]) -> dict[str, Any]:
    """The value of config.json's `quantization_config`. ignore: the names of the modules that stay."""
    weights = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "channel",
        "dynamic": False,
        "group_size": None,
        "actorder": None,
        "block_structure": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": FORMATS[0],
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(ignore),
        "kv_cache_scheme": None,
    }


def _require(settings: Settings, name: str, *allowed: object) -> None:
    """`Settings.fixed` of a key that must be present."""
    if settings.take(name) is None:
        raise settings.error(name, " or ".join(map(repr, allowed)))
    settings.fixed(name, *allowed)
