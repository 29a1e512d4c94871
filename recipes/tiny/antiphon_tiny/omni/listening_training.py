"""The LLM learns to answer spoken questions, while typed ones go on.

It reads a spoken prompt through the bottom layers, as soft text embeddings, one position per unit, most of
them blank. The bottom layers stay as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from antiphon.model.checkpoint.folder import read_config
from antiphon.text.tokenizer import Tokenizer
from antiphon_tiny.omni.conversations import IGNORED, Layout
from antiphon_tiny.omni.geometry import GEOMETRY
from antiphon_tiny.omni.language_training import Answering
from antiphon_tiny.omni.parts import load_parts
from antiphon_tiny.omni.spoken import (
    POOL,
    SpokenRow,
    Utterance,
    Utterances,
    of_like_length,
    read_utterances,
    track_batch,
)
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training, fast_products
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.samples import draw_sample, draw_samples
from antiphon_tiny.world.talking import ask_name
from antiphon_tiny.world.wordings import ways

__all__ = ["Listening", "SpokenSample", "draw_spoken_samples", "spoken_tests", "train_listening"]

NUM_STEPS = 1800
PEAK = 6e-4
TYPED_ROWS, PICTURE_ROWS = 10, 8
SPOKEN_ROWS = 24
NUM_TESTED = 200
NUM_TRIES = 40
NUM_DRAWN = 4000
SAY_SHARE, NAME_SHARE = 0.15, 0.1


@dataclass(frozen=True)
class SpokenSample:
    sample: Sample
    questions: list[Utterance]
    """One for each turn."""

    def __len__(self) -> int:
        """Positions of picture and questions."""
        picture = GEOMETRY.side**2 if self.sample.scene else 0
        return picture + sum(len(question.units) for question in self.questions)


class Listening(Answering):
    learns_to_hear = False
    """Whether answering trains the bottom layers too."""

    def __init__(self, run: Run, *, rows: int = TYPED_ROWS, picture_rows: int = PICTURE_ROWS) -> None:
        super().__init__(run, rows=rows, picture_rows=picture_rows)
        self.prefix = torch.tensor(self.layout.prefix())
        self.first_unit = self.config.first_unit_id

    def spoken_losses(self, spoken: Sequence[SpokenSample], rng: random.Random) -> Losses:
        with fast_products():
            logits, targets, _ = self.spoken_logits(spoken, rng)
        return Losses({"spoken": F.cross_entropy(logits.float(), targets)})

    def spoken_logits(
        self, spoken: Sequence[SpokenSample], rng: random.Random | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits where the assistant speaks, the ids it should say, and (row, whether in the last answer)."""
        omni, num_patches = self.omni, GEOMETRY.side**2
        rows, answers, marks = zip(*(self._track(one) for one in spoken), strict=True)
        batch = track_batch(rows, len(self.prefix), self.first_unit)
        at = omni.rows(batch.positions, batch.mask, len(self.prefix))
        with torch.set_grad_enabled(self.learns_to_hear and torch.is_grad_enabled()):
            prefix, hidden = omni.hear(self.prefix, batch.ids, at)
        prefix, soft = omni.soft_embedding(prefix), omni.soft_embedding(hidden)
        scenes = [one.sample.scene for one in spoken if one.sample.scene is not None]
        seen = iter(omni.see(self.pictures.tiles(scenes, rng))[1]) if scenes else iter(())
        parts, targets, places = [], [], []
        for r, (one, answer, mark) in enumerate(zip(spoken, answers, marks, strict=True)):
            picture = [next(seen)] if one.sample.scene is not None else []
            said = omni.model.embed_tokens(torch.tensor(answer[:-1]))
            parts.append(torch.cat([*picture, soft[r, : len(mark)], said]))
            lead = [IGNORED] * (num_patches * len(picture))
            # The first id of the answer is said where the prompt ends.
            targets.append(torch.tensor([*lead, *mark[:-1], *answer]))
            places.append(len(lead) + len(mark) - 1)
        x = pad_sequence(parts, batch_first=True)
        wanted_ids = pad_sequence(targets, batch_first=True, padding_value=IGNORED)
        length, start = x.shape[1], len(self.prefix)
        mask = torch.ones(length, start + length, dtype=torch.bool).tril(start).expand(len(x), -1, -1)
        positions = (start + torch.arange(length)).expand(len(x), -1)
        x = omni.think(prefix, x, omni.rows(positions, mask, start))
        wanted = wanted_ids >= 0
        row, place = wanted.nonzero(as_tuple=True)
        in_last = place >= torch.tensor(places)[row]
        return omni.lm_head(x[wanted]), wanted_ids[wanted], torch.stack([row, in_last.long()])

    def _track(self, one: SpokenSample) -> tuple[SpokenRow, list[int], list[int]]:
        """The prompt in the speech track, the last answer, and what is to be said at each of the prompt's
        positions (the answers of earlier turns)."""
        layout, sample = self.layout, one.sample
        row, marks = SpokenRow([layout.encode("\n")] if sample.scene else []), [IGNORED] * bool(sample.scene)
        for i, (turn, said) in enumerate(zip(sample.turns, one.questions, strict=True)):
            row.pieces += [said, layout.closing]
            marks += [IGNORED] * (len(said.units) + len(layout.closing))
            answer = [*layout.encode(turn.answer), layout.eot]
            if i == len(sample.turns) - 1:
                return row, answer, marks
            row.pieces.append([*answer, *layout.opening])
            # what follows a position is said there
            marks[-1:] = [*answer, IGNORED]
            marks += [IGNORED] * len(layout.opening)
        raise AssertionError("a conversation has at least one turn")

    def num_heard(self, spoken: Sequence[SpokenSample]) -> int:
        """The number of conversations whose last answer is right to the last id."""
        right = 0
        for start in range(0, len(spoken), SPOKEN_ROWS):
            part = spoken[start : start + SPOKEN_ROWS]
            logits, targets, (row, in_last) = self.spoken_logits(part, None)
            wrong = (logits.argmax(-1) != targets) & (in_last > 0)
            right += len(part) - len(row[wrong].unique())
        return right


