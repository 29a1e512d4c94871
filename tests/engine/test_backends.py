"""The golden ids come out of every backend that can run, Triton's kernels in its interpreter among them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_MODEL
from golden_cases import Case, cases
from gpu_path import take_gpu_path
from plain_capture import PlainCapture, recording
from random_checkpoint import CheckpointShape, write_checkpoint

from antiphon import Engine, Request, SamplingParams, Units
from antiphon.kernels import registry
from antiphon.kernels.linear import CppLinear, TritonLinear

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


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU Triton does not interpret")
@pytest.mark.parametrize(
    "settings",
    [{"quantization": "int8"}, {"quantization": "int8-weight-only", "kv_cache_dtype": "int8"}],
    ids=["int8", "int8-weight-only"],
)
def test_recorded_steps_in_8_bits(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt is read and steps are replayed as on a GPU, with the ids of the C++ kernels."""
    pytest.importorskip("triton")
    shape = CheckpointShape(
        hidden=32, intermediate=48, heads=2, kv_heads=1, llm_layers=1, bottom_layers=1, top_layers=1
    )
    folder = write_checkpoint(tmp_path / "model", shape)
    settings |= {"max_num_seqs": 1, "max_model_len": 256, "kv_cache_bytes": 1 << 20, "device": "cpu"}
    request = Request(Units([1, 2, 3]), modalities=("text", "audio"), system="")
    params = SamplingParams(max_units=3, max_tokens=3, ignore_eos=True)

    def ids(engine: Engine) -> list[list[int]]:
        (done,) = engine.generate(request, params)
        assert done.error is None
        return [done.transcript_ids, done.text_ids, done.unit_ids]

    with Engine(folder, **settings) as engine:
        assert isinstance(engine.model.unit_head, CppLinear)
        expected = ids(engine)
    take_gpu_path(monkeypatch)
    capture = PlainCapture()
    with recording(capture), Engine(folder, **settings) as engine:
        assert isinstance(engine.model.unit_head, TritonLinear)
        found = ids(engine)
    assert found == expected
    assert len(found[2]) == 3
    assert capture.num_replayed > 3
