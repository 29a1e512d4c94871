"""Decode steps on the CPU, each in one call: one position of each request, the likeliest ids.

What `decode.py` is to a GPU: of a step of milliseconds, tensors for a few numbers and the calls between the
kernels would take a good part. All else, prompts, several positions of a request, and ids that are sampled,
goes kernel by kernel, to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from antiphon.kernels.decode_step import DecodeStep, WindowEntries, runs_natively
from antiphon.model.cache import PagedKVCache
from antiphon.model.omni import OmniModel
from antiphon.model.windows import FusionWindows
from antiphon.sched.plan import Chunk, Spoken
from antiphon.sched.track import Track

__all__ = ["NativeDecoding"]


class NativeDecoding:
    """The three kinds of steps of one model over its caches."""

    def __init__(
        self, model: OmniModel, cache: PagedKVCache, windows: FusionWindows, unit_hidden: Tensor
    ) -> None:
        """unit_hidden: (rows, hidden), H of each request's last unit. The model `is_supported`."""
        weights, num_bottom = model.weights, model.config.num_bottom_audio_layers
        self._model, self._windows = model, windows
        self._text: DecodeStep | None = None
        if model.has_llm:
            self._text = DecodeStep(weights.embed_tokens, model.text_layers, model.lm_head, cache.text)
        self._bottom = DecodeStep(
            weights.audio_embed_tokens,
            model.bottom_layers,
            model.ctc_head,
            cache.speech[:num_bottom],
            kept=unit_hidden,
        )
        self._top = DecodeStep(
            unit_hidden, model.top_layers, model.unit_head, cache.speech[num_bottom:], windows=windows.cache
        )
        self._entries = WindowEntries(
            weights.text_to_audio_proj,
            model.fusion_kv,
            model.cos_sin,
            windows.cache,
            head_dim=model.config.head_dim,
        )

    @staticmethod
    def is_supported(model: OmniModel) -> bool:
        """Whether all of it runs in the C++ kernels."""
        stacks = [model.bottom_layers, model.top_layers]
        if model.has_llm:
            stacks.append(model.text_layers)
        products = model.lm_head, model.ctc_head, model.unit_head, model.fusion_kv
        return all(runs_natively(stack, *products) for stack in stacks)

    def think(self, chunks: Sequence[Chunk]) -> list[int]:
        """The likeliest text ids after ids that are known."""
        assert self._text is not None, "the LLM is elsewhere"
        tracks = [chunk.request.text for chunk in chunks]
        starts = [chunk.start for chunk in chunks]
        ids = [track.ids[start] for track, start in zip(tracks, starts, strict=True)]
        return self._text(ids, starts, _slots(tracks, starts), [track.block_table for track in tracks])

    def hear(self, chunks: Sequence[Chunk]) -> list[int]:
        """The labels of units that were picked before; their H goes to their requests' rows."""
        tracks, rows, starts = _speech(chunks), _rows(chunks), [chunk.start for chunk in chunks]
        ids = [track.ids[start] for track, start in zip(tracks, starts, strict=True)]
        tables = [track.block_table for track in tracks]
        return self._bottom(ids, starts, _slots(tracks, starts), tables, keep=rows)

    def speak(self, chunks: Sequence[Chunk]) -> Spoken:
        """The likeliest units after the units at these positions, whose H is in their requests' rows. They
        are heard at once, but for those that have no block yet."""
        tracks, rows, starts = _speech(chunks), _rows(chunks), [chunk.start for chunk in chunks]
        tokens: list[int] = []
        valid: list[int] = []
        entries: list[int] = []
        slots: list[int] = []
        ids: list[int] = []
        for token, (chunk, row) in enumerate(zip(chunks, rows, strict=True)):
            request, visible = chunk.request, chunk.request.visible_at(chunk.start)
            if visible == 0:
                continue  # the text ended before there was anything to say
            assert request.speaking is not None
            for entry in self._windows.take(row, visible):
                entries.append(entry)
                slots.append(self._windows.slot(row, entry))
                ids.append(request.speaking.fusion_ids[entry])
            tokens.append(token)
            valid.append(min(visible, self._windows.size))
        if ids:
            self._entries.write(ids, slots, entries)
        picked = self._top(
            rows,
            starts,
            _slots(tracks, starts),
            [track.block_table for track in tracks],
            fused_tokens=tokens,
            fused_rows=[rows[token] for token in tokens],
            fused_valid=valid,
        )
        units = self._model.units_of(picked)
        return Spoken(units, self._heard(units, tracks, rows, [start + 1 for start in starts]))

    def _heard(
        self, units: list[int], tracks: list[Track], rows: list[int], positions: list[int]
    ) -> list[int | None]:
        """The labels of units at positions that are known next; None where there is no block yet."""
        labels: list[int | None] = [None] * len(units)
        places = [
            place
            for place, (track, position) in enumerate(zip(tracks, positions, strict=True))
            if position < len(track.block_table) * track.block_size
        ]
        if places:
            tracks, positions = [tracks[place] for place in places], [positions[place] for place in places]
            found = self._bottom(
                [units[place] for place in places],
                positions,
                _slots(tracks, positions),
                [track.block_table for track in tracks],
                keep=[rows[place] for place in places],
            )
            for place, label in zip(places, found, strict=True):
                labels[place] = label
        return labels


def _speech(chunks: Sequence[Chunk]) -> list[Track]:
    return [chunk.request.speech for chunk in chunks]  # type: ignore[misc]


def _rows(chunks: Sequence[Chunk]) -> list[int]:
    return [chunk.request.row for chunk in chunks]  # type: ignore[misc]


def _slots(tracks: Sequence[Track], positions: Sequence[int]) -> list[int]:
    return [
        track.block_table[position // track.block_size] * track.block_size + position % track.block_size
        for track, position in zip(tracks, positions, strict=True)
    ]
