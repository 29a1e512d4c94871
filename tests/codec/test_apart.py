"""Speech that is made in processes of its own: the same samples, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import RANDOM_CODEC
from hypothesis import given
from hypothesis import strategies as st
from speaking import LONG_S, units_of, wait_until

from antiphon import CheckpointError, EngineDead, StreamSchedule
from antiphon.codec import Codec
from antiphon.codec.apart import VocoderDied, VocoderProcess, Vocoders
from antiphon.codec.apart.packing import Packer, on_device, unpacked
from antiphon.codec.stopping import Stopped, stoppable
from antiphon.codec.voices import Voice

CPU = torch.device("cpu")
VOICE = "中文男"


def started(folder: Path = RANDOM_CODEC, num_workers: int = 1) -> tuple[Codec, Vocoders]:
    codec = Codec.from_pretrained(folder, "cpu", speaks=False)
    return codec, Vocoders(codec, folder, [CPU] * num_workers, "torch", enforce_eager=False)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_pretrained(RANDOM_CODEC, "cpu")


@pytest.fixture(scope="module")
def vocoders() -> Iterator[Vocoders]:
    _, made = started()
    made.wait_ready()
    yield made
    made.close()


@pytest.fixture
def process(vocoders: Vocoders) -> Iterator[VocoderProcess]:
    wait_until(lambda: vocoders.num_rows == [0])
    lane = vocoders.lane()
    assert lane is not None
    yield lane
    vocoders.release(lane)


# --- what goes there and back ---------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["float32", "float64", "int64"]), st.lists(st.integers(0, 5)))))
def test_tensors_come_back_as_they_were(kinds: list[tuple[str, list[int]]]) -> None:
    given_: dict[str, Any] = {"n": 3, "none": None, "list": [], "beside": torch.ones(3)}
    for dtype, shape in kinds:
        made = (torch.randn(shape[:3]) * 100).to(getattr(torch, dtype))
        given_["list"].append(made.mT if made.ndim == 2 else made)
    packer = Packer()
    packer.put(torch.ones(3))
    begin = packer.num_bytes
    values = packer.put(given_, begin)
    found = unpacked(values, on_device(packer.data(), CPU)[begin:])
    assert (found["n"], found["none"], len(found["list"])) == (3, None, len(kinds))
    for own, back in zip(given_["list"], found["list"], strict=True):
        assert own.dtype == back.dtype and own.shape == back.shape and torch.equal(own, back)
    assert torch.equal(found["beside"], torch.ones(3))


def test_streams_are_the_same_to_the_last_bit(
    codec: Codec, vocoders: Vocoders, process: VocoderProcess
) -> None:
    schedule = StreamSchedule(first_units=8, max_units=20)
    units = [units_of(30 + 40 * i, i) for i in range(3)]
    expected = [codec.stream(VOICE if i else None, i, schedule) for i in range(3)]
    streams = [vocoders.stream(codec.voice(VOICE if i else None), i, schedule) for i in range(3)]
    for start in range(0, 120, 7):
        for own, one, other in zip(units, streams, expected, strict=True):
            piece, is_last = own[start : start + 7], start + 7 >= len(own) > start
            if not piece:
                continue
            one.add(piece, final=is_last)
            other.add(piece, final=is_last)
            assert (one.ready, one.flow.chunks_left(9)) == (other.ready, other.flow.chunks_left(9))
            while one.ready:
                assert one.ready_frames == other.ready_frames
                [made] = process.advance([one])
                assert np.array_equal(made, codec_advance(other))
            assert one.is_done == other.is_done == is_last


def codec_advance(stream: Any) -> Any:
    from antiphon.codec.stream import advance

    return advance([stream])[0]


def test_whole_utterances_and_a_voice_with_a_prompt(codec: Codec, process: VocoderProcess) -> None:
    count = 9
    frames = codec.params.flow.mel_frames(count)
    own = codec.voice(None)
    cloned = Voice(own.embedding, torch.tensor(units_of(count, 3)), torch.randn(80, frames))
    units, voices, seeds = [units_of(12, 1), units_of(25, 2)], [cloned, codec.voice(VOICE)], [5, 2**63 + 1]
    made = process.decode(units, voices, seeds)
    for one, other in zip(made, codec.decode(units, voices, seeds), strict=True):
        assert np.array_equal(one, other)
    stream = codec.stream(cloned, 4)
    expected = stream.push(units_of(40, 4), final=True)
    apart = Vocoders.stream(_about(codec), cloned, 4, StreamSchedule())
    apart.add(units_of(40, 4), final=True)
    pieces = []
    while apart.ready:
        pieces += process.advance([apart])
    assert np.array_equal(np.concatenate(pieces), expected)


def _about(codec: Codec) -> Any:
    class Only:
        _codec = codec

    return Only()


# --- what goes wrong ------------------------------------------------------------------------------


def test_an_error_in_a_row_leaves_the_process_alive(codec: Codec, process: VocoderProcess) -> None:
    with pytest.raises(RuntimeError, match="units: expected numbers 0 to"):
        process.decode([[10**6]], [codec.voice(None)], [0])
    assert np.array_equal(process.decode([[1, 2]], [codec.voice(None)], [0])[0], codec.decode([[1, 2]])[0])


def test_what_nobody_wants_is_given_up(codec: Codec, vocoders: Vocoders, process: VocoderProcess) -> None:
    stream = vocoders.stream(codec.voice(None), 0, StreamSchedule(max_units=5000, growth=1000.0))
    stream.add(units_of(4000, 1), final=True)
    process.advance([stream])
    before = stream.state()
    with pytest.raises(Stopped), stoppable(lambda: True):
        process.advance([stream])
    assert process.is_alive
    assert stream.state() == before


def test_a_death_loses_nothing_and_another_goes_on(codec: Codec) -> None:
    own, vocoders = started()
    try:
        vocoders.wait_ready()
        process = vocoders.lane()
        assert process is not None
        stream = vocoders.stream(own.voice(None), 0, StreamSchedule())
        stream.add(units_of(100, 1), final=True)
        pieces = process.advance([stream])
        os.kill(process.pid, signal.SIGSTOP)  # so that it cannot answer
        threading.Timer(0.2, os.kill, (process.pid, signal.SIGKILL)).start()
        with pytest.raises(VocoderDied, match="SIGKILL"):
            process.advance([stream])
        with pytest.raises(Stopped):  # that it is dead is known by now
            process.advance([stream])
        vocoders.release(process)
        assert vocoders.lane() is None
        wait_until(lambda: vocoders.num_rows == [0] and vocoders.num_restarts == 1)
        other = vocoders.lane()
        assert other is not None and other is not process
        while stream.ready:
            pieces += other.advance([stream])
        assert np.array_equal(np.concatenate(pieces), codec.stream().push(units_of(100, 1), final=True))
        assert vocoders.failure is None
    finally:
        vocoders.close()
    assert vocoders.pids == []


def test_a_codec_that_cannot_be_loaded(tmp_path: Path) -> None:
    for file in RANDOM_CODEC.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "hift.pt").unlink()
    _, vocoders = started(tmp_path)
    with pytest.raises(CheckpointError, match=r"hift\.pt"):
        vocoders.wait_ready()
    assert vocoders.pids == []


def test_a_process_that_is_killed_while_it_loads() -> None:
    _, vocoders = started()
    os.kill(vocoders.pids[0], signal.SIGKILL)
    with pytest.raises(EngineDead, match="has not started: its process was ended by SIGKILL"):
        vocoders.wait_ready()


def test_none_can_be_started_any_more(tmp_path: Path) -> None:
    for file in RANDOM_CODEC.iterdir():
        (tmp_path / file.name).symlink_to(file)
    _, vocoders = started(tmp_path)
    try:
        vocoders.wait_ready()
        (tmp_path / "flow.pt").unlink()
        os.kill(vocoders.pids[0], signal.SIGKILL)
        wait_until(lambda: vocoders.failure is not None)
        assert "flow.pt" in str(vocoders.failure)
        (tmp_path / "flow.pt").symlink_to(RANDOM_CODEC / "flow.pt")
        wait_until(lambda: vocoders.num_rows == [0])
        assert vocoders.failure is None
    finally:
        vocoders.close()


PARENT = """
import sys, time, os
from antiphon.codec import Codec
from antiphon.codec.apart import Vocoders
import torch
codec = Codec.from_pretrained({folder!r}, "cpu", speaks=False)
vocoders = Vocoders(codec, {folder!r}, [torch.device("cpu")] * 2, "torch", enforce_eager=False)
{wait}
print(*vocoders.pids, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("wait", ["vocoders.wait_ready()", "if os.fork() == 0: time.sleep(600)"])
def test_they_end_with_their_parent(wait: str) -> None:
    """Even while they load, and even if something else that it started holds their pipes open."""
    script = PARENT.format(folder=str(RANDOM_CODEC), wait=wait)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(parent.pid, signal.SIGKILL)
        try:
            wait_until(lambda: not any(is_running(pid) for pid in pids))
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_closing_waits_for_nothing_that_hangs() -> None:
    codec, vocoders = started()
    vocoders.wait_ready()
    process = vocoders.lane()
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            process.decode([units_of(20, 1)] * 2000, [codec.voice(None)] * 2000, [0] * 2000)
        except (VocoderDied, Stopped) as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: process.num_rows > 0)
    vocoders.close()
    thread.join(LONG_S)
    assert len(errors) == 1
    assert not is_running(process.pid)
