"""Nothing is compiled while requests are served, and if something is, it is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from antiphon.kernels import DecoderGeometry, QuantizedCache, linear, quantize_int8
from antiphon.kernels.late_compiles import LateCompiles
from antiphon.kernels.warm_up import Served, warm_up

triton = pytest.importorskip("triton")

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("scheme", [None, "int8-weight-only", "int8"])
def test_serving_meets_no_variant_that_was_not_warmed_up(scheme: str | None) -> None:
    """400 arrivals beside 0 to 63 requests: prompts of any length, greedy and sampled, tables anywhere in
    memory. Once Triton told 71 variants apart there, by whether sizes that are data are 1 or divisible by
    16."""
    run = subprocess.run(
        [sys.executable, str(HELPERS / "launch_keys.py"), *([] if scheme is None else [scheme])],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    assert found["late"] == {}
    most = 48 if scheme is None else 80
    assert 20 < len(found["warm"]) <= most, "each takes up to two seconds at the start"


def test_it_changes_nothing() -> None:
    """It may run when caches are in use, and with every check of the ops."""
    storage = torch.randn(3, 2, 4, 2, 8)
    fusion_cache = torch.randn(2, 5, 1, 2, 32)
    table = torch.randn(70, 16)
    head = linear(table)
    numbers, scales = torch.ones(3, 4, 2, 8, dtype=torch.int8), torch.ones(3, 2, 4)
    in_int8 = QuantizedCache(numbers, scales), QuantizedCache(numbers.clone(), scales.clone())
    before = storage.clone(), fusion_cache.clone()
    served = Served(
        geometry=DecoderGeometry(4, 2, 8, 1e-5),
        hidden_size=16,
        intermediate_size=24,
        dtype=torch.float32,
        caches=[(storage[:, 0], storage[:, 1]), in_int8],
        max_blocks=3,
        max_num_seqs=3,
        cos_sin=torch.zeros(12, 8),
        heads=[head, linear(table[:40])],
        subset=torch.tensor([3, 1, 7]),
        soft=(head, table),
        fusion_cache=fusion_cache,
        products=[linear(quantize_int8(torch.randn(48, 16)), backend="triton")] * 2,
    )
    steps = list(warm_up(served))
    assert steps[0] == "norms and gates"
    assert "attention of 515 positions in 3 sequences of up to 3 blocks" in steps
    assert "soft embeddings of 256 rows" in steps
    assert steps.count("products of 16 by 48 in 8 bits") == 1
    assert torch.equal(storage, before[0])
    assert torch.equal(fusion_cache, before[1])
    assert (numbers == 1).all()
    assert (scales == 1).all()


def test_late_compiles_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda **about: seen.append(about))
    hook_before = triton.knobs.runtime.jit_post_compile_hook

    def compiles() -> None:
        triton.knobs.runtime.jit_post_compile_hook(key="a", fn=None)

    first, second = LateCompiles(), LateCompiles()
    compiles()
    first.start()
    compiles()
    second.start()
    compiles()
    assert (first.count, second.count) == (2, 1)
    first.stop()
    compiles()
    assert (first.count, second.count) == (2, 2)
    second.stop()
    compiles()
    assert (first.count, second.count) == (2, 2)
    assert triton.knobs.runtime.jit_post_compile_hook is hook_before
    assert len(seen) == 5, "whoever listened before still does"
    first.start()
    compiles()
    first.stop()
    assert first.count == 3
