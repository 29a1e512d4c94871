"""Speech to units: `speech_tokenizer_v1.onnx` of a CosyVoice folder, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from antiphon.codec.arrays import AudioArray
from antiphon.codec.logmel import INPUT_RATE_HZ, log_mel
from antiphon.errors import CheckpointError

__all__ = ["SpeechTokenizer"]

PIECE_SAMPLES = 30 * INPUT_RATE_HZ
"""The network was trained on up to 30 s; longer audio goes in pieces, its units one after the other."""


class SpeechTokenizer:
    """Maps 16 kHz samples to unit numbers, about 25 a second.

    The file's inputs are taken by position (features (1, 128, frames), their number of frames): released
    files name them differently.
    """

    def __init__(self, path: Path, num_units: int, num_threads: int | None = None) -> None:
        """num_units: size of the unit vocabulary. num_threads: None for as many as PyTorch uses.

        Raises CheckpointError where the file is not such a network.
        """
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors  # pyright: ignore[reportAttributeAccessIssue]

        # These have no common base below Exception.
        load_errors = (
            errors.Fail,
            errors.InvalidArgument,
            errors.InvalidGraph,
            errors.InvalidProtobuf,
            errors.NoSuchFile,
            errors.NotImplemented,
            errors.RuntimeException,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or torch.get_num_threads()
        # Threads that spin while they wait would take the cores from the model.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except load_errors as error:
            raise CheckpointError(f"{path}: expected an ONNX network: {error}") from error
        self.path = path
        self.num_units = num_units
        inputs = self._session.get_inputs()
        types = [item.type for item in inputs]
        if types != ["tensor(float)", "tensor(int32)"]:
            raise CheckpointError(
                f"{path}: expected float features and an int32 length as inputs, found {types}"
            )
        self._names = [item.name for item in inputs]
        self._output = self._session.get_outputs()[0].name

    def tokenize(self, samples: AudioArray) -> list[int]:
        """float32 (n,) at 16 kHz, n > 0, to unit numbers."""
        units: list[int] = []
        for begin in range(0, len(samples), PIECE_SAMPLES):
            units += self._tokenize_piece(samples[begin : begin + PIECE_SAMPLES])
        return units

    def _tokenize_piece(self, samples: AudioArray) -> list[int]:
        features = log_mel(torch.from_numpy(samples))[None].numpy()
        feeds = dict(zip(self._names, (features, np.array([features.shape[2]], np.int32)), strict=True))
        ids = np.asarray(self._session.run([self._output], feeds)[0]).ravel()
        if ids.dtype.kind not in "iu" or (ids.size and not 0 <= ids.min() <= ids.max() < self.num_units):
            found = f"{ids.min()} to {ids.max()}" if ids.size else "none"
            raise CheckpointError(
                f"{self.path}: expected units 0 to {self.num_units - 1}, found {ids.dtype} {found}"
            )
        return [int(unit) for unit in ids]
