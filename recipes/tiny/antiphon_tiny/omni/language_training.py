"""Tower, projector and LLM learn to answer typed questions, with and without a picture."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antiphon.model.checkpoint.folder import read_config
from antiphon.text.tokenizer import Tokenizer
from antiphon_tiny.omni.conversations import Batch, Layout, Row
from antiphon_tiny.omni.geometry import GEOMETRY
from antiphon_tiny.omni.model import Omni
from antiphon_tiny.omni.parts import train_only
from antiphon_tiny.omni.pictures import PictureReader
from antiphon_tiny.omni.tower import Reader
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training, fast_products
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.looking import FIRST_LOOKS, LOOKS
from antiphon_tiny.world.samples import MAX_TURNS, draw_sample, draw_samples, draw_scene_of, sample_about
from antiphon_tiny.world.scene import Scene
from antiphon_tiny.world.wordings import ask_outside

__all__ = ["SYSTEMS", "Answering", "train_language"]

NUM_STEPS = 5400
FIRST_STEPS = 600
"""For this number of steps pictures are plain, and questions are about one shape: the model learns to find
it."""
PEAK = 1.5e-3
ROWS = 16
ROW_LENGTH = 192
PICTURE_ROWS = 11
READING = 0.2
"""Weight of the heads that read shapes off the tower."""
LOOKING = 0.2
"""Weight of looking at the shapes that an answer is read off, at first; it falls to zero at `LOOKED`."""
LOOKED = 0.7
"""A share of all steps."""
LOOKING_LAYER = 2
"""The layer whose first head is shown where to look: the layers before it can read the question, those after
it what was found."""
NUM_TESTED = 400
OUTSIDE = 0.06
"""Part of the talk without pictures that is about what the grammar has no word for."""
SLOW = {"vision_tower": 0.1}
"""The tower can see already: at the others' pace it would first forget half of that."""
SYSTEMS = ("You are a helpful assistant.", "You are able to understand the visual content.", None)
"""What replaces the usual system message in one step of five."""


