"""Units to mel in chunks: final mel never changes, and each frame gets the noise that it has in the whole.

A chunk continues what was said by the flow's own means, a prompt: the last units and their mel come before it
(CosyVoice, arXiv 2407.05407, 2.3). The frames of its look-ahead fade into the next chunk's, which computes
them again with more to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS, FlowParams
from antiphon.codec.flow.flow import FlowInput, UnitSpan
from antiphon.codec.noise import MEL, normal_rows, signed_seed
from antiphon.codec.voices import Voice
from antiphon.config import StreamSchedule
from antiphon.device.transfer import to_device
from antiphon.kernels.normal_rows import normal_rows as draw_rows

__all__ = ["FlowStream", "chunks_on_device"]


class FlowStream:
    """One utterance's way from units to mel. `chunk` may be called again until `take` has its mel."""

    def __init__(self, params: FlowParams, voice: Voice, seed: int, schedule: StreamSchedule) -> None:
        self.params = params
        self.voice = voice
        self.seed = seed
        self.schedule = schedule
        self.num_units = 0
        """Units that have come."""
        self.num_done = 0
        """Units whose mel is final."""
        self.is_complete = False
        """Whether the last unit has come."""
        self._units: list[int] = []
        """Units from `_first` on: the context of the next chunk, and those that are not done."""
        self._first = 0
        self._chunk_index = 0
        self._context_mel: Tensor | None = None
        """(80, frames) of the units `_first` .. `num_done` - 1"""
        self._fade: Tensor | None = None
        """(80, frames): the last chunk's look-ahead"""
        self._taken = 0
        """Units in the chunk that is being made; 0 if none is."""

    def add(self, units: list[int], *, complete: bool) -> None:
        assert not self.is_complete or not units, "no units follow the last ones"
        self._units += units
        self.num_units += len(units)
        self.is_complete = self.is_complete or complete

    @property
    def is_done(self) -> bool:
        """Whether the last of the mel has been made."""
        return self.is_complete and self.num_done == self.num_units

    def ready_units(self) -> int:
        """Length of the chunk that can be made now; 0: more units are needed, or none are left."""
        left = self.num_units - self.num_done
        length = self.schedule.chunk_units(self._chunk_index)
        if left >= length + self.schedule.lookahead_units:
            return length
        return left if self.is_complete else 0

    def ready_frames(self) -> int:
        """Mel frames that the chunk is computed with."""
        frames, heard = self.params.mel_frames, self.voice.prompt_mel
        own = frames(self._end(self.ready_units())) - frames(self._first)
        return own if heard is None else own + heard.shape[1]

    def chunks_left(self, num_more: int) -> list[tuple[int, int, int]]:
        """The chunks to come of the units that are here and `num_more` after them, if those are the last: for
        each, how many of the latter it waits for, the mel frames that become final, and those that it is
        computed with."""
        frames, schedule = self.params.mel_frames, self.schedule
        prompt = 0 if self.voice.prompt_mel is None else self.voice.prompt_mel.shape[1]
        chunks = []
        done, end, index = self.num_done, self.num_units + num_more, self._chunk_index
        while done < end:
            length = schedule.chunk_units(index)
            if end - done < length + schedule.lookahead_units:
                length = end - done
            first = max(0, done - schedule.context_units)
            last = min(done + length + schedule.lookahead_units, end)
            final = frames(done + length) - frames(done)
            chunks.append((max(0, last - self.num_units), final, prompt + frames(last) - frames(first)))
            done, index = done + length, index + 1
        return chunks

    def chunk(self, device: torch.device) -> FlowInput:
        """The input of the next chunk; `ready_units` must not be 0."""
        end = self._begin_chunk()
        units = torch.tensor(self._units[: end - self._first], device=device)
        own_prompt = 0 if self.voice.prompt_mel is None else self.voice.prompt_mel.shape[1]
        return self._input(units, torch.from_numpy(self._noise(own_prompt, end)).to(device))

    def _begin_chunk(self) -> int:
        """The number of the first unit that the chunk does not see."""
        length = self.ready_units()
        assert length, "a chunk is asked for only when one is ready"
        self._taken = length
        return self._end(length)

    def _input(self, units: Tensor, noise: Tensor) -> FlowInput:
        """units: from `_first` on; noise: (80, frames) as `_noise` gives it."""
        num_context = self.num_done - self._first
        said, heard = self.voice.prompt_units, self.voice.prompt_mel
        if num_context:
            assert self._context_mel is not None
            context = units[:num_context]
            said = context if said is None else torch.cat([said, context])
            heard = self._context_mel if heard is None else torch.cat([heard, self._context_mel], dim=1)
        return FlowInput(
            units=units[num_context:],
            embedding=self.voice.embedding,
            noise=noise,
            prompt_units=said,
            prompt_mel=heard,
            span=UnitSpan(self._first, num_context),
        )

    def take(self, mel: Tensor) -> Tensor:
        """Takes the chunk's mel from the flow, including the look-ahead; returns the final (80, frames)."""
        frames = self.params.mel_frames
        done, after = self.num_done, self.num_done + self._taken
        if self._fade is not None:
            mel = cross_fade(self._fade, mel)
        border = frames(after) - frames(done)
        final, ahead = mel[:, :border], mel[:, border:]
        self._fade = ahead.clone() if ahead.shape[1] else None
        self.num_done, self._taken = after, 0
        self._chunk_index += 1
        self._keep_context(final)
        return final

    def state(self) -> dict[str, Any]:
        """The state, for `restore`. Tensors are replaced, never written to, so they need not be copied."""
        return {**self.__dict__, "_units": list(self._units)}

    def restore(self, state: dict[str, Any]) -> None:
        """Return to the state that `state` gave."""
        self.__dict__.update(state)

    def _end(self, length: int) -> int:
        """The number of the first unit that a chunk of this length does not see."""
        return min(self.num_done + length + self.schedule.lookahead_units, self.num_units)

    def _keep_context(self, final: Tensor) -> None:
        frames = self.params.mel_frames
        first = max(self._first, self.num_done - self.schedule.context_units)
        known = final if self._context_mel is None else torch.cat([self._context_mel, final], dim=1)
        # A copy: a view would keep everything before it alive.
        self._context_mel = known[:, frames(first) - frames(self._first) :].clone()
        del self._units[: first - self._first]
        self._first = first

    def _noise(self, own_prompt: int, end: int) -> np.ndarray:
        """(80, frames) for the voice's prompt, which lies before frame 0, and for the units' own frames."""
        first, last = self.params.mel_frames(self._first), self.params.mel_frames(end)
        rows = normal_rows(self.seed, MEL, first, last - first, MEL_BANDS)
        if own_prompt:
            rows = np.concatenate([normal_rows(self.seed, MEL, -own_prompt, own_prompt, MEL_BANDS), rows])
        return rows.T


