"""Matrices in fewer bits: quantized while a checkpoint is loaded, so that few are held in full, or read so.

In files, tables and the text side of fusion stay as they are: others read the LLM's part of them, and
quantize no embeddings. In memory they are int8, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from antiphon.config import ModelConfig
from antiphon.errors import ConfigError
from antiphon.kernels.library_linear import quantize_4bit, quantize_8bit
from antiphon.kernels.quantized import QuantizedWeight, quantize_int8
from antiphon.model.checkpoint.quantization import SCALE_SUFFIX
from antiphon.model.checkpoint.tensors import empty_weights, named_tensors
from antiphon.model.schemes import (
    BitsAndBytes4BitScheme,
    BitsAndBytesScheme,
    FileScheme,
    Scheme,
)
from antiphon.model.weights import LayerMatrix, LayerWeights, OmniWeights
from antiphon.plain import shown

__all__ = [
    "HEAD_NAMES",
    "Int8Matrices",
    "Quantizer",
    "check_pattern",
    "kept_names",
    "matrix_groups",
    "matrix_names",
    "saved_bytes",
]

LAYER_MATRICES = ("qkv", "o", "gate_up", "down")
HEADS = ("lm_head", "audio_to_text_proj", "audio_lm_head")
KEPT_IN_FILES = ("embed_tokens", "audio_embed_tokens", "text_to_audio_proj", "fusion_kv")
MAX_PATTERN, MAX_STARS = 200, 8
HEAD_NAMES = frozenset(f"{name}.weight" for name in HEADS)
"""What the heads are called in a file."""


@dataclass
class _Place:
    owner: Any
    name: str
    matrix: Tensor
    """With memory of its own from its first numbers on"""
    missing: int
    is_quantized: bool


class Quantizer:
    """Replaces matrices by quantized ones: of an int8 scheme those of all layers, heads and tables, of a
    library those of the layers alone. Norms and what sees pictures stay as they are.

    Matrices on the device "meta" get memory on `device` when their first numbers come, also those that are
    not quantized.
    """

    def __init__(
        self,
        weights: OmniWeights,
        config: ModelConfig,
        scheme: Scheme,
        *,
        device: torch.device | str = "cpu",
        keep: Collection[str] = (),
        kept_in_files: bool = False,
    ) -> None:
        """keep: tensors of the file whose matrices stay as they are, too. kept_in_files: only those that the
        files of a quantized checkpoint have in full are quantized."""
        self._scheme, self._device = scheme, device
        self._places: dict[int, _Place] = {}
        self._meta: list[Tensor] = []
        """So that no other tensor gets their storages' numbers"""
        stay = {_storage(place) for name, place in named_tensors(weights, config) if name in keep}
        tables = [(weights, name) for name in KEPT_IN_FILES]
        for owner, name in (*_matrices(weights), *tables):
            matrix: Tensor = getattr(owner, name)
            if _storage(matrix) in stay:
                is_quantized = False
            elif scheme.library is not None:
                is_quantized = owner is not weights
            else:
                is_quantized = not kept_in_files or name in KEPT_IN_FILES
            if is_quantized or matrix.is_meta:
                place = _Place(owner, name, matrix, matrix.numel(), is_quantized)
                self._places[_storage(matrix)] = place

    def place(self, part: Tensor) -> Tensor:
        """Where the numbers of this part of a matrix, or of this other tensor, go."""
        found = self._places.get(_storage(part))
        if found is None or not part.is_meta:
            return part
        if found.matrix.is_meta:
            self._meta.append(found.matrix)
            found.matrix = torch.empty_like(found.matrix, device=self._device)
        return found.matrix.as_strided(part.shape, part.stride(), part.storage_offset())

    def filled(self, part: Tensor) -> None:
        """This part of a matrix, or this other tensor, has its numbers. The last part of a matrix makes it a
        quantized one, and the caller drops its views."""
        found = self._places.get(_storage(part))
        if found is None:
            return
        found.missing -= part.numel()
        if not found.missing:
            del self._places[_storage(part)]
            whole: LayerMatrix = found.matrix
            if found.is_quantized:
                whole = _quantized(found.matrix, self._scheme)
            setattr(found.owner, found.name, whole)


def _quantized(matrix: Tensor, scheme: Scheme) -> LayerMatrix:
    if isinstance(scheme, BitsAndBytesScheme):
        return quantize_8bit(matrix, scheme.threshold)
    if isinstance(scheme, BitsAndBytes4BitScheme):
        return quantize_4bit(matrix, scheme.quant_type, double_quant=scheme.double_quant)
    return quantize_int8(matrix, dynamic=scheme.is_dynamic)


