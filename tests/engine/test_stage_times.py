"""How long a request waited for its turn, and how long each of its stages took."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from golden_cases import cases
from serving import load

from antiphon import Engine, Request, RequestMetrics, SamplingParams

AUDIO = ("text", "audio")
STAGES = ("queue_wait_s", "prefill_s", "text_s", "units_s", "codec_s")
PARAMS = SamplingParams(max_tokens=8, max_units=30, ignore_eos=True)


def told(metrics: RequestMetrics) -> set[str]:
    """Of these times, those that are there; none is negative or longer than the request."""
    found = {name: value for name, value in asdict(metrics).items() if name in STAGES and value is not None}
    assert metrics.e2e_s is not None
    assert all(0 <= value <= metrics.e2e_s for value in found.values()), found
    return {name.removesuffix("_s") for name in found}


def test_each_kind_of_request_has_the_stages_that_it_went_through() -> None:
    engine = Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", kv_cache_bytes=32 << 20, progress=False)
    heard = next(case for case in cases() if case.name == "s2s").request()
    requests = {
        "text": Request("Hello"),
        "speech": heard,
        "transcript": replace(heard, modalities=("transcript",)),
        "given": Request(say="One two three", modalities=AUDIO),
    }
    done = engine.generate(list(requests.values()), PARAMS)
    found = {name: each.metrics for name, each in zip(requests, done, strict=True)}
    assert {name: told(metrics) for name, metrics in found.items()} == {
        "text": {"queue_wait", "prefill", "text"},
        "speech": {"queue_wait", "prefill", "text", "units", "codec"},
        "transcript": {"queue_wait", "prefill"},
        "given": {"queue_wait", "prefill", "units", "codec"},
    }
    spoken, read, given = found["speech"], found["transcript"], found["given"]
    assert (spoken.queue_wait_s or 0) + (spoken.prefill_s or 0) == pytest.approx(spoken.ttft_s)
    assert (given.queue_wait_s or 0) + (given.prefill_s or 0) == pytest.approx(given.ttfu_s)
    assert (read.queue_wait_s or 0) + (read.prefill_s or 0) == pytest.approx(read.e2e_s)
    assert spoken.audio_s is not None and spoken.ttfu_s is not None
    assert (spoken.codec_s or 0) + spoken.ttfu_s == pytest.approx((spoken.rtf or 0) * spoken.audio_s)


def test_a_request_waits_until_the_one_before_it_has_ended() -> None:
    engine = load(max_num_seqs=1)
    first, second = (each.metrics for each in engine.generate([Request("Hello")] * 2, PARAMS))
    assert first.queue_wait_s is not None and second.queue_wait_s is not None
    assert first.e2e_s is not None and first.ttft_s is not None
    assert first.queue_wait_s < first.ttft_s
    assert second.queue_wait_s > 0.9 * (first.e2e_s - first.queue_wait_s)


def test_a_request_that_never_had_its_turn_has_no_times() -> None:
    engine = load(max_num_seqs=1)
    engine.add_request(Request("Hello"), PARAMS)
    waiting = engine.add_request(Request("Hello"), PARAMS)
    engine.step()
    engine.abort(waiting)
    ended = [event for event in engine.step() if event.request_id == waiting]
    assert told(ended[-1].completion.metrics) == set()  # type: ignore[union-attr]
