"""The speech tokenizer of `recipes/tiny` as a module that can be exported, read from the ONNX file that the
recipe wrote: Whisper's encoder (arXiv 2212.04356), convolutions over neighbours, and a grid of units (finite
scalar quantization, arXiv 2309.15505).

Its file takes one row; this module takes a ragged batch. Products are taken in float32 or float16; the mel's
powers, norms, softmax, activations and the residual stream stay float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.analysis.logmel import DYNAMIC_RANGE, MIN_POWER, NUM_BANDS
from antiphon.export.estimator import HIDDEN

if TYPE_CHECKING:
    import onnx

__all__ = ["LEVELS", "NO_UNIT", "TokenizerNetwork", "tokenizer_of"]

LEVELS = (8, 5, 5, 5)
"""Of each coordinate of the grid"""
NO_UNIT = -1
WHISPER_BANDS = 80
NUM_LAYERS, NUM_HEADS, STATE, STATE_HIDDEN = 4, 6, 384, 1536
WIDTH, SPAN = 256, 5
SLOPE = 1.6
PREFIX = "encoder."
"""Of the names of weights in the recipe's file"""


class TokenizerNetwork(nn.Module):
    """Units of log-mels, for a ragged batch; a row comes out as it would alone."""

    bands: Tensor
    """(80, 128): each of Whisper's bands as a sum of the 128"""
    waves: Tensor
    """(192,): what positions are multiplied by"""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        """dtype: that of the products. `tokenizer_of` fills it."""
        super().__init__()
        self.dtype = dtype
        self.register_buffer("bands", torch.zeros(WHISPER_BANDS, NUM_BANDS))
        self.register_buffer("waves", torch.zeros(STATE // 2))
        self.stem1 = nn.Conv1d(WHISPER_BANDS, STATE, 3, padding=1)
        self.stem2 = nn.Conv1d(STATE, STATE, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(_Layer(dtype) for _ in range(NUM_LAYERS))
        self.state_norm = nn.LayerNorm(STATE)
        self.join = nn.Conv1d(STATE, WIDTH, 2, stride=2)
        self.near1 = nn.Conv1d(WIDTH, WIDTH, SPAN, padding=SPAN // 2)
        self.near2 = nn.Conv1d(WIDTH, WIDTH, SPAN, padding=SPAN // 2)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(LEVELS))
        self.bend_up = nn.Linear(WIDTH, 2 * WIDTH)
        self.bend_down = nn.Linear(2 * WIDTH, len(LEVELS))

    def forward(self, feats: Tensor, feats_length: Tensor) -> Tensor:
        """feats: (batch, 128, frames) float32, any number on padding; feats_length: (batch,) int32, frames of
        each row. Returns units (batch, ceil(frames / 4)) int64, -1 on padding."""
        digits = torch.round(self.digits(feats, feats_length)).long()
        units = digits[..., 0]
        for i, levels in enumerate(LEVELS[1:], 1):
            units = units * levels + digits[..., i]
        return torch.where(_valid(units.shape[1], 4, feats_length) > 0, units, NO_UNIT)

    def digits(self, feats: Tensor, feats_length: Tensor) -> Tensor:
        """(batch, ceil(frames / 4), 4): the coordinates of a unit on the grid, before they are rounded."""
        mask = _valid(feats.shape[2], 1, feats_length)[:, None]
        x = F.gelu(self._product(self.stem1, self._whisper_mel(feats, mask))) * mask
        mask = mask[:, :, ::2]
        x = (F.gelu(self._product(self.stem2, x)) * mask).transpose(1, 2)
        angles = torch.arange(x.shape[1], device=x.device).float()[:, None] * self.waves
        x = x + torch.cat([angles.sin(), angles.cos()], dim=1)
        hidden = (1 - mask[:, None]) * HIDDEN
        for layer in self.layers:
            x = layer(x, hidden)
        x = (self.state_norm(x) * mask.transpose(1, 2)).transpose(1, 2)
        x = F.gelu(self._product(self.join, F.pad(x, (0, 1))))
        mask = _valid(x.shape[2], 4, feats_length)[:, None]
        x = x * mask
        for near in (self.near1, self.near2):
            x = x + F.gelu(self._product(near, x)) * mask
        x = self.norm(x.transpose(1, 2))
        bent = self._product(self.bend_down, F.gelu(self._product(self.bend_up, x)))
        points = torch.sigmoid(SLOPE * (self._product(self.head, x) + bent))
        return points * (torch.tensor(LEVELS, device=x.device) - 1)

    def _whisper_mel(self, feats: Tensor, mask: Tensor) -> Tensor:
        """The log-mel that Whisper knows: its wider bands are sums of ours, nearly."""
        log = (self.bands @ torch.pow(10.0, 4 * feats * mask - 4)).clamp(min=MIN_POWER).log10()
        highest = (log + (1 - mask) * HIDDEN).amax((1, 2), keepdim=True)
        return (torch.maximum(log, highest - DYNAMIC_RANGE) + 4) / 4 * mask

    def _product(self, layer: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = layer(x.to(self.dtype))
        return out.float()


class _Layer(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.norm1, self.norm2 = nn.LayerNorm(STATE), nn.LayerNorm(STATE)
        self.qkv, self.out = nn.Linear(STATE, 3 * STATE), nn.Linear(STATE, STATE)
        self.up, self.down = nn.Linear(STATE, STATE_HIDDEN), nn.Linear(STATE_HIDDEN, STATE)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x: (batch, n, 384); hidden: (batch, 1, 1, n), far below zero on padding"""
        x = x + self._attention(self.norm1(x), hidden)
        return x + self._product(self.down, F.gelu(self._product(self.up, self.norm2(x))))

    def _attention(self, x: Tensor, hidden: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q, k, v = (
            part.reshape(batch, count, NUM_HEADS, -1).transpose(1, 2).to(self.dtype)
            for part in self._product(self.qkv, x).chunk(3, dim=-1)
        )
        scores = (q * (STATE // NUM_HEADS) ** -0.5) @ k.transpose(2, 3)
        shares = torch.softmax(scores.float() + hidden, dim=-1).to(self.dtype)
        return self._product(self.out, (shares @ v).transpose(1, 2).flatten(2))

    def _product(self, layer: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = layer(x.to(self.dtype))
        return out.float()


def _valid(count: int, step: int, lengths: Tensor) -> Tensor:
    """(batch, count): 1 where i * step is below a row's length"""
    places = torch.arange(count, device=lengths.device) * step
    return (places < lengths[:, None]).float()


# --- reading the file -----------------------------------------------------------------------------


def tokenizer_of(model: onnx.ModelProto, dtype: torch.dtype = torch.float32) -> TokenizerNetwork | None:
    """The network that a file of the recipe holds, with products in this dtype; None for another network."""
    network = TokenizerNetwork(dtype)
    weights = _weights(model)
    wanted = network.state_dict()
    if weights.keys() != wanted.keys():
        return None
    if any(weights[name].shape != tensor.shape for name, tensor in wanted.items()):
        return None
    network.load_state_dict(weights)
    for part in network.modules():
        if isinstance(part, nn.Linear | nn.Conv1d):
            part.to(dtype)
    return network.requires_grad_(False)


def _weights(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Those of the file, called as `TokenizerNetwork` calls them.

    The exporter keeps names, but for matrices, which it transposes: each is known by the bias that is added
    to its product. What positions are multiplied by goes into a sine.
    """
    values = _constants(model)
    made = {node.output[0]: node for node in model.graph.node}
    found = {name: value for name, value in values.items() if name.startswith(PREFIX)}
    for node in model.graph.node:
        for product, bias in (node.input, node.input[::-1]) if node.op_type == "Add" else ():
            factor = made.get(product)
            if bias.endswith(".bias") and factor is not None and factor.op_type == "MatMul":
                matrix = values.get(factor.input[1])
                if matrix is not None and matrix.dim() == 2:
                    found[bias.removesuffix("bias") + "weight"] = matrix.T
        if node.op_type == "Sin" and (angles := made.get(node.input[0])) is not None:
            found |= {f"{PREFIX}waves": values[name] for name in angles.input if name in values}
    return {_own_name(name): value for name, value in found.items()}


def _own_name(name: str) -> str:
    name = name.removeprefix(PREFIX)
    return name.replace("whisper.norm.", "state_norm.").removeprefix("whisper.")


def _constants(model: onnx.ModelProto) -> dict[str, Tensor]:
    """All constants in float32, by name. Those that the file stores in fewer bits go by the name that they
    have behind a Cast, and for int8 a Mul by their scale, which make them float32 again."""
    from onnx import numpy_helper

    values: dict[str, Tensor] = {}
    stored: set[str] = set()
    for constant in model.graph.initializer:
        array: Any = numpy_helper.to_array(constant)
        values[constant.name] = torch.from_numpy(array.copy()).float()
    for node in model.graph.node:
        if any(name not in values for name in node.input):
            continue
        if node.op_type == "Cast":
            values[node.output[0]] = values[node.input[0]]
        elif node.op_type == "Mul":
            values[node.output[0]] = values[node.input[0]] * values[node.input[1]]
        else:
            continue
        stored.update(node.input)
    return {name: value for name, value in values.items() if name not in stored}