class Int8Matrices:
    """Replaces matrices by storage for int8 ones and for their scales, to be filled from a file."""

    def __init__(
        self,
        weights: OmniWeights,
        config: ModelConfig,
        names: Collection[str],
        device: torch.device | str | None = None,
    ) -> None:
        """names: the tensors of the file that are in int8, all of a matrix or none. device: where they go, if
        not where the matrices are."""
        self._matrices: list[tuple[Any, str, Tensor, Tensor]] = []
        columns = empty_weights(config, device="meta", dtype=torch.float32)
        groups = matrix_groups(config)
        for (owner, name), (other, _), group in zip(
            _matrices(weights), _matrices(columns), groups, strict=False
        ):
            if group[0] not in names:
                continue
            matrix: Tensor = getattr(owner, name)
            values = torch.empty_like(matrix, dtype=torch.int8, device=device)
            scales = values.new_empty((len(matrix), 1), dtype=torch.float32)
            setattr(owner, name, values)
            setattr(other, name, scales)
            self._matrices.append((owner, name, values, scales))
        self.places = dict(named_tensors(weights, config))
        """`named_tensors`, and of each tensor in int8 its scales, float32 (out, 1)"""
        for name, place in named_tensors(columns, config):
            if name in names:
                self.places[name + SCALE_SUFFIX] = place

    def filled(self, scheme: FileScheme) -> None:
        """Everything has its numbers: the matrices become `QuantizedWeight`s."""
        for owner, name, values, scales in self._matrices:
            setattr(owner, name, QuantizedWeight(values, scales.flatten(), scheme.is_dynamic))


def matrix_names(config: ModelConfig) -> list[str]:
    """The tensors of a file that are quantized."""
    weights = empty_weights(config, device="meta", dtype=torch.float32)
    for owner, name in _matrices(weights):
        setattr(owner, name, getattr(owner, name).to(torch.int8))
    return [name for name, place in named_tensors(weights, config) if place.dtype == torch.int8]


def matrix_groups(config: ModelConfig) -> list[list[str]]:
    """Of each matrix that may be quantized, those in files first, the tensors of a file that are stored in
    it."""
    weights = empty_weights(config, device="meta", dtype=torch.float32)
    matrices = [getattr(owner, name) for owner, name in _matrices(weights)]
    matrices += [getattr(weights, name) for name in KEPT_IN_FILES]
    groups: dict[int, list[str]] = {_storage(matrix): [] for matrix in matrices}
    for name, place in named_tensors(weights, config):
        if _storage(place) in groups:
            groups[_storage(place)].append(name)
    return [groups[_storage(matrix)] for matrix in matrices]


def kept_names(
    config: ModelConfig,
    patterns: Collection[str],
    *,
    in_files: bool = False,
    setting: str = "quantization_keep",
) -> frozenset[str]:
    """The tensors of a file whose matrices stay as they are: those of a module that a pattern names, wholly
    or from one of its dots on, and those that are stored in one matrix with them.

    in_files: only those that files hold in int8. setting: what the patterns were given as. Raises ConfigError
    for a pattern that names none of them.
    """
    groups = matrix_groups(config)
    if in_files:
        groups = groups[: -len(KEPT_IN_FILES)]
    found: set[str] = set()
    for pattern in patterns:
        check_pattern(pattern, setting)
        named = [group for group in groups if any(_is_named(name, pattern) for name in group)]
        if not named:
            raise ConfigError(
                f"{setting}: expected patterns of modules that are quantized, such as 'lm_head' or "
                f"'model.layers.0.*', got {shown(pattern)}, which names none"
            )
        for group in named:
            found.update(group)
    return frozenset(found)


def check_pattern(pattern: str, setting: str = "quantization_keep") -> None:
    """Raise ConfigError for one that would take long to match."""
    if not 0 < len(pattern) <= MAX_PATTERN or pattern.count("*") > MAX_STARS:
        raise ConfigError(
            f"{setting}: expected a pattern of 1 to {MAX_PATTERN} characters and at most {MAX_STARS} "
            f"stars, got {shown(pattern)}"
        )


def _is_named(tensor: str, pattern: str) -> bool:
    module = tensor.removesuffix(".weight")
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"*.{pattern}")


def saved_bytes(weights: OmniWeights, config: ModelConfig, scheme: Scheme, keep: Collection[str] = ()) -> int:
    """How many bytes less the weights, which are on the device "meta", take once they are quantized."""
    matrices = [getattr(owner, name) for owner, name in _matrices(weights)]
    matrices += [getattr(weights, name) for name in KEPT_IN_FILES]
    count = len(matrices)
    if scheme.library is not None:
        count -= len(HEADS) + len(KEPT_IN_FILES)
    return sum(
        matrix.numel() * (matrix.element_size() - 1) - 4 * len(matrix)
        for matrix, group in [*zip(matrices, matrix_groups(config), strict=True)][:count]
        if group[0] not in keep
    )


def _matrices(weights: OmniWeights) -> Iterator[tuple[Any, str]]:
    """Those that are quantized in files, too."""
    layers: list[LayerWeights] = [*weights.layers, *weights.bottom_layers, *weights.top_layers]
    for layer in layers:
        for name in LAYER_MATRICES:
            yield layer, name
        if layer.fusion is not None:
            yield layer.fusion, "q"
            yield layer.fusion, "o"
    for name in HEADS:
        yield weights, name


def _storage(tensor: Tensor) -> int:
    """One number for all views of a tensor, as long as that is there; also of one without memory."""
    number: int = tensor.untyped_storage()._cdata
    return number
