"""The tower is first trained alone, to say of each patch which shape has its centre there."""

from __future__ import annotations

import random

import torch
from torch import nn

from antiphon.model.checkpoint.folder import read_config
from antiphon_tiny.omni.geometry import GEOMETRY
from antiphon_tiny.omni.pictures import PictureReader
from antiphon_tiny.omni.tower import Reader, Tower
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training, fast_products
from antiphon_tiny.world.samples import draw_scene_of

__all__ = ["train_tower"]

BATCH = 64
NUM_STEPS = 2400
NUM_TESTED = 1000


class ReadingTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = Tower(GEOMETRY)
        self.reader = Reader(GEOMETRY)


def train_tower(run: Run) -> None:
    torch.manual_seed(run.seed)
    model = ReadingTower()
    pictures = PictureReader(GEOMETRY, read_config(run.folder("skeleton"), load_format="dummy"))
    schedule = Schedule(run.num_steps or NUM_STEPS, 1.5e-3, warmup=300)
    training = Training(model, run.folder("tower"), schedule, seed=run.seed)
    rng = random.Random(f"held-out pictures {run.seed}")
    tested = [draw_scene_of(rng, "held_out") for _ in range(NUM_TESTED)]

    def losses(step: int, rng: random.Random) -> Losses:
        scenes = [draw_scene_of(rng, "train") for _ in range(BATCH)]
        with fast_products():
            features = model.tower(pictures.tiles(scenes, rng))
        parts = model.reader.loss(features.float(), pictures.labels(scenes))
        parts["there"] = 8 * parts["there"]  # few patches have a shape
        return Losses(parts)

    def evaluate() -> dict[str, float]:
        right = 0
        for start in range(0, NUM_TESTED, 100):
            scenes = tested[start : start + 100]
            features = model.tower(pictures.tiles(scenes))
            right += model.reader.num_read(features, pictures.labels(scenes))[0]
        return {"held-out pictures read %": 100 * right / NUM_TESTED}

    training.run(losses, evaluate)
