"""What each stack reads: embeddings of ids, speech as it was heard, pictures, and the H of units.

The bottom layers' output for a prompt is kept here until the other stacks have read it, and that of the last
unit of each request.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from antiphon.model.batch import to_device
from antiphon.model.kept_images import KeptImages
from antiphon.model.omni import OmniModel
from antiphon.model.prompt_states import PromptStates
from antiphon.sched.plan import Chunk
from antiphon.sched.request import RequestState

__all__ = ["StackInputs"]


class StackInputs:
    """Of all requests, each by its row."""

    def __init__(self, model: OmniModel, images: KeptImages, max_num_seqs: int) -> None:
        self._model, self._images, self._device = model, images, model.device
        self._prompts: dict[int, PromptStates] = {}
        self.unit_hidden = torch.zeros(
            max_num_seqs + 1, model.config.hidden_size, dtype=model.dtype, device=model.device
        )
        """H of each request's last unit; the last row is of no request."""

    def forget(self, row: int) -> None:
        """The row has another request, or the same one again."""
        self._prompts.pop(row, None)

    def update_speech(self, request: RequestState) -> None:
        """An open request has another prompt: what was heard of it and has not been read is kept."""
        states = None if request.row is None else self._prompts.pop(request.row, None)
        if states is not None and (kept := states.updated()) is not None:
            assert request.row is not None
            self._prompts[request.row] = kept

    def is_unit_step(self, chunk: Chunk) -> bool:
        """Whether it is one unit that was just picked, whose H is needed only by the next top pass."""
        request = chunk.request
        assert request.row is not None
        if len(chunk) > 1 or chunk.start < request.num_speech_prompt:
            return False
        states = self._prompts.get(request.row)
        return states is None or chunk.start >= states.start + len(states.hidden)

    def keep(self, chunks: Sequence[Chunk], hidden: Tensor) -> list[list[int]]:
        """Keep the states (tokens, hidden) that later passes need; for each chunk, the labels of its
        unlabelled units. The vocabulary is read once for all speech that the LLM will hear, and once for the
        units of which only a label is needed."""
        heard: list[int] = []
        places: list[Tensor] = []  # where the soft embeddings of these rows go
        wanted: list[list[int]] = []
        offset = 0
        for chunk in chunks:
            request, rows = chunk.request, hidden[offset : offset + len(chunk)]
            if self.is_unit_step(chunk):
                assert request.row is not None
                self.unit_hidden[request.row] = rows[0]
                wanted.append([offset])
            else:
                states = self._states_of(chunk)
                first = chunk.start - states.start
                states.hidden[first : first + len(chunk)] = rows
                num_soft = min(chunk.end, request.num_speech_prompt) - chunk.start
                if states.soft is not None and num_soft > 0:
                    heard += range(offset, offset + num_soft)
                    places.append(states.soft[first : first + num_soft])
                wanted.append([offset + p - chunk.start for p in request.unlabelled(chunk.start, chunk.end)])
            offset += len(chunk)
        labels: dict[int, int] = {}
        if heard:
            soft, found = self._model.soft_embedding(self._rows(hidden, heard))
            for place, rows in zip(places, soft.split([len(place) for place in places]), strict=True):
                place.copy_(rows)
            labels.update(zip(heard, found.tolist(), strict=True))
        rest = [row for rows in wanted for row in rows if row not in labels]
        if rest:
            found = self._model.ctc_labels(self._rows(hidden, rest))
            labels.update(zip(rest, found.tolist(), strict=True))
        return [[labels[row] for row in rows] for rows in wanted]

    def _rows(self, hidden: Tensor, rows: list[int]) -> Tensor:
        return hidden.index_select(0, to_device(np.array(rows), self._device))

    def drop_read(self) -> None:
        """Drop what every stack has read."""
        for row, states in list(self._prompts.items()):
            request = states.request
            if request.row == row:
                heard = not request.speaks or request.top_computed >= states.start + len(states.hidden)
                thought = not request.is_unread or request.text.num_computed >= request.num_text_prompt
                if not heard or not (thought or states.soft is None):
                    continue
            del self._prompts[row]

    def text(self, chunks: Sequence[Chunk]) -> Tensor:
        """Input embeddings (tokens, hidden) of ids, of speech as it was heard, and of pictures."""
        ids = np.concatenate(
            [np.frombuffer(c.request.text.ids, dtype=np.int64)[c.start : c.end] for c in chunks]
        )
        x = self._model.embed_text(to_device(ids, self._device))
        offset = 0
        for chunk in chunks:
            if chunk.start < chunk.request.num_text_prompt:
                self._fill_prompt(x[offset : offset + len(chunk)], chunk)
            offset += len(chunk)
        return x

    def top(self, chunks: Sequence[Chunk]) -> Tensor:
        """What the top layers read (tokens, hidden)."""
        if not self._prompts:
            rows = to_device(np.array([c.request.row for c in chunks]), self._device)
            return self.unit_hidden.index_select(0, rows)
        parts = []
        for chunk in chunks:
            assert chunk.request.row is not None
            if self.is_unit_step(chunk):
                parts.append(self.unit_hidden[chunk.request.row : chunk.request.row + 1])
            else:
                states = self._prompts[chunk.request.row]
                parts.append(states.hidden[chunk.start - states.start : chunk.end - states.start])
        return torch.cat(parts)

    def _fill_prompt(self, x: Tensor, chunk: Chunk) -> None:
        request = chunk.request
        first, last = request.speech_before(chunk.start), request.speech_before(chunk.end)
        # A chunk inside a picture needs nothing that was heard: after a cached prefix, it may run before
        # the bottom layers do.
        if request.is_soft and first < last:
            assert request.row is not None
            states = self._prompts[request.row]
            assert states.soft is not None
            # Copied stretch by stretch: a list of places would be sent to the device, and waited for.
            while first < last:
                place = request.text_position(first) - chunk.start
                after = (s.start - chunk.start for s in request.image_spans if s.start - chunk.start > place)
                end = min(last, first + next(after, len(x)) - place)
                x[place : place + end - first] = states.soft[first - states.start : end - states.start]
                first = end
        for span in request.image_spans:
            start, end = max(span.start, chunk.start), min(span.end, chunk.end)
            if start < end:
                features = self._images.features(request.prompt.images[span.index])
                x[start - chunk.start : end - chunk.start] = features[start - span.start : end - span.start]

    def _states_of(self, chunk: Chunk) -> PromptStates:
        request = chunk.request
        assert request.row is not None
        states = self._prompts.get(request.row)
        if states is None:
            states = self._prompts[request.row] = PromptStates.of(request, chunk.start, self.unit_hidden)
        return states
