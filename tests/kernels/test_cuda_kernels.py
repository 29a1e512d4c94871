"""The CUDA kernels without a GPU: nvcc compiles them for A100 and H100, and their source runs on threads of
the CPU, one for each CUDA thread."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from antiphon.kernels.ctc_collapse import CollapsedLabels, ctc_collapse_reference
from antiphon.kernels.cuda.ctc_collapse import ctc_collapse

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
SIMT = ROOT / "tests" / "helpers" / "simt"

GUARD = -77

rows_of_labels = st.lists(st.lists(st.integers(0, 3), max_size=150), max_size=5)


def int32(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def assert_equal(found: tuple[Tensor, ...], expected: CollapsedLabels) -> None:
    ids, frames, cu_out, last = found
    n = len(expected.ids)
    for own, right in zip((ids[:n], cu_out, frames[:n], last), expected, strict=True):
        assert torch.equal(own, right)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("simt") / "ctc_collapse.so"
    command = ["g++", "-std=c++20", "-O1", "-pthread", "-shared", "-fPIC", f"-I{ROOT / 'csrc' / 'cuda'}"]
    subprocess.run([*command, str(SIMT / "ctc_collapse.cpp"), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
@pytest.mark.parametrize("capability", [80, 90])
def test_nvcc_compiles(source: Path, capability: int, tmp_path: Path) -> None:
    target = tmp_path / "kernel.cubin"
    options = ["-std=c++17", "-O3", "-Werror", "all-warnings", f"-arch=sm_{capability}", "-cubin"]
    subprocess.run(["nvcc", *options, str(source), "-o", str(target)], check=True)
    assert target.stat().st_size > 0


@pytest.mark.slow
@settings(max_examples=30)
@given(rows=rows_of_labels, blank=st.integers(0, 3), data=st.data())
def test_collapse_equals_the_reference(
    emulated: ctypes.CDLL, rows: list[list[int]], blank: int, data: st.DataObject
) -> None:
    """Rows of up to three tiles of the 64 threads that a block has here, some of them empty."""
    prev = data.draw(st.none() | st.lists(st.integers(-1, 3), min_size=len(rows), max_size=len(rows)))
    labels = int32([label for row in rows for label in row])
    cu_seqlens = int32([0, *(len(row) for row in rows)]).cumsum(0, dtype=torch.int32)
    before = None if prev is None else int32(prev)
    found = ctc_collapse(labels, cu_seqlens, blank, before, emulated)
    assert_equal(found, ctc_collapse_reference(labels, cu_seqlens, blank, before))


@pytest.mark.slow
def test_many_rows_look_back_over_each_other(emulated: ctypes.CDLL) -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(0, 90, (24,), generator=generator)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    labels = torch.randint(0, 4, (int(cu_seqlens[-1]),), generator=generator, dtype=torch.int32)
    expected = ctc_collapse_reference(labels, cu_seqlens, 0)
    for _ in range(5):  # blocks publish in another order each time
        assert_equal(ctc_collapse(labels, cu_seqlens, 0, None, emulated), expected)


@pytest.mark.parametrize("bounds", [[0, 5, 3, 10], [-4, 12, 10], [0, 10, 0, 10], [7, 2**30, 10]])
def test_wrong_bounds_write_nothing_beyond_the_outputs(
    emulated: ctypes.CDLL, bounds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only after the launch are they told from right ones, with the size of the result."""
    arenas = []

    def between_guards(like: Tensor) -> Tensor:
        arenas.append(torch.full((64 + len(like) + 64,), GUARD, dtype=like.dtype))
        return arenas[-1][64 : 64 + len(like)]

    monkeypatch.setattr(torch, "empty_like", between_guards)
    labels = int32([1, 2, 0, 2, 2, 3, 1, 1, 0, 2])
    found = ctc_collapse(labels, int32(bounds), 0, None, emulated)
    assert [len(output) for output in found] == [10, 10, len(bounds), len(bounds) - 1]
    assert len(arenas) == 4
    for arena in arenas:
        assert (arena[:64] == GUARD).all()
        assert (arena[-64:] == GUARD).all()
