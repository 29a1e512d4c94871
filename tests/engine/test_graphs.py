"""Decode steps that are replayed at fixed sizes give the golden results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_MODEL
from golden_cases import cases
from plain_capture import PlainCapture, recording

from antiphon import Engine, SamplingParams
from antiphon.kernels.warm_up import HEAD_ROWS, warm_up
from antiphon.model.checkpoint.loading import load_weights
from antiphon.model.recordings import decode_sizes
from antiphon.model.weights import OmniWeights


@pytest.fixture
def capture() -> Iterator[PlainCapture]:
    """The capture that every engine of the test records with."""
    made = PlainCapture()
    with recording(made):
        yield made


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20])]
)
def test_sizes(most: int, sizes: list[int]) -> None:
    assert decode_sizes(most) == sizes


def test_sizes_of_a_large_server() -> None:
    sizes = decode_sizes(512)
    assert sizes == sorted(set(sizes))
    assert sizes[-3:] == [448, 480, 512]
    assert all(larger - smaller <= 32 for smaller, larger in itertools.pairwise(sizes))


@pytest.mark.parametrize("max_num_seqs", [1, 5, 64])
def test_golden_results(capture: PlainCapture, max_num_seqs: int) -> None:
    """With 5, batches of 3 are padded to 4 and nothing fits exactly; the windows of requests whose text has
    ended stay out; prompts and mixed batches run beside it."""
    wanted = [case for case in cases() if "big" not in case.name]
    with Engine(RANDOM_MODEL, max_num_seqs=max_num_seqs) as engine:
        sizes = decode_sizes(max_num_seqs)
        assert capture.num_recorded == 5 * len(sizes) + sum(size <= 8 for size in sizes)
        done = engine.generate([case.request() for case in wanted])
        engine.check_integrity()
    assert {c.name: c.differences(d) for c, d in zip(wanted, done, strict=True)} == {
        c.name: [] for c in wanted
    }
    assert capture.num_replayed > 100


@pytest.mark.parametrize("max_num_seqs", [3, 16])
def test_sampled_ids(max_num_seqs: int) -> None:
    """Greedy and sampled rows share a recording; each gets what it gets without one."""
    settings = [
        SamplingParams(temperature=0.9, top_k=5, seed=1),
        SamplingParams(),
        SamplingParams(temperature=1.3, top_p=0.9, seed=2),
        SamplingParams(temperature=0.5, seed=1 << 70),
    ]
    wanted = [case for case in cases() if "big" not in case.name]
    requests = [
        replace(case.request(), sampling_params=replace(given, max_tokens=24, max_units=24))
        for case, given in zip(wanted, itertools.cycle(settings))
    ]
    found = []
    for made in (None, PlainCapture()):
        with recording(made), Engine(RANDOM_MODEL, max_num_seqs=max_num_seqs) as engine:
            found.append([(done.text_ids, done.unit_ids) for done in engine.generate(requests)])
    assert found[0] == found[1]


def test_enforce_eager(capture: PlainCapture) -> None:
    with Engine(RANDOM_MODEL, enforce_eager=True) as engine:
        (done,) = engine.generate(cases()[0].request())
    assert cases()[0].differences(done) == []
    assert capture.num_recorded == capture.num_replayed == 0


def test_nothing_is_recorded_on_a_cpu() -> None:
    with Engine(RANDOM_MODEL) as engine:
        assert engine.runner._decoding is None


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_units_alone_can_be_picked(
    is_recorded: bool, quantization: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The likeliest of them, where a text id is likelier: until there is one, the answers are the same."""

    def with_likely_text(*args: Any, **kwargs: Any) -> OmniWeights:
        weights = load_weights(*args, **kwargs | {"quantization": None})
        assert isinstance(weights.audio_lm_head, torch.Tensor)
        weights.audio_lm_head[40:50] *= 25  # a unit's row is that much larger
        return weights

    if quantization is None:
        monkeypatch.setattr("antiphon.engine.loading.load_weights", with_likely_text)
    requests = [case.request() for case in cases() if case.speaks and "big" not in case.name]
    requests = [replace(r, sampling_params=SamplingParams(max_units=40)) for r in requests]
    with recording(PlainCapture() if is_recorded else None):
        with Engine(RANDOM_MODEL, quantization=quantization, max_num_seqs=3) as engine:
            config, whole = engine.model_config, engine.generate(requests)
        with Engine(RANDOM_MODEL, quantization=quantization, max_num_seqs=3, unit_head="units") as engine:
            units = engine.generate(requests)
    allowed = {*range(config.first_unit_id, config.first_unit_id + config.audio_vocab_size)}
    allowed |= config.stop_token_ids
    num_same = num_others = 0
    for before, after in zip(whole, units, strict=True):
        assert set(after.unit_ids) <= allowed
        pairs = enumerate(zip(before.unit_ids, after.unit_ids, strict=False))
        first_other = next((i for i, (one, other) in pairs if one != other), len(before.unit_ids))
        num_same += first_other
        if first_other < len(before.unit_ids):
            assert before.unit_ids[first_other] not in allowed
            num_others += 1
    assert num_same > 0
    assert quantization is not None or num_others > 0


def test_what_is_compiled_at_start_fits_the_model(capture: PlainCapture) -> None:
    """The calls that compile kernels on a GPU, with the tensors of an engine."""
    with Engine(RANDOM_MODEL, max_num_seqs=3, max_model_len=256) as engine:
        decoding = engine.runner._decoding
        assert decoding is not None
        steps = list(warm_up(engine.runner._served(decoding.recordings)))
        (done,) = engine.generate(cases()[0].request())
    heads = [step for step in steps if step.startswith("a head of")]
    assert len(heads) == 3 * len(HEAD_ROWS)
    assert {"fusion", "norms and gates"} < set(steps)
    assert cases()[0].differences(done) == []
