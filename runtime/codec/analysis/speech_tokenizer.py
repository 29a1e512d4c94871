"""Speech to units: `speech_tokenizer_v1.onnx` of a CosyVoice folder, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from antiphon.codec.analysis.logmel import INPUT_RATE_HZ, log_mel
from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import shown
from antiphon.sound.arrays import AudioArray

__all__ = ["PIECE_SAMPLES", "SpeechTokenizer"]

PIECE_SAMPLES = 30 * INPUT_RATE_HZ
"""The network was trained on up to 30 s; longer audio is read in pieces, and their units are joined."""
MAX_MORE_UNITS = 16
"""How many more units than frames are accepted: networks may count a beginning and an end."""


class SpeechTokenizer:
    """Maps 16 kHz samples to unit numbers, about 25 a second.

    The file's inputs are features (1, 128, frames) and their number of frames.
    """

    def __init__(self, path: Path, num_units: int, num_threads: int | None = None) -> None:
        """num_units: size of the unit vocabulary. num_threads: None for the number that PyTorch uses.

        Raises CheckpointError if the file is not such a network.
        """
        self._network = OnnxNetwork(path, num_threads)
        self.path = path
        self.num_units = num_units
        types = self._network.input_types
        if types != ["tensor(float)", "tensor(int32)"]:
            raise CheckpointError(
                f"{path}: expected float features and an int32 length as inputs, found {shown(types)}"
            )

    def tokenize(self, samples: AudioArray) -> list[int]:
        """float32 (n,) at 16 kHz, n > 0, to unit numbers."""
        units: list[int] = []
        for begin in range(0, len(samples), PIECE_SAMPLES):
            units += self._tokenize_piece(samples[begin : begin + PIECE_SAMPLES])
        return units

    def _tokenize_piece(self, samples: AudioArray) -> list[int]:
        # A copy, since torch warns about arrays that a caller made read-only.
        features = log_mel(torch.tensor(samples))[None].numpy()
        frames = features.shape[2]
        ids = self._network.run(features, np.array([frames], np.int32)).ravel()
        if ids.size > frames + MAX_MORE_UNITS:  # at 25 units a second there is one for four frames
            raise CheckpointError(
                f"{self.path}: expected fewer units than frames ({frames}), found {ids.size}"
            )
        if ids.dtype.kind not in "iu" or (ids.size and not 0 <= ids.min() <= ids.max() < self.num_units):
            numbers = ids.size > 0 and ids.dtype.kind in "iuf"
            found = f"{ids.min()} to {ids.max()}" if numbers else "none"
            raise CheckpointError(
                f"{self.path}: expected units 0 to {self.num_units - 1}, found {ids.dtype} {found}"
            )
        return [int(unit) for unit in ids]
