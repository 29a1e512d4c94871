"""Batches of streamed speech as a GPU computes them, simulated: chunks as `FlowStream` cuts them, batches as
the speech worker picks them, sizes as the ladders have them; networks are only a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from antiphon.bench.dummy_codec import read_params
from antiphon.codec.batches import (
    MAX_GRAPHS,
    ROW_STEPS,
    Ladder,
    bucket_rows,
    flow_ladder,
    stream_batch,
    vocoder_ladder,
)
from antiphon.codec.flow.stream import FlowStream
from antiphon.codec.hift.vocoder import MEL_TAIL
from antiphon.codec.voices import Voice
from antiphon.config import StreamSchedule

MAX_FRAMES = 4608
UNIT_S = 1 / 25
"""A request picks units as fast as they sound, and twice as fast at first."""
PARAMS = read_params("codec_300m").flow
VOICE = Voice(torch.zeros(192))


def flow() -> Ladder:
    return flow_ladder(PARAMS, StreamSchedule(), MAX_FRAMES)


def vocoder() -> Ladder:
    return vocoder_ladder(PARAMS, StreamSchedule(), MAX_FRAMES, MEL_TAIL)


@dataclass(eq=False)
class Speaker:
    """A request, as far as its speech goes."""

    begins_s: float
    num_units: int
    stream: FlowStream = field(default_factory=lambda: FlowStream(PARAMS, VOICE, 0, StreamSchedule()))
    due_s: float = 0.0
    window: int = 0
    """Frames of mel that the vocoder keeps."""

    def hear(self, now_s: float) -> None:
        """Units that have been picked by now."""
        picked = min(self.num_units, int(2 * (now_s - self.begins_s) / UNIT_S))
        if picked > self.stream.num_units or (picked == self.num_units and not self.stream.is_complete):
            new = [0] * (picked - self.stream.num_units)
            self.stream.add(new, complete=picked == self.num_units)

    def advance(self, now_s: float) -> int:
        """Makes the chunk; the frames of its window in the vocoder."""
        done, stream = self.stream.num_done, self.stream
        stream._taken = stream.ready_units()
        new = PARAMS.mel_frames(done + stream._taken) - PARAMS.mel_frames(done)
        stream.num_done, stream._taken = done + stream._taken, 0
        stream._chunk_index += 1
        first = max(stream._first, stream.num_done - stream.schedule.context_units)
        del stream._units[: first - stream._first]
        stream._first = first
        window, self.window = self.window + new, min(MEL_TAIL, self.window + new)
        self.due_s = max(self.due_s, now_s) + new * 256 / 22050
        return window


@pytest.mark.parametrize(
    "num_requests", [16, *(pytest.param(n, marks=[pytest.mark.slow, pytest.mark.long]) for n in (32, 64))]
)
def test_few_frames_are_computed_for_nothing(num_requests: int) -> None:
    """300 s of requests that speak 2 to 20 s each, one after the other: at most 1.25 times the needed frames,
    and every batch has a size that was recorded at the start."""
    random = np.random.default_rng(num_requests)
    needed, computed = {"flow": 0, "vocoder": 0}, {"flow": 0, "vocoder": 0}
    speakers = [
        Speaker(float(random.uniform(0, 5)), int(random.integers(50, 500))) for _ in range(num_requests)
    ]
    now_s, batches = 0.0, 0
    while now_s < 300:
        for speaker in speakers:
            speaker.hear(now_s)
        ready = sorted((s for s in speakers if s.stream.ready_units()), key=lambda s: s.due_s)
        if not ready:
            now_s += 0.005
            continue
        frames = [speaker.stream.ready_frames() for speaker in ready]
        batch = stream_batch(frames, flow())
        windows = [ready[i].advance(now_s) for i in batch]
        batches += 1
        for name, ladder, lengths in (
            ("flow", flow(), [frames[i] for i in batch]),
            ("vocoder", vocoder(), windows),
        ):
            size = ladder.fit(len(batch), max(lengths))
            assert size is not None, "else it would run kernel by kernel"
            needed[name] += sum(lengths)
            computed[name] += size[0] * size[1]
        now_s += 0.01 + 2e-5 * max(frames) * len(batch)
        for k, speaker in enumerate(speakers):
            if speaker.stream.is_done:
                begins_s = now_s + float(random.uniform(0, 1))
                speakers[k] = Speaker(begins_s, int(random.integers(50, 500)), due_s=begins_s + 0.3)
    assert batches > 500
    assert needed["flow"] > 300 / UNIT_S * PARAMS.mel_frames(num_requests)
    for name, frames_needed in needed.items():
        assert computed[name] <= 1.25 * frames_needed, name


def test_the_ladders_of_the_released_codec() -> None:
    assert flow() == Ladder((1, 2, 4, 8, 12, 16), (56, 88, 136, 192, 272))
    assert vocoder() == Ladder((1, 2, 4, 8, 12, 16), (48, 72, 120, 160, 216))


schedules = st.builds(
    StreamSchedule,
    lookahead_units=st.integers(0, 8),
    first_units=st.integers(9, 100),
    growth=st.floats(1, 4),
    max_units=st.integers(1, 200),
    context_units=st.integers(0, 100),
)


@given(schedules, st.integers(0, 20_000))
def test_a_ladder_is_kept_whole(schedule: StreamSchedule, max_frames: int) -> None:
    for ladder in (
        flow_ladder(PARAMS, schedule, max_frames),
        vocoder_ladder(PARAMS, schedule, max_frames, MEL_TAIL),
    ):
        assert 1 <= len(ladder.sizes) <= MAX_GRAPHS
        assert list(ladder.rows) == sorted(set(ladder.rows)) and ladder.rows[0] == 1
        assert list(ladder.frames) == sorted(set(ladder.frames))
        assert all(frames % 8 == 0 for frames in ladder.frames)
        assert ladder.rows[-1] == 1 or ladder.rows[-1] * ladder.frames[-1] <= max_frames


@given(schedules, st.integers(1, 600))
def test_every_chunk_fits_into_the_ladders(schedule: StreamSchedule, num_units: int) -> None:
    speaker = Speaker(0, num_units, FlowStream(PARAMS, VOICE, 0, schedule))
    speaker.stream.add([0] * num_units, complete=True)
    own = flow_ladder(PARAMS, schedule, MAX_FRAMES)
    windows = vocoder_ladder(PARAMS, schedule, MAX_FRAMES, MEL_TAIL)
    while speaker.stream.ready_units():
        assert own.fit(1, speaker.stream.ready_frames()) is not None
        assert windows.fit(1, speaker.advance(0)) is not None


@given(st.lists(st.integers(1, 400), min_size=1, max_size=70))
def test_a_batch_has_the_most_urgent_and_little_padding(frames: list[int]) -> None:
    batch = stream_batch(frames, flow())
    assert batch[0] == 0 and len(batch) <= flow().rows[-1]
    assert sorted(set(batch)) == batch
    size = flow().fit(len(batch), max(frames[i] for i in batch))
    if size is not None and len(batch) > 1:
        rows, longest = size
        assert rows == len(batch) or rows * longest <= 1.25 * sum(frames[i] for i in batch)


def test_voices_with_long_prompts_share_batches_of_their_own() -> None:
    assert stream_batch([600, 268, 599, 601, 300, 590], flow()) == [0, 2, 5]
    assert len(stream_batch([600] * 40, flow())) == 16 * 272 // 600
    assert stream_batch([9000, 9000], flow()) == [0]


def test_equal_chunks_fill_a_recording() -> None:
    counts = [len(stream_batch([268] * count, flow())) for count in (1, 2, 3, 5, 7, 9, 11, 15, 16, 40)]
    assert counts == [1, 2, 2, 4, 7, 8, 11, 15, 16, 16]


def test_rows() -> None:
    assert [bucket_rows(rows) for rows in ROW_STEPS] == list(ROW_STEPS)
    assert [bucket_rows(rows) for rows in (3, 5, 13, 129)] == [4, 8, 16, 256]
