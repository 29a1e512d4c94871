"""Units to mel: speaker, encoder and length regulator make the condition, and flow matching makes the mel
(CosyVoice, arXiv 2407.05407, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS, FlowParams
from antiphon.codec.exported import Exported
from antiphon.codec.flow.cfm import FlowMatching
from antiphon.codec.flow.encoder import Encoder
from antiphon.codec.flow.length_regulator import (
    LengthRegulator,
    interpolate,
    interpolate_span,
    interpolate_units,
)
from antiphon.codec.flow.unet import UNet
from antiphon.codec.layers.padding import frame_mask, pad_rows
from antiphon.device.cuda_graph import Capture

__all__ = ["Condition", "Flow", "FlowInput", "FlowModel", "UnitSpan"]


class FlowModel(nn.Module):
    """The weights of `flow.pt`, under its names."""

    def __init__(self, params: FlowParams) -> None:
        super().__init__()
        # nn.Embedding draws its weight. On the meta device, any way to draw imports torch's compiler or
        # sympy, which takes longer than all other loading.
        weight = torch.empty(params.vocab_size, params.input_size)
        if weight.device.type != "meta":
            nn.init.normal_(weight)
        self.input_embedding = nn.Embedding.from_pretrained(weight, freeze=False)
        self.spk_embed_affine_layer = nn.Linear(params.spk_embed_dim, MEL_BANDS)
        self.encoder = Encoder(params.encoder)
        self.encoder_proj = nn.Linear(params.encoder.output_size, MEL_BANDS)
        self.length_regulator = LengthRegulator(MEL_BANDS, params.num_regulator_convs)
        self.decoder = nn.ModuleDict({"estimator": UNet(params.estimator)})


@dataclass(frozen=True)
class UnitSpan:
    """Units of a stream: their numbers alone decide where frames lie, whatever else is computed with them."""

    first: int
    """Number of the first unit of the context, or of the chunk if there is no context."""
    num_context: int
    """How many units at the end of the prompt are the stream's own."""


@dataclass(frozen=True, eq=False)
class FlowInput:
    """One utterance. n units become M = mel_frames(n) frames after the P frames of the prompt."""

    units: Tensor
    """(n,) int64, n > 0"""
    embedding: Tensor
    """(spk_embed_dim,) the speaker"""
    noise: Tensor
    """(80, P + M) standard normal"""
    prompt_units: Tensor | None = None
    """(p,) int64: what is said in prompt_mel"""
    prompt_mel: Tensor | None = None
    """(80, P)"""
    span: UnitSpan | None = None
    """Its place in a stream; None: an utterance of its own"""

    @property
    def prompt_frames(self) -> int:
        return 0 if self.prompt_mel is None else self.prompt_mel.shape[1]


@dataclass(frozen=True, eq=False)
class Condition:
    """What the velocity is conditioned on, for a batch padded to T frames."""

    mu: Tensor
    """(batch, 80, T)"""
    speaker: Tensor
    """(batch, 80)"""
    prompt: Tensor
    """(batch, 80, T) the prompt's mel, zeros after it"""
    lengths: list[int]
    """Valid frames P + M of each row"""
    mask: Tensor | None
    """(batch, 1, T); None if no row is padded"""


class Flow:
    """Decodes ragged batches; each utterance comes out as it would alone."""

    def __init__(
        self,
        model: FlowModel,
        params: FlowParams,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        capture: Capture | None = None,
        *,
        is_alone: bool = False,
        exported: Exported | None = None,
    ) -> None:
        """dtype: that of the estimator's products; all else is float32. capture, is_alone, exported: see
        `FlowMatching`."""
        self.model = model
        self.params = params
        estimator = model.decoder["estimator"]
        assert isinstance(estimator, UNet), "decoder.estimator is built as a UNet"
        rate = params.inference_cfg_rate
        self.matching = FlowMatching(
            estimator, rate, device, dtype, capture, is_alone=is_alone, exported=exported
        )

    @torch.inference_mode()
    def generate(self, inputs: Sequence[FlowInput]) -> list[Tensor]:
        """The mel (80, M_i) of each utterance, without its prompt's frames."""
        condition = self.condition(inputs)
        z = pad_rows([row.noise for row in inputs])
        mel = self.matching.integrate(z, condition.mu, condition.speaker, condition.prompt, condition.mask)
        return [
            mel[i, :, row.prompt_frames : frames]
            for i, (row, frames) in enumerate(zip(inputs, condition.lengths, strict=True))
        ]

    @torch.inference_mode()
    def condition(self, inputs: Sequence[FlowInput]) -> Condition:
        """Runs everything before the flow matching."""
        model = self.model
        tokens = [
            row.units if row.prompt_units is None else torch.cat([row.prompt_units, row.units])
            for row in inputs
        ]
        embedded = pad_rows([model.input_embedding(row).mT for row in tokens]).mT
        counts = [row.shape[0] for row in tokens]
        hidden = model.encoder_proj(model.encoder(embedded, frame_mask(counts, embedded.device)))
        stretched = [
            self._stretch(rows[:count], row) for rows, count, row in zip(hidden, counts, inputs, strict=True)
        ]
        lengths = [row.shape[1] for row in stretched]
        mask = frame_mask(lengths, embedded.device)
        mu = model.length_regulator(pad_rows(stretched), mask)
        prompt = torch.zeros_like(mu)
        for i, row in enumerate(inputs):
            if row.prompt_mel is not None:
                prompt[i, :, : row.prompt_frames] = row.prompt_mel
        speakers = torch.stack([row.embedding for row in inputs])
        speaker = model.spk_embed_affine_layer(F.normalize(speakers, dim=1, eps=1e-12))
        return Condition(mu, speaker, prompt, lengths, mask)

    def _stretch(self, hidden: Tensor, row: FlowInput) -> Tensor:
        """(p + n, 80) to (80, P + M): prompt and units each at their own pace."""
        n = row.units.shape[0]
        if row.span is not None:
            own = interpolate_span(hidden[-n - row.span.num_context :], row.span.first, self.params)
            frames = row.prompt_frames - self.params.mel_frames(row.span.first + row.span.num_context)
            frames += self.params.mel_frames(row.span.first)  # those of the voice's prompt
            before = hidden[: -n - row.span.num_context]
            return torch.cat([interpolate(before, frames), own], dim=1) if frames else own
        own = interpolate_units(hidden[-n:], self.params)
        if row.prompt_units is None:
            return own
        return torch.cat([interpolate(hidden[:-n], row.prompt_frames), own], dim=1)
