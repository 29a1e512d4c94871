"""Decode steps as recordings: one for each kind of step and each of a few batch sizes.

A step of one request is some hundred kernels of microseconds each, and a GPU waits for the processor that
launches them. Recorded (see `device/cuda_graph.py`), they are launched at once. A recording holds all that a
step does on the device: the host fills arrays, has them copied there in one piece, replays, waits, and reads
the few results that are copied back.

    unit    windows take new text -> top layers -> unit head, pick -> embedding -> bottom layers -> CTC head
    text    embedding -> LLM layers -> head, pick
    hear    embedding -> bottom layers -> CTC head

A unit that was picked is heard at once, since whatever follows needs that. Only where it has no slot yet, and
for units that are computed again, the bottom layers run by themselves.

A recording has one size, so a batch is padded to the next recorded size with rows that belong to no request:
they have no keys, write none, and keep what they compute in a row of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from antiphon.device.cuda_graph import Capture
from antiphon.device.staging import Results, Shape, Staging
from antiphon.kernels.argmax_head import argmax_head
from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.fusion_attention import FusionBatch, fusion_cache_write
from antiphon.kernels.linear import Linear
from antiphon.kernels.sample import sample
from antiphon.model.cache import PagedKVCache
from antiphon.model.omni import OmniModel

__all__ = ["Kind", "Recorded", "Recordings", "decode_sizes"]

NO_SLOT = -1
MOST_WITHOUT_ENTRIES = 8
"""Up to this size there is a recording of unit steps in which no window takes new text: in larger batches
some request nearly always needs it, and its matrix is a twentieth of what a step reads."""

Kind = Literal["unit", "unit with entries", "sampled unit", "text", "sampled text", "hear"]

COLUMNS: dict[str, torch.dtype] = {
    "rows": torch.int64,
    "slots": torch.int64,
    "positions": torch.int32,
    "contexts": torch.int32,
}
UNIT_COLUMNS: dict[str, torch.dtype] = {
    "next_slots": torch.int64,
    "next_positions": torch.int32,
    "next_contexts": torch.int32,
    "num_valid": torch.int32,
}
ENTRY_COLUMNS: dict[str, torch.dtype] = {
    "entry_ids": torch.int64,
    "entry_slots": torch.int64,
    "entry_positions": torch.int32,
}
PICK_COLUMNS: dict[str, torch.dtype] = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float32,
    "seeds": torch.int64,
    "num_picked": torch.int64,
}


def decode_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes that are recorded: 1, 2, 4, then every 8 up to 256, then every 32."""
    sizes = [1, 2, 4, *range(8, 257, 8), *range(288, max_num_seqs + 32, 32)]
    return [size for size in sizes if size < max_num_seqs] + [max_num_seqs]


@dataclass(frozen=True, eq=False)
class Recorded:
    """One recording: where it reads its numbers, and where it leaves its results."""

    staging: Staging
    results: Results
    """(results of each row, size)"""
    replay: Callable[[], Tensor]
    wait: Callable[[], None]

    def fill(self, name: str, values: Sequence[Any], padding: float) -> None:
        """The numbers of the batch's rows in one column; the other rows get the padding."""
        column = self.staging.host[name]
        column[: len(values)] = values
        column[len(values) :] = padding

    def run(self, meanwhile: Callable[[], None]) -> NDArray[np.int64]:
        """Replay, and wait for the results, which last until the next call. meanwhile: what the host does
        before it waits."""
        self.staging.send()
        self.results.fetch(self.replay())
        meanwhile()
        self.wait()
        return self.results.numbers


