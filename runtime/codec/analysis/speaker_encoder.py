"""Speech to a speaker embedding: `campplus.onnx` of a CosyVoice folder (CAM++, arXiv 2303.00332)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from antiphon.codec.analysis.fbank import NUM_BANDS, fbank
from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import shown
from antiphon.sound.arrays import AudioArray

__all__ = ["SpeakerEncoder"]


class SpeakerEncoder:
    """Maps 16 kHz samples to a speaker embedding. The network takes fbanks, (1, frames, 80)."""

    def __init__(self, path: Path, embedding_dim: int, num_threads: int | None = None) -> None:
        """embedding_dim: size of the embedding that the flow expects. num_threads: None for the number that
        PyTorch uses. Raises CheckpointError if the file is not such a network."""
        self._network = OnnxNetwork(path, num_threads)
        types, shapes = self._network.input_types, self._network.input_shapes
        if types != ["tensor(float)"]:
            raise CheckpointError(f"{path}: expected float features as the one input, found {shown(types)}")
        # A size that may vary is not a number, and a shape may be missing altogether.
        if shapes[0] and isinstance(shapes[0][-1], int) and shapes[0][-1] != NUM_BANDS:
            raise CheckpointError(
                f"{path}: expected features of shape (1, frames, {NUM_BANDS}), found {shown(shapes[0])}"
            )
        self.path = path
        self.embedding_dim = embedding_dim

    def embed(self, samples: AudioArray) -> AudioArray:
        """float32 (n,) at 16 kHz, n >= 400, to float32 (embedding_dim,)."""
        embedding = self._network.run(fbank(samples)[None]).ravel()
        if embedding.dtype != np.float32 or embedding.size != self.embedding_dim:
            raise CheckpointError(
                f"{self.path}: expected an embedding of {self.embedding_dim} float32, "
                f"found {embedding.size} {embedding.dtype}"
            )
        if not np.isfinite(embedding).all():
            raise CheckpointError(f"{self.path}: expected a finite embedding, found NaN or infinity")
        return embedding
