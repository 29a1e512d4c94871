"""A request as the scheduler sees it: two tracks, and what is known and computed of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from antiphon.config import CacheConfig, ModelConfig
from antiphon.prompt import IMAGE_ID
from antiphon.sched.speaking import SpeakingState
from antiphon.sched.track import Track
from antiphon.types import FinishReason, SamplingParams

if TYPE_CHECKING:
    from antiphon.prompt import Prompt

__all__ = ["NO_ID", "SOFT_KEY", "RequestState"]

NO_ID = 0
"""Stands in a text track where the LLM reads a picture or a soft embedding. Every vocabulary has it: it is
looked up like the other ids, and the result is overwritten."""
SOFT_KEY = 1 << 40
"""Added to an id whose LLM input is its soft embedding: the same id embedded plainly has another key."""


@dataclass(frozen=True)
class ImageSpan:
    """Where a picture's features stand in the text track, [start, end)."""

    index: int
    start: int
    end: int


class RequestState:
    """Everything about one request that is not a tensor.

    The text track holds the prompt with its pictures, then the text ids. The speech track holds the
    prompt without pictures (or, for text input, the speaking prompt), then the unit ids; its blocks
    hold bottom and top layers. An id becomes *known* when it is picked, and its position is
    *computed* when a stack has run over it:

        text:    [ prompt ............ | text ids ........ ]
                                   ^ text.num_computed     ^ len(text)
        speech:  [ prompt ....... | unit ids ...... ]
                             ^ top_computed <= ^ speech.num_computed   (bottom)
    """

    def __init__(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        speaks: bool,
        transcribes: bool = False,
        config: ModelConfig,
        cache: CacheConfig,
        carries_speech: Callable[[int], bool],
        seed: int = 0,
        speaking: type[SpeakingState] = SpeakingState,
        text_elsewhere: bool = False,
    ) -> None:
        """text_elsewhere: its LLM is not ours, see `sched.elsewhere`."""
        self.request_id = request_id
        self.prompt = prompt
        self.is_growing = prompt.is_growing
        """The user is still speaking: the prompt may change, and nothing is picked from its last position."""
        self.is_speculative = False
        """Nobody waits for it yet: it comes after all others. `Scheduler.confirm` changes that."""
        self.params = params
        self.speaks = speaks
        self.transcribes = transcribes
        """Only the labels of its units are wanted: nothing is picked."""
        self.seed = seed
        self.finish_reason: FinishReason | None = None
        """Why it ended; None until it has. Set by `Scheduler.finish`, and by nothing else."""
        self.row: int | None = None
        """Its row in the runner's per-request tensors while it runs; None while it does not."""
        self.admitted_s: float | None = None
        """When it was first admitted, on the clock of `time.perf_counter`."""
        self.num_preemptions = 0
        self.num_faults = 0
        """Failed passes that it was part of."""
        self.num_cached_tokens: int | None = None
        self.text_elsewhere = text_elsewhere
        """Its text track holds no blocks: of its prompt and its text, only the ids are known here."""
        self.is_asked = False
        """An LLM elsewhere has its prompt, so nothing of it has to be read to that again."""
        self._stop_ids = config.stop_token_ids
        self._eot = config.eot_token_id

        self.is_soft = prompt.has_speech
        """The LLM reads the prompt through soft embeddings."""
        self.image_spans: list[ImageSpan] = []
        self.text_ids: list[int] = []
        text_ids, text_keys = self._text_prompt()
        self.text = Track(cache.text_block_size, b"text", text_ids, keys=text_keys)
        self.num_text_prompt = len(self.text)
        for token in prompt.reply_ids:
            self.text_ids.append(token)
            self.text.append(token)

        self.unit_ids: list[int] = []
        self.top_computed = 0
        self.speech: Track | None = None
        self.speaking: SpeakingState | None = None
        self.speech_ids: Sequence[int] = ()
        """The speech track's prompt."""
        if prompt.has_speech or speaks:
            self.speech_ids = prompt.speech_ids if prompt.has_speech else (prompt.speaking_ids or ())
            # the last prompt position of a speaking request attends to text, so it is not shared
            shareable = len(self.speech_ids) - 1 if speaks else None
            seed_bytes = b"bottom+top" if speaks else b"bottom"
            self.speech = Track(cache.speech_block_size, seed_bytes, self.speech_ids, shareable)
        if speaks:
            self.speaking = speaking(
                blank=config.blank_token_id,
                eot=config.eot_token_id,
                lag=config.fusion_lag,
                carries_speech=carries_speech,
                text_input=not prompt.has_speech,
            )
        self.num_speech_prompt = len(self.speech_ids)
        self.prompt_labels: list[int | None] = [None] * self.num_speech_prompt
        """CTC labels of the prompt's units, as far as they have been read; None elsewhere."""
        self.unit_positions = frozenset(prompt.unit_positions) if prompt.has_speech else frozenset()
        if prompt.reply_ids:
            self.take_text()

    # --- an open prompt -----------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether something is left to compute. An open request has nothing left while its user is silent."""
        if not self.is_growing:
            return not self.finished
        assert self.speech is not None
        # the top layers skip the last known position until another follows: it might be the prompt's last
        return (
            self.speech.num_computed < len(self.speech)
            or (self.holds_text and self.text.num_computed < len(self.text))
            or self.top_computed < self.top_ready()
        )

    def num_same(self, prompt: Prompt) -> int:
        """How many speech positions at their start this prompt and another have in common."""
        pairs = zip(self.speech_ids, prompt.speech_ids, strict=False)
        shorter = min(len(self.speech_ids), len(prompt.speech_ids))
        return next((i for i, (old, new) in enumerate(pairs) if old != new), shorter)

    def update_speech(self, prompt: Prompt) -> None:
        """Give an open request another prompt, once the tails of its tracks have been replaced."""
        assert self.is_growing and self.speech is not None
        labels = self.prompt_labels[: self.num_same(prompt)]
        self.prompt, self.is_growing = prompt, prompt.is_growing
        self.speech_ids = prompt.speech_ids
        self.num_text_prompt = len(self.text)
        self.num_speech_prompt = len(self.speech_ids)
        self.prompt_labels = labels + [None] * (self.num_speech_prompt - len(labels))
        self.unit_positions = frozenset(prompt.unit_positions)
        if self.speaks:
            self.speech.num_shareable = self.num_speech_prompt - 1

    def restart(self) -> None:
        """Keep what is known, and count none of it as computed: used after a fault, which may have come
        between any two lines."""
        self.row = None
        self.top_computed = 0
        self.text.restart(self.num_text_prompt, self.text_ids)
        if self.speech is not None:
            self.speech.restart(self.num_speech_prompt, self.unit_ids)
        if self.speaking is not None:
            self.speaking = self.speaking.again(self.text_ids, text_ended=self.text_ended)

    # --- text ---------------------------------------------------------------------------------

    @property
    def needs_text(self) -> bool:
        """The LLM has something to compute for this request, now or later."""
        if self.finish_reason is not None or self.transcribes:
            return False
        return self.speaking is None or not (self.speaking.silent or self.text_ended)

    @property
    def holds_text(self) -> bool:
        """Its text track is computed here, and holds blocks."""
        return self.needs_text and not self.text_elsewhere

    @property
    def is_unread(self) -> bool:
        """An LLM reads its prompt, now or later; elsewhere it reads it once."""
        return self.needs_text and not self.is_asked

    @property
    def waits_for_text(self) -> bool:
        return (self.speaking is None or self.speaking.waits) and self.needs_text

    @property
    def text_ended(self) -> bool:
        """The text of a spoken reply is complete: it has reached its end of turn or its length limit."""
        ids = self.text_ids
        return self.speaks and bool(ids) and (ids[-1] == self._eot or len(ids) >= self.max_tokens)

    @property
    def num_text_ahead(self) -> int:
        """Decoded text tokens that speech has not asked for."""
        return len(self.text_ids) - self.speaking.num_consumed if self.speaking else 0

    @property
    def shown_text_ids(self) -> list[int]:
        """The text of the reply so far; of a spoken reply, only what speech has asked for."""
        return self.text_ids if self.speaking is None else self.text_ids[: self.speaking.num_consumed]

    @property
    def has_cut_text(self) -> bool:
        """Speech has consumed all of a text that was cut off by its length limit."""
        shown = self.shown_text_ids
        return self.speaks and len(shown) >= self.max_tokens and shown[-1] != self._eot

    @property
    def text_stop_ids(self) -> frozenset[int]:
        """The ids that end its text: end of turn alone if it is spoken."""
        if self.speaks:
            return frozenset((self._eot,))
        return frozenset(() if self.params.ignore_eos else self._stop_ids)

    @property
    def max_tokens(self) -> float:
        return math.inf if self.params.max_tokens is None else self.params.max_tokens

    def text_ready(self) -> int:
        """How many text positions have their inputs: soft embeddings come from the bottom layers."""
        if not self.is_soft or self.speech is None:
            return len(self.text)
        if self.speech.num_computed >= self.num_speech_prompt:
            return len(self.text)
        return self.text_position(self.speech.num_computed)

    def text_position(self, speech_position: int) -> int:
        """Where a position of a spoken prompt stands in the text track: pictures before it shift it."""
        position = speech_position
        for span in self.image_spans:
            if span.start > position:
                break
            position += span.end - span.start
        return position

    def speech_before(self, text_position: int) -> int:
        """How many positions of a spoken prompt stand before this position of the text track."""
        images = sum(min(s.end, text_position) - s.start for s in self.image_spans if s.start < text_position)
        return min(text_position - images, self.num_speech_prompt)

    def add_text(self, token: int) -> None:
        """Add a text id that was picked."""
        self.text_ids.append(token)
        self.text.append(token)
        self.take_text()

    def end_text(self) -> None:
        """The LLM elsewhere has no room for more text: its length is that of what has come."""
        self.params = replace(self.params, max_tokens=len(self.text_ids))
        self.take_text()

    def take_text(self) -> None:
        """Let speech consume the text that it waits for."""
        if self.speaking is not None and self.speaking.waits:
            self.speaking.consume(self.text_ids, text_ended=self.text_ended)

    # --- speech -------------------------------------------------------------------------------

    @property
    def num_speech_known(self) -> int:
        return len(self.speech) if self.speech is not None else 0

    def top_ready(self) -> int:
        """How many positions the top layers may compute: the prompt's last and all units need their text."""
        if self.speaking is None or self.speech is None:
            return 0
        return min(self.speech.num_computed, self.num_speech_prompt - 1 + len(self.speaking.visible))

    def visible_at(self, position: int) -> int:
        """How many fusion entries a speech position may attend to; 0 before the prompt's last position."""
        step = position - (self.num_speech_prompt - 1)
        if step < 0:
            return 0
        assert self.speaking is not None
        return self.speaking.visible[step]

    def unlabelled(self, start: int, end: int) -> list[int]:
        """Speech positions of [start, end) whose CTC label is wanted: units that have not been read."""
        assert self.speaking is not None or self.is_soft
        if self.speaking is not None and start >= self.num_speech_prompt:
            return list(range(max(start, self.num_speech_prompt + len(self.speaking.unit_labels)), end))
        prompt = [
            p
            for p in range(start, min(end, self.num_speech_prompt))
            if p in self.unit_positions and self.prompt_labels[p] is None
        ]
        if self.speaking is None:
            return prompt
        read = self.num_speech_prompt + len(self.speaking.unit_labels)
        return prompt + list(range(max(start, read), end))

    def add_label(self, position: int, label: int) -> None:
        """Add the CTC label of a unit; labels come in order of position."""
        if position < self.num_speech_prompt:
            self.prompt_labels[position] = label
        else:
            assert self.speaking is not None
            self.speaking.read_back(label)
            self.take_text()

    def add_unit(self, unit_id: int) -> FinishReason | None:
        """Add a unit id that was picked; returns why the reply ends with it, None if it goes on."""
        assert self.speech is not None
        self.unit_ids.append(unit_id)
        reason = self.end_of_picks()
        if reason is None:  # the last unit of a reply is not read back
            self.speech.append(unit_id)
        return reason

    # --- the end ------------------------------------------------------------------------------

    def end_of_picks(self) -> FinishReason | None:
        """Why the reply ends with the ids picked so far; None if it goes on. A transcript ends with the label
        of its last unit."""
        if self.transcribes:
            units = self.prompt.unit_positions
            is_read = not self.is_growing and self.prompt_labels[units[-1]] is not None
            return "stop" if is_read else None
        ids, limit = (
            (self.unit_ids, self.params.max_units) if self.speaks else (self.text_ids, self.max_tokens)
        )
        if ids and ids[-1] in self._stop_ids and not self.params.ignore_eos:
            return "stop"
        return "length" if len(ids) >= limit else None

    @property
    def is_decoding(self) -> bool:
        """Whether it picks ids from now on, one after the other."""
        return not (self.is_growing or self.transcribes or self.finished)

    @property
    def is_running(self) -> bool:
        return self.row is not None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def _text_prompt(self) -> tuple[list[int], list[int] | None]:
        """The ids of the prompt's text positions, `NO_ID` where the model reads something else, and their
        keys, None if the ids serve as keys. Records where the pictures stand."""
        if not self.is_soft and not self.prompt.images:
            return list(self.prompt.ids), None
        ids: list[int] = []
        keys: list[int] = []
        images = iter(self.prompt.images)
        for token in self.prompt.ids:
            if token == IMAGE_ID:
                image = next(images)
                self.image_spans.append(
                    ImageSpan(len(self.image_spans), len(keys), len(keys) + image.num_positions)
                )
                base = int.from_bytes(image.digest[:7], "little")
                ids += [NO_ID] * image.num_positions
                keys += range(base, base + image.num_positions)
            else:
                ids.append(NO_ID if self.is_soft else token)
                keys.append(token + SOFT_KEY if self.is_soft else token)
        return ids, keys
