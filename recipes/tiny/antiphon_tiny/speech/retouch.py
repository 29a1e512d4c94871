"""Mels as the flow makes them, of sounds that are known: for the vocoder to learn from.

A mel that the flow makes from noise has a melody of its own, and the true sound is no target for it. So the
true mel is mixed with noise, as it would be somewhere on the way, and the flow goes the rest.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.flow.flow import FlowModel
from antiphon.codec.flow.solver import schedule
from antiphon.codec.flow.unet import UNet
from antiphon_tiny.speech.codec_params import FLOW
from antiphon_tiny.speech.encode import read_units
from antiphon_tiny.speech.flow_batches import FlowBatch, FlowBatches
from antiphon_tiny.speech.shards import read_sets
from antiphon_tiny.speech.train_flow import condition, new_flow
from antiphon_tiny.speech.train_vocoder import load_into
from antiphon_tiny.stages import Run

__all__ = ["made_mels", "retouched"]

NUM_MELS = 1500
STARTS = (4, 5, 6)
"""Steps of ten at which the flow takes over: a fifth to two fifths of the mel are there."""
BATCH = 8


def made_mels(arguments: Run) -> list[np.ndarray]:
    """Of the first utterances of the speaking voice, float16 (80, frames_i), made once and kept."""
    path = arguments.folder("vocoder-tuned") / "made_mels.npz"
    if not path.is_file():
        model = new_flow()
        load_into(model, arguments.work / "flow")
        model.eval()
        utterances = read_sets(arguments.work / "speech", ["heart"])[:NUM_MELS]
        units = [row["units"] for row in read_units(arguments.work, "heart")[: len(utterances)]]
        batches = FlowBatches(utterances, units)
        # Neighbours in length share a batch.
        order = sorted(range(len(units)), key=lambda i: len(units[i]))
        mels: dict[str, np.ndarray] = {}
        for begin in range(0, len(order), BATCH):
            rows = order[begin : begin + BATCH]
            rng = random.Random(f"{arguments.seed} {begin}")
            torch.manual_seed(rng.getrandbits(31))
            made = retouched(model, batches.whole(rows), rng.choice(STARTS))
            for i, mel in zip(rows, made, strict=True):
                mels[str(i)] = mel[:, : FLOW.mel_frames(len(units[i]))].half().numpy()
        np.savez(path, **mels)  # type: ignore[arg-type]
    stored = np.load(path)
    return [stored[str(i)] for i in range(len(stored.files))]


@torch.inference_mode()
def retouched(model: FlowModel, batch: FlowBatch, start: int) -> Tensor:
    """(batch, 80, frames): what the flow makes from its step `start` on. From step 0 on nothing of the true
    mel is left."""
    estimator = model.decoder["estimator"]
    assert isinstance(estimator, UNet), "decoder.estimator is built as a UNet"
    times, steps = schedule()
    biases = estimator.time_bias(times)
    mu, speaker = condition(model, batch)
    rows, _, frames = mu.shape
    inputs = torch.zeros(2 * rows, 4 * MEL_BANDS, frames)
    inputs[:rows, MEL_BANDS:] = torch.cat([mu, speaker[:, :, None].expand(-1, -1, frames), batch.prompt], 1)
    mask = batch.mask.repeat(2, 1, 1)
    t = float(times[start])
    x = (1 - t) * torch.randn_like(mu) + t * batch.mel
    for step, bias in zip(steps[start:], biases[start:], strict=True):
        inputs[:rows, :MEL_BANDS] = x
        inputs[rows:, :MEL_BANDS] = x
        guided, free = estimator(inputs, bias, mask).chunk(2)
        x = x + step * ((1 + FLOW.inference_cfg_rate) * guided - FLOW.inference_cfg_rate * free)
    return x
