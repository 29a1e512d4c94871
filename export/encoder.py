"""The flow's front part as a module that can be exported: units to the conditions of the velocity.

The function of `codec.flow.flow.Flow.condition`, written with nothing but products, sums, softmax, means and
gathering. Which units a frame lies between is given, not computed: so an utterance, a prompt before it and a
chunk of a stream are the same graph, and where a frame lies stays a function of its absolute number.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.flow.encoder import EncoderLayer, RelativeAttention, position_table
from antiphon.codec.flow.flow import FlowModel
from antiphon.codec.layers.padding import masked
from antiphon.export.estimator import HIDDEN
from antiphon.kernels.masked_group_norm import group_norm_reference

__all__ = ["EncoderNetwork"]


class EncoderNetwork(nn.Module):
    """mu and the speaker, for a ragged batch; a row comes out as it would alone."""

    def __init__(self, flow: FlowModel, dtype: torch.dtype) -> None:
        """dtype: that of the products of the encoder and of the convolutions. Weights are copied."""
        super().__init__()
        self.dtype = dtype
        self.embedding = copy.deepcopy(flow.input_embedding)
        self.affine = copy.deepcopy(flow.spk_embed_affine_layer)
        self.encoder = copy.deepcopy(flow.encoder)
        self.proj = copy.deepcopy(flow.encoder_proj)
        self.regulator = copy.deepcopy(flow.length_regulator)
        for part in [*self.encoder.modules(), self.proj, *self.regulator.modules()]:
            if isinstance(part, nn.Linear | nn.Conv1d):
                part.to(dtype)

    def forward(
        self, units: Tensor, unit_mask: Tensor, left: Tensor, weight: Tensor, mask: Tensor, embedding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """units: (batch, n) int64, any on padding; unit_mask: (batch, 1, n) and mask: (batch, 1, frames), 1
        on what is valid, which comes first, and 0 on padding.

        left: (batch, frames) int64, the unit before each frame, and weight: (batch, frames), the share of the
        one after it; see `conditions.places`. embedding: (batch, spk_embed_dim).
        Returns mu (batch, 80, frames), 0 on padding, and speaker (batch, 80).
        """
        embed = self.encoder.embed["out"]
        assert isinstance(embed, nn.Sequential), "built as a linear layer and a norm"
        x = embed[1](self._product(embed[0], self.embedding(units))) * math.sqrt(self.encoder.channels)
        table = position_table(units.shape[1], self.encoder.channels, units.device).to(self.dtype)
        hidden = (1 - unit_mask[:, None]) * HIDDEN
        for layer in self.encoder.encoders:
            assert isinstance(layer, EncoderLayer), "built of them"
            x = x + self._attention(layer.self_attn, layer.norm_mha(x), table, hidden)
            h = F.silu(self._product(layer.feed_forward.w_1, layer.norm_ff(x)))
            x = x + self._product(layer.feed_forward.w_2, h)
        x = self._product(self.proj, self.encoder.after_norm(x))
        right = (left + 1).clamp(max=units.shape[1] - 1)
        before, after = (x.gather(1, at[:, :, None].expand(-1, -1, x.shape[2])) for at in (left, right))
        share = weight[:, :, None]
        mu = ((1 - share) * before + share * after).transpose(1, 2)
        for part in self.regulator.model:
            if isinstance(part, nn.GroupNorm):
                mu = group_norm_reference(mu, part.weight, part.bias, part.num_groups, part.eps, mask)
            elif isinstance(part, nn.Conv1d):
                mu = self._product(part, masked(mu, mask))
            else:
                mu = part(mu)
        return masked(mu, mask), self.affine(F.normalize(embedding, dim=1, eps=1e-12))

    def _product(self, layer: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = layer(x.to(self.dtype))
        return out.float()

    def _attention(self, attention: RelativeAttention, x: Tensor, table: Tensor, hidden: Tensor) -> Tensor:
        """a[i, j] = ((q_i + u) k_j + (q_i + v) p_{i-j}) / sqrt(head_dim)"""
        x = x.to(self.dtype)
        heads = attention.num_heads
        batch, n, _ = x.shape
        q, k, v = (
            layer(x).reshape(batch, n, heads, -1).transpose(1, 2)
            for layer in (attention.linear_q, attention.linear_k, attention.linear_v)
        )
        # Turned before it is cut into heads: onnxruntime 1.32 crashes on the other order in float16.
        positions = attention.linear_pos(table).mT.reshape(heads, -1, 2 * n - 1)
        scale = q.shape[-1] ** -0.5
        content = ((q + attention.pos_bias_u[:, None].to(self.dtype)) * scale) @ k.transpose(2, 3)
        # Row i has relative position i - j in column n - 1 - i + j. With a column before it, the rows laid
        # end to end and cut anew, one shorter, begin where they should.
        shifted = ((q + attention.pos_bias_v[:, None].to(self.dtype)) * scale) @ positions
        shifted = F.pad(shifted, (1, 0)).reshape(batch, heads, 2 * n, n)[:, :, 1:]
        shifted = shifted.reshape(batch, heads, n, 2 * n - 1)[:, :, :, :n]
        scores = content.float() + shifted.float() + hidden
        shares = torch.softmax(scores, dim=-1).to(self.dtype)
        return self._product(attention.linear_out, (shares @ v).transpose(1, 2).flatten(2))