def chunks_on_device(streams: Sequence[FlowStream], device: torch.device) -> list[FlowInput]:
    """`chunk` of each stream: all units go to the device in one copy, and the noise is drawn there."""
    count, frames = len(streams), streams[0].params.mel_frames
    units, bounds, prompts = [], [], []
    for stream in streams:
        end = stream._begin_chunk()
        units.append(stream._units[: end - stream._first])
        bounds.append((frames(stream._first), frames(end)))
        prompts.append(0 if stream.voice.prompt_mel is None else stream.voice.prompt_mel.shape[1])
    numbers = [signed_seed(stream.seed) for stream in streams]
    numbers += [first for first, _ in bounds] + [-prompt for prompt in prompts]
    parts = to_device(np.array(numbers + [unit for own in units for unit in own]), device)
    seeds, first, before, *own_units = parts.split([count] * 3 + [len(own) for own in units])
    noise = draw_rows(seeds, first, MEL, max(end - begin for begin, end in bounds), MEL_BANDS).mT
    said = draw_rows(seeds, before, MEL, max(prompts), MEL_BANDS).mT if any(prompts) else None
    inputs = []
    for i, (stream, (begin, end), prompt) in enumerate(zip(streams, bounds, prompts, strict=True)):
        own = noise[i, :, : end - begin]
        if said is not None and prompt:
            own = torch.cat([said[i, :, :prompt], own], dim=1)
        inputs.append(stream._input(own_units[i], own))
    return inputs


def cross_fade(old: Tensor, new: Tensor) -> Tensor:
    """`new` (channels, frames), its first frames blended gradually from `old`; the weights add up to 1."""
    length = min(old.shape[1], new.shape[1])
    weight = torch.arange(1, length + 1, dtype=new.dtype, device=new.device) / (length + 1)
    faded = torch.lerp(old[:, :length], new[:, :length], weight)
    return torch.cat([faded, new[:, length:]], dim=1)
