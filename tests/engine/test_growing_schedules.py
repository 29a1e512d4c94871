"""Whatever is heard, taken back and computed while users are speaking, the results are the golden ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from checkpoints import RANDOM_MODEL
from golden_cases import Case, cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_capture import PlainCapture, recording

from antiphon import (
    Completion,
    Engine,
    Event,
    Finished,
    TextDelta,
    TranscriptDelta,
    TranscriptUpdate,
    UnitDelta,
    Units,
)
from antiphon.types import Part

BLOCK_BYTES_PER_POSITION = 8 * 2 * 2 * 16 * 4  # of the packaged checkpoint, as in test_schedules.py


def split(case: Case) -> tuple[list[Part], list[int]]:
    """The parts of a spoken request: what stands before its units, and the units."""
    content = case.request().content
    assert isinstance(content, list)
    *before, last = content
    assert isinstance(last, Units)
    return before, list(last.units)


SPOKEN = tuple(case for case in cases() if isinstance(case.request().content[-1], Units))  # type: ignore[index]


@dataclass(frozen=True)
class Hypothesis:
    """What was heard at some moment: the right beginning, then something else."""

    share: float
    wrong: tuple[int, ...]

    def units(self, right: list[int]) -> list[int]:
        return right[: int(self.share * len(right))] + list(self.wrong)


@dataclass
class Speaker:
    """A user: another hypothesis after each pause, counted in steps; in the end all units, or no more."""

    case: Case
    start: int
    hypotheses: list[tuple[int, Hypothesis]]
    tells_all_at_commit: bool
    is_aborted: bool
    request_id: str = ""

    def act(self, engine: Engine) -> bool:
        """Do what is due at this step; False: nothing is left to do."""
        before, right = split(self.case)
        if not self.request_id:
            if self.start > 0:
                self.start -= 1
                return True
            request = replace(self.case.request(), content=[*before, Units([])])
            self.request_id = engine.open_request(request)
            return True
        if self.hypotheses:
            pause, hypothesis = self.hypotheses[0]
            if pause > 0:
                self.hypotheses[0] = (pause - 1, hypothesis)
            else:
                engine.update_speech(self.request_id, hypothesis.units(right))
                del self.hypotheses[0]
            return True
        if self.is_aborted:
            assert engine.abort(self.request_id)
        elif self.tells_all_at_commit:
            engine.commit(self.request_id, right)
        else:
            engine.update_speech(self.request_id, right)
            engine.commit(self.request_id)
        return False


hypotheses = st.builds(Hypothesis, st.floats(0, 1), st.lists(st.integers(0, 63), max_size=9).map(tuple))
speakers = st.builds(
    Speaker,
    case=st.sampled_from(SPOKEN),
    start=st.integers(0, 6),
    hypotheses=st.lists(st.tuples(st.integers(0, 4), hypotheses), max_size=6),
    tells_all_at_commit=st.booleans(),
    is_aborted=st.sampled_from([False, False, False, True]),
)
arrivals = st.lists(st.tuples(st.sampled_from(cases()), st.integers(0, 12)), max_size=4)


def run(engine: Engine, speakers: list[Speaker], others: list[tuple[Case, int]]) -> None:
    busy, pending, named = list(speakers), list(others), {}
    done: dict[str, Completion] = {}
    heard: dict[str, list[Event]] = {}
    while busy or pending or engine.has_unfinished():
        busy = [speaker for speaker in busy if speaker.act(engine)]
        engine.check_integrity()
        while pending and pending[0][1] <= 0:
            case, _ = pending.pop(0)
            named[engine.add_request(case.request())] = case
        if pending:
            pending[0] = (pending[0][0], pending[0][1] - 1)
        for event in engine.step():
            heard.setdefault(event.request_id, []).append(event)
            if isinstance(event, Finished):
                done[event.request_id] = event.completion
        engine.check_integrity()
    for request_id, case in named.items():
        assert case.differences(done[request_id]) == [], case.name
    for speaker in speakers:
        completion, events = done[speaker.request_id], heard[speaker.request_id]
        if speaker.is_aborted:
            assert completion.finish_reason == "abort"
            assert {type(event) for event in events} <= {TranscriptUpdate, Finished}
            continue
        assert speaker.case.differences(completion) == [], speaker.case.name
        assert "".join(e.text for e in events if isinstance(e, TranscriptDelta)) == completion.transcript
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == completion.text
        assert [u for e in events if isinstance(e, UnitDelta) for u in e.units] == completion.units
        kinds = [type(event) for event in events]
        if TranscriptUpdate in kinds:
            last = len(kinds) - kinds[::-1].index(TranscriptUpdate)
            assert not set(kinds[:last]) - {TranscriptUpdate}, "nothing else is told while it is open"


@pytest.mark.slow
@pytest.mark.long
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(
    speaking=st.lists(speakers, min_size=1, max_size=4),
    others=arrivals,
    block_size=st.integers(1, 64),
    max_num_batched_tokens=st.sampled_from([1, 7, 33, 128, 2048]),
    text_lookahead=st.integers(0, 40),
    max_num_seqs=st.integers(1, 6),
    prefix_caching=st.booleans(),
    spare_positions=st.integers(0, 1500),
    is_recorded=st.booleans(),
)
def test_any_way_of_speaking_gives_the_golden_results(
    speaking: list[Speaker],
    others: list[tuple[Case, int]],
    block_size: int,
    max_num_batched_tokens: int,
    text_lookahead: int,
    max_num_seqs: int,
    prefix_caching: bool,
    spare_positions: int,
    is_recorded: bool,
) -> None:
    # As in test_schedules.py: room for the longest case alone, and a random amount more.
    longest = -(-1640 // (2 * block_size)) + -(-400 // block_size) + 2
    num_blocks = longest + spare_positions // block_size
    with recording(PlainCapture() if is_recorded else None):
        engine = Engine(
            RANDOM_MODEL,
            block_size=block_size,
            max_num_batched_tokens=max_num_batched_tokens,
            text_lookahead=text_lookahead,
            max_num_seqs=max_num_seqs,
            enable_prefix_caching=prefix_caching,
            kv_cache_bytes=num_blocks * block_size * BLOCK_BYTES_PER_POSITION,
        )
    run(engine, [replace(one, hypotheses=list(one.hypotheses)) for one in speaking], others)
    assert engine.scheduler.pool.num_free == engine.cache_config.num_blocks