def spoken_sample(
    rng: random.Random, by_text: dict[str, list[Utterance]], draw: Callable[[], Sample]
) -> SpokenSample | None:
    """A conversation all of whose questions have been spoken, in one wording or another, if one is found."""
    for _ in range(NUM_TRIES):
        sample = draw()
        spoken = [
            [text for text in (turn.question, *ways(turn.question)) if text in by_text]
            for turn in sample.turns
        ]
        if all(spoken):
            return SpokenSample(sample, [rng.choice(by_text[rng.choice(texts)]) for texts in spoken])
    return None


def draw_spoken_samples(rng: random.Random, utterances: Utterances, count: int) -> list[SpokenSample]:
    """Conversations to train on, of similar length."""
    drawn: list[SpokenSample] = []
    while len(drawn) < POOL * count:
        one = spoken_sample(rng, utterances.by_text, partial(_draw_spoken, rng, utterances))
        if one is not None:
            drawn.append(one)
    return of_like_length(rng, drawn, len)


def _draw_spoken(rng: random.Random, utterances: Utterances) -> Sample:
    """A conversation that may have been spoken: at times of what is to be said after somebody, or a name."""
    kind = rng.random()
    if kind < SAY_SHARE and utterances.to_say:
        return Sample((rng.choice(utterances.to_say),))
    if kind < SAY_SHARE + NAME_SHARE:
        return Sample(ask_name(rng))
    return draw_sample(rng, "train", max_turns=2)


def train_listening(run: Run) -> None:
    torch.manual_seed(run.seed)
    model = Listening(run)
    language = run.folder("language") / "state.pt"
    load_parts(model.omni, language, ("seeing", "thinking"))
    model.load_reader(language)
    load_parts(model.omni, run.folder("hearing") / "state.pt", ("hearing",))
    utterances = Utterances(run.work, model.layout)
    tested = spoken_tests(run)
    schedule = Schedule(run.num_steps or NUM_STEPS, PEAK, warmup=200)
    training = Training(model, run.folder("listening"), schedule, seed=run.seed, save_every=500)
    typed_tests = draw_samples(NUM_TESTED, "held_out", run.seed + 1)

    def losses(step: int, rng: random.Random) -> Losses:
        spoken = draw_spoken_samples(rng, utterances, SPOKEN_ROWS)
        return model.losses(step, rng) | model.spoken_losses(spoken, rng)

    def evaluate() -> dict[str, float]:
        counts = model.num_right(typed_tests)
        shown = {"held-out typed %": 100 * sum(right for right, _ in counts.values()) / len(typed_tests)}
        for name, spoken in tested.items():
            if spoken:
                shown[f"held-out spoken, {name} %"] = 100 * model.num_heard(spoken) / len(spoken)
        return shown

    training.run(losses, evaluate)


def spoken_tests(run: Run, limit: int = NUM_TESTED) -> dict[str, list[SpokenSample]]:
    """Held-out questions, each with a picture that training has not seen, in the voices of the tests."""
    folder = run.folder("skeleton")
    layout = Layout(
        Tokenizer.from_pretrained(folder), read_config(folder, load_format="dummy"), GEOMETRY.side**2
    )
    tests = {}
    for name in ("test_heart", "test_slt", "test_rms", "test_joe"):
        by_text: dict[str, list[Utterance]] = {}
        for said in read_utterances(run.work, f"{name}_heard", layout):
            by_text.setdefault(said.text, []).append(said)
        rng = random.Random(f"{name} {run.seed}")
        found: dict[str, SpokenSample] = {}
        for _ in range(NUM_DRAWN):
            sample = draw_sample(rng, "held_out", max_turns=1)
            question = sample.turns[0].question
            if question in by_text and question not in found:
                found[question] = SpokenSample(sample, [by_text[question][0]])
        tests[name] = list(found.values())[:limit]
    return tests
