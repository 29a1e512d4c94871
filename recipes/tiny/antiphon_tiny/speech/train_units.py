"""Trains the unit encoder: from its units are read the sounds, by CTC and moment by moment, and the speaking
voice's mel."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon_tiny.speech.phones import NUM_PHONES
from antiphon_tiny.speech.shards import Utterance, read_sets
from antiphon_tiny.speech.unit_batches import SHARES, UnitBatch, UnitBatches
from antiphon_tiny.speech.unit_encoder import UnitEncoder, UnitReader, UnitTelling, quantize
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training, fast_products

__all__ = ["UnitTraining", "load_trained", "phone_errors", "telling_losses", "train"]

NUM_STEPS = 6000
PEAK_RATE = 1.5e-3
FRAME_WEIGHT = 0.5
"""Of the loss by moments at the end of training; it begins at 1, since it leads CTC off its plateau."""
MEL_WEIGHT = 1.0
SHORTCUT_WEIGHT = 0.5
"""Of the same losses without the units in between."""
SAME_WEIGHT = 1.0
"""Of the distance between a disturbed clip's points and the undisturbed one's."""
TESTS = ("test_heart", "test_slt", "test_rms", "test_ked", "test_joe")


class Units(Protocol):
    """What finds units, and what reads sounds off them."""

    @property
    def encoder(self) -> nn.Module: ...

    @property
    def reader(self) -> nn.Module: ...


class UnitTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = UnitEncoder()
        self.reader = UnitReader(NUM_PHONES)
        self.shortcut = UnitTelling(NUM_PHONES)
        """Tells sounds from the encoder's own states: it learns sooner than through the units."""


def train(arguments: Run) -> None:
    module = UnitTraining()
    folder = arguments.folder("units")
    training = Training(
        module,
        folder,
        Schedule(arguments.num_steps or NUM_STEPS, PEAK_RATE, last=0.01),
        seed=arguments.seed,
        weight_decay=0.01,
        save_every=500,
        log_every=25,
    )
    batches = UnitBatches(read_sets(arguments.work / "speech", SHARES))
    tests = {name: read_sets(arguments.work / "speech", [name])[:40] for name in TESTS}

    def losses(step: int, rng: random.Random) -> Losses:
        return _losses(module, batches, step, rng)

    def evaluate() -> dict[str, float]:
        return {f"{name} %": 100 * phone_errors(module, utterances) for name, utterances in tests.items()}

    training.run(losses, evaluate)


def _losses(module: UnitTraining, batches: UnitBatches, step: int, rng: random.Random) -> Losses:
    batch = batches.draw(rng)
    with fast_products():
        hidden = module.encoder.hidden(batch.features, batch.lengths)
        points = module.encoder.points(hidden)
        noise = torch.rand(points.shape[0])[:, None].expand(points.shape[:2])
        ctc, moments, mel = (part.float() for part in module.reader(quantize(points.float(), noise)))
        early_ctc, early_moments = (part.float() for part in module.shortcut(hidden))
        with torch.no_grad():
            known = module.encoder(batch.plain, batch.lengths[batch.pairs])
    spoken, moment = telling_losses(ctc, moments, batch)
    soon, at_once = telling_losses(early_ctc, early_moments, batch)
    weight = max(FRAME_WEIGHT, 1 - step / 1500)
    valid = (torch.arange(points.shape[1])[None] < -(-batch.lengths[:, None] // 4))[batch.pairs]
    distance = ((points[batch.pairs] - known).abs().mean(-1) * valid).sum() / valid.sum().clamp(min=1)
    target = F.pad(batch.plain, (0, -batch.plain.shape[2] % 4)).unflatten(2, (-1, 2)).mean(3).transpose(1, 2)
    both = valid.repeat_interleave(2, dim=1)
    error = ((mel[batch.pairs] - target).abs().mean(-1) * both).sum() / both.sum().clamp(min=1)
    return Losses(
        {
            "ctc": spoken,
            "moment": weight * moment,
            "mel": MEL_WEIGHT * error,
            "same": SAME_WEIGHT * min(1.0, step / 1000) * distance,
            "shortcut": SHORTCUT_WEIGHT * (soon + weight * at_once),
        },
        {
            "moment, unweighted": moment.detach(),
            "shortcut ctc": soon.detach(),
            "shortcut moment": at_once.detach(),
            "distance": distance.detach(),
        },
    )


def telling_losses(ctc: Tensor, frames: Tensor, batch: UnitBatch) -> tuple[Tensor, Tensor]:
    """Of the sounds in order, and of the sound at each moment."""
    spoken = F.ctc_loss(
        ctc.log_softmax(-1).transpose(0, 1), batch.phones, 2 * -(-batch.lengths // 4), batch.num_phones,
        blank=NUM_PHONES, zero_infinity=True,
    )  # fmt: skip
    return spoken, F.cross_entropy(frames.flatten(0, 1), batch.frame_phones.flatten(), ignore_index=-100)


def phone_errors(module: Units, utterances: list[Utterance]) -> float:
    """The share of sounds that are misread from the units of these utterances, by the most probable path."""
    from antiphon.codec.analysis.logmel import log_mel

    wrong = total = 0
    for utterance in utterances:
        features = log_mel(torch.from_numpy(utterance.samples()))[None]
        points = module.encoder(features, torch.tensor([features.shape[2]]))
        path = module.reader(quantize(points))[0][0].argmax(-1).tolist()
        read = [
            phone for i, phone in enumerate(path) if phone != NUM_PHONES and (i == 0 or phone != path[i - 1])
        ]
        said = [phone for phone in utterance.info["phones"] if phone]
        wrong += _distance(said, read)
        total += len(said)
    return wrong / total


def _distance(wanted: list[int], found: list[int]) -> int:
    row = list(range(len(found) + 1))
    for i, one in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (one != other))
    return row[-1]


def load_trained(folder: Path) -> UnitTraining:
    """As far as training has come."""
    module = UnitTraining()
    module.load_state_dict(torch.load(folder / "state.pt", weights_only=True)["module"])
    return module.eval().requires_grad_(False)
