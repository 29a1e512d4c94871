"""Matrices in int8: quantized while a checkpoint is loaded, so that few are held in full, or read as such.

In files, tables and the text side of fusion stay as they are: others read the LLM's part of them, and
quantize no embeddings. In memory they are int8, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from antiphon.config import ModelConfig
from antiphon.kernels.quantized import QuantizedWeight, quantize_int8
from antiphon.model.checkpoint.quantization import SCALE_SUFFIX
from antiphon.model.checkpoint.tensors import empty_weights, named_tensors
from antiphon.model.schemes import Scheme
from antiphon.model.weights import LayerWeights, Matrix, OmniWeights

__all__ = ["HEAD_NAMES", "Int8Matrices", "Quantizer", "matrix_names", "saved_bytes"]

LAYER_MATRICES = ("qkv", "o", "gate_up", "down")
HEADS = ("lm_head", "audio_to_text_proj", "audio_lm_head")
KEPT_IN_FILES = ("embed_tokens", "audio_embed_tokens", "text_to_audio_proj", "fusion_kv")
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
    """Replaces the matrices of all layers, heads and tables by `QuantizedWeight`s. Norms and what sees
    pictures stay as they are.

    Matrices on the device "meta" get memory on `device` when their first numbers come.
    """

    def __init__(
        self,
        weights: OmniWeights,
        scheme: Scheme,
        *,
        device: torch.device | str = "cpu",
        kept_in_files: bool = False,
    ) -> None:
        """kept_in_files: only those that the files of a quantized checkpoint have in full."""
        self._scheme, self._device = scheme, device
        self._places: dict[int, _Place] = {}
        self._meta: list[Tensor] = []
        """So that no other tensor gets their storages' numbers"""
        kept = [(weights, name) for name in KEPT_IN_FILES]
        for owner, name in (*_matrices(weights), *kept):
            matrix: Tensor = getattr(owner, name)
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
        """This part of a matrix, or this other tensor, has its numbers. The last part of a matrix makes it an
        int8 one, and the caller drops its views."""
        found = self._places.get(_storage(part))
        if found is None:
            return
        found.missing -= part.numel()
        if not found.missing:
            del self._places[_storage(part)]
            whole: Matrix = found.matrix
            if found.is_quantized:
                whole = quantize_int8(found.matrix, dynamic=self._scheme.is_dynamic)
            setattr(found.owner, found.name, whole)


class Int8Matrices:
    """Replaces matrices by storage for int8 ones and for their scales, to be filled from a file."""

    def __init__(
        self,
        weights: OmniWeights,
        config: ModelConfig,
        names: Collection[str],
        device: torch.device | str | None = None,
    ) -> None:
        """names: the tensors of the file that are in int8: those of all layers, and of some heads. device:
        where they go, if not where the matrices are."""
        self._matrices: list[tuple[Any, str, Tensor, Tensor]] = []
        columns = empty_weights(config, device="meta", dtype=torch.float32)
        for (owner, name), (other, _) in zip(_matrices(weights), _matrices(columns), strict=True):
            if name in HEADS and f"{name}.weight" not in names:
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

    def filled(self, scheme: Scheme) -> None:
        """Everything has its numbers: the matrices become `QuantizedWeight`s."""
        for owner, name, values, scales in self._matrices:
            setattr(owner, name, QuantizedWeight(values, scales.flatten(), scheme.is_dynamic))


def matrix_names(config: ModelConfig) -> list[str]:
    """The tensors of a file that are quantized."""
    weights = empty_weights(config, device="meta", dtype=torch.float32)
    for owner, name in _matrices(weights):
        setattr(owner, name, getattr(owner, name).to(torch.int8))
    return [name for name, place in named_tensors(weights, config) if place.dtype == torch.int8]


def saved_bytes(weights: OmniWeights) -> int:
    """How many bytes less the weights take once they are quantized."""
    matrices = [getattr(owner, name) for owner, name in _matrices(weights)]
    matrices += [getattr(weights, name) for name in KEPT_IN_FILES]
    return sum(matrix.numel() * (matrix.element_size() - 1) - 4 * len(matrix) for matrix in matrices)


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
    """One number for all views of a tensor, as long as that is there."""
    number: int = tensor.untyped_storage()._cdata
    return number
