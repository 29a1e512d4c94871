"""One replica: the engine's scheduler and the worker's pacing on a clock that is not the machine's."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from antiphon.bench.simulate.asked import Asked
from antiphon.bench.simulate.costs import MODEL, PREPARE, Costs
from antiphon.bench.simulate.events import ROUNDING_S, Activity, Clock, Machine
from antiphon.bench.simulate.jumps import Jump, plan_jump
from antiphon.bench.simulate.prompts import Prompts
from antiphon.bench.simulate.speaking import EvenSpeaking
from antiphon.bench.simulate.speech import Heard, SimulatedSpeech
from antiphon.bench.simulate.stacks import UNIT, TimedStacks
from antiphon.engine.passes import step
from antiphon.prompt import GrowingPrompt, Prompt
from antiphon.sched.block_pool import BlockPool
from antiphon.sched.request import RequestState
from antiphon.sched.scheduler import Scheduler
from antiphon.types import UNITS_PER_S, SamplingParams

__all__ = ["Replica"]

NUM_PREPARING = 4
"""Requests that are read at a time, see `EngineThread`."""
NUM_SPARE_WINDOWS = 64
"""See `Engine`."""
UPDATE_S = 0.4
"""How often the prompt of a live request grows."""
SPECULATION_S = 0.2
"""How long after its speech a reply is begun, while its turn is not over yet."""


@dataclass(eq=False)
class _Steps:
    """The step that is under way, or a jump over many."""

    ends_s: list[float]
    """When each of them ends, on a machine that does nothing else"""
    jump: Jump | None
    aim: int
    """The one at whose end something is to be done, counted from 1; `activity` ends with it."""
    activity: Activity
    num_told: int = 0
    """How many have given their units to the speech worker"""


class Replica:
    """Takes requests as they arrive, and tells when they end."""

    def __init__(
        self, clock: Clock, costs: Costs, prompts: Prompts, name: str, *, jumps: bool = True
    ) -> None:
        """jumps: over steps that need no scheduler; the results are the same."""
        served = costs.served
        self.name = name
        self.machine = Machine(clock, costs.slowed)
        self.open: dict[str, Asked] = {}
        """The requests that have come and not ended."""
        self.num_steps = self.num_jumped = 0
        self.most_blocks = 0
        self.num_preemptions = 0
        self.step_s = self.row_s = 0.0
        """Work of all steps; and each step's times the requests in it."""
        self._clock, self._costs, self._prompts, self._jumps = clock, costs, prompts, jumps
        self._served = served
        settings = served.settings
        self.scheduler = Scheduler(
            BlockPool(served.cache.num_blocks, enable_prefix_caching=settings.enable_prefix_caching),
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            text_lookahead=settings.text_lookahead,
            max_fused_tokens=NUM_SPARE_WINDOWS,
        )
        self._stacks = TimedStacks(costs)
        self._unit = served.model.first_unit_id + UNIT
        self.speech = SimulatedSpeech(clock, self.machine, costs, self._sync, self._hear, self._after_speech)
        self._awaiting: set[str] = set()
        self._inbox: deque[Callable[[], None]] = deque()
        self._to_prepare: deque[tuple[float, Callable[[], None]]] = deque()
        self._num_preparing = 0
        self._num_coming = 0
        """Requests that have come and that the engine's thread has not taken"""
        self._taking_s = 0.0
        """What the engine's thread spends on requests before its next step."""
        self._heard: list[Heard] = []
        self._steps: _Steps | None = None
        self._life = 0
        """Goes up when it dies: what was announced before then does not happen."""

    # --- requests come -------------------------------------------------------------------------

    @property
    def num_open(self) -> int:
        return len(self.open)

    def take(self, asked: Asked) -> None:
        """A request has come; one that is heard while it is spoken, when its user begins to speak."""
        if self._is_full(self._num_coming):
            asked.is_over = True
            asked.ended(asked, "overloaded")
            return
        self.open[asked.name] = asked
        asked.prompt, asked.growing = self._prompts.make(asked.arrival)
        arrival = asked.arrival
        if asked.growing is None:
            self._num_coming += 1
            work_s = self._costs.prepare_s(arrival.speech_s, len(arrival.pictures))
            self._prepare(work_s, partial(self._command, partial(self._begin, asked)))
            return
        self._prepare(
            self._costs.prepare_s(0.0, len(arrival.pictures)),
            partial(self._command, partial(self._begin_reading, asked)),
        )
        heard_s = 0.0
        while heard_s < arrival.speech_s:
            piece_s = min(UPDATE_S, arrival.speech_s - heard_s)
            heard_s += piece_s
            at_s = arrival.at_s - arrival.speech_s + heard_s
            self._later(at_s, partial(self._listen, asked, piece_s, heard_s))
        begin_s = arrival.at_s + min(arrival.pause_s, SPECULATION_S)
        asked.waits_until_s = arrival.at_s + arrival.pause_s
        self._later(begin_s, partial(self._command, partial(self._begin, asked)))
        self._later(asked.waits_until_s, partial(self._command, partial(self._confirm, asked)))

    def fail(self, why: str) -> None:
        """It dies, with all that it has; afterwards it is as new."""
        self._life += 1
        self.machine.stop()
        self.speech.stop()
        self._heard.clear()
        self._inbox.clear()
        self._to_prepare.clear()
        self._awaiting.clear()
        self._num_preparing = self._num_coming = 0
        self._taking_s, self._steps = 0.0, None
        states = [s for asked in self.open.values() for s in (asked.state, asked.reader) if s is not None]
        for state in states:
            if not state.finished:
                self.scheduler.finish(state, "error")
        self.scheduler.pool.reset_prefix_cache()
        for asked in list(self.open.values()):
            self._end(asked, why)

    def _later(self, at_s: float, call: Callable[[], None]) -> None:
        """Unless it dies before."""
        life = self._life
        self._clock.at(at_s, lambda: call() if self._life == life else None)

    def _prepare(self, work_s: float, ready: Callable[[], None]) -> None:
        self._to_prepare.append((work_s, ready))
        self._prepare_next()

    def _prepare_next(self) -> None:
        while self._to_prepare and self._num_preparing < NUM_PREPARING:
            work_s, ready = self._to_prepare.popleft()
            self._num_preparing += 1
            self.machine.begin(PREPARE, work_s, partial(self._prepared, ready))

    def _prepared(self, ready: Callable[[], None]) -> None:
        self._num_preparing -= 1
        self._prepare_next()
        ready()

    def _command(self, command: Callable[[], None]) -> None:
        """For the engine's thread, which takes it between two steps."""
        self._inbox.append(command)
        self._aim_again(now=True, is_last=True)
        self._run()

    def _listen(self, asked: Asked, piece_s: float, heard_s: float) -> None:
        work_s = self._costs.prepare_s(piece_s, 0) - self._costs.prepare_s(0.0, 0)
        self._prepare(work_s, partial(self._command, partial(self._update, asked, heard_s)))

    # --- in the engine's thread ----------------------------------------------------------------

    def _begin_reading(self, asked: Asked) -> None:
        assert asked.growing is not None
        state = self._state(asked, f"{asked.name}, heard", asked.growing)
        if not asked.is_over and asked.state is None and self.scheduler.fits(state):
            asked.reader = state
            self.scheduler.add(state)

    def _update(self, asked: Asked, heard_s: float) -> None:
        reader = asked.reader
        if reader is None or reader.finished:
            return
        assert asked.prompt is not None
        assert isinstance(reader.prompt, GrowingPrompt)
        units = self._prompts.units_of(asked.prompt)[: round(heard_s * UNITS_PER_S)]
        grown = reader.prompt.with_units(units)
        if self.scheduler.fits(reader, num_more=len(grown.ids) - len(reader.prompt.ids)):
            self.scheduler.update_speech(reader, grown)

    def _is_full(self, num_coming: int) -> bool:
        """Whether no more may wait. num_coming: requests that are read, or about to be taken."""
        return self.scheduler.num_waiting + num_coming >= self._served.settings.max_num_waiting

    def _begin(self, asked: Asked) -> None:
        if asked.is_over:
            return
        if asked.growing is None:
            self._num_coming -= 1
        if self._is_full(0):
            self._end(asked, "overloaded")
            return
        assert asked.prompt is not None
        self._taking_s += self._costs.intake_s()
        state = self._state(asked, asked.name, asked.prompt)
        longest = min(self._served.settings.max_model_len, self._served.model.max_position_embeddings)
        if (
            max(len(state.text), state.num_speech_known) + max(state.max_tokens, state.params.max_units)
            > longest
        ):
            self._end(asked, "too long")
        elif not self.scheduler.fits(state):
            self._end(asked, "larger than the cache")
        else:
            state.is_speculative = self._clock.now_s < asked.waits_until_s
            asked.state = state
            asked.job = self.speech.begin(asked.name, gapless=asked.arrival.realtime)
            self.scheduler.add(state)

    def _confirm(self, asked: Asked) -> None:
        """Its turn is over: the user waits for its reply."""
        if asked.reader is not None and not asked.reader.finished:
            self.scheduler.finish(asked.reader, "abort")
        if asked.is_over:
            return
        if asked.state is not None and asked.state.is_speculative:
            self.scheduler.confirm(asked.state)
        if asked.has_text:
            asked.reply.add_text(self._clock.now_s)
        for seconds in asked.kept:
            asked.reply.add_audio(self._clock.now_s, seconds)
        asked.kept.clear()
        if asked.has_last:
            self._end(asked, None)

    def _state(self, asked: Asked, name: str, prompt: Prompt) -> RequestState:
        arrival = asked.arrival
        num_units = max(1, round(arrival.reply_s * UNITS_PER_S))
        state = RequestState(
            name,
            prompt,
            SamplingParams(max_tokens=arrival.reply_tokens, max_units=num_units, ignore_eos=True),
            speaks=True,
            config=self._served.model,
            cache=self._served.cache,
            carries_speech=_always,
            speaking=EvenSpeaking,
        )
        assert isinstance(state.speaking, EvenSpeaking)
        state.speaking.rate = max(0, arrival.reply_tokens - self._served.model.fusion_lag) / num_units
        return state

    def _run(self) -> None:
        """Begin the next step, if none is under way and there is something to do."""
        if self._steps is not None:
            return
        self._deliver()
        while self._inbox:
            self._inbox.popleft()()
        scheduler = self.scheduler
        if not scheduler.has_work:
            return
        taking_s, self._taking_s = self._taking_s, 0.0
        if self._jumps and not taking_s and (jump := plan_jump(scheduler, self._costs)) is not None:
            self._begin_steps(list(jump.ends_s), jump)
            return
        self._stacks.begin()
        may_speak = len(self._awaiting) < scheduler.max_num_seqs
        if not step(scheduler, self._stacks, may_speak=may_speak):
            self._taking_s = taking_s
            self._tell()
            return  # sound that is still to be made has to be told first
        self.num_steps += 1
        self._count_blocks()
        work_s = taking_s + self._stacks.work_s + self._costs.step_s(self._stacks.rows)
        self.step_s += work_s
        self.row_s += self._stacks.rows * work_s
        self._begin_steps([work_s], None)

    # --- steps ---------------------------------------------------------------------------------

    def _begin_steps(self, ends_s: list[float], jump: Jump | None) -> None:
        aim = len(ends_s) if jump is None else self._aim(jump, 0, len(ends_s))
        activity = self.machine.begin(MODEL, ends_s[aim - 1], self._reach)
        self._steps = _Steps(ends_s, jump, aim, activity)

    def _reach(self) -> None:
        """The step that was aimed at has ended."""
        steps, self._steps = self._steps, None
        assert steps is not None
        last = len(steps.ends_s)
        if steps.jump is None:
            self._tell()
        else:
            self._give_units(steps, steps.aim)
            if steps.aim < last:
                aim = self._aim(steps.jump, steps.aim, last)
                work_s = steps.ends_s[aim - 1] - steps.ends_s[steps.aim - 1]
                steps.aim, steps.activity = aim, self.machine.begin(MODEL, work_s, self._reach)
                self._steps = steps
                self._deliver()
                self.speech.wake()
                self._aim_again()
                return
            self.num_jumped += last
            self.step_s += steps.ends_s[-1]
            self.row_s += len(steps.jump.requests) * steps.ends_s[-1]
            steps.jump.make(self.scheduler, self._unit, last)
            self._count_blocks()
        self.speech.wake()
        self._run()

    def _aim(self, jump: Jump, done: int, last: int) -> int:
        """The next step of a jump at whose end an idle speech thread finds something to make, or the last."""
        jobs = [
            self.open[request.request_id].job for request in jump.requests if request.request_id in self.open
        ]
        missing = self.speech.steps_to_ready([job for job in jobs if job is not None and job.thread is None])
        return last if missing >= last - done else done + max(1, int(missing))

    def _num_done(self, steps: _Steps) -> int:
        """How many have ended by now."""
        done_s = steps.ends_s[steps.aim - 1] - self.machine.left_s(steps.activity)
        return bisect_right(steps.ends_s, done_s + ROUNDING_S, hi=steps.aim)

    def _aim_again(self, *, now: bool = False, is_last: bool = False) -> None:
        """Something has changed while a jump is under way. now: to be done at the end of the step that is
        under way. is_last: the jump ends there."""
        steps = self._steps
        if steps is None or steps.jump is None:
            return
        done = min(self._num_done(steps), len(steps.ends_s) - 1)
        reached_s = steps.ends_s[steps.aim - 1] - self.machine.left_s(steps.activity)
        if is_last:
            del steps.ends_s[max(done + 1, steps.num_told) :]
        aim = done + 1 if now else self._aim(steps.jump, done, len(steps.ends_s))
        if aim != steps.aim:
            steps.aim = aim
            self.machine.change(steps.activity, max(0.0, steps.ends_s[aim - 1] - reached_s))

    def _sync(self) -> None:
        """Give the speech worker the units of the steps of a jump that have ended."""
        steps = self._steps
        if steps is not None and steps.jump is not None:
            self._give_units(steps, self._num_done(steps))

    def _give_units(self, steps: _Steps, done: int) -> None:
        assert steps.jump is not None
        count, steps.num_told = done - steps.num_told, done
        for request in steps.jump.requests if count > 0 else ():
            asked = self.open[request.request_id]
            asked.num_told += count
            if asked.job is not None:
                self.speech.push(asked.job, count)

    def _count_blocks(self) -> None:
        pool = self.scheduler.pool
        self.most_blocks = max(self.most_blocks, pool.num_blocks - pool.num_free)

    # --- what became known ---------------------------------------------------------------------

    def _tell(self) -> None:
        """What the last step has made known goes to the clients and to the speech worker."""
        now_s = self._clock.now_s
        for state in list(self._stacks.touched.values()):
            asked = self.open.get(state.request_id)
            if asked is None or asked.state is not state:
                continue
            assert asked.job is not None
            if not asked.has_text and state.shown_text_ids:
                asked.has_text = True
                if now_s >= asked.waits_until_s:
                    asked.reply.add_text(now_s)
            count, asked.num_told = len(state.unit_ids) - asked.num_told, len(state.unit_ids)
            if count or state.finished:
                self.speech.push(asked.job, count, final=state.finished)
            if state.finished:
                self._awaiting.add(asked.name)
                self.num_preemptions += state.num_preemptions

    def _hear(self, heard: Heard) -> None:
        """Some sound has been made; the engine's thread tells it after its step."""
        self._heard.append(heard)

    def _after_speech(self) -> None:
        """A batch has been made, and its threads have begun what is next."""
        if self._steps is None:
            self._run()
        else:
            self._aim_again(now=bool(self._heard))

    def _deliver(self) -> None:
        heard, self._heard = self._heard, []
        now_s = self._clock.now_s
        for each in heard:
            asked = self.open.get(each.request_id)
            if asked is None:
                continue
            is_kept = now_s < asked.waits_until_s
            asked.has_sound = asked.has_sound or each.seconds > 0
            if each.seconds and is_kept:
                asked.kept.append(each.seconds)
            elif each.seconds:
                asked.reply.add_audio(now_s, each.seconds)
            if each.is_last:
                self._awaiting.discard(asked.name)
                asked.has_last = True
                if not is_kept:
                    self._end(asked, None)

    def _end(self, asked: Asked, failure: str | None) -> None:
        asked.is_over = True
        self.open.pop(asked.name, None)
        self.speech.abort(asked.name)
        asked.ended(asked, failure)


def _always(_: int) -> bool:
    return True
