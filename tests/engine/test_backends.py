"""The golden ids come out of every backend that can run, Triton's kernels in its interpreter among them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from checkpoints import RANDOM_MODEL
from golden_cases import Case, cases

from antiphon import Engine
from antiphon.kernels import registry

NUM_UNITS = 2
"""A prompt and a few steps: the interpreter takes a second for each."""


def case_named(name: str) -> Case:
    return next(case for case in cases() if case.name == name)


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend that every op takes if it has it; the other ops take torch."""
    wanted: str = request.param
    if not any(wanted in registry.backends(op) for op in registry.ops()):
        pytest.skip(f"{wanted} is not installed")

    def choose(op: str, device: torch.device, dtype: torch.dtype) -> str:
        has_it = wanted in registry.backends(op) and registry.takes(op, wanted, device, dtype)
        return wanted if has_it else "torch"

    monkeypatch.setattr(registry, "choose", choose)
    return wanted


# Text that is spoken runs no kernel that speech in, speech out does not.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("torch", "s2s_short"),
        ("torch", "t2s"),
        pytest.param("triton", "s2s_short", marks=pytest.mark.long),
    ],
    indirect=["backend"],
)
def test_golden_ids(backend: str, name: str) -> None:
    case = case_named(name)
    with Engine(RANDOM_MODEL) as engine:
        request = case.request()
        assert request.sampling_params is not None
        request = replace(request, sampling_params=replace(request.sampling_params, max_units=NUM_UNITS))
        (done,) = engine.generate(request)
    assert done.unit_ids == case.data["output_ids"][:NUM_UNITS]
    assert done.text_ids == case.data["llm_ids"][: len(done.text_ids)]
    assert done.transcript_ids == case.data.get("asr_ids", [])
