"""Prompts of the lengths that a trace gives: ids that are equal where their contents are, and nowhere
else."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from antiphon.bench.simulate.costs import Served
from antiphon.bench.simulate.traffic import Arrival
from antiphon.prompt import IMAGE_ID, GrowingPrompt, MergePlan, PreparedImage, Prompt
from antiphon.types import UNITS_PER_S

__all__ = ["Prompts"]

CLOSING_IDS = 5
"""Of the ids around a message, those that follow it."""
HISTORY_SHARE = 0.5
"""Of the longest sequence, what a conversation's earlier turns may take: the oldest are no longer read."""


class Prompts:
    """The prompts of one fleet's requests, which know the earlier turns of their conversations."""

    def __init__(self, served: Served) -> None:
        model, settings = served.model, served.settings
        self._served = served
        self._model = model
        self._longest = min(settings.max_model_len, model.max_position_embeddings)
        self._opening = tuple(range(2, 2 + max(1, served.num_prompt_ids - CLOSING_IDS)))
        self._closing = tuple(range(1000, 1000 + CLOSING_IDS))
        self._speaking = (*self._opening, *self._closing)
        self._turns: dict[str, list[tuple[tuple[int, ...], tuple[str, ...]]]] = {}
        """By conversation: the ids and pictures of its earlier turns, with their replies."""
        self._num_made = 0

    def make(self, arrival: Arrival) -> tuple[Prompt, GrowingPrompt | None]:
        """The prompt of the next request; and if it is heard while it is spoken, what it begins as."""
        self._num_made += 1
        history = self._turns.get(arrival.conversation, []) if arrival.conversation else []
        name = f"{arrival.conversation}, {len(history)}" if arrival.conversation else arrival.prompt
        rng = random.Random(_seed(name or f"request {self._num_made}"))
        typed = self._text(rng, arrival.text_tokens)
        num_units = max(1, round(arrival.speech_s * UNITS_PER_S)) if arrival.speech_s else 0
        first = self._model.first_unit_id
        units = tuple(first + unit for unit in rng.choices(range(self._model.audio_vocab_size), k=num_units))
        marks = (IMAGE_ID, 1) * len(arrival.pictures)
        own = (*marks, *typed, *units)
        before: tuple[int, ...] = ()
        pictures: tuple[str, ...] = ()
        for ids, shown in self._kept(history, len(own)):
            before, pictures = before + ids, pictures + shown
        if arrival.conversation:
            reply = self._text(rng, arrival.reply_tokens)
            self._turns.setdefault(arrival.conversation, []).append(
                ((*own, *self._closing, *reply, *self._closing), arrival.pictures)
            )
        ids = (*self._opening, *before, *own, *self._closing)
        images = tuple(self._image(picture) for picture in (*pictures, *arrival.pictures))
        prompt = self._prompt(ids, images, num_units)
        if not arrival.realtime:
            return prompt, None
        start = (*self._opening, *before, *marks, *typed)
        begun = self._prompt(start, images, 0)
        growing = GrowingPrompt(
            ids=start,
            images=images,
            unit_positions=begun.unit_positions,
            closing=self._closing,
            first_unit_id=first,
        )
        return prompt, growing

    def units_of(self, prompt: Prompt) -> tuple[int, ...]:
        """The units of its last message, numbered from 0."""
        ids = prompt.speech_ids
        positions = prompt.unit_positions[len(prompt.unit_positions) - prompt.num_last_units :]
        return tuple(ids[position] - self._model.first_unit_id for position in positions)

    def _kept(
        self, history: list[tuple[tuple[int, ...], tuple[str, ...]]], num_own: int
    ) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
        """The latest turns that there is room for."""
        room, kept = HISTORY_SHARE * self._longest - num_own, list[tuple[tuple[int, ...], tuple[str, ...]]]()
        per_picture = self._served.picture_tiles * self._served.picture_side**2
        for ids, pictures in reversed(history):
            room -= len(ids) + len(pictures) * per_picture
            if room < 0:
                break
            kept.append((ids, pictures))
        return kept[::-1]

    def _prompt(self, ids: tuple[int, ...], images: tuple[PreparedImage, ...], num_units: int) -> Prompt:
        first, spoken = self._model.first_unit_id, [token for token in ids if token != IMAGE_ID]
        positions = tuple(i for i, token in enumerate(spoken) if token >= first)
        return Prompt(
            ids=ids,
            images=images,
            unit_positions=positions,
            num_last_units=num_units,
            speaking_ids=None if positions else self._speaking,
        )

    def _text(self, rng: random.Random, count: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(10, min(900, self._model.first_unit_id)), k=count))

    def _image(self, name: str) -> PreparedImage:
        """A picture of whole tiles; nobody looks at it."""
        plan = MergePlan(self._served.picture_tiles, self._served.picture_side)
        return PreparedImage(np.zeros(0, np.uint8), plan, hashlib.sha256(name.encode()).digest())


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
