"""Decode steps of chunks of one position each: their numbers into a recording, its results back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from antiphon.model.block_tables import BlockTables
from antiphon.model.recordings import NO_SLOT, Recorded, Recordings
from antiphon.model.sampler import MAX_TEMPERATURE, MAX_TOP_K, int64
from antiphon.model.windows import FusionWindows
from antiphon.sched.plan import Chunk, Spoken
from antiphon.types import SamplingParams

__all__ = ["Decoding"]

GREEDY = SamplingParams()


class Decoding:
    """Replays the recordings for chunks that the scheduler has planned."""

    def __init__(
        self,
        recordings: Recordings,
        windows: FusionWindows,
        max_num_seqs: int,
        meanwhile: Callable[[], None],
    ) -> None:
        """meanwhile: what the host does while the device computes."""
        self._meanwhile = meanwhile
        self.recordings = recordings
        self._windows = windows
        self._text_blocks = BlockTables(max_num_seqs, recordings.max_text_blocks)
        self._speech_blocks = BlockTables(max_num_seqs, recordings.max_speech_blocks)

    def hear(self, chunks: Sequence[Chunk]) -> list[int]:
        """The labels of units that were picked before."""
        recorded = self.recordings.of("hear", len(chunks))
        tracks = [chunk.request.speech for chunk in chunks]
        recorded.fill(
            "ids", [track.ids[c.start] for c, track in zip(chunks, tracks, strict=True) if track], 0
        )
        self._place(recorded, chunks, self._speech_blocks, is_text=False)
        labels: list[int] = recorded.run(self._meanwhile)[0, : len(chunks)].tolist()
        return labels

    def think(self, chunks: Sequence[Chunk]) -> list[int]:
        """The text ids that are picked after ids that are known."""
        params = [GREEDY if c.request.speaks else c.request.params for c in chunks]
        is_sampled = any(p.temperature != 0 for p in params)
        recorded = self.recordings.of("sampled text" if is_sampled else "text", len(chunks))
        recorded.fill("ids", [c.request.text.ids[c.start] for c in chunks], 0)
        self._place(recorded, chunks, self._text_blocks, is_text=True)
        if is_sampled:
            self._choose(recorded, chunks, params, [len(c.request.text_ids) for c in chunks])
        ids: list[int] = recorded.run(self._meanwhile)[0, : len(chunks)].tolist()
        return ids

    def speak(self, chunks: Sequence[Chunk]) -> Spoken:
        """The units that are picked after the units at these positions, whose H is in its rows."""
        count = len(chunks)
        valid: list[int] = []
        slots, entries, ids = list[int](), list[int](), list[int]()
        for chunk in chunks:
            request = chunk.request
            assert request.row is not None and request.speaking is not None
            visible = request.visible_at(chunk.start)
            valid.append(min(visible, self._windows.size))
            for entry in self._windows.take(request.row, visible):
                slots.append(self._windows.slot(request.row, entry))
                entries.append(entry)
                ids.append(request.speaking.fusion_ids[entry])
        params = [c.request.params for c in chunks]
        is_sampled = any(p.temperature != 0 for p in params)
        if is_sampled:
            recorded = self.recordings.of("sampled unit", count)
        elif not ids and self.recordings.without_entries(count):
            recorded = self.recordings.of("unit", count)
        else:
            recorded = self.recordings.of("unit with entries", count)
        table = self._place(recorded, chunks, self._speech_blocks, is_text=False)
        recorded.fill("num_valid", valid, 0)
        self._hear_next(recorded, chunks, table)
        if "entry_ids" in recorded.staging.host:
            room = len(recorded.staging.host["entry_ids"])
            if len(ids) > room:  # several for a request: when it begins, and after its text made it wait
                self._windows.append(ids[room:], slots[room:], entries[room:])
            recorded.fill("entry_ids", ids[:room], 0)
            recorded.fill("entry_slots", slots[:room], self.recordings.spare_entry_slot)
            recorded.fill("entry_positions", entries[:room], 0)
        if is_sampled:
            self._choose(recorded, chunks, params, [len(c.request.unit_ids) for c in chunks])
        found = recorded.run(self._meanwhile)
        labels = found[1, :count].tolist()
        is_heard = recorded.staging.host["next_slots"][:count] != NO_SLOT
        return Spoken(
            found[0, :count].tolist(),
            [label if heard else None for label, heard in zip(labels, is_heard.tolist(), strict=True)],
        )

    def _place(
        self, recorded: Recorded, chunks: Sequence[Chunk], tables: BlockTables, *, is_text: bool
    ) -> int:
        """Where the rows stand in their tracks, and where their keys and values are; returns the positions
        in a block."""
        rows: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        size = widest = 0
        for chunk in chunks:
            request, position = chunk.request, chunk.start
            track = request.text if is_text else request.speech
            assert request.row is not None and track is not None
            blocks, size = track.block_table, track.block_size
            tables.follow(request.row, track)
            widest = max(widest, len(blocks))
            block, offset = divmod(position, size)
            rows.append(request.row)
            slots.append(blocks[block] * size + offset)
            positions.append(position)
        host, count = recorded.staging.host, len(chunks)
        recorded.fill("rows", rows, self.recordings.num_spare_row)
        recorded.fill("slots", slots, NO_SLOT)
        recorded.fill("positions", positions, 0)
        host["contexts"][:count] = host["positions"][:count] + 1
        host["contexts"][count:] = 0
        host["blocks"][:count, :widest] = tables.array[rows, :widest]
        return size

    def _hear_next(self, recorded: Recorded, chunks: Sequence[Chunk], size: int) -> None:
        """Where the units that are picked will stand. One whose block is still to come is not heard yet."""
        host, count = recorded.staging.host, len(chunks)
        slots: list[int] = (host["slots"][:count] + 1).tolist()
        for row, chunk in enumerate(chunks):
            if chunk.end % size == 0:
                assert chunk.request.speech is not None
                blocks = chunk.request.speech.block_table
                has_room = chunk.end // size < len(blocks)
                slots[row] = blocks[chunk.end // size] * size if has_room else NO_SLOT
        recorded.fill("next_slots", slots, NO_SLOT)
        host["next_positions"][:count] = host["contexts"][:count]
        host["next_contexts"][:count] = (host["contexts"][:count] + 1) * (
            host["next_slots"][:count] != NO_SLOT
        )
        host["next_contexts"][count:] = 0

    def _choose(
        self,
        recorded: Recorded,
        chunks: Sequence[Chunk],
        params: Sequence[SamplingParams],
        num_picked: Sequence[int],
    ) -> None:
        recorded.fill("temperature", [min(p.temperature, MAX_TEMPERATURE) for p in params], 0)
        recorded.fill("top_k", [min(p.top_k, MAX_TOP_K) for p in params], 0)
        recorded.fill("top_p", [p.top_p for p in params], 1)
        recorded.fill("seeds", [int64(c.request.seed) for c in chunks], 0)
        recorded.fill("num_picked", num_picked, 0)
