"""The top layers learn to say a text in units, seeing a few words of it at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from antiphon_tiny.omni.attention import attend, once_cast
from antiphon_tiny.omni.hearing_training import Hearing
from antiphon_tiny.omni.llama import Attention, Layer, Rotary, Rows
from antiphon_tiny.omni.parts import load_parts, train_only
from antiphon_tiny.omni.spoken import (
    POOL,
    SpokenRow,
    TrackBatch,
    Utterance,
    Utterances,
    of_like_length,
    read_utterances,
    track_batch,
)
from antiphon_tiny.omni.windows import perturbed, visible_counts
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training, fast_products

__all__ = ["Speaking", "train_speaking"]

NUM_STEPS = 4200
PEAK = 1.2e-3
ROWS = 24
DROPOUT = 0.1
IGNORED = -100
NUM_TESTED = 120


class Speaking(Hearing):
    """`Hearing` with the top layers on it."""

    learns_to_hear = False
    """Whether speaking trains the bottom layers too."""

    def draw_spoken(
        self, utterances: Sequence[Utterance], heard: Sequence[Utterance], rng: random.Random
    ) -> list[SpokenRow]:
        """Replies, two in three behind the prompt of a typed question, others behind a spoken one."""
        layout = self.layout
        rows = []
        for said in utterances:
            asked = layout.encode(" ") if rng.random() < 2 / 3 else rng.choice(heard)
            rows.append(SpokenRow([asked, layout.closing, said]))
        return rows

    def speak_losses(self, rows: list[SpokenRow], rng: random.Random) -> Losses:
        """rng: for windows that are not quite right"""
        batch = track_batch(rows, len(self.prefix), self.config.first_unit_id)
        with torch.set_grad_enabled(self.learns_to_hear and torch.is_grad_enabled()):
            prefix, hidden = self.hear(batch)
        with torch.no_grad():
            labels = self.omni.audio_to_text_proj(hidden).argmax(-1)
        with fast_products():
            logits, targets = self.unit_logits(batch, prefix, hidden, labels, rng)
        logits = logits.float()
        right = 100 * (logits.argmax(-1) == targets).float().mean()
        return Losses({"units": F.cross_entropy(logits, targets)}, {"right %": right})

    def unit_logits(
        self, batch: TrackBatch, prefix: Tensor, hidden: Tensor, labels: Tensor, rng: random.Random | None
    ) -> tuple[Tensor, Tensor]:
        """Logits of the next unit where one is said, and those units; the last of a reply is its end."""
        replies = [span for span in batch.spans if span[1] > 1 and _is_last(batch, span)]
        targets = torch.full(batch.ids.shape, IGNORED)
        longest = max(len(said.text_ids) for _, _, said in replies) + 1
        entries = torch.zeros(len(batch.ids), longest, dtype=torch.int64)
        seen = torch.zeros(*batch.ids.shape, longest, dtype=torch.bool)
        blank, eot = self.config.blank_token_id, self.config.eot_token_id
        for r, start, said in replies:
            text = [*said.text_ids, eot]
            entries[r, : len(text)] = torch.tensor(text)
            units = batch.ids[r, start : start + len(said.units)]
            targets[r, start - 1 : start - 1 + len(units)] = units
            targets[r, start - 1 + len(units)] = eot
            read = [*labels[r, start : start + len(units)].tolist(), blank]
            lag, window = self.config.fusion_lag, self.config.fusion_window
            counts = visible_counts(read, len(text), blank, lag)
            if rng is not None:
                counts = perturbed(read, len(text), blank, lag, rng)
            for step, count in enumerate(counts):
                seen[r, start - 1 + step, max(0, count - window) : count] = True
        x = self.speak(prefix, hidden, batch, entries, seen)
        wanted = targets >= 0
        return self.omni.audio_lm_head(x[wanted]), targets[wanted]

    def speak(
        self, prefix: Tensor, hidden: Tensor, batch: TrackBatch, entries: Tensor, seen: Tensor
    ) -> Tensor:
        """Top layers and norm. entries: text ids (rows, entries); seen: bool (rows, length, entries)"""
        omni = self.omni
        rows = omni.rows(batch.positions, batch.mask, len(self.prefix))
        text = F.dropout(omni.text_to_audio_proj(entries), DROPOUT / 2, self.training)
        cos, sin = omni.rotary[:, : entries.shape[1]]
        places = (cos[None, None], sin[None, None])
        fused = seen.any(-1, keepdim=True)
        # Softmax over nothing is not a number: positions without fusion look at all entries, and what they
        # get is dropped.
        seen = (seen | ~fused)[:, None]
        x = F.dropout(hidden, DROPOUT, self.training)
        for layer in omni.model.top_audio_layers:
            assert isinstance(layer, Layer), "a stack is made of layers"
            prefix, old = layer.attend_prefix(prefix, rows.prefix_rotary)
            x = layer.attend(x, old, rows)
            x = x + fused * _fusion(layer.audio_text_attn, x, text, rows, places, seen)
            x = layer.think(x)
            prefix = layer.think(prefix)
        out: Tensor = omni.model.top_audio_norm(x)
        return out


def _fusion(
    attention: Attention, x: Tensor, text: Tensor, rows: Rows, places: Rotary, seen: Tensor
) -> Tensor:
    k, v = attention.entries(once_cast(text), places)
    return attention.out(attend(attention.queries(once_cast(x), rows.rotary), k, v, mask=seen))


def _is_last(batch: TrackBatch, span: tuple[int, int, Utterance]) -> bool:
    """Whether this utterance is the last of its row: the reply."""
    return all(other[0] != span[0] or other[1] <= span[1] for other in batch.spans)


def train_speaking(run: Run) -> None:
    torch.manual_seed(run.seed)
    model = Speaking(run)
    load_parts(model.omni, run.folder("hearing") / "state.pt", ("hearing",))
    train_only(model.omni, ("speaking",))
    utterances = Utterances(run.work, model.layout)
    tested = read_utterances(run.work, "test_heart", model.layout)[:NUM_TESTED]
    schedule = Schedule(run.num_steps or NUM_STEPS, PEAK, warmup=300)
    training = Training(
        model, run.folder("speaking"), schedule, seed=run.seed, save_every=500, weight_decay=0.1
    )

    def losses(step: int, rng: random.Random) -> Losses:
        said = [rng.choice(utterances.own) for _ in range(POOL * ROWS)]
        drawn = model.draw_spoken(said, utterances.heard, rng)
        return model.speak_losses(of_like_length(rng, drawn, len), rng)

    def evaluate() -> dict[str, float]:
        rng = random.Random(0)
        sums: dict[str, float] = {}
        for start in range(0, len(tested), ROWS):
            part = tested[start : start + ROWS]
            rows = model.draw_spoken(part, utterances.heard, rng)
            for name, value in model.speak_losses(rows, rng).all.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(part) / len(tested)
        return {f"held-out {name}": value for name, value in sums.items()}

    training.run(losses, evaluate)
