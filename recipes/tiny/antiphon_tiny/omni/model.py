"""The whole model for training. `state_dict` names its tensors as the released file does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from antiphon_tiny.omni.geometry import Geometry
from antiphon_tiny.omni.llama import Rows, Stack, rotary_table
from antiphon_tiny.omni.tower import Tower, projector

__all__ = ["Omni"]

INIT_STD = 0.02


class Seeing(nn.Module):
    """The tower, a level below its name in the file."""

    vision_tower: Tower


class Core(nn.Module):
    """What the file has below `model.`: `Omni` fills it in, in the order of its random weights."""

    embed_tokens: nn.Embedding
    layers: Stack
    norm: nn.RMSNorm
    audio_embed_tokens: nn.Embedding
    bottom_audio_layers: Stack
    audio_norm: nn.RMSNorm
    top_audio_layers: Stack
    top_audio_norm: nn.RMSNorm
    vision_tower: Seeing
    mm_projector: nn.Sequential


class Omni(nn.Module):
    """Bottom layers hear, the LLM thinks, top layers speak; tower and projector see."""

    def __init__(self, geometry: Geometry, text_vocab: int) -> None:
        super().__init__()
        g = geometry
        self.geometry = g
        vocab = text_vocab + g.units
        self.model = Core()
        self.model.embed_tokens = nn.Embedding(text_vocab, g.hidden)
        self.model.layers = Stack(g, g.layers)
        self.model.norm = nn.RMSNorm(g.hidden, eps=g.norm_eps)
        self.model.audio_embed_tokens = nn.Embedding(vocab, g.hidden)
        self.model.bottom_audio_layers = Stack(g, g.bottom_layers)
        self.model.audio_norm = nn.RMSNorm(g.hidden, eps=g.norm_eps)
        self.model.top_audio_layers = Stack(g, g.top_layers, fusion=True)
        self.model.top_audio_norm = nn.RMSNorm(g.hidden, eps=g.norm_eps)
        self.lm_head = nn.Linear(g.hidden, text_vocab, bias=False)
        self.audio_to_text_proj = nn.Linear(g.hidden, text_vocab, bias=False)
        self.text_to_audio_proj = nn.Embedding(vocab, g.hidden)
        self.audio_lm_head = nn.Linear(g.hidden, vocab, bias=False)
        self._initialize()
        self.model.vision_tower = Seeing()
        self.model.vision_tower.vision_tower = Tower(g)
        self.model.mm_projector = projector(g)
        self.rotary: Tensor
        self.register_buffer("rotary", rotary_table(g, 2048), persistent=False)

    def _initialize(self) -> None:
        g = self.geometry
        deep = (2 * g.layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            std = g.hidden**-0.5 if "mlp" in name or "attn" in name else INIT_STD
            if "embed" in name or "text_to_audio" in name:
                std = 0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std *= deep
            nn.init.normal_(parameter, std=std)

    def see(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Tiles -> the tower's features, and what the LLM reads of them (pictures, side * side, hidden)"""
        features = self.model.vision_tower.vision_tower(tiles)
        return features, self.model.mm_projector(features)

    def hear(self, prefix: Tensor, ids: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Bottom layers and norm over ids (prefix) and (rows, length): their states"""
        model = self.model
        embed = model.audio_embed_tokens
        prefix, x = model.bottom_audio_layers.run(embed(prefix)[None], embed(ids), rows)
        return model.audio_norm(prefix), model.audio_norm(x)

    def soft_embedding(self, hidden: Tensor) -> Tensor:
        """What the LLM reads of a spoken prompt: the text embeddings, weighted by how likely each label is"""
        likely = self.audio_to_text_proj(hidden).float().softmax(-1)
        out: Tensor = (likely @ self.model.embed_tokens.weight).float()
        return out

    def think(
        self, prefix: Tensor, x: Tensor, rows: Rows, watched: dict[int, Tensor] | None = None
    ) -> Tensor:
        """LLM layers and norm over rows of input embeddings behind those of the prefix (1, prefix, hidden)"""
        out: Tensor = self.model.norm(self.model.layers.run(prefix, x, rows, watched)[1])
        return out

    def rows(self, positions: Tensor, mask: Tensor, prefix_length: int) -> Rows:
        """positions int64 (rows, length); mask bool (rows, length, prefix + length)"""
        cos, sin = self.rotary
        at_start = torch.arange(prefix_length)
        return Rows(
            rotary=(cos[positions][:, None], sin[positions][:, None]),
            prefix_rotary=(cos[at_start][None, None], sin[at_start][None, None]),
            mask=mask[:, None],
        )
