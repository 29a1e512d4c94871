"""What config.json says about quantized weights, in the words of compressed-tensors.

Read and written here are int8 weights, symmetric, with a scale for each output channel; activations stay as
they are, or are quantized to int8 as they come, with a scale for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from antiphon.files.checkpoint import read_json
from antiphon.model.checkpoint.settings import Settings
from antiphon.model.schemes import INT8, INT8_WEIGHT_ONLY, FileScheme

__all__ = ["SCALE_SUFFIX", "may_stay", "quantization_config", "scheme_of", "take_quantization"]

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


def scheme_of(folder: Path) -> FileScheme | None:
    """What a checkpoint's config.json says; raises what `take_quantization` raises."""
    return take_quantization(Settings(folder / "config.json", read_json(folder / "config.json")))


def may_stay(folder: Path) -> Callable[[str], bool]:
    """Which tensors of a quantized checkpoint its config.json leaves as they are, by `ignore`. Regular
    expressions there are not evaluated: where there are some, the tensors show what was quantized."""
    config = read_json(folder / "config.json").get(KEY)
    ignored = config.get("ignore") if isinstance(config, dict) else None
    names = frozenset(name for name in ignored if isinstance(name, str)) if isinstance(ignored, list) else ()
    has_patterns = any(name.startswith("re:") for name in names)
    return lambda tensor: has_patterns or tensor.removesuffix(".weight") in names


def take_quantization(settings: Settings) -> FileScheme | None:
    """How the weights are quantized, if they are. Raises `CheckpointError` if that is in another scheme."""
    found = settings.nested(KEY)
    if found is None:
        return None
    if found.take("quant_method") is None:
        raise settings.error(KEY, "quant_method 'compressed-tensors'")
    found.fixed("quant_method", "compressed-tensors")
    _require(found, "format", *FORMATS)
    found.fixed("quantization_status", "compressed")
    groups = found.nested("config_groups")
    names = settings.take(KEY).get("config_groups")
    if groups is None or not names:
        raise found.error("config_groups", "an object that is not empty")
    schemes = []
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
        schemes.append(_take_activations(group))
        group.fixed("output_activations")
        group.fixed("format", *FORMATS)
        group.refuse_unknown(HARMLESS_GROUP)
        if schemes[-1] != schemes[0]:
            raise group.error("input_activations", "the same in each group")
    found.refuse_unknown(HARMLESS)
    return schemes[0]


def _take_activations(group: Settings) -> FileScheme:
    activations = group.nested("input_activations")
    if activations is None:
        return INT8_WEIGHT_ONLY
    _require(activations, "num_bits", 8)
    _require(activations, "type", "int")
    _require(activations, "strategy", "token")
    _require(activations, "dynamic", True)
    activations.fixed("symmetric", True)
    if activations.take("group_size") not in (None, -1):
        raise activations.error("group_size", "null or -1 (nothing else is implemented)")
    activations.refuse_unknown(HARMLESS_WEIGHTS)
    return INT8


def quantization_config(scheme: FileScheme, ignore: Collection[str]) -> dict[str, Any]:
    """The value of config.json's `quantization_config`. ignore: the names of the modules that stay."""
    activations = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "token",
        "dynamic": True,
        "group_size": None,
        "actorder": None,
        "block_structure": None,
        "observer": None,
        "observer_kwargs": {},
    }
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
        "input_activations": activations if scheme.is_dynamic else None,
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
