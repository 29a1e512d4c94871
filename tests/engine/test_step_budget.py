"""What docs/gpu.md says that a step reads and launches, at the released size, is what the code does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from gpu_path import counting_launches, take_gpu_path
from plain_capture import recording
from random_checkpoint import CheckpointShape, write_checkpoint
from torch import Tensor

from antiphon import Engine
from antiphon.bench.checkpoint import write_checkpoint as write_sizes
from antiphon.config import EngineConfig, ModelConfig
from antiphon.kernels import QuantizedWeight
from antiphon.model.cache import cache_config
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.quantizing import Int8Matrices, matrix_names
from antiphon.model.checkpoint.tensors import empty_weights
from antiphon.model.omni import OmniModel
from antiphon.model.schemes import INT8

Result = TypeVar("Result", bound="Tensor | tuple[Tensor, ...]")

DOCUMENT = Path(__file__).parents[2] / "docs" / "gpu.md"


def row(title: str, *, of: str) -> list[str]:
    """The cells of the row that begins so, in the table below a heading."""
    text = DOCUMENT.read_text("utf-8")
    [section] = re.findall(rf"^{re.escape(of)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    [line] = re.findall(rf"^\| {re.escape(title)}.*$", section, re.MULTILINE)
    return [cell.strip() for cell in line.strip("| ").split("|")]


# --- launches -------------------------------------------------------------------------------------


class Counting:
    """A recording that counts what would be recorded, by its kind."""

    def __init__(self) -> None:
        self.counts: list[Counter[str]] = []

    def __call__(self, function: Callable[[], Result]) -> Callable[[], Result]:
        with counting_launches() as launches:
            result = function()
        self.counts.append(launches)
        return lambda: result

    def wait(self) -> None:
        pass


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many layers as the released model has, and small ones."""
    shape = CheckpointShape(
        hidden=32, intermediate=48, heads=2, kv_heads=1, llm_layers=32, bottom_layers=3, top_layers=5
    )
    return write_checkpoint(tmp_path_factory.mktemp("narrow") / "model", shape)


