"""A step of the engine, and what becomes of its requests if part of it fails.

A fault costs time and nothing else: whatever it left half done, nothing counts as computed any more, and all
that is known is computed again, to the same ids. To find the request that caused it, the requests of the
failed pass go through it again one by one; the one at fault ends with "error". If the model does not even
answer a question of our own, the engine has failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from antiphon.engine.passes import step
from antiphon.errors import EngineDead
from antiphon.model.runner import Runner
from antiphon.model.vllm.text import VllmText
from antiphon.outputs.replies import Replies
from antiphon.process.faults import log_fault
from antiphon.sched.block_pool import BlockPool
from antiphon.sched.plan import Chunk, StackPlan
from antiphon.sched.request import RequestState
from antiphon.sched.scheduler import Scheduler
from antiphon.sched.trial import Trial
from antiphon.types import Event

__all__ = ["Steps"]

MAX_FAULTS_OF_ONE = 3
"""A request that was in this number of failed passes is ended, even if it goes through alone."""
MAX_FAULTS_OF_ALL = 3
"""After this number of faults outside of a pass, without a successful step between, the engine has failed."""
MAX_PROBE_STEPS = 64
TEXT_WAIT_S = 0.01
"""How long a step with nothing else to do waits for text from elsewhere: short, as for speech."""


class Steps:
    """Makes the passes of a scheduler's plans, and tells what became known."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        replies: Replies,
        probe: Callable[[], RequestState],
        is_interrupt: Callable[[BaseException], bool],
        text: VllmText | None = None,
    ) -> None:
        """probe: makes a small request that needs all three stacks. is_interrupt: whether an exception is
        not a fault but ends what is being done. text: where the LLM is, if not in the runner."""
        self._scheduler = scheduler
        self._runner = runner
        self._replies = replies
        self._probe = probe
        self._is_interrupt = is_interrupt
        self._text = text
        self._plan: StackPlan | None = None
        """The plan of the current pass, until the scheduler has all its results, and they are told."""
        self._untold: dict[str, Chunk] = {}
        """By request id, chunks whose results are told while a device computes the next pass: that is the
        host's longest work beside planning, and no pass has to wait for it."""
        self._num_tellings = 0
        self._told: list[Event] = []
        """Where events go during a step."""
        runner.meanwhile = self._tell_the_rest
        self._num_faults = 0
        """Faults outside of passes since the last successful step."""

    def make(self, told: list[Event], *, may_wait: bool) -> None:
        """Make one pass through each stack that has work; what became known is added to `told`, even if the
        step fails. may_wait: whether to wait for speech if there is nothing to compute.

        A fault is dealt with here unless the engine has failed: then it is raised. An interrupt is raised
        too; all requests can go on after it.
        """
        if self._text is not None and self._text.lost is not None:
            raise EngineDead(self._text.lost)
        num_told, self._told = len(told), told
        were_untold, num_tellings = bool(self._untold), self._num_tellings
        try:
            # no spoken reply starts while many still lack their audio: they would pile up behind the model
            may_speak = len(self._replies.awaiting_audio) < self._scheduler.max_num_seqs
            computed = step(
                self._scheduler,
                self._runner,
                before=self._begin,
                after=self._tell,
                may_speak=may_speak,
            )
            if were_untold and num_tellings == self._num_tellings:
                self._tell_the_rest()
            told += self._replies.reap()
            may_wait = may_wait and not computed
            if self._text is not None:
                told += self._fail_textless(self._text)
                if may_wait and len(told) == num_told and self._text.is_awaited:
                    self._text.wait(TEXT_WAIT_S)
                    may_wait = False
            told += self._replies.collect_audio(may_wait=may_wait and len(told) == num_told)
            self._num_faults = 0
        except BaseException as error:
            plan, self._plan = self._plan, None
            self._untold.clear()  # what they made known is told after the next pass of these requests
            self._restart()
            if self._is_interrupt(error):
                raise
            log_fault("a step of the engine failed", error=error)
            if not self._can_go_on(plan):
                raise
            told += self._blame(plan, error)

    def _fail_textless(self, text: VllmText) -> Iterator[Event]:
        """End requests whose text cannot be made elsewhere."""
        while text.failures:
            request, error = text.failures.pop(0)
            output = self._replies.outputs.get(request.request_id)
            if output is not None and output.request is request and not request.finished:
                yield from self._replies.fail(output, error)

    def _begin(self, plan: StackPlan) -> None:
        self._plan = plan

    def _tell(self, plan: StackPlan) -> None:
        """Tell what a pass has made known: as events, and its units to the speech worker as well. Of requests
        that decode, and so go on at once, it is told while that is computed, if it is computed elsewhere."""
        if self._runner.is_replaying and all(len(c) == 1 and c.request.is_decoding for c in plan.chunks):
            self._untold.update((chunk.request.request_id, chunk) for chunk in plan.chunks)
        else:
            self._tell_at_once(plan)
        self._plan = None

    def _tell_at_once(self, plan: StackPlan) -> None:
        self._told += self._replies.poll(plan)
        if plan.stack == "top":
            self._told += self._replies.speak(plan)

    def _tell_the_rest(self) -> None:
        self._num_tellings += 1
        if self._untold:
            chunks, self._untold = list(self._untold.values()), {}
            self._tell_at_once(StackPlan("top", chunks))

    # --- after a fault --------------------------------------------------------------------------

    def _restart(self) -> None:
        self._scheduler.restart([output.request for output in self._replies.outputs.values()])

    def _can_go_on(self, plan: StackPlan | None) -> bool:
        if plan is None:
            self._num_faults += 1
            if self._num_faults >= MAX_FAULTS_OF_ALL:
                return False
        return self._answers()

    def _answers(self) -> bool:
        """Whether the model answers a request of our own, in blocks that the restart has freed."""
        ours = self._scheduler
        request = self._probe()
        scheduler = Scheduler(
            BlockPool(ours.pool.num_blocks, enable_prefix_caching=False),
            max_num_seqs=1,
            max_num_batched_tokens=ours.max_num_batched_tokens,
            text_lookahead=ours.text_lookahead,
            max_fused_tokens=ours.max_fused_tokens,
        )
        if not scheduler.fits(request):
            return True
        try:
            scheduler.add(request)
            for _ in range(MAX_PROBE_STEPS):
                step(scheduler, self._runner)
                if request.finished:
                    return True
        except BaseException as error:
            if self._is_interrupt(error):
                raise
            log_fault("the model does not answer either", error=error)
        return False

    def _blame(self, plan: StackPlan | None, error: BaseException) -> Sequence[Event]:
        """End the requests of a failed pass that are known to be at fault, and try the others one by one."""
        if plan is None:
            return []
        scheduler, events = self._scheduler, list[Event]()
        tried_alone = bool(scheduler.trials) and scheduler.trials[0].request is plan.chunks[0].request
        trials = [Trial.of(chunk, plan.stack) for chunk in plan.chunks]
        there = {id(trial.request) for trial in trials}
        trials += [trial for trial in scheduler.trials if id(trial.request) not in there]
        for chunk in plan.chunks:
            request = chunk.request
            request.num_faults += 1
            if (tried_alone or request.num_faults >= MAX_FAULTS_OF_ONE) and not request.finished:
                events += self._replies.fail(self._replies.outputs[request.request_id], error)
        scheduler.trials = deque(trial for trial in trials if not trial.request.finished)
        return events
