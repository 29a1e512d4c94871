"""A run: the model answers, a listener hears spoken answers, a judge scores, recordings are timed. Each of
these goes on where it was ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from antiphon.engine.engine import Engine
from antiphon.evaluation.answer import Answering
from antiphon.evaluation.cases import Case
from antiphon.evaluation.judge import Judge
from antiphon.evaluation.listener import listener
from antiphon.evaluation.options import Options
from antiphon.evaluation.rubrics import Rubric
from antiphon.evaluation.run_folder import ANSWERS, HEARD, JUDGED, TIMES, RunFolder
from antiphon.evaluation.scoring import Records
from antiphon.evaluation.sound_quality import Score
from antiphon.evaluation.timing import case_times

__all__ = ["Report", "Run"]

Report = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Run:
    folder: RunFolder
    """That was opened for these cases and options"""
    cases: Sequence[Case]
    options: Options
    report: Report = lambda *_: None

    def answer(self, answering: Answering) -> None:
        """Ask what has no answer yet. Raises what the engine raises when it has failed."""
        there = self.folder.lines(ANSWERS)
        numbers = {case.case_id: number for number, case in enumerate(self.cases)}
        left = [case for case in self.cases if case.case_id not in there]
        done = len(self.cases) - len(left)
        with self.folder.appending(ANSWERS) as file:
            self.report("answering", done, len(self.cases))
            for case, answer in answering.answers(left):
                line = self.folder.answer_line(numbers[case.case_id], case, answer)
                file.write(case.case_id, line)
                done += 1
                self.report("answering", done, len(self.cases))

    def listen(self, name: str, scores: Mapping[str, Score]) -> None:
        """Have spoken answers written down by a listener (`listener.listener_name`), and scored. What lacks a
        score is listened to again."""
        answers, there = self.folder.lines(ANSWERS), self.folder.lines(HEARD)
        left = [
            case
            for case in self.cases
            if answers[case.case_id]["audio"] and not {"heard", *scores} <= set(there.get(case.case_id, {}))
        ]
        if not left:
            return
        with listener(name, self.options.language) as listen, self.folder.appending(HEARD) as file:
            for number, case in enumerate(left):
                self.report("listening", number, len(left))
                sound = self.folder.path / answers[case.case_id]["audio"]
                fields: dict[str, object] = {"heard": listen(sound), "listener": Path(name).name}
                fields |= {key: score(sound) for key, score in scores.items()}
                file.write(case.case_id, fields)

    def judge(self, judge: Judge, rubric: Rubric) -> None:
        """Have answers scored, the text and what was heard of the speech. What got no score is asked again by
        the next run."""
        answers, heard = self.folder.lines(ANSWERS), self.folder.lines(HEARD)
        there = self.folder.lines(JUDGED)
        wanted = {
            case.case_id: {"text": answers[case.case_id]["text"]}
            | ({"speech": heard[case.case_id]["heard"]} if case.case_id in heard else {})
            for case in self.cases
        }
        left = [
            case
            for case in self.cases
            if any(
                there.get(case.case_id, {}).get(name, {}).get("score") is None
                for name in wanted[case.case_id]
            )
        ]
        with self.folder.appending(JUDGED) as file:
            for number, case in enumerate(left):
                self.report("judging", number, len(left))
                told = {
                    name: vars(judge(rubric, case, answer)) for name, answer in wanted[case.case_id].items()
                }
                file.write(case.case_id, told)

    def time(self, engine: Engine, num: int) -> None:
        """Time the first `num` cases one by one (`timing.case_times`)."""
        there = self.folder.lines(TIMES)
        left = [case for case in self.cases[:num] if case.case_id not in there]
        with self.folder.appending(TIMES) as file:
            for number, (case, times) in enumerate(case_times(engine, self.options, left)):
                self.report("timing", number, len(left))
                file.write(case.case_id, times)

    def records(self) -> Records:
        """All that was written down."""
        return Records(*(self.folder.lines(name) for name in (ANSWERS, HEARD, JUDGED, TIMES)))
