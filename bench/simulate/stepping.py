"""The steps that an engine's thread makes: one at a time, or a jump over many, which may end early."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from antiphon.bench.simulate.costs import MODEL
from antiphon.bench.simulate.events import ROUNDING_S, Activity, Machine
from antiphon.bench.simulate.jumps import Jump
from antiphon.bench.simulate.speech import SimulatedSpeech
from antiphon.outputs.speech_job import Job

__all__ = ["Stepper"]


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


class Stepper:
    """At most one step or jump is under way."""

    def __init__(
        self,
        machine: Machine,
        speech: SimulatedSpeech,
        job: Callable[[str], Job | None],
        give: Callable[[str, int], None],
        passed: Callable[[], None],
        ended: Callable[[Jump | None, Sequence[float]], None],
    ) -> None:
        """job: the speech of a request. give: more units of a request have been picked. passed: called at the
        end of a step within a jump that goes on. ended: the step has ended, or these of the jump's steps."""
        self._machine, self._speech = machine, speech
        self._job, self._give, self._passed, self._ended = job, give, passed, ended
        self._steps: _Steps | None = None

    @property
    def is_busy(self) -> bool:
        return self._steps is not None

    def stop(self) -> None:
        """It will not end; the machine has dropped the work."""
        self._steps = None

    def begin(self, ends_s: list[float], jump: Jump | None) -> None:
        """ends_s: when each step ends, from now on, on a machine that does nothing else."""
        aim = len(ends_s) if jump is None else self._aim(jump, 0, len(ends_s))
        activity = self._machine.begin(MODEL, ends_s[aim - 1], self._reach)
        self._steps = _Steps(ends_s, jump, aim, activity)

    def aim_again(self, *, now: bool = False, is_last: bool = False) -> None:
        """Something has changed while a jump is under way. now: to be done at the end of the step that is
        under way. is_last: the jump ends there."""
        steps = self._steps
        if steps is None or steps.jump is None:
            return
        done = min(self._num_done(steps), len(steps.ends_s) - 1)
        reached_s = steps.ends_s[steps.aim - 1] - self._machine.left_s(steps.activity)
        if is_last:
            del steps.ends_s[max(done + 1, steps.num_told) :]
        aim = done + 1 if now else self._aim(steps.jump, done, len(steps.ends_s))
        if aim != steps.aim:
            steps.aim = aim
            self._machine.change(steps.activity, max(0.0, steps.ends_s[aim - 1] - reached_s))

    def sync(self) -> None:
        """Give the units of the steps of a jump that have ended."""
        steps = self._steps
        if steps is not None and steps.jump is not None:
            self._give_units(steps, steps.jump, self._num_done(steps))

    def _reach(self) -> None:
        """The step that was aimed at has ended."""
        steps, self._steps = self._steps, None
        assert steps is not None
        if steps.jump is not None:
            self._give_units(steps, steps.jump, steps.aim)
            if steps.aim < len(steps.ends_s):
                aim = self._aim(steps.jump, steps.aim, len(steps.ends_s))
                work_s = steps.ends_s[aim - 1] - steps.ends_s[steps.aim - 1]
                steps.aim, steps.activity = aim, self._machine.begin(MODEL, work_s, self._reach)
                self._steps = steps
                self._passed()
                return
        self._ended(steps.jump, steps.ends_s)

    def _aim(self, jump: Jump, done: int, last: int) -> int:
        """The next step of a jump at whose end an idle speech thread finds something to make, or the last."""
        jobs = [self._job(request.request_id) for request in jump.requests]
        missing = self._speech.steps_to_ready([job for job in jobs if job is not None and job.thread is None])
        return last if missing >= last - done else done + max(1, int(missing))

    def _num_done(self, steps: _Steps) -> int:
        """How many have ended by now."""
        done_s = steps.ends_s[steps.aim - 1] - self._machine.left_s(steps.activity)
        return bisect_right(steps.ends_s, done_s + ROUNDING_S, hi=steps.aim)

    def _give_units(self, steps: _Steps, jump: Jump, done: int) -> None:
        count, steps.num_told = done - steps.num_told, done
        for request in jump.requests if count > 0 else ():
            self._give(request.request_id, count)
