"""Every kernel refuses what does not fit, or gives the reference's numbers: no signal, no other numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import kernel_sweep
import pytest
import torch
from kernel_sweep import OPS, Case, outcomes

from antiphon.kernels import argmax, linear, ops, rms_norm, set_num_threads

MEMORY = """
import collections, os, resource, torch
from antiphon.kernels import _C
from antiphon.kernels import AttentionBatch, argmax_head, linear, paged_attention, sample
from antiphon.kernels import set_num_threads, soft_embedding
torch.set_num_threads(1)
set_num_threads(3)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
int32 = torch.int32
keys, blocks = 32768, 2048
cache = torch.zeros(blocks, 16, 2, 16), torch.zeros(blocks, 16, 2, 16)
q, table = torch.randn(256, 8, 16), torch.arange(blocks, dtype=int32)[None]
places = torch.arange(256)
bounds, lens = torch.tensor([0, 256], dtype=int32), torch.tensor([keys], dtype=int32)
batch = AttentionBatch(places.int(), places, bounds, lens, table)
head, embedding, hidden = linear(torch.randn(4096, 64)), torch.randn(4096, 64), torch.randn(96, 64)
logits, ones, rows = torch.randn(4, 1_000_000), torch.ones(4), torch.arange(4)
calls = {
    "paged_attention": lambda: paged_attention(q, *cache, batch),
    "argmax_head": lambda: argmax_head(hidden, head, top_k=64),
    "soft_embedding": lambda: soft_embedding(hidden, head, embedding),
    "sample": lambda: sample(logits, ones, torch.zeros(4, dtype=int32), ones * 0.9, rows, rows),
}
for name, call in calls.items():
    seen = collections.Counter()
    for extra in range(0, 12 << 20, 1 << 20):
        child = os.fork()
        if child == 0:
            size = next(line for line in open("/proc/self/status") if line.startswith("VmSize"))
            limit = int(size.split()[1]) * 1024 + extra
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            try:
                call()
            except MemoryError:
                os._exit(1)
            except RuntimeError:  # PyTorch's own
                os._exit(2)
            os._exit(0)
        seen[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
    assert set(seen) <= {0, 1, 2}, (name, seen)
    assert name != "sample" or seen[1], "not once was there too little"
    print(name, dict(seen))
"""

THREADS = """
import resource, torch
from antiphon.kernels import _C
from antiphon.kernels import linear, set_num_threads
weight, x = torch.randn(400, 200), torch.randn(50, 200)
set_num_threads(1)
product = linear(weight, backend="cpp")
expected = product(x)
resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))
resource.setrlimit(resource.RLIMIT_STACK, (1 << 33, resource.getrlimit(resource.RLIMIT_STACK)[1]))
set_num_threads(200)
assert torch.equal(product(x), expected)
print(_C.num_threads())
"""


def test_all_ops_are_swept() -> None:
    assert {name.split()[0] for name in OPS} == set(ops())


def counts(*arguments: str) -> dict[str, int]:
    """Of a sweep in which all was right, in a process of its own, which has no threads when it is forked."""
    command = [sys.executable, str(Path(kernel_sweep.__file__)), *arguments]
    done = subprocess.run(command, check=True, timeout=900, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["wrong"] == {}
    counts: dict[str, int] = found["counts"]
    return counts


@pytest.mark.slow
def test_refused_or_as_the_reference() -> None:
    found = counts()
    assert found["refused"] > 2000
    assert found["same"] > 1500


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU Triton does not interpret")
def test_int8_rows_in_triton_are_refused_or_as_by_the_reference() -> None:
    pytest.importorskip("triton")
    found = counts("triton")
    assert found["refused"] > 100
    assert found["same"] > 100


def test_the_sweep_sees_signals_and_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    def crash(backend: str | None, **_: object) -> object:
        if backend is None:
            os.kill(os.getpid(), signal.SIGSEGV)
        return None

    def differ(backend: str | None, **_: object) -> object:
        return torch.zeros(1) if backend is None else torch.ones(1)

    cases = [Case("argmax", "logits", change) for change in ("reversed", "zeros")]
    for call, verdict in ((crash, "signal 11"), (differ, "other")):
        monkeypatch.setitem(OPS, "argmax", kernel_sweep.Op(OPS["argmax"].make, call))
        assert list(outcomes(cases).values()) == [verdict] * 2


def test_a_residual_is_only_read() -> None:
    """Whatever it shares memory with: x itself, or itself as an expanded bias."""
    weight, x, bias = torch.randn(64, 64), torch.randn(5, 64), torch.randn(64)
    kept = x.clone(), bias.clone()
    product = linear(weight, backend="cpp")
    torch.testing.assert_close(product(x, x), x + x @ weight.T)
    torch.testing.assert_close(product(x, bias.expand(5, 64)), bias + x @ weight.T)
    assert torch.equal(x, kept[0])
    assert torch.equal(bias, kept[1])


def test_where_new_tensors_are_made_elsewhere() -> None:
    """A default device is for what names none; kernels make their results beside their inputs."""
    logits = torch.randn(3, 9)
    with torch.device("meta"):
        assert argmax(logits).device.type == "cpu"
        assert rms_norm(logits, logits[0], 1e-5).device.type == "cpu"


def test_gradients_take_the_reference_or_are_refused() -> None:
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(8)
    rms_norm(x, weight, 1e-5).sum().backward()
    assert x.grad is not None
    with pytest.raises(ValueError, match="rms_norm: backend 'cpp' computes no gradients"):
        rms_norm(x, weight, 1e-5, backend="cpp")
    with pytest.raises(ValueError, match="x, residual: expected no gradients"):
        linear(torch.randn(8, 8), backend="cpp")(x)
    with torch.no_grad():
        rms_norm(x, weight, 1e-5, backend="cpp")


@pytest.mark.slow
@pytest.mark.parametrize("code", [MEMORY, THREADS], ids=["memory", "threads"])
def test_where_the_system_gives_no_more(code: str) -> None:
    """Too little memory is an error, on helpers' threads too, and too few threads are none."""
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=300, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_number_of_threads_is_a_number() -> None:
    for wrong in (None, "2", 1.5, True, 2**40):
        with pytest.raises(ValueError, match="count: expected an integer"):
            set_num_threads(wrong)  # type: ignore[arg-type]
