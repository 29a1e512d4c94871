"""How many replicas there should be, and what is waited for, without Ray."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import load

from antiphon import AsyncEngine, ConfigError
from antiphon.aio.health import Health
from antiphon.scale import ScaleSettings
from antiphon.scale.autoscaling import WaitingAudio
from antiphon.scale.load import waiting_audio_s


def context(
    waiting_s: dict[str, float] | None, num_requests: float = 0.0, target_requests: float = 16.0
) -> Any:
    """What Serve tells a policy."""
    return SimpleNamespace(
        aggregated_metrics=None if waiting_s is None else {"waiting_audio_s": waiting_s},
        total_num_requests=num_requests,
        config=SimpleNamespace(get_target_ongoing_requests=lambda: target_requests),
    )


@pytest.mark.parametrize(
    ("waiting_s", "num_requests", "wanted"),
    [
        (None, 0, 0),  # nobody has told yet
        ({"a": 0.0}, 0, 0),
        ({"a": 0.0, "b": 0.0}, 32, 2),
        ({"a": 30.0, "b": 10.0}, 0, 4),
        ({"a": 30.0, "b": 10.0}, 32, 4),
        ({"a": 5.0}, 40, 2.5),
    ],
)
def test_replicas_are_wanted_by_the_speech_that_waits_or_the_requests_that_run(
    waiting_s: dict[str, float] | None, num_requests: float, wanted: float
) -> None:
    assert WaitingAudio(10.0)(context(waiting_s, num_requests)) == (wanted, {})


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=5), st.floats(0, 1000), st.floats(0.1, 100))
def test_more_speech_that_waits_never_wants_fewer(
    waiting_s: list[float], num_requests: float, target_s: float
) -> None:
    policy = WaitingAudio(target_s)
    each = {str(i): seconds for i, seconds in enumerate(waiting_s)}
    more = each | {"0": each["0"] + 1}
    assert policy(context(more, num_requests))[0] >= policy(context(each, num_requests))[0]


def test_a_target_is_more_than_nothing() -> None:
    with pytest.raises(ValueError, match="target_s: expected more than 0, got 0"):
        WaitingAudio(0)


def test_speech_is_waited_for_by_those_who_hear_a_gap_and_those_who_hear_nothing_yet() -> None:
    health = Health(
        alive=True, num_running=8, num_waiting=5, num_queued=3, late_audio_s=2.5, kv_cache_usage=0.5,
        uptime_s=1.0, error=None, can_speak=True, speech_error=None,
    )  # fmt: skip
    assert waiting_audio_s(health, 4.0) == 2.5 + 3 * 4.0


def test_an_engine_tells_how_late_its_speech_is(speaking_engine: AsyncEngine) -> None:
    worker = speaking_engine.engine.speech_worker
    assert worker is not None
    assert speaking_engine.health().late_audio_s == 0.0
    worker.begin("late", None, 0, None)  # it is decoded whole, so nothing is made until its last unit
    try:
        assert worker.late_s == 0.0  # it has no units: whoever speaks has yet to say something
        worker.push("late", [1, 2, 3])
        while worker.late_s == 0.0:
            time.sleep(0.01)
        before_s = speaking_engine.health().late_audio_s
        time.sleep(0.01)
        assert speaking_engine.health().late_audio_s > before_s
    finally:
        worker.abort("late")
    assert speaking_engine.health().late_audio_s == 0.0


def test_requests_without_room_are_queued() -> None:
    with_room = AsyncEngine.from_engine(load())
    try:
        assert with_room.health().num_queued == 0
    finally:
        with_room.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_replicas": 0}, "num_replicas: expected at least 1, got 0"),
        ({"min_replicas": -1}, "min_replicas: expected at least 0, got -1"),
        ({"max_replicas": 0}, "max_replicas: expected at least 1"),
        ({"min_replicas": 3, "max_replicas": 2}, r"max_replicas: expected at least 1 and min_replicas \(3\)"),
        ({"target_waiting_s": 0}, "target_waiting_s: expected more than 0"),
        ({"target_requests": -1}, "target_requests: expected more than 0"),
        ({"num_cpus": 0}, "num_cpus: expected more than 0"),
        ({"spill_s": -1}, "spill_s: expected at least 0"),
        ({"num_gpus": -1}, "num_gpus: expected at least 0"),
        ({"surge_percent": 101}, "surge_percent: expected 0 to 100, got 101"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScaleSettings(**wrong)


def test_a_replica_takes_a_gpu_if_it_computes_on_one() -> None:
    assert ScaleSettings().gpus("cuda:1") == 1.0
    assert ScaleSettings().gpus("cpu") == 0.0
    assert ScaleSettings(num_gpus=0.5).gpus("cuda") == 0.5
