"""Trains the flow: units to the condition, which should already be the mel, and flow matching from noise to
mel around it (CosyVoice, arXiv 2407.05407, section 2.3)."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.flow.flow import FlowModel
from antiphon.codec.flow.unet import Block, ResNet, UNet
from antiphon.codec.layers.padding import frame_mask, masked, pad_rows
from antiphon.kernels.masked_group_norm import masked_group_norm_reference
from antiphon_tiny.speech.codec_params import FLOW, SPEAKER_DIM
from antiphon_tiny.speech.encode import read_units
from antiphon_tiny.speech.flow_batches import FlowBatch, FlowBatches, stretched
from antiphon_tiny.speech.shards import Utterance, read_sets
from antiphon_tiny.speech.unit_encoder import unit_coordinates
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training, fast_products

__all__ = ["condition", "new_flow", "speaker_embedding", "train"]

NUM_STEPS = 3000
PEAK_RATE = 1.2e-3
FREE_SHARE = 0.2
"""The share of rows without any condition, for guidance."""
MEL_SCALE = 2.4
"""Standard deviation of a log-mel: the loss is taken in these."""


class TrainedBlock(Block):
    """With the norm's plain reference, whose tensors autocast brings to one dtype; a kernel would refuse
    them."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        conv, norm = self.block
        assert isinstance(norm, nn.GroupNorm), "block.1 is built as a GroupNorm"
        h = conv(masked(x, mask))
        return masked_group_norm_reference(h, norm.weight, norm.bias, norm.num_groups, norm.eps, mask)


class PerRowResNet(ResNet):
    """With a time of its own for each row: `time_bias` is (channels, batch)."""

    def forward(self, x: Tensor, time_bias: Tensor, mask: Tensor | None) -> Tensor:
        h = self.block1(x, mask) + time_bias.mT[:, :, None]
        out: Tensor = self.block2(h, mask) + self.res_conv(x if mask is None else x * mask)
        return out


def new_flow() -> FlowModel:
    """Untrained, with units that lie near each other on the grid embedded near each other."""
    model = FlowModel(FLOW)
    for name, parameter in model.named_parameters():
        if "pos_bias" in name:
            nn.init.zeros_(parameter)
    with torch.no_grad():
        coordinates = unit_coordinates()
        features = torch.cat(
            [coordinates, torch.sin(math.pi * coordinates), torch.cos(math.pi * coordinates)], 1
        )
        model.input_embedding.weight.mul_(0.1)
        model.input_embedding.weight.add_(features @ torch.randn(features.shape[1], FLOW.input_size) / 2)
        # A velocity is the mel less the noise: of the mel's mean and spread.
        estimator, last = model.decoder["estimator"], model.length_regulator.model[-1]
        assert isinstance(estimator, UNet), "decoder.estimator is built as a UNet"
        assert isinstance(last, nn.Conv1d), "the length regulator ends in a convolution"
        for conv in (estimator.final_proj, last):
            assert conv.bias is not None, "these convolutions have a bias"
            conv.weight.mul_(MEL_SCALE)
            conv.bias.fill_(-5.0)
    return model


def speaker_embedding() -> Tensor:
    """(SPEAKER_DIM,): any direction does for the only voice."""
    return torch.randn(SPEAKER_DIM, generator=torch.Generator().manual_seed(1))


def condition(model: FlowModel, batch: FlowBatch) -> tuple[Tensor, Tensor]:
    """What `Flow.condition` computes of a chunk: mu (batch, 80, frames), and the speaker (batch, 80)."""
    tokens = [piece.units for piece in batch.pieces]
    embedded = pad_rows([model.input_embedding(row).mT for row in tokens]).mT
    mask = frame_mask([len(row) for row in tokens], embedded.device)
    hidden = model.encoder_proj(model.encoder(embedded, mask))
    mu = model.length_regulator(stretched(hidden, batch.pieces), batch.mask)
    speaker = model.spk_embed_affine_layer(F.normalize(speaker_embedding(), dim=0))
    return mu, speaker.expand(len(tokens), -1)


def train(arguments: Run) -> None:
    torch.manual_seed(arguments.seed)
    model = new_flow()
    training = Training(
        model,
        arguments.folder("flow"),
        Schedule(arguments.num_steps or NUM_STEPS, PEAK_RATE, last=0.01),
        seed=arguments.seed,
        weight_decay=0.01,
        save_every=250,
        log_every=25,
    )
    for module in model.modules():
        if type(module) is ResNet:
            module.__class__ = PerRowResNet
        elif type(module) is Block:
            module.__class__ = TrainedBlock
    batches = FlowBatches(*_spoken(arguments.work, "heart"))
    tests = FlowBatches(*_spoken(arguments.work, "test_heart", 24))

    def losses(step: int, rng: random.Random) -> Losses:
        return _losses(model, batches.draw(rng))

    def evaluate() -> dict[str, float]:
        torch.manual_seed(0)
        rows = [_losses(model, tests.whole([i])).all for i in range(24)]
        return {f"test {name}": float(np.mean([float(row[name]) for row in rows])) for name in rows[0]}

    training.run(losses, evaluate)


def _spoken(work: Path, name: str, count: int | None = None) -> tuple[list[Utterance], list[list[int]]]:
    utterances = read_sets(work / "speech", [name])[:count]
    return utterances, [row["units"] for row in read_units(work, name)[: len(utterances)]]


def _losses(model: FlowModel, batch: FlowBatch) -> Losses:
    with fast_products():
        mu, speaker = condition(model, batch)
        mu, speaker = mu.float(), speaker.float()
        estimator = model.decoder["estimator"]
        assert isinstance(estimator, UNet)
        rows = len(batch.pieces)
        # Dense where the runtime's steps are short.
        time = 1 - torch.cos(torch.rand(rows) * 0.5 * math.pi)
        noise = torch.randn_like(batch.mel)
        t = time[:, None, None]
        x = (1 - t) * noise + t * batch.mel
        kept = (torch.rand(rows) >= FREE_SHARE).float()[:, None, None]
        frames = x.shape[2]
        inputs = torch.cat(
            [x, kept * mu, kept * speaker[:, :, None].expand(-1, -1, frames), kept * batch.prompt], dim=1
        )
        velocity = estimator(inputs, estimator.time_bias(time).mT, batch.mask).float()
    wanted = batch.wanted
    count = wanted.sum() * MEL_BANDS
    direct = ((mu - batch.mel).abs() * batch.mask).sum() / (batch.mask.sum() * MEL_BANDS)
    error = (velocity - (batch.mel - noise)) / MEL_SCALE
    return Losses({"direct": direct / MEL_SCALE, "matching": (error.square() * wanted).sum() / count})
