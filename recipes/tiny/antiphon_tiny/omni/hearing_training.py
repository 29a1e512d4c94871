"""The bottom layers learn to read units by CTC: what others say, and what the model itself is saying.

At positions of text the same head is to name the text itself, so that a spoken prompt, which the LLM reads
through that head, begins and ends as a typed one does.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antiphon.model.checkpoint.folder import read_config
from antiphon.text.tokenizer import Tokenizer
from antiphon_tiny.omni.conversations import Layout
from antiphon_tiny.omni.geometry import GEOMETRY
from antiphon_tiny.omni.model import Omni
from antiphon_tiny.omni.parts import train_only
from antiphon_tiny.omni.spoken import (
    POOL,
    Recordings,
    SpokenRow,
    TrackBatch,
    Utterance,
    Utterances,
    frames_needed,
    history,
    of_like_length,
    track_batch,
)
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training, fast_products
from antiphon_tiny.world.words import words_of

__all__ = ["Hearing", "collapse", "train_hearing", "word_errors"]

NUM_STEPS = 4500
PEAK = 1.5e-3
ROWS = 32
NAMING = 0.1
"""Weight of naming the text at its own positions."""
HELD, HELD_AT_FIRST = 2, 8
"""Units at the beginning of an utterance in which nothing is read yet. Otherwise CTC soon puts the first word
into the first unit, where nothing has been said, and stays there: it guesses that word ever after."""
HELD_STEPS = 2200
"""The number of steps with `HELD_AT_FIRST` units."""
TESTS = ("test_heart", "test_slt", "test_rms", "test_ked", "test_joe")


class Hearing(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        from antiphon_tiny.speech.unit_encoder import unit_coordinates

        folder = run.folder("skeleton")
        self.config = read_config(folder, load_format="dummy")
        self.tokenizer = Tokenizer.from_pretrained(folder)
        self.omni = Omni(GEOMETRY, self.config.text_vocab_size)
        self.layout = Layout(self.tokenizer, self.config, GEOMETRY.side**2)
        self.prefix = torch.tensor(self.layout.prefix())
        train_only(self.omni, ("hearing",))
        # Units that lie near each other sound alike, so their embeddings begin alike.
        near = F.normalize(torch.randn(4, GEOMETRY.hidden), dim=1) * 0.5 * GEOMETRY.hidden**0.5 / 2
        with torch.no_grad():
            table = self.omni.model.audio_embed_tokens.weight
            units = slice(self.config.first_unit_id, self.config.first_unit_id + GEOMETRY.units)
            table[units] = 0.3 * table[units] + unit_coordinates() @ near

    def draw(
        self, utterances: Recordings, rng: random.Random, num_rows: int = ROWS, *, unanswered: float = 0.0
    ) -> list[SpokenRow]:
        """Replies behind what was said to the model, or, less often, behind the prompt of a typed
        question. unanswered: the part of what was said to the model that has no reply behind it."""
        layout = self.layout
        rows = []
        for _ in range(POOL * num_rows):
            row = SpokenRow()
            is_typed = rng.random() < 0.3
            if is_typed:
                row.pieces.append(layout.encode(" "))
            else:
                if rng.random() < 0.2:
                    row.pieces.append(history(layout, rng))
                if rng.random() < 0.25:
                    row.pieces.append(
                        layout.encode("\n")
                    )  # what follows a picture, which is not in this track
                row.pieces.append(rng.choice(utterances.heard))
            row.pieces.append(layout.closing)
            if is_typed or not unanswered or rng.random() > unanswered:
                row.pieces.append(rng.choice(utterances.own))
            rows.append(row)
        return of_like_length(rng, rows, len)

    def hear(self, batch: TrackBatch) -> tuple[Tensor, Tensor]:
        """The states of the prefix (1, prefix, hidden) and of the rows"""
        rows = self.omni.rows(batch.positions, batch.mask, len(self.prefix))
        return self.omni.hear(self.prefix, batch.ids, rows)

    def losses(self, rows: list[SpokenRow], held: int = HELD) -> Losses:
        """held: units of each utterance in which nothing is to be read"""
        batch = track_batch(rows, len(self.prefix), self.config.first_unit_id)
        with fast_products():
            prefix, hidden = self.hear(batch)
        named = torch.cat([prefix[0], hidden[batch.is_text]])
        names = torch.cat([self.prefix, batch.ids[batch.is_text]])
        naming = F.cross_entropy(self.omni.audio_to_text_proj(named), names)
        return Losses({"reading": self.reading(hidden, batch.spans, held), "naming": NAMING * naming})

    def reading(self, hidden: Tensor, spans: Sequence[tuple[int, int, Utterance]], held: int) -> Tensor:
        """CTC after the first `held` units, which should be blank, in nats per label."""
        holds = [min(held, len(said.units) - frames_needed(said)) for _, _, said in spans]
        lengths = torch.tensor(
            [len(said.units) - hold for (_, _, said), hold in zip(spans, holds, strict=True)]
        )
        counts = torch.tensor([len(said.text_ids) for _, _, said in spans])
        silent, states = [], []
        for (r, start, said), hold in zip(spans, holds, strict=True):
            silent.append(hidden[r, start : start + hold])
            states.append(hidden[r, start + hold : start + len(said.units)])
        targets = torch.tensor([i for _, _, said in spans for i in said.text_ids])
        with fast_products():
            logits = self.omni.audio_to_text_proj(nn.utils.rnn.pad_sequence(states))
            before = self.omni.audio_to_text_proj(torch.cat(silent))
        log_probs = logits.float().log_softmax(-1)
        blank = self.config.blank_token_id
        each = F.ctc_loss(
            log_probs, targets, lengths, counts, blank=blank, reduction="none", zero_infinity=True
        )
        silence = -before.float().log_softmax(-1)[:, blank]
        out: Tensor = (each.sum() + silence.sum()) / counts.sum()
        return out

    def transcripts(self, utterances: Sequence[Utterance]) -> list[str]:
        """What is read in utterances that are questions, each alone."""
        texts = []
        for start in range(0, len(utterances), 50):
            part = utterances[start : start + 50]
            rows = [SpokenRow([said]) for said in part]
            batch = track_batch(rows, len(self.prefix), self.config.first_unit_id)
            labels = self.omni.audio_to_text_proj(self.hear(batch)[1]).argmax(-1)
            for row, said in zip(labels, part, strict=True):
                ids = collapse(row[: len(said.units)].tolist(), self.config.blank_token_id)
                texts.append(self.tokenizer.decode(ids).strip())
        return texts


def collapse(labels: Sequence[int], blank: int) -> list[int]:
    before = [None, *labels[:-1]]
    return [label for label, last in zip(labels, before, strict=True) if label not in (last, blank)]


def word_errors(said: Sequence[str], heard: Sequence[str]) -> float:
    """Word error rate in per cent: words that are wrong, missing or added, per word said."""
    wrong = total = 0
    for text, other in zip(said, heard, strict=True):
        reference, found = words_of(text), words_of(other)
        total += len(reference)
        costs = list(range(len(found) + 1))
        for i, word in enumerate(reference):
            left = costs[:]
            costs[0] = i + 1
            for j, candidate in enumerate(found):
                costs[j + 1] = min(left[j] + (word != candidate), left[j + 1] + 1, costs[j] + 1)
        wrong += costs[-1]
    return 100 * wrong / max(1, total)


def train_hearing(run: Run) -> None:
    from antiphon_tiny.speech.encode import read_units

    torch.manual_seed(run.seed)
    model = Hearing(run)
    utterances = Utterances(run.work, model.layout)
    tests = {}
    for name in TESTS:
        rows = read_units(run.work, f"{name}_heard")[:100]
        tests[name] = [Utterance(row["text"], row["units"], []) for row in rows]
    schedule = Schedule(run.num_steps or NUM_STEPS, PEAK, warmup=300)
    training = Training(model, run.folder("hearing"), schedule, seed=run.seed, save_every=500)

    def evaluate() -> dict[str, float]:
        return {
            f"{name} %": word_errors([said.text for said in part], model.transcripts(part))
            for name, part in tests.items()
        }

    def losses(step: int, rng: random.Random) -> Losses:
        held = HELD_AT_FIRST if step < HELD_STEPS else HELD
        return model.losses(model.draw(utterances, rng), held)

    training.run(losses, evaluate)
