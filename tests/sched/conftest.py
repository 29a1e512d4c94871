"""A world without a model: a fake runner on fake memory, and what one request alone would give.

A position's "keys and values" are one number, a hash of everything that the real ones depend on. The
fake runner reads them from the blocks of the request's block table, as attention would, so a block
that was shared wrongly, lost, or overwritten too early changes every id that follows. `alone` computes
the same from the description of the algorithm, with neither scheduler nor cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest

from antiphon.config import CacheConfig, ModelConfig
from antiphon.sched.block_pool import BlockPool
from antiphon.sched.plan import Chunk, StackPlan
from antiphon.sched.request import RequestState, Status
from antiphon.sched.scheduler import Scheduler
from antiphon.sched.track import Track
from antiphon.text.chat import IMAGE_ID
from antiphon.text.images import PreparedImage
from antiphon.text.prompt import Prompt
from antiphon.text.tiles import MergePlan
from antiphon.types import SamplingParams

EOT, BLANK, END_OF_TEXT = 40, 41, 42
STOPS = frozenset({EOT, END_OF_TEXT})
FIRST_UNIT, NUM_UNITS = 50, 12
LAG, WINDOW = 3, 5
OPENING = (1, 2, 3, 4)
SPEAKING_IDS = (*OPENING, 7, 8)


def mix(*parts: object) -> int:
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=6).digest(), "little")


def pick_text(state: int) -> int:
    """Mostly one of 40 words; sometimes an end, or the blank."""
    kind = mix("text", state) % 60
    return (EOT, EOT, END_OF_TEXT, BLANK)[kind] if kind < 4 else mix("word", state) % 40


def pick_unit(state: int) -> int:
    kind = mix("unit", state) % 40
    return (EOT, END_OF_TEXT)[kind] if kind < 2 else FIRST_UNIT + mix("which", state) % NUM_UNITS


def read_label(state: int) -> int:
    """Few labels, so that blanks, repeats and repeats across blanks are all frequent."""
    return BLANK if mix("label", state) % 2 else mix("spelt", state) % 3


def carries_speech(token: int) -> bool:
    return token % 3 != 0 or token == EOT


MODEL = ModelConfig(
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=2,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    rope_scaling=None,
    max_position_embeddings=1000,
    text_vocab_size=43,
    vocab_size=62,
    audio_vocab_size=NUM_UNITS,
    num_bottom_audio_layers=1,
    num_top_audio_layers=1,
    vision=None,
    blank_token_id=BLANK,
    eot_token_id=EOT,
    stop_token_ids=STOPS,
    first_unit_id=FIRST_UNIT,
    fusion_window=WINDOW,
    fusion_lag=LAG,
)


def picture(name: str, side: int = 2) -> PreparedImage:
    """A picture of side * side positions."""
    digest = blake2b(name.encode(), digest_size=32).digest()
    return PreparedImage(np.zeros((1, 2, 2, 3), np.uint8), MergePlan(1, side), digest)


def make_prompt(
    ids: Sequence[int] = (), units: Sequence[int] = (), pictures: Sequence[PreparedImage] = (), *, speaks: bool
) -> Prompt:
    """Opening, pictures each followed by an id, ids, units (0-based), closing."""
    marks = [i for _ in pictures for i in (IMAGE_ID, 5)]
    whole = (*OPENING, *marks, *ids, *(FIRST_UNIT + u for u in units), 6)
    spoken = [i for i in whole if i != IMAGE_ID]
    return Prompt(
        ids=whole,
        images=tuple(pictures),
        unit_positions=tuple(p for p, i in enumerate(spoken) if i >= FIRST_UNIT),
        num_last_units=len(units),
        speaking_ids=SPEAKING_IDS if speaks and not units else None,
    )


# --- what a request gives, by the algorithm ---------------------------------------------------------


@dataclass
class Answer:
    text_ids: list[int] = field(default_factory=list)
    fusion_ids: list[int] = field(default_factory=list)
    visible: list[int] = field(default_factory=list)
    unit_ids: list[int] = field(default_factory=list)
    prompt_labels: list[int] = field(default_factory=list)
    finish_reason: str = "stop"


def extend(states: list[int], tag: str, *inputs: object) -> int:
    """One more position, which depends on all before it."""
    states.append(mix(tag, states, *inputs))
    return states[-1]


def text_inputs(prompt: Prompt, heard: list[int] | None) -> list[object]:
    """What the LLM reads at each position of the prompt; `heard` is the bottom layers' output, if it hears."""
    inputs: list[object] = []
    images, spoken = iter(prompt.images), 0
    for token in prompt.ids:
        if token == IMAGE_ID:
            image = next(images)
            inputs += [("picture", image.digest, i) for i in range(image.num_positions)]
        else:
            inputs.append(("plain", token) if heard is None else ("soft", heard[spoken]))
            spoken += 1
    return inputs