class Recordings:
    """All recordings of one model over its caches. The rows of their results are those that the layers, heads
    and `sample` give."""

    def __init__(
        self,
        model: OmniModel,
        cache: PagedKVCache,
        windows: Tensor,
        unit_hidden: Tensor,
        capture: Capture,
        *,
        max_num_seqs: int,
        max_positions: int,
        attention_backend: str | None = None,
    ) -> None:
        """windows: (rows, window, layers, 2, heads * head_dim), whose last row is of no request. unit_hidden:
        (max_num_seqs + 1, hidden), likewise. attention_backend: see `AttentionPlanner.recorded_backend`"""
        self._model = model
        self._cache = cache
        self._windows = windows
        self._unit_hidden = unit_hidden
        self._capture = capture
        self._attention_backend = attention_backend
        self.sizes = decode_sizes(max_num_seqs)
        self.num_spare_row = max_num_seqs
        """The row of `unit_hidden` that is of no request."""
        self.spare_entry_slot = (len(windows) - 1) * windows.shape[1]
        self.max_text_blocks = -(-max_positions // cache.config.text_block_size)
        self.max_speech_blocks = -(-max_positions // cache.config.speech_block_size)
        self._recorded: dict[tuple[Kind, int], Recorded] = {}

    def record(self) -> Iterator[str]:
        """Record every kind at every size, the largest first, so that the others fit into its memory; yields
        the name of each before it is recorded."""
        for size in reversed(self.sizes):
            for kind, body in self._bodies(size):
                yield f"{kind}, {size}"
                self._recorded[kind, size] = self._record(kind, size, body)

    def of(self, kind: Kind, count: int) -> Recorded:
        """The recording for a batch of `count` rows."""
        return self._recorded[kind, next(size for size in self.sizes if size >= count)]

    def without_entries(self, count: int) -> bool:
        """Whether a unit step of that number of rows is recorded without new text for its windows as well."""
        return next(size for size in self.sizes if size >= count) <= MOST_WITHOUT_ENTRIES

    def _bodies(self, size: int) -> Iterator[tuple[Kind, Callable[[dict[str, Tensor]], Tensor]]]:
        model = self._model
        if model.has_llm:
            yield "sampled text", lambda d: self._think(d, _sampled(model.lm_head))
            yield "text", lambda d: self._think(d, _likeliest(model.lm_head))
        yield "sampled unit", lambda d: self._speak(d, _sampled(model.unit_head), has_entries=True)
        yield "unit with entries", lambda d: self._speak(d, _likeliest(model.unit_head), has_entries=True)
        if size <= MOST_WITHOUT_ENTRIES:
            yield "unit", lambda d: self._speak(d, _likeliest(model.unit_head), has_entries=False)
        yield "hear", self._hear

    def _record(self, kind: Kind, size: int, body: Callable[[dict[str, Tensor]], Tensor]) -> Recorded:
        device = self._unit_hidden.device
        staging = Staging(self._fields(kind, size), device)
        results = Results((2 if "unit" in kind else 1, size), device)
        staging.device["starts"] = torch.arange(size + 1, dtype=torch.int32, device=device)
        for name, column in staging.host.items():  # while it is recorded, all rows are padding
            column[:] = self.padding(name)
        staging.send()
        self._capture.wait()
        return Recorded(staging, results, self._capture(lambda: body(staging.device)), self._capture.wait)

    def padding(self, column: str) -> float:
        """What the rows of no request have in a column."""
        if column in ("slots", "next_slots"):
            return NO_SLOT
        if column == "rows":
            return self.num_spare_row
        if column == "entry_slots":
            return self.spare_entry_slot
        return 1 if column == "top_p" else 0

    def _fields(self, kind: Kind, size: int) -> dict[str, tuple[torch.dtype, Shape]]:
        columns = dict(COLUMNS)
        if "unit" in kind:
            columns |= UNIT_COLUMNS | (ENTRY_COLUMNS if kind != "unit" else {})
        else:
            columns["ids"] = torch.int64
        if "sampled" in kind:
            columns |= PICK_COLUMNS
        max_blocks = self.max_text_blocks if "text" in kind else self.max_speech_blocks
        fields: dict[str, tuple[torch.dtype, Shape]] = {
            name: (dtype, (size,)) for name, dtype in columns.items()
        }
        return fields | {"blocks": (torch.int32, (size, max_blocks))}

    # --- what is recorded ---------------------------------------------------------------------

    @property
    def _num_bottom(self) -> int:
        return self._model.config.num_bottom_audio_layers

    def _think(self, given: dict[str, Tensor], pick: Callable[[Tensor, dict[str, Tensor]], Tensor]) -> Tensor:
        model = self._model
        states = model.think(model.embed_text(given["ids"]), self._batch(given), self._cache.text)
        return pick(states, given)[None]

    def _hear(self, given: dict[str, Tensor]) -> Tensor:
        return self._heard(given["ids"], given, self._batch(given))[None]

    def _speak(
        self,
        given: dict[str, Tensor],
        pick: Callable[[Tensor, dict[str, Tensor]], Tensor],
        *,
        has_entries: bool,
    ) -> Tensor:
        model, rows = self._model, given["rows"]
        if has_entries:
            fusion_cache_write(
                model.fusion_entries(given["entry_ids"]),
                given["entry_slots"],
                given["entry_positions"],
                model.cos_sin,
                self._windows,
                head_dim=model.config.head_dim,
                checked=False,
            )
        fusion = FusionBatch(
            tokens=None,
            rows=rows,
            num_valid=given["num_valid"],
            positions=given["positions"],
            cache=self._windows,
        )
        hidden = self._unit_hidden.index_select(0, rows)
        states = model.speak(hidden, self._batch(given), self._cache.speech[self._num_bottom :], fusion)
        ids = model.units_on_device(pick(states, given))
        labels = self._heard(ids, given, self._batch(given, "next_"))
        return torch.stack([ids, labels])

    def _heard(self, ids: Tensor, given: dict[str, Tensor], batch: AttentionBatch) -> Tensor:
        """Have the bottom layers hear units: their H goes to its rows, their labels come out."""
        hidden = self._model.hear(ids, batch, self._cache.speech[: self._num_bottom])
        self._unit_hidden.index_copy_(0, given["rows"], hidden)
        return self._model.ctc_labels(hidden)

    def _batch(self, given: dict[str, Tensor], which: str = "") -> AttentionBatch:
        return AttentionBatch(
            positions=given[f"{which}positions"],
            slot_mapping=given[f"{which}slots"],
            cu_seqlens_q=given["starts"],
            context_lens=given[f"{which}contexts"],
            block_table=given["blocks"],
            backend=self._attention_backend,
        )


def _likeliest(head: Linear) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
    return lambda states, given: argmax_head(states, head, checked=False)[0][:, 0]


def _sampled(head: Linear) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
    def pick(states: Tensor, given: dict[str, Tensor]) -> Tensor:
        return sample(
            head(states),
            given["temperature"],
            given["top_k"],
            given["top_p"],
            given["seeds"],
            given["num_picked"],
        )

    return pick