class Answering(nn.Module):
    """The modules that are trained, and what turns samples into their batches."""

    def __init__(self, run: Run, *, rows: int = ROWS, picture_rows: int = PICTURE_ROWS) -> None:
        super().__init__()
        self.first_steps = 0
        self.looking_steps = 0
        """The number of steps that are shown where to look."""
        self.num_rows, self.num_picture_rows = rows, picture_rows
        folder = run.folder("skeleton")
        config = self.config = read_config(folder, load_format="dummy")
        self.omni = Omni(GEOMETRY, config.text_vocab_size)
        self.reader = Reader(GEOMETRY)
        self.tokenizer = Tokenizer.from_pretrained(folder)
        self.layout = Layout(self.tokenizer, config, GEOMETRY.side**2)
        self.pictures = PictureReader(GEOMETRY, config)
        train_only(self.omni, ("seeing", "thinking"))

    def draw_talk(self, rng: random.Random) -> Sample:
        """A conversation without a picture, now and then about what the grammar has no word for."""
        if rng.random() < OUTSIDE:
            return Sample((ask_outside(rng),))
        return draw_sample(rng, "train", pictures=0.0)

    def load_tower(self, run: Run) -> None:
        """Take the tower and what reads it from the stage "tower"."""
        path = run.folder("tower") / "state.pt"
        _load(self.omni.model.vision_tower.vision_tower, path, "tower.")
        self.load_reader(path)

    def load_reader(self, path: Path) -> None:
        """Take what reads the tower from a stage's `state.pt`."""
        _load(self.reader, path, "reader.")

    def draw(self, rng: random.Random, *, first: bool = False) -> tuple[list[Row], list[Scene]]:
        """Rows to train on, those with a picture in front. first: only with first lessons about the
        pictures."""
        rows: list[Row] = []
        scenes: list[Scene] = []
        looks, max_turns = (FIRST_LOOKS, 1) if first else (LOOKS, MAX_TURNS)
        for _ in range(self.num_picture_rows):
            scene = draw_scene_of(rng, "train")
            while first and not _is_plain(scene):
                scene = draw_scene_of(rng, "train")
            row = Row(picture=len(scenes))
            scenes.append(scene)
            draw = partial(sample_about, rng, scene, "train", looks=looks, max_turns=max_turns)
            self._fill(row, rng, draw, GEOMETRY.side**2)
            rows.append(row)
        for _ in range(self.num_rows - self.num_picture_rows):
            row = Row()
            self._fill(row, rng, partial(self.draw_talk, rng), 0)
            rows.append(row)
        return rows, scenes

    def _fill(self, row: Row, rng: random.Random, draw: Callable[[], Sample], taken: int) -> None:
        while True:
            branch = self.layout.branch(draw(), rng)
            if row.num_ids + len(branch.ids) + taken > ROW_LENGTH:
                return
            row.branches.append(branch)

    def logits(
        self, batch: Batch, tiles: Tensor | None, watched: dict[int, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits at the places of the targets, those targets, and the tower's features."""
        embed = self.omni.model.embed_tokens
        x, features = embed(batch.ids), None
        if tiles is not None:
            features, seen = self.omni.see(tiles)
            n, num_patches, _ = seen.shape
            before = torch.cat([seen, x[:n, num_patches:]], dim=1)
            x = torch.cat([before, x[n:]])
        rows = self.omni.rows(batch.positions, batch.mask, len(batch.prefix))
        x = self.omni.think(embed(batch.prefix)[None], x, rows, watched)
        wanted = batch.targets >= 0
        return self.omni.lm_head(x[wanted]), batch.targets[wanted], features

    def losses(self, step: int, rng: random.Random) -> Losses:
        drawn, scenes = self.draw(rng, first=step < self.first_steps)
        system = {"system": rng.choice(SYSTEMS)} if rng.random() < 0.2 else {}
        batch = self.layout.batch(drawn, **system)
        with fast_products():
            watched = {LOOKING_LAYER: torch.empty(0)} if step < self.looking_steps else {}
            logits, targets, features = self.logits(batch, self.pictures.tiles(scenes, rng), watched)
        assert features is not None, "every batch has pictures"
        logits, features = logits.float(), features.float()
        with torch.no_grad():
            row_of_each = (batch.targets >= 0).nonzero()[:, 0]
            of_picture = row_of_each < self.num_picture_rows
            each = F.cross_entropy(logits, targets, reduction="none")
        parts = Losses(
            {"answers": F.cross_entropy(logits, targets)},
            {"answers about pictures": each[of_picture].mean(), "other answers": each[~of_picture].mean()},
        )
        if watched:
            start = len(batch.prefix)
            seen = watched[LOOKING_LAYER][: len(batch.looks), :, start : start + batch.looks.shape[2]]
            apart = -(batch.looks * seen.clamp(min=-100)).sum() / batch.looks.sum().clamp(min=1)
            looking = LOOKING * (1 - step / self.looking_steps) * apart
            parts |= Losses({"looking": looking}, {"looking, unweighted": apart.detach()})
        read = self.reader.loss(features, self.pictures.labels(scenes))
        return parts | Losses({"shapes": READING * (8 * read.pop("there") + sum(read.values()))})

    def num_right(self, samples: Sequence[Sample], chunk: int = 40) -> dict[str, tuple[int, int]]:
        """By topic: how often the last answer is right to the last id, and how often it was asked."""
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        samples = sorted(samples, key=lambda sample: sample.scene is None)
        for start in range(0, len(samples), chunk):
            part = samples[start : start + chunk]
            branches = [self.layout.branch(sample) for sample in part]
            scenes = [sample.scene for sample in part if sample.scene is not None]
            rows = [Row([b], i if i < len(scenes) else None) for i, b in enumerate(branches)]
            batch = self.layout.batch(rows)
            tiles = self.pictures.tiles(scenes) if scenes else None
            logits, targets, _ = self.logits(batch, tiles)
            right = torch.zeros_like(batch.targets, dtype=torch.bool)
            right[batch.targets >= 0] = logits.argmax(-1) == targets
            for i, (sample, branch) in enumerate(zip(part, branches, strict=True)):
                at = GEOMETRY.side**2 if sample.scene else 0
                counts[sample.topic][0] += bool(right[i, [at + place for place in branch.last]].all())
                counts[sample.topic][1] += 1
        return {topic: (right, asked) for topic, (right, asked) in counts.items()}


def _load(module: nn.Module, path: Path, start: str) -> None:
    """Load the weights of a stage's state whose names begin with `start`."""
    state = torch.load(path, map_location="cpu", weights_only=True)["module"]
    module.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})


def _is_plain(scene: Scene) -> bool:
    """Whether a kind or a colour alone says which of several shapes is meant."""
    several = len(scene.shapes) in (2, 3, 4)
    kinds, colours = {shape.kind for shape in scene.shapes}, {shape.colour for shape in scene.shapes}
    return several and len(kinds) == len(colours) == len(scene.shapes)


def train_language(run: Run) -> None:
    torch.manual_seed(run.seed)
    model = Answering(run)
    begun = torch.load(run.folder("projector") / "state.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(begun["module"])
    model.first_steps = FIRST_STEPS
    schedule = Schedule(run.num_steps or NUM_STEPS, PEAK, warmup=200)
    model.looking_steps = int(LOOKED * schedule.num_steps)
    training = Training(model, run.folder("language"), schedule, seed=run.seed, slow=SLOW, save_every=250)
    tested = {
        "pictures": draw_samples(NUM_TESTED, "held_out", run.seed + 1, pictures=1.0),
        "talk": draw_samples(NUM_TESTED, "held_out", run.seed + 1, pictures=0.0),
    }

    def evaluate() -> dict[str, float]:
        shown = {}
        for name, samples in tested.items():
            counts = model.num_right(samples)
            shown[f"held-out {name} %"] = 100 * sum(right for right, _ in counts.values()) / NUM_TESTED
            missed = {
                topic: f"{right}/{asked}" for topic, (right, asked) in sorted(counts.items()) if right < asked
            }
            print(f"{name}: {missed}", flush=True)
        return shown

    training.run(model.losses, evaluate)