def alone(prompt: Prompt, params: SamplingParams, *, speaks: bool) -> Answer:
    """One request, start to end (Stream-Omni, arXiv 2506.13642, 3.3, with the released code's details)."""
    answer = Answer()
    bottom: list[int] = []
    speech_ids = prompt.speech_ids if prompt.has_speech else (prompt.speaking_ids or ())
    for token in speech_ids:
        extend(bottom, "bottom", token)
    answer.prompt_labels = [read_label(bottom[p]) for p in prompt.unit_positions]
    thought: list[int] = []
    for given in text_inputs(prompt, bottom if prompt.has_speech else None):
        extend(thought, "text", given)

    def think() -> int:
        if answer.text_ids:
            extend(thought, "text", ("plain", answer.text_ids[-1]))
        answer.text_ids.append(pick_text(thought[-1]))
        return answer.text_ids[-1]

    if not speaks:
        while True:
            if think() in STOPS and not params.ignore_eos:
                return answer
            if len(answer.text_ids) == params.max_tokens:
                answer.finish_reason = "length"
                return answer

    ended, last_label = False, BLANK

    def think_until(num_entries: int) -> None:
        nonlocal ended
        while not ended and len(answer.fusion_ids) < num_entries and len(answer.text_ids) < params.max_tokens:
            token = think()
            if carries_speech(token):
                answer.fusion_ids.append(token)
            ended = token == EOT

    top: list[int] = []
    for state in bottom[:-1]:
        extend(top, "top", state, [])
    think_until(LAG)
    while True:
        answer.visible.append(len(answer.fusion_ids))
        window = list(enumerate(answer.fusion_ids))[-WINDOW:]
        unit = pick_unit(extend(top, "top", bottom[-1], window))
        answer.unit_ids.append(unit)
        if unit in STOPS and not params.ignore_eos:
            return answer
        if len(answer.unit_ids) == params.max_units:
            answer.finish_reason = "length"
            return answer
        label = read_label(extend(bottom, "bottom", unit))
        if label not in (BLANK, last_label):
            last_label = label
            said = answer.fusion_ids
            if prompt.has_speech or not said or said[-1] not in (EOT, BLANK):
                think_until(max(len(said) + 1, LAG))


# --- what the scheduler and a runner make of it -------------------------------------------------------