@pytest.fixture
def counted(
    request: pytest.FixtureRequest, narrow: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Counter[str]]:
    """Launches of each recording of an engine for one request, in bfloat16. Attention's second kernel, for
    few requests with long contexts, is left out, as in the document."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("on a GPU Triton does not interpret")
    take_gpu_path(monkeypatch)
    monkeypatch.setattr("antiphon.model.omni.cpp_available", lambda: False)
    counting = Counting()
    settings: dict[str, Any] = {"max_num_seqs": 1, "max_model_len": 256, "kv_cache_bytes": 4 << 20}
    with recording(counting), Engine(narrow, dtype="bfloat16", device="cpu", **settings, **request.param):
        kinds = ("sampled text", "text", "sampled unit", "unit with entries", "unit", "hear")
        found: dict[str, Counter[str]] = dict(zip(kinds, counting.counts, strict=True))
    for launches in found.values():
        del launches["_add_splits_kernel"]
    return found


def products(launches: Counter[str]) -> int:
    names = ("linear", "mm", "addmm_", "_linear_kernel", "_silu_mul_linear_kernel")
    return sum(launches[name] for name in names)


@pytest.mark.parametrize("counted", [{}, {"unit_head": "units"}], indirect=True, ids=["all", "units"])
def test_launches_in_16_bits(counted: dict[str, Counter[str]], request: pytest.FixtureRequest) -> None:
    is_all = request.node.callspec.id == "all"
    section = "## The budget of a step"
    head = row("unit head" if is_all else "the same, `unit_head", of=section)
    parts = [row(title, of=section)[-1] for title in ("five top", "three bottom", "CTC head", "rows in")]
    total = sum(map(int, parts)) + int(head[-1])
    assert counted["unit"].total() == total
    if is_all:
        assert total == int(row("**unit step**", of=section)[-1])
    more = int(row("new text in the windows", of=section)[-1])
    assert counted["unit with entries"].total() == total + more
    assert counted["text"].total() == int(row("text step", of=section)[-1])
    assert products(counted["unit"]) == 5 * 6 + 3 * 4
    assert counted["hear"]["_rms_norm_kernel"] == 2 * 3 + 1


@pytest.mark.parametrize(
    ("counted", "column"),
    [({"quantization": "int8-weight-only"}, -2), ({"quantization": "int8", "kv_cache_dtype": "int8"}, -1)],
    indirect=["counted"],
    ids=["int8-weight-only", "int8"],
)
def test_launches_in_8_bits(counted: dict[str, Counter[str]], column: int) -> None:
    """A gate takes no launch of its own, and rows in 8 bits take one for each product and head. No matrix is
    widened in memory."""
    section = "### In 8 bits"
    total = int(row("**unit step**", of=section)[column])
    assert counted["unit"].total() == total
    more = int(row("new text in the windows", of=section)[column])
    assert counted["unit with entries"].total() == total + more
    assert counted["text"].total() == int(row("**text step**", of=section)[column])
    parts = [
        row(title, of=section)[column] for title in ("five top", "unit head", "three bottom", "CTC head")
    ]
    per_step = ("index_select", "to", "mul_", "index_copy_", "stack")
    assert total == sum(map(int, parts)) + sum(counted["unit"][name] for name in per_step)
    for launches in counted.values():
        heads = launches["_best_of_part_kernel"]
        assert launches["_quantize_rows_kernel"] == (products(launches) + heads if column == -1 else 0)
        assert not {"linear", "mm", "addmm_", "_silu_mul_kernel"} & launches.keys()
    assert products(counted["unit"]) == 5 * 6 + 3 * 4
    assert counted["unit"]["_silu_mul_linear_kernel"] == 5 + 3


# --- bytes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return read_config(write_sizes("8b", tmp_path_factory.mktemp("8b")), load_format="dummy")


def bytes_read(config: ModelConfig, *, is_int8: bool, unit_head: Any = "all") -> dict[str, float]:
    """In GB, of weights on the device "meta"."""
    weights = empty_weights(config, device="meta", dtype=torch.bfloat16)
    if is_int8:
        Int8Matrices(weights, config, matrix_names(config)).filled(INT8)
        table = weights.fusion_kv
        assert isinstance(table, Tensor)
        weights.fusion_kv = QuantizedWeight(table.to(torch.int8), table.new_empty(len(table)).float(), True)
    model = OmniModel(weights, config, 16, unit_head)
    parts = {name: size / 1e9 for name, size in model.num_bytes_read().items()}
    heads = {"CTC head": model.ctc_head, "unit head": model.unit_head}
    return parts | {name: head.num_bytes / 1e9 for name, head in heads.items()}


def test_bytes(released: ModelConfig) -> None:
    section = "### In 8 bits"
    for column, is_int8 in ((1, False), (2, True)):

        def told(title: str, column: int = column) -> str:
            return row(title, of=section)[column].removesuffix(" GB")

        read = bytes_read(released, is_int8=is_int8)
        units = bytes_read(released, is_int8=is_int8, unit_head="units")["unit head"]
        assert told("five top") == f"{read['top'] - read['unit head']:.3f}"
        assert told("unit head") == f"{read['unit head']:.3f} ({units:.3f})"
        assert told("three bottom") == f"{read['bottom'] - read['CTC head']:.3f}"
        assert told("CTC head") == f"{read['CTC head']:.3f}"
        assert told("**unit step**") == f"{read['top'] + read['bottom']:.3f}"
        assert told("new text in the windows") == f"{read['fusion']:.3f}"
        assert told("**text step**") == f"{read['text']:.3f}"


def test_bytes_of_a_position(released: ModelConfig) -> None:
    told = (
        "33 kB a\nposition and request for the eight speech layers, and 131 kB for the LLM's 32 "
        '(with `kv_cache_dtype="int8"` 17 and 68).'
    )
    assert told in DOCUMENT.read_text("utf-8")
    kilobytes = []
    for dtype in ("auto", "int8"):
        settings = EngineConfig(kv_cache_dtype=dtype, kv_cache_bytes=1 << 28)
        cache = cache_config(released, settings, torch.bfloat16, torch.device("cpu"))
        kilobytes += [
            round(cache.block_bytes / size / 1e3) for size in (cache.speech_block_size, cache.text_block_size)
        ]
    assert kilobytes == [33, 131, 17, 68]
