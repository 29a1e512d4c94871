"""Quantizes a checkpoint while it is loaded, so that few of its matrices are held in full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from antiphon.kernels.quantized import quantize_int8
from antiphon.model.weights import LayerWeights, OmniWeights

__all__ = ["Quantizer", "saved_bytes"]

LAYER_MATRICES = ("qkv", "o", "gate_up", "down")
HEADS = ("lm_head", "audio_to_text_proj", "audio_lm_head")


class Quantizer:
    """Replaces the matrices of all layers, and the heads, by `QuantizedWeight`s. Tables, norms, the text side
    of fusion and what sees pictures stay as they are."""

    def __init__(self, weights: OmniWeights) -> None:
        self._places: dict[int, tuple[Any, str]] = {}
        self._missing: dict[int, int] = {}
        for owner, name in _matrices(weights):
            matrix: Tensor = getattr(owner, name)
            begin = _storage(matrix)
            self._places[begin], self._missing[begin] = (owner, name), matrix.numel()

    def filled(self, part: Tensor) -> None:
        """This part of a matrix, or this other tensor, has its numbers. The last part of a matrix makes it an
        int8 one, and the caller drops its views."""
        begin = _storage(part)
        if begin not in self._places:
            return
        self._missing[begin] -= part.numel()
        if not self._missing[begin]:
            owner, name = self._places.pop(begin)
            setattr(owner, name, quantize_int8(getattr(owner, name)))


def saved_bytes(weights: OmniWeights) -> int:
    """How many bytes less the weights take once they are quantized."""
    matrices = [getattr(owner, name) for owner, name in _matrices(weights)]
    return sum(matrix.numel() * (matrix.element_size() - 1) - 4 * len(matrix) for matrix in matrices)


def _matrices(weights: OmniWeights) -> Iterator[tuple[Any, str]]:
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
    return tensor.untyped_storage().data_ptr()