class Memory:
    """The blocks of the cache: bottom and top states, or text states, at the offsets of a block."""

    def __init__(self) -> None:
        self._blocks: dict[int, tuple[str, dict[tuple[str, int], int]]] = {}

    def write(self, track: Track, owner: str, stack: str, position: int, state: int) -> None:
        block = track.block_table[position // track.block_size]
        held, states = self._blocks.get(block, (owner, {}))
        if held != owner:  # the other track lays a block out otherwise: nothing of it is left
            states = {}
        states[stack, position % track.block_size] = state
        self._blocks[block] = (owner, states)

    def read(self, track: Track, owner: str, stack: str, end: int) -> list[int]:
        states = []
        for position in range(end):
            held, block = self._blocks[track.block_table[position // track.block_size]]
            assert held == owner, f"block of position {position} was taken over by the other track"
            states.append(block[stack, position % track.block_size])
        return states


@dataclass
class Step:
    """What a step did; spans are (request id, start, end, samples)."""

    admitted: list[str]
    bottom: list[tuple[str, int, int, bool]]
    text: list[tuple[str, int, int, bool]]
    top: list[tuple[str, int, int, bool]]
    finished: list[str]

    @property
    def did_something(self) -> bool:
        return bool(self.admitted or self.bottom or self.text or self.top or self.finished)


class World:
    """Scheduler, memory and requests; checks what must hold in every step."""

    def __init__(
        self,
        num_blocks: int,
        *,
        block_size: int = 4,
        num_text_layers: int = 2,
        num_speech_layers: int = 2,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 64,
        text_lookahead: int = 4,
        max_fused_tokens: int = 4,
        enable_prefix_caching: bool = True,
    ) -> None:
        self.cache = CacheConfig(num_blocks, block_size, num_text_layers, num_speech_layers, 1, 2, 4)
        self.pool = BlockPool(num_blocks, enable_prefix_caching=enable_prefix_caching)
        self.scheduler = Scheduler(
            self.pool,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            text_lookahead=text_lookahead,
            max_fused_tokens=max_fused_tokens,
        )
        self.memory = Memory()
        self.requests: dict[str, RequestState] = {}
        self._heard: dict[str, dict[int, int]] = {}
        """Per running request: the bottom layers' output at the positions computed since it was admitted."""

    def make(self, prompt: Prompt, request_id: str = "", **params: Any) -> RequestState:
        """A request; it speaks if `max_units` is given."""
        limits = {"max_tokens": 30} | params
        return RequestState(
            request_id or f"r{len(self.requests)}",
            prompt,
            SamplingParams(**limits),
            speaks="max_units" in params,
            config=MODEL,
            cache=self.cache,
            carries_speech=carries_speech,
        )

    def add(self, request: RequestState) -> RequestState:
        assert self.scheduler.fits(request)
        self.requests[request.request_id] = request
        self.scheduler.add(request)
        return request

    def abort(self, request: RequestState) -> None:
        request.finish("abort")
        self.scheduler.finish(request)
        self.scheduler.check_integrity()

    @property
    def unfinished(self) -> list[RequestState]:
        return [*self.scheduler.running, *self.scheduler.waiting]

    def step(self) -> Step:
        """As the engine does it."""
        scheduler = self.scheduler
        admitted = scheduler.admit()
        for request in admitted:
            self._heard[request.request_id] = {}
        self._check()
        if (bottom := scheduler.schedule_bottom()).chunks:
            self._check_plan(bottom)
            scheduler.complete_bottom(bottom, [self._hear(chunk) for chunk in bottom.chunks])
        self._check()
        waited = {r.request_id for r in scheduler.running if r.waits_for_text}
        ahead = {r.request_id: r.num_text_ahead for r in scheduler.running}
        if (text := scheduler.schedule_text()).chunks:
            self._check_plan(text)
            assert waited, "the LLM runs for somebody who waits"
            for chunk in text.chunks:
                name = chunk.request.request_id
                assert name in waited or ahead[name] < scheduler.text_lookahead
            scheduler.complete_text(text, [t for chunk in text.chunks for t in self._think(chunk)])
        self._check()
        if (top := scheduler.schedule_top()).chunks:
            self._check_plan(top)
            self._check_fused(top)
            scheduler.complete_top(top, [u for chunk in top.chunks for u in self._speak(chunk)])
        self._check()
        finished = [r for r in self.unfinished if r.finished]
        for request in finished:
            scheduler.finish(request)
        self._check()
        return Step(
            [r.request_id for r in admitted],
            *(
                [(c.request.request_id, c.start, c.end, c.samples) for c in plan.chunks]
                for plan in (bottom, text, top)
            ),
            [r.request_id for r in finished],
        )

    def drain(self, max_steps: int = 5000) -> list[Step]:
        steps = []
        while self.unfinished:
            steps.append(self.step())
            assert steps[-1].did_something, "nobody is served, and nobody ever will be"
            assert len(steps) < max_steps, "this does not end"
        return steps

    def check_answer(self, request: RequestState) -> None:
        """The finished request has what it would have got alone; at least its beginning, where it ran
        out of blocks with the whole cache to itself."""
        expected = alone(request.prompt, request.params, speaks=request.speaks)
        found = Answer(
            request.shown_text_ids,
            request.speaking.fusion_ids if request.speaking else [],
            request.speaking.visible if request.speaking else [],
            request.unit_ids,
            [label for label in request.prompt_labels if label is not None],
            request.finish_reason or "",
        )
        if found != expected:
            assert request.finish_reason == "length"
            assert self.num_blocks_needed(request) > self.cache.num_blocks, f"{found} is not {expected}"
            for name in ("text_ids", "fusion_ids", "visible", "unit_ids", "prompt_labels"):
                some, whole = getattr(found, name), getattr(expected, name)
                assert some == whole[: len(some)], name

    def num_blocks_needed(self, request: RequestState) -> int:
        """To go on from where it stands, with no text ahead."""
        text = request.num_text_prompt + len(request.shown_text_ids)
        if request.speaking is not None and request.speaking.silent:
            text = 0
        needed = -(-text // self.cache.text_block_size)
        return needed + -(-request.num_speech_known // self.cache.speech_block_size)

    # --- the runner -------------------------------------------------------------------------------

    def _hear(self, chunk: Chunk) -> list[int]:
        request, track = chunk.request, chunk.request.speech
        assert track is not None
        states = self.memory.read(track, "speech", "bottom", chunk.start)
        for position in range(chunk.start, chunk.end):
            state = extend(states, "bottom", track.keys[position])
            self.memory.write(track, "speech", "bottom", position, state)
            self._heard[request.request_id][position] = state
        return [read_label(states[p]) for p in request.unlabelled(chunk.start, chunk.end)]

    def _think(self, chunk: Chunk) -> list[int]:
        request, track = chunk.request, chunk.request.text
        heard = self._heard[request.request_id]
        told = [heard.get(p, -1) for p in range(request.num_speech_prompt)] if request.soft else None
        inputs = text_inputs(request.prompt, told) + [("plain", token) for token in request.text_ids]
        states = self.memory.read(track, "text", "text", chunk.start)
        for position in range(chunk.start, chunk.end):
            assert inputs[position] != ("soft", -1), f"text position {position} before it was heard"
            state = extend(states, "text", inputs[position])
            self.memory.write(track, "text", "text", position, state)
        return [pick_text(states[-1])] if chunk.samples else []

    def _speak(self, chunk: Chunk) -> list[int]:
        request, track = chunk.request, chunk.request.speech
        assert track is not None
        assert request.speaking is not None
        states = self.memory.read(track, "speech", "top", chunk.start)
        for position in range(chunk.start, chunk.end):
            said = request.speaking.fusion_ids[: request.visible_at(position)]
            heard = self._heard[request.request_id][position]
            state = extend(states, "top", heard, list(enumerate(said))[-WINDOW:])
            self.memory.write(track, "speech", "top", position, state)
        return [pick_unit(states[-1])] if chunk.samples else []

    # --- what must hold ---------------------------------------------------------------------------

    def _check(self) -> None:
        self.scheduler.check_integrity()
        for request in self.unfinished:
            assert request.num_text_ahead <= self.scheduler.text_lookahead

    def _check_plan(self, plan: StackPlan) -> None:
        assert plan.num_tokens <= self.scheduler.max_num_batched_tokens
        names = [chunk.request.request_id for chunk in plan.chunks]
        assert len(set(names)) == len(names)
        for chunk in plan.chunks:
            request = chunk.request
            track = request.text if plan.stack == "text" else request.speech
            assert track is not None
            computed = request.top_computed if plan.stack == "top" else track.num_computed
            assert request.status is Status.RUNNING
            assert computed == chunk.start < chunk.end <= len(track)
            assert track.blocks_missing(chunk.end) == 0

    def _check_fused(self, plan: StackPlan) -> None:
        """Beyond a request's own window there are so many spare ones."""
        fused = [c.end - max(c.start, c.request.num_speech_prompt - 1) for c in plan.chunks]
        assert sum(n for n in fused if n > 1) <= self.scheduler.max_fused_tokens


@pytest.fixture(scope="session")
def new_world() -> type[World]:
    return World
