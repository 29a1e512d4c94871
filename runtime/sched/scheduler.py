"""The scheduler.

Its one invariant: *each stack's computed positions catch up with the known ones, and a position becomes
known once everything it depends on has been computed.* Prefill, chunked prefill, decoding and
recomputation after a preemption are the same thing.

A step is three passes: the bottom layers read what was said, the LLM thinks if a request waits for text,
the top layers speak. Text never depends on units, so a text pass, once it has to run, also takes every
request that has room to run ahead: text passes are few and full.

An *open* request, whose user is still speaking, is computed as far as it is known, but nobody is waiting
for its answer yet: it is admitted, scheduled and served after all others, and preempted before them. If it
had nothing left to compute when it was preempted, it rests until its prompt is updated.

A *speculative* request, for whose answer nobody may ever wait, comes after the open ones in all of this. What
an open request computes is little, it will be needed, and it tells when its user has finished. A speculative
one computes a whole answer, and it can best be spared: it keeps the ids that it has picked.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING

from antiphon.sched.admission import give_back, reserve_known
from antiphon.sched.block_pool import BlockPool
from antiphon.sched.elsewhere import TextArrived, TextElsewhere
from antiphon.sched.plan import Chunk, Spoken, StackPlan
from antiphon.sched.request import RequestState
from antiphon.sched.speaking import SpeakingState
from antiphon.sched.speech_update import update_speech
from antiphon.sched.track import Track
from antiphon.sched.trial import Trial
from antiphon.types import FinishReason

if TYPE_CHECKING:
    from antiphon.prompt import Prompt

__all__ = ["Scheduler"]


class Scheduler:
    """Admits requests, shares out blocks and the token budget, and records each request's progress."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        text_lookahead: int,
        max_fused_tokens: int,
    ) -> None:
        self.pool = pool
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.text_lookahead = text_lookahead
        self.max_fused_tokens = max_fused_tokens
        """Positions with fusion that a top pass may hold beyond one per request (after a preemption)."""
        self.waiting: deque[RequestState] = deque()
        self.waiting_growing: deque[RequestState] = deque()
        """Open requests that have something to compute, but no room for it yet."""
        self.waiting_speculative: deque[RequestState] = deque()
        """Speculative requests that have no room yet."""
        self.resting: list[RequestState] = []
        """Open requests that made way with nothing left to compute, and have not been updated since."""
        self.elsewhere: TextElsewhere | None = None
        """The LLM, if that is not ours."""
        self.running: list[RequestState] = []
        """In order of admission: the first is served first, the last is preempted first."""
        self.trials: deque[Trial] = deque()
        """The requests of a failed pass. While there are any, only the first is served."""
        self.speaking: type[SpeakingState] = SpeakingState
        """How the speech of later requests follows their text; a benchmark sets its own."""
        self._rows = list(range(max_num_seqs))[::-1]

    # --- coming and going ---------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """Requests that are not running, for whatever reason."""
        return sum(map(len, (*self._queues, self.resting)))

    @property
    def _queues(self) -> tuple[deque[RequestState], ...]:
        """Requests that have something to compute, but no room for it; in the order in which they are
        served."""
        return self.waiting, self.waiting_growing, self.waiting_speculative

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything. A waiting request can always be admitted sooner or later."""
        return any(self._queues) or any(r.has_work for r in self.running)

    def add(self, request: RequestState) -> None:
        self._queue_of(request).append(request)

    def confirm(self, request: RequestState) -> None:
        """Somebody waits for a speculative request: from here on it is like any other. If it waits itself,
        it waits behind those that came before."""
        if request in self.waiting_speculative:
            self.waiting_speculative.remove(request)
            self.waiting.append(request)
        request.is_speculative = False

    def fits(self, request: RequestState, num_more: int = 0) -> bool:
        """Whether the pool could ever hold the request's tracks, each with `num_more` + 1 positions more."""
        tracks = [t for t in (request.text if request.holds_text else None, request.speech) if t is not None]
        needed = sum(-(-(len(t) + num_more + 1) // t.block_size) for t in tracks)
        return needed <= self.pool.num_blocks

    def update_speech(self, request: RequestState, prompt: Prompt) -> None:
        """Give an open request another prompt, which is closed if its user has finished."""
        update_speech(self.pool, request, prompt)
        if request.transcribes and (reason := request.end_of_picks()):
            self.finish(request, reason)  # all of it was read while it was spoken
            return
        if request in self.resting:
            self.resting.remove(request)
            self.add(request)
        elif request in self.waiting_growing and not request.is_growing:
            self.waiting_growing.remove(request)
            self.add(request)

    def admit(self, *, may_speak: bool = True) -> list[RequestState]:
        """Start waiting requests, oldest first, while there are rows, and blocks for all that is known.

        may_speak: False passes over requests for speech.
        """
        admitted: list[RequestState] = []
        while self.trials and self.trials[0].is_over:
            self.trials.popleft()
        for queue in self._queues:
            others_wait = self.waiting or self.waiting_growing  # some may have been passed over
            if queue is self.waiting_speculative and others_wait and not self.trials:
                break
            while (request := self._first_of(queue, may_speak=may_speak)) is not None:
                if not self._make_way(request):
                    return admitted
                queue.remove(request)
                request.row = self._rows.pop()
                if request.admitted_s is None:
                    request.admitted_s = time.perf_counter()
                self.running.append(request)
                admitted.append(request)
        return admitted

    def finish(self, request: RequestState, reason: FinishReason) -> None:
        """End a request for this reason, here and nowhere else: it is taken out and gives back all it holds.

        May be called again with another reason, as when the speech of a whole reply cannot be made.
        """
        request.finish_reason = reason
        if self.elsewhere is not None:
            self.elsewhere.drop(request)
        if request in self.running:
            self.running.remove(request)
            self._release(request)
            return
        for queue in (*self._queues, self.resting):
            if request in queue:
                queue.remove(request)

    def preempt(self, request: RequestState) -> None:
        """Take back a running request's blocks. All that is known stays; it waits first and recomputes."""
        has_work = request.has_work
        self.running.remove(request)
        self._release(request)
        request.num_preemptions += 1
        if has_work:
            self._queue_of(request).appendleft(request)
        else:
            self.resting.append(request)

    def restart(self, requests: Iterable[RequestState]) -> None:
        """Start over after a fault, which may have come between any two lines: nothing is computed, no block
        is held or cached, and all that is known stays. Requests that ran come first, in their order.

        requests: all that exist, including finished ones; any others are dropped.
        """
        ran = list(self.running)
        queues = (self.running, *self._queues, self.resting)
        known = {id(request) for request in requests}
        in_order = {id(r): r for r in (*(r for queue in queues for r in queue), *requests) if id(r) in known}
        for queue in queues:
            queue.clear()
        self.pool.reset()
        self._rows = list(range(self.max_num_seqs))[::-1]
        for request in in_order.values():
            request.restart()
            if not request.finished and (reason := request.end_of_picks()):
                self.finish(request, reason)
            if not request.finished:
                request.num_preemptions += request in ran
                self.add(request)

    # --- the three passes ---------------------------------------------------------------------

    def schedule_bottom(self) -> StackPlan:
        chunks: list[Chunk] = []
        budget = self.max_num_batched_tokens
        for request in self._in_turn():
            track = request.speech
            if track is None or track.num_computed == len(track.ids) or not request.is_running:
                continue
            start, end = track.num_computed, min(len(track), track.num_computed + budget)
            if start == end or not self._make_room(request, track, end):
                continue
            chunks.append(Chunk(request, start, end))
            budget -= end - start
        return self._plan("bottom", chunks)

    def schedule_text(self) -> StackPlan:
        """Empty unless a request waits for text; then every request that may run ahead joins in."""
        chunks: list[Chunk] = []
        budget = self.max_num_batched_tokens
        in_turn = self._in_turn()
        waits = [
            r for r in in_turn if r.holds_text and r.waits_for_text and r.text.num_computed < r.text_ready()
        ]
        if not waits:
            return StackPlan("text", [])
        ahead = [
            r
            for r in in_turn
            if r.holds_text and not r.waits_for_text and r.num_text_ahead < self.text_lookahead
        ]
        for request in sorted(waits + ahead, key=attrgetter("is_speculative")):
            track = request.text
            start = track.num_computed
            end = min(request.text_ready(), start + budget)
            if start >= end or not request.is_running:
                continue
            if request.waits_for_text:
                if not self._make_room(request, track, end):
                    continue
            elif not track.reserve(self.pool, end):  # running ahead is not worth a preemption
                continue
            samples = end == len(track) and not request.is_growing
            chunks.append(Chunk(request, start, end, samples))
            budget -= end - start
        return self._plan("text", chunks)

    def schedule_asking(self) -> StackPlan:
        """Whole prompts that an LLM elsewhere can be given: all that it reads of them is known."""
        return StackPlan(
            "text",
            [
                Chunk(r, 0, r.num_text_prompt)
                for r in self._in_turn()
                if r.text_elsewhere and r.is_unread and not r.is_growing and r.text_ready() == len(r.text)
            ],
        )

    def schedule_top(self) -> StackPlan:
        chunks: list[Chunk] = []
        budget, fused_budget = self.max_num_batched_tokens, self.max_fused_tokens
        for request in self._in_turn():
            start, ready = request.top_computed, request.top_ready()
            if start >= ready:
                continue
            end = min(ready, start + budget)
            first_fused = max(start, request.num_speech_prompt - 1)
            if end - first_fused > 1:
                end = min(end, first_fused + max(1, fused_budget))
                if end - first_fused > 1:
                    fused_budget -= end - first_fused
            if start < end:
                chunks.append(Chunk(request, start, end, samples=end == request.num_speech_known))
                budget -= end - start
        for chunk in chunks:
            track = chunk.request.speech
            if chunk.samples and track is not None and chunk.end % track.block_size == 0:
                # Room for the unit that is picked, so that it can be heard in the same pass. If blocks are
                # scarce, it gets its own when its turn comes.
                track.reserve(self.pool, chunk.end + 1)
        return self._plan("top", chunks)

    # --- results ------------------------------------------------------------------------------

    def complete_bottom(self, plan: StackPlan, labels: Sequence[Sequence[int]]) -> None:
        """`labels`: for each chunk, the CTC labels of `request.unlabelled(start, end)`."""
        for chunk, found in zip(plan.chunks, labels, strict=True):
            request, track = chunk.request, chunk.request.speech
            if not request.is_running:
                continue
            assert track is not None
            for position, label in zip(request.unlabelled(chunk.start, chunk.end), found, strict=True):
                request.add_label(position, label)
            track.num_computed = chunk.end
            if not request.speaks:
                track.publish(self.pool, chunk.end, request.prompt_labels)
            if request.transcribes:
                self._finish_if_complete(request)
            self._let_go_of_text(request)

    def complete_text(self, plan: StackPlan, tokens: Sequence[int]) -> None:
        """`tokens`: for each chunk that samples, the id picked."""
        picked = iter(tokens)
        for chunk in plan.chunks:
            request = chunk.request
            token = next(picked) if chunk.samples else None
            if not request.is_running:  # it was ended while the pass ran
                continue
            request.text.num_computed = chunk.end
            request.text.publish(self.pool, chunk.end)
            if token is not None:
                request.add_text(token)
                self._finish_if_complete(request)
            self._let_go_of_text(request)

    def complete_asking(self, plan: StackPlan) -> None:
        """An LLM elsewhere has these prompts."""
        for chunk in plan.chunks:
            chunk.request.is_asked = True

    def take_text(self, arrived: Sequence[TextArrived]) -> StackPlan:
        """Text has come from elsewhere, also for requests that do not run; returns for whom."""
        chunks = []
        for request, ids, is_last, num_cached in arrived:
            start = len(request.text)
            for token in ids:
                if request.finished:
                    break
                request.add_text(token)
                self._finish_if_complete(request)
            if is_last and request.needs_text and request.text_ids:
                request.end_text()
                self._finish_if_complete(request)
            request.num_cached_tokens = num_cached
            chunks.append(Chunk(request, start, len(request.text)))
        return StackPlan("text", chunks)

    def complete_top(self, plan: StackPlan, spoken: Spoken) -> None:
        picked = iter(zip(spoken.units, spoken.labels, strict=True))
        for chunk in plan.chunks:
            request, track = chunk.request, chunk.request.speech
            unit, label = next(picked) if chunk.samples else (None, None)
            if not request.is_running:
                continue
            assert track is not None
            request.top_computed = chunk.end
            if chunk.end // track.block_size > chunk.start // track.block_size:
                track.publish(self.pool, chunk.end, request.prompt_labels)
            if unit is None:
                continue
            if reason := request.add_unit(unit):
                self.finish(request, reason)
            elif label is not None:
                assert request.speaking is not None
                track.num_computed = chunk.end + 1
                num_consumed = request.speaking.num_consumed
                request.add_label(chunk.end, label)
                if request.speaking.num_consumed > num_consumed:
                    self._let_go_of_text(request)

    def _finish_if_complete(self, request: RequestState) -> None:
        if reason := request.end_of_picks():
            self.finish(request, reason)

    def check_integrity(self) -> None:
        """Raise AssertionError unless every block that is in use belongs to a running request."""
        self.pool.check_integrity()
        tables = [t.block_table for r in self.running for t in (r.text, r.speech) if t is not None]
        held = {block for table in tables for block in table}
        in_use = self.pool.num_blocks - self.pool.num_free
        assert len(held) == in_use, f"{in_use} blocks are in use, {len(held)} are in block tables"
        for request in (*chain(*self._queues), *self.resting):
            for track in (request.text, request.speech):
                assert track is None or not track.block_table, f"{request.request_id} waits but holds blocks"

    # --- who is served, and who makes way -----------------------------------------------------

    def _in_turn(self) -> list[RequestState]:
        """The running requests in serving order; during a trial, only the one that is tried."""
        if self.trials:
            return [r for r in self.running if r is self.trials[0].request]
        if not any(r.is_speculative or r.is_growing for r in self.running):
            return list(self.running)
        return sorted(self.running, key=attrgetter("is_speculative", "is_growing"))

    def _queue_of(self, request: RequestState) -> deque[RequestState]:
        if request.is_growing:
            return self.waiting_growing
        return self.waiting_speculative if request.is_speculative else self.waiting

    def _first_of(self, queue: Iterable[RequestState], *, may_speak: bool) -> RequestState | None:
        """The request of a queue to start next."""
        if self.trials:
            return next((r for r in queue if r is self.trials[0].request), None)
        return next((r for r in queue if may_speak or not r.speaks), None)

    def _next_victim(self, newcomer: RequestState | None = None) -> RequestState | None:
        """The request to preempt next: speculative ones before open ones with nothing to compute, these
        before other open ones, and the rest last; among equals the one admitted last. newcomer: only one that
        makes way for this request, None if there is no such request."""
        backwards = self.running[::-1]
        speculative = [r for r in backwards if r.is_speculative]
        silent = [r for r in backwards if r.is_growing and not r.has_work]
        speaking = [r for r in backwards if r.is_growing and r.has_work]
        if newcomer is None or self.trials:
            order = speculative + silent + speaking + backwards
        elif newcomer.is_growing:
            order = speculative + silent
        else:
            order = silent if newcomer.is_speculative else speculative + silent + speaking
        return next(iter(order), None)

    def _make_way(self, newcomer: RequestState) -> bool:
        """Free a row for a waiting request, and reserve blocks for all that is known of it, if possible.

        For a request whose user is waiting, all speculative and open requests make way; for an open one, the
        speculative ones and the open ones with nothing to compute; for a speculative one, only the latter,
        which lose nothing by it until their users go on; for one on trial, everyone.
        """
        while not self._rows or not reserve_known(self.pool, newcomer, len(self.running)):
            victim = self._next_victim(newcomer)
            if victim is None:
                return False
            self.preempt(victim)
        return True

    # --- blocks -------------------------------------------------------------------------------

    def _make_room(self, request: RequestState, track: Track, num_positions: int) -> bool:
        """Make room for a running request that must go on: others make way. False if it had to itself."""
        while not track.reserve(self.pool, num_positions):
            victim = self._next_victim()
            if victim is request and request.is_speculative:
                victim = self._next_victim(request) or request  # open ones lose nothing, see `_make_way`
            assert victim is not None
            if victim is not request:
                self.preempt(victim)
            elif len(self.running) > 1:
                self.preempt(request)
                return False
            elif not self._drop_run_ahead(request):
                self.finish(request, "length")  # it has the whole cache, which is full
                return False
        return True

    def _drop_run_ahead(self, request: RequestState) -> bool:
        """Give back the blocks of text that speech has not asked for, if any; its ids stay known."""
        if request.speaking is None:
            return False
        before = len(request.text.block_table)
        request.text.release(self.pool, request.num_text_prompt + request.speaking.num_consumed)
        return len(request.text.block_table) < before

    def _let_go_of_text(self, request: RequestState) -> None:
        """Give back the text track's blocks once no more text will be asked for."""
        if request.speaks and not request.needs_text and request.text.block_table:
            request.text.release(self.pool)

    def _release(self, request: RequestState) -> None:
        give_back(self.pool, request)
        if request.row is not None:
            self._rows.append(request.row)
            request.row = None

    def _plan(self, stack: str, chunks: list[Chunk]) -> StackPlan:
        """A plan without the chunks of requests that were preempted while it was made."""
        return StackPlan(stack, [c for c in chunks if c.request.is_running])  # type: ignore[arg-type]
