"""An engine on the second of two GPUs, called from a thread whose current one is the first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from fake_cuda import FakeCuda
from golden_cases import cases
from plain_capture import PlainCapture

from antiphon import Engine
from antiphon.codec import Codec
from antiphon.engine.loading import load
from antiphon.model.cache import PagedKVCache
from antiphon.model.runner import Runner
from antiphon.sched.plan import StackPlan

ENGINE = "antiphon.engine.engine"
CPU, SECOND = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was done, and on which current GPU. All is computed on the CPU."""
    done: list[tuple[str, int]] = []
    cuda = FakeCuda(monkeypatch)

    def loaded(*args: Any, **kwargs: Any) -> Any:
        return replace(load(*args, **kwargs), device=SECOND)

    class Recording(PlainCapture):
        def __call__(self, function: Any) -> Any:
            done.append(("record", cuda.current.index))
            return super().__call__(function)

    for name in ("run_bottom", "run_text", "run_top"):
        run = getattr(Runner, name)

        def ran(self: Any, plan: StackPlan, run: Any = run, name: str = name) -> Any:
            done.append((name, cuda.current.index))
            return run(self, plan)

        monkeypatch.setattr(Runner, name, ran)
    monkeypatch.setattr(f"{ENGINE}.load", loaded)
    monkeypatch.setattr(f"{ENGINE}.capture_for", lambda *_, **__: Recording())
    monkeypatch.setattr(f"{ENGINE}.PagedKVCache", lambda config, dtype, _: PagedKVCache(config, dtype, CPU))
    return done


def test_all_is_launched_on_its_own_gpu(seen: list[tuple[str, int]]) -> None:
    """Triton and CUDA graphs take the current GPU, and would be given pointers of another."""
    case = cases()[0]
    with Engine(RANDOM_MODEL, device="cpu", max_num_seqs=2) as engine:
        (done,) = engine.generate(case.request())
    assert case.differences(done) == []
    assert {name for name, _ in seen} == {"record", "run_bottom", "run_text", "run_top"}
    assert {index for _, index in seen} == {1}


def test_sums_of_16_bits_stay_in_float32(
    seen: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default cuBLAS may add up parts of a row in bfloat16, and whether it does depends on the batch."""
    places: list[torch.device] = []
    monkeypatch.setattr(f"{ENGINE}.sum_in_float32", places.append)
    with Engine(RANDOM_MODEL, device="cpu", max_num_seqs=1):
        assert places == [SECOND]


def test_a_codec_computes_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, cuda = Codec.from_pretrained(RANDOM_CODEC, device="cpu"), FakeCuda(monkeypatch)
    with replace(codec.decoder, device=SECOND).computing():
        assert cuda.current.index == 1
    assert cuda.current.index == 0
