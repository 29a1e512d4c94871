"""The scheduler with a fake runner on fake memory, which checks what must hold in every step.

The runner reads a request's states from the blocks of its block table, as attention would, so a block
that was shared wrongly, lost, or overwritten too early shows in the ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fake_model import MODEL, WINDOW, Answer, Mind, alone, carries_speech, extend, text_inputs

from antiphon.config import CacheConfig
from antiphon.engine.passes import step
from antiphon.prompt import Prompt
from antiphon.sched.block_pool import BlockPool
from antiphon.sched.plan import Chunk, Spoken, StackPlan
from antiphon.sched.request import RequestState
from antiphon.sched.scheduler import Scheduler
from antiphon.sched.track import Track
from antiphon.types import SamplingParams

__all__ = ["Memory", "Step", "World"]


class Memory:
    """The blocks of the cache: bottom and top states, or text states, at the offsets of a block."""

    def __init__(self) -> None:
        self._blocks: dict[int, tuple[str, dict[tuple[str, int], int]]] = {}

    def write(self, track: Track, owner: str, stack: str, position: int, state: int) -> None:
        block = track.block_table[position // track.block_size]
        held, states = self._blocks.get(block, (owner, {}))
        if held != owner:  # the other track lays out a block differently: its contents are lost
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

    admitted: list[str] = field(default_factory=list)
    bottom: list[tuple[str, int, int, bool]] = field(default_factory=list)
    text: list[tuple[str, int, int, bool]] = field(default_factory=list)
    top: list[tuple[str, int, int, bool]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)

    @property
    def did_something(self) -> bool:
        return bool(self.admitted or self.bottom or self.text or self.top or self.finished)


class WatchedScheduler(Scheduler):
    """Remembers who waited for text, and how far all had run ahead, when a text pass was planned."""

    def schedule_text(self) -> StackPlan:
        self.waited = {r.request_id for r in self.running if r.waits_for_text}
        self.ahead = {r.request_id: r.num_text_ahead for r in self.running}
        return super().schedule_text()


class World:
    """Scheduler, memory and requests; also the runner. Checks what must hold in every step."""

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
        hears_at_once: bool = False,
        mind: Mind | None = None,
    ) -> None:
        """hears_at_once: some units are heard in the pass that picks them, as on a GPU."""
        self.mind = mind or Mind()
        self.hears_at_once = hears_at_once
        self.cache = CacheConfig(num_blocks, block_size, num_text_layers, num_speech_layers, 1, 2, 4)
        self.pool = BlockPool(num_blocks, enable_prefix_caching=enable_prefix_caching)
        self.scheduler = WatchedScheduler(
            self.pool,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            text_lookahead=text_lookahead,
            max_fused_tokens=max_fused_tokens,
        )
        self.memory = Memory()
        self.requests: dict[str, RequestState] = {}
        self.heard: dict[str, dict[int, int]] = {}
        """Per running request: the bottom layers' output at the positions computed since it was admitted."""

    def make(
        self, prompt: Prompt, *, max_tokens: int = 30, max_units: int | None = None, ignore_eos: bool = False
    ) -> RequestState:
        """A request; it speaks if `max_units` is given."""
        return RequestState(
            f"r{len(self.requests)}",
            prompt,
            SamplingParams(max_tokens=max_tokens, max_units=max_units or 1, ignore_eos=ignore_eos),
            speaks=max_units is not None,
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
        self.scheduler.finish(request, "abort")
        self.scheduler.check_integrity()

    @property
    def unfinished(self) -> list[RequestState]:
        return [*self.scheduler.running, *self.scheduler.waiting]

    def step(self) -> Step:
        """The engine's own step, on this world."""
        unfinished = self.unfinished
        self._done = Step()
        step(self.scheduler, self, before=self._check_plan, after=self._note)
        self._check()
        self._done.finished = [r.request_id for r in unfinished if r.finished]
        return self._done

    def drain(self, max_steps: int = 5000) -> list[Step]:
        steps = []
        while self.unfinished:
            steps.append(self.step())
            assert steps[-1].did_something, "nobody is served, and nobody ever will be"
            assert len(steps) < max_steps, "this does not end"
        return steps

    def check_answer(self, request: RequestState) -> None:
        """The finished request has the answer that it would get alone, or the beginning of that answer if it
        ran out of blocks with the whole cache to itself."""
        expected = alone(request.prompt, request.params, speaks=request.speaks, mind=self.mind)
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
        """The blocks it needs to go on from where it stands, with no text ahead."""
        text = request.num_text_prompt + len(request.shown_text_ids)
        if request.speaking is not None and request.speaking.silent:
            text = 0
        needed = -(-text // self.cache.text_block_size)
        return needed + -(-request.num_speech_known // self.cache.speech_block_size)

    # --- the runner -------------------------------------------------------------------------------

    def start(self, request: RequestState) -> None:
        self.heard[request.request_id] = {}
        self._done.admitted.append(request.request_id)
        self._check()

    def run_bottom(self, plan: StackPlan) -> list[list[int]]:
        return [self.hear(chunk) for chunk in plan.chunks]

    def run_text(self, plan: StackPlan) -> list[int]:
        return [token for chunk in plan.chunks for token in self._think(chunk)]

    def run_top(self, plan: StackPlan) -> Spoken:
        units = [unit for chunk in plan.chunks for unit in self._speak(chunk)]
        sampling = [chunk for chunk in plan.chunks if chunk.samples]
        labels = [self._hear_at_once(c, unit) for c, unit in zip(sampling, units, strict=True)]
        return Spoken(units, labels)

    def _hear_at_once(self, chunk: Chunk, unit: int) -> int | None:
        track = chunk.request.speech
        assert track is not None
        has_room = chunk.end < len(track.block_table) * track.block_size
        if not (self.hears_at_once and has_room) or (unit + chunk.end) % 3 == 0:
            return None
        state = extend(self.memory.read(track, "speech", "bottom", chunk.end), "bottom", unit)
        self.memory.write(track, "speech", "bottom", chunk.end, state)
        self.heard[chunk.request.request_id][chunk.end] = state
        return self.mind.label(state)

    def hear(self, chunk: Chunk) -> list[int]:
        request, track = chunk.request, chunk.request.speech
        assert track is not None
        states = self.memory.read(track, "speech", "bottom", chunk.start)
        for position in range(chunk.start, chunk.end):
            state = extend(states, "bottom", track.ids[position])
            self.memory.write(track, "speech", "bottom", position, state)
            self.heard[request.request_id][position] = state
        return [self.mind.label(states[p]) for p in request.unlabelled(chunk.start, chunk.end)]

    def _think(self, chunk: Chunk) -> list[int]:
        request, track = chunk.request, chunk.request.text
        heard = self.heard[request.request_id]
        told = [heard.get(p, -1) for p in range(request.num_speech_prompt)] if request.is_soft else None
        inputs = text_inputs(request.prompt, told) + [("plain", token) for token in request.text_ids]
        states = self.memory.read(track, "text", "text", chunk.start)
        for position in range(chunk.start, chunk.end):
            assert inputs[position] != ("soft", -1), f"text position {position} before it was heard"
            state = extend(states, "text", inputs[position])
            self.memory.write(track, "text", "text", position, state)
        return [self.mind.text(states[-1])] if chunk.samples else []

    def _speak(self, chunk: Chunk) -> list[int]:
        request, track = chunk.request, chunk.request.speech
        assert track is not None
        assert request.speaking is not None
        states = self.memory.read(track, "speech", "top", chunk.start)
        for position in range(chunk.start, chunk.end):
            said = request.speaking.fusion_ids[: request.visible_at(position)]
            heard = self.heard[request.request_id][position]
            state = extend(states, "top", heard, list(enumerate(said))[-WINDOW:])
            self.memory.write(track, "speech", "top", position, state)
        return [self.mind.unit(states[-1])] if chunk.samples else []

    # --- what must hold ---------------------------------------------------------------------------

    def _check(self) -> None:
        self.scheduler.check_integrity()
        for request in self.unfinished:
            assert request.num_text_ahead <= self.scheduler.text_lookahead

    def _note(self, plan: StackPlan) -> None:
        spans = getattr(self._done, plan.stack)
        spans += [(c.request.request_id, c.start, c.end, c.samples) for c in plan.chunks]
        self._check()

    def _check_plan(self, plan: StackPlan) -> None:
        self._check()
        assert plan.num_tokens <= self.scheduler.max_num_batched_tokens
        names = [chunk.request.request_id for chunk in plan.chunks]
        assert len(set(names)) == len(names)
        for chunk in plan.chunks:
            request = chunk.request
            track = request.text if plan.stack == "text" else request.speech
            assert track is not None
            computed = request.top_computed if plan.stack == "top" else track.num_computed
            assert request.is_running
            assert computed == chunk.start < chunk.end <= len(track)
            assert track.blocks_missing(chunk.end) == 0
        if plan.stack == "text":
            scheduler = self.scheduler
            assert scheduler.waited, "the LLM runs for somebody who waits"
            for name in names:
                assert name in scheduler.waited or scheduler.ahead[name] < scheduler.text_lookahead
        if plan.stack == "top":
            self._check_fused(plan)

    def _check_fused(self, plan: StackPlan) -> None:
        """There are `max_fused_tokens` spare windows beyond each request's own."""
        fused = [c.end - max(c.start, c.request.num_speech_prompt - 1) for c in plan.chunks]
        assert sum(n for n in fused if n > 1) <= self.scheduler.max_fused_tokens
