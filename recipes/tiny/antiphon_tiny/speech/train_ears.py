"""Trains what turns Whisper's states into units: the unit encoder's reader should read the right sounds off
them, and where the speaking voice speaks they should be the unit encoder's own. Whisper stays as it is."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from antiphon_tiny.speech.ears import Ears
from antiphon_tiny.speech.shards import read_sets
from antiphon_tiny.speech.train_units import TESTS, UnitTraining, load_trained, phone_errors, telling_losses
from antiphon_tiny.speech.unit_batches import SHARES, UnitBatch, UnitBatches
from antiphon_tiny.speech.unit_encoder import quantize
from antiphon_tiny.speech.whisper import read_model
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training, fast_products

__all__ = ["load_ears", "train"]

NUM_STEPS = 1300
PEAK_RATE = 2e-3
MOMENT_WEIGHT = 0.5
SAME_WEIGHT = 2.0
"""Of the distance to the unit encoder's points, where the speaking voice or a disguise of it speaks."""


class EarTraining(nn.Module):
    def __init__(self, units: UnitTraining) -> None:
        super().__init__()
        self.ears = Ears()
        self.ears.whisper.load(read_model())
        self.ears.whisper.requires_grad_(False)
        # A tuple, so that these are not submodules: they are not trained, and not in the state.
        self.known = (units.encoder.requires_grad_(False).eval(), units.reader.requires_grad_(False).eval())

    @property
    def encoder(self) -> Ears:
        return self.ears

    @property
    def reader(self) -> nn.Module:
        return self.known[1]


def train(arguments: Run) -> None:
    torch.manual_seed(arguments.seed)
    module = EarTraining(load_trained(arguments.work / "units"))
    training = Training(
        module,
        arguments.folder("ears"),
        Schedule(arguments.num_steps or NUM_STEPS, PEAK_RATE, last=0.01),
        seed=arguments.seed,
        weight_decay=0.02,
        save_every=500,
        log_every=25,
    )
    batches = UnitBatches(read_sets(arguments.work / "speech", SHARES))
    tests = {name: read_sets(arguments.work / "speech", [name])[:40] for name in TESTS}

    def evaluate() -> dict[str, float]:
        return {f"{name} %": 100 * phone_errors(module, utterances) for name, utterances in tests.items()}

    training.run(lambda step, rng: _losses(module, batches.draw(rng)), evaluate)


def _losses(module: EarTraining, batch: UnitBatch) -> Losses:
    encoder, reader = module.known
    with torch.no_grad(), fast_products():
        states = module.ears.whisper(batch.features, batch.lengths)
        known = encoder(batch.plain, batch.lengths[batch.pairs])
    with fast_products():
        points = module.ears.points(states.float(), batch.lengths)
        noise = torch.rand(points.shape[0])[:, None].expand(points.shape[:2])
        ctc, moments, _ = (part.float() for part in reader(quantize(points.float(), noise)))
    spoken, moment = telling_losses(ctc, moments, batch)
    valid = (torch.arange(points.shape[1])[None] < -(-batch.lengths[:, None] // 4))[batch.pairs]
    distance = ((points[batch.pairs] - known).abs().mean(-1) * valid).sum() / valid.sum().clamp(min=1)
    return Losses(
        {"ctc": spoken, "moment": MOMENT_WEIGHT * moment, "same": SAME_WEIGHT * distance},
        {"distance": distance.detach()},
    )


def load_ears(work: Path) -> Ears:
    """As far as training has come."""
    module = EarTraining(load_trained(work / "units"))
    module.load_state_dict(torch.load(work / "ears" / "state.pt", weights_only=True)["module"], strict=False)
    return module.ears
