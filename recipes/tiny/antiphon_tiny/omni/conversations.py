"""Conversations as rows of ids, several behind one picture, each unseen by the others."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from antiphon.config import ModelConfig
from antiphon.inputs.chat import DEFAULT_SYSTEM, ChatLayout, Turn
from antiphon.text.tokenizer import Tokenizer
from antiphon_tiny.omni.pictures import patch_of
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.wordings import as_typed

__all__ = ["Batch", "Branch", "Layout", "Row"]

IGNORED = -100


@dataclass(frozen=True)
class Branch:
    """One conversation behind prefix and picture."""

    ids: list[int]
    targets: list[int]
    """The id that follows, where the assistant says it; else -100."""
    last: list[int]
    """The targets' places that belong to the last answer."""
    patches: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By the targets' places: the patches that the answer is read off, if there are any."""


@dataclass
class Row:
    branches: list[Branch] = field(default_factory=list)
    picture: int | None = None
    """Its number among the batch's pictures."""

    @property
    def num_ids(self) -> int:
        return sum(len(branch.ids) for branch in self.branches)


@dataclass(frozen=True)
class Batch:
    prefix: Tensor
    """int64 (prefix)"""
    ids: Tensor
    """int64 (rows, length); 0 at pictures and after the end"""
    targets: Tensor
    positions: Tensor
    mask: Tensor
    """bool (rows, length, prefix + length)"""
    pictures: Tensor
    """int64 (pictures): the rows that have one"""
    branches: Tensor
    """int64 (rows, length): the number of the conversation in its row; -1 elsewhere"""
    looks: Tensor
    """float32 (pictures, length, patches): where to look for what follows, as shares of the attention; all 0
    if there is nothing to look at"""


class Layout:
    """Turns conversations into ids in the runtime's chat layout."""

    word: Callable[[random.Random, str], str] = staticmethod(as_typed)
    """How a typed question is worded in training."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig, num_patches: int) -> None:
        self.encode = tokenizer.encode
        self.num_patches = num_patches
        self.eot = config.eot_token_id
        self._chat = ChatLayout(tokenizer, config)
        self.closing = self._chat.closing_ids()
        """What follows the content of a question, up to the content of its answer."""
        self.opening = self.prefix(None)[1:]
        """What precedes the content of a question."""

    def prefix(self, system: str | None = DEFAULT_SYSTEM) -> list[int]:
        """The beginning of a prompt, up to the content of its first question."""
        opening = [] if system is None else [Turn("system", (system,))]
        return self._chat.prompt_ids([*opening, Turn("user", ("",))])[: -len(self.closing)]

    def branch(self, sample: Sample, rng: random.Random | None = None) -> Branch:
        """rng: to vary the questions as people type them."""
        ids: list[int] = []
        targets: list[int] = []
        last: list[int] = []
        patches: dict[int, tuple[int, ...]] = {}
        for i, turn in enumerate(sample.turns):
            question = self.word(rng, turn.question) if rng else turn.question
            if i == 0:
                asked = self.encode("\n" + question) if sample.scene else self.encode(question)
            else:
                asked = [*self.opening, *self.encode(question)]
            asked += self.closing
            said = [*self.encode(turn.answer), self.eot]
            ids += [*asked, *said]
            last = list(range(len(targets) + len(asked) - 1, len(targets) + len(asked) - 1 + len(said)))
            if sample.scene and turn.rests_on:
                side = math.isqrt(self.num_patches)
                found = tuple(patch_of(sample.scene, shape, side) for shape in turn.rests_on)
                patches.update(dict.fromkeys(last, found))
            targets += [IGNORED] * (len(asked) - 1) + said + [IGNORED]
        return Branch(ids, targets, last, patches)

    def batch(self, rows: Sequence[Row], system: str | None = DEFAULT_SYSTEM) -> Batch:
        """Rows with a picture must come in the order of their pictures."""
        prefix = self.prefix(system)
        starts = [0 if row.picture is None else self.num_patches for row in rows]
        length = max(start + row.num_ids for start, row in zip(starts, rows, strict=True))
        size = (len(rows), length)
        ids, positions = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
        targets, branches = torch.full(size, IGNORED), torch.full(size, -1)
        num_pictures = sum(row.picture is not None for row in rows)
        looks = torch.zeros(num_pictures, length, self.num_patches)
        for r, (start, row) in enumerate(zip(starts, rows, strict=True)):
            positions[r, :start] = torch.arange(start)
            at = start
            for number, branch in enumerate(row.branches):
                span = slice(at, at + len(branch.ids))
                ids[r, span] = torch.tensor(branch.ids)
                targets[r, span] = torch.tensor(branch.targets)
                positions[r, span] = torch.arange(start, start + len(branch.ids))
                branches[r, span] = number
                for place, patches in branch.patches.items():
                    for patch in patches:
                        looks[r, at + place, patch] += 1 / len(patches)
                at += len(branch.ids)
        of_picture = torch.arange(length)[None] < torch.tensor(starts)[:, None]
        same = (branches[:, :, None] == branches[:, None, :]) | of_picture[:, None, :]
        order = torch.arange(length)
        seen = same & (order[None, :, None] >= order[None, None, :])
        mask = torch.cat([torch.ones(*size, len(prefix), dtype=torch.bool), seen], dim=2)
        pictures = torch.tensor(
            [r for r, row in enumerate(rows) if row.picture is not None], dtype=torch.int64
        )
        positions += len(prefix)
        return Batch(torch.tensor(prefix), ids, targets, positions, mask, pictures, branches, looks)
