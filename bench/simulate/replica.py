"""One replica: the engine's scheduler and the worker's pacing on a clock that is not the machine's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from antiphon.bench.simulate.asked import Asked, state_of
from antiphon.bench.simulate.costs import MODEL, PREPARE, Costs
from antiphon.bench.simulate.events import Clock, Machine
from antiphon.bench.simulate.jumps import Jump, plan_jump
from antiphon.bench.simulate.live import begin_reading, confirm, grow
from antiphon.bench.simulate.moments import Moments
from antiphon.bench.simulate.prompts import Prompts
from antiphon.bench.simulate.readers import Readers
from antiphon.bench.simulate.speech import Heard, SimulatedSpeech
from antiphon.bench.simulate.stacks import UNIT, TimedStacks
from antiphon.bench.simulate.stepping import Stepper
from antiphon.engine.passes import step
from antiphon.outputs.replies import SPEECH_WAIT_S
from antiphon.outputs.speech_job import Job
from antiphon.sched.block_pool import BlockPool
from antiphon.sched.scheduler import Scheduler

__all__ = ["Replica"]

NUM_SPARE_WINDOWS = 64
"""See `Engine`."""
UPDATE_S = 0.4
"""How often the prompt of a live request grows."""
SPECULATION_S = 0.2
"""How long after its speech a reply is begun, while its turn is not over yet."""


class Replica:
    """Takes requests as they arrive, and tells when they end."""

    def __init__(
        self,
        clock: Clock,
        costs: Costs,
        prompts: Prompts,
        name: str,
        *,
        jumps: bool = True,
        first_moment: int = 0,
    ) -> None:
        """jumps: over steps that need no scheduler; the results are the same. first_moment: of the costs'
        `rates`, which it begins with."""
        served = costs.served
        self.name = name
        self.machine = Machine(clock, costs.slowed, Moments(costs.rates, first=first_moment))
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
        self._stepper = Stepper(self.machine, self.speech, self._job, self._give, self._pass, self._end_steps)
        self._readers = Readers(self.machine)
        self._awaiting: set[str] = set()
        self._inbox: deque[Callable[[], None]] = deque()
        self._num_coming = 0
        """Requests that have come and that the engine's thread has not taken"""
        self._taking_s = 0.0
        """What the engine's thread spends on requests before its next step."""
        self._ended_s = self._waits_since_s = 0.0
        """When its last step ended, and since when there is nothing to compute"""
        self._heard: list[Heard] = []
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
            work_s += self._costs.wake_s(PREPARE, self.machine.rested_s())
            self._readers.read(work_s, partial(self._command, partial(self._begin, asked)))
            return
        self._readers.read(
            self._costs.prepare_s(0.0, len(arrival.pictures)),
            partial(self._command, partial(begin_reading, asked, self.scheduler, self._served)),
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
        self._readers.stop()
        self._stepper.stop()
        self._awaiting.clear()
        self._num_coming = 0
        self._taking_s = 0.0
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

    def _command(self, command: Callable[[], None]) -> None:
        """For the engine's thread, which takes it between two steps."""
        self._inbox.append(command)
        self._stepper.aim_again(now=True, is_last=True)
        if not self._stepper.is_busy and self._awaiting:  # it waits for speech, and looks up now and then
            waited_s = self._clock.now_s - self._waits_since_s
            self._later(self._clock.now_s + SPEECH_WAIT_S - waited_s % SPEECH_WAIT_S, self._run)
        else:
            self._run()

    def _listen(self, asked: Asked, piece_s: float, heard_s: float) -> None:
        work_s = self._costs.prepare_s(piece_s, 0) - self._costs.prepare_s(0.0, 0)
        heard = partial(grow, asked, heard_s, self.scheduler, self._prompts)
        self._readers.read(work_s, partial(self._command, heard))

    # --- in the engine's thread ----------------------------------------------------------------

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
        state = state_of(asked.arrival, asked.name, asked.prompt, self._served)
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
        if confirm(asked, self.scheduler, self._clock.now_s):
            self._end(asked, None)

    def _run(self) -> None:
        """Begin the next step, if none is under way and there is something to do."""
        if self._stepper.is_busy:
            return
        self._deliver()
        while self._inbox:
            self._inbox.popleft()()
        scheduler = self.scheduler
        self._waits_since_s = now_s = self._clock.now_s
        if not scheduler.has_work:
            return
        taking_s, self._taking_s = self._taking_s, 0.0
        wake_s = self._costs.wake_s(MODEL, now_s - self._ended_s)
        if self._jumps and not taking_s + wake_s and (jump := plan_jump(scheduler, self._costs)) is not None:
            self._stepper.begin(list(jump.ends_s), jump)
            return
        self._stacks.begin()
        may_speak = len(self._awaiting) < scheduler.max_num_seqs
        if not step(scheduler, self._stacks, may_speak=may_speak):
            self._taking_s = taking_s
            self._tell()
            return  # sound that is still to be made has to be told first
        self.num_steps += 1
        self._count_blocks()
        work_s = taking_s + wake_s + self._stacks.work_s + self._costs.step_s(self._stacks.rows)
        self.step_s += work_s
        self.row_s += self._stacks.rows * work_s
        self._stepper.begin([work_s], None)

    # --- steps ---------------------------------------------------------------------------------

    def _pass(self) -> None:
        """A step within a jump has ended, and the jump goes on."""
        self._deliver()
        self.speech.wake()
        self._stepper.aim_again()

    def _end_steps(self, jump: Jump | None, ends_s: Sequence[float]) -> None:
        self._ended_s = self._clock.now_s
        if jump is None:
            self._tell()
        else:
            self.num_jumped += len(ends_s)
            self.step_s += ends_s[-1]
            self.row_s += len(jump.requests) * ends_s[-1]
            jump.make(self.scheduler, self._unit, len(ends_s))
            self._count_blocks()
        self.speech.wake()
        self._run()

    def _job(self, request_id: str) -> Job | None:
        asked = self.open.get(request_id)
        return None if asked is None else asked.job

    def _give(self, request_id: str, count: int) -> None:
        """So many units of a request have been picked in a jump."""
        asked = self.open[request_id]
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

    def _sync(self) -> None:
        self._stepper.sync()

    def _hear(self, heard: Heard) -> None:
        """Some sound has been made; the engine's thread tells it after its step."""
        self._heard.append(heard)

    def _after_speech(self) -> None:
        """A batch has been made, and its threads have begun what is next."""
        if not self._stepper.is_busy:
            self._run()
        else:
            self._stepper.aim_again(now=bool(self._heard))

    def _deliver(self) -> None:
        heard, self._heard = self._heard, []
        for each in heard:
            if (asked := self.open.get(each.request_id)) is not None:
                if each.is_last:
                    self._awaiting.discard(asked.name)
                if asked.hear(each.seconds, self._clock.now_s, is_last=each.is_last):
                    self._end(asked, None)

    def _end(self, asked: Asked, failure: str | None) -> None:
        asked.is_over = True
        self.open.pop(asked.name, None)
        self.speech.abort(asked.name)
        asked.ended(asked, failure)
