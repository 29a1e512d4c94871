"""Engines on the CPU whose weights are in 16 or 8 bits: all else is float32."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import RANDOM_MODEL
from golden_cases import Case, cases
from safetensors.torch import load_file, save_file
from torch import Tensor

from antiphon import Completion, ConfigError, Engine
from antiphon.kernels.quantized import quantize_int8
from antiphon.sched.request import RequestState

TEXT_AND_SPEECH = [case for case in cases() if not case.data["images"]]
"""The tower that sees pictures computes in the dtype of its weights."""


def rewritten(folder: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """A copy of the checkpoint with other numbers."""
    copy = Path(shutil.copytree(RANDOM_MODEL, folder / "model"))
    file = copy / "model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(file).items()}, file)
    return copy


def answers(engine: Engine) -> list[Completion]:
    return engine.generate([case.request() for case in TEXT_AND_SPEECH])


def same(found: list[Completion], expected: list[Completion]) -> bool:
    names = ("text_ids", "unit_ids", "transcript_ids", "fusion_ids", "finish_reason")
    return all(
        getattr(a, name) == getattr(b, name) for a, b in zip(found, expected, strict=True) for name in names
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits_answer_as_their_numbers_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    engine = Engine(RANDOM_MODEL, dtype=dtype)
    folder = rewritten(tmp_path, lambda name, tensor: tensor.to(dtype).float())
    assert same(answers(engine), answers(Engine(folder)))
    assert engine.model.dtype == engine.runner.cache.storage.dtype == torch.float32
    full = Engine(RANDOM_MODEL).model.num_bytes_read()
    assert engine.model.num_bytes_read() == {name: size // 2 for name, size in full.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_8_bits_answer_as_their_numbers_in_float32(dtype: str, tmp_path: Path) -> None:
    """But for rounding: the scale is applied to sums there, to weights here."""

    def change(name: str, tensor: Tensor) -> Tensor:
        rounded = tensor.to(getattr(torch, dtype)).float()
        is_matrix = tensor.dim() == 2 and "vision" not in name and "mm_projector" not in name
        return quantize_int8(rounded).dequantized() if is_matrix else rounded

    engine = Engine(RANDOM_MODEL, dtype=dtype, quantization="int8-weight-only")
    expected = Engine(rewritten(tmp_path, change))
    for case in TEXT_AND_SPEECH:
        torch.testing.assert_close(
            first_logits(engine, case), first_logits(expected, case), rtol=1e-3, atol=1e-3
        )
    together = answers(engine)
    assert same(together, [engine.generate(case.request())[0] for case in TEXT_AND_SPEECH])
    full = Engine(RANDOM_MODEL).model.num_bytes_read()
    for name in ("bottom", "text", "top"):
        assert full[name] / 4 < engine.model.num_bytes_read()[name] < full[name] / 3


def first_logits(engine: Engine, case: Case) -> Tensor:
    found: list[Tensor] = []

    def note(name: str, request: RequestState, first: int, rows: Tensor) -> None:
        if name == "logits" and not found:
            found.append(rows.clone())

    engine.runner.tracer = note
    engine.generate(case.request())
    engine.runner.tracer = None
    return found[0]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_in_8_bits_change_logits_little(dtype: str) -> None:
    """And not with their batch: all together, and each by itself, they are answered alike."""
    engine, exact = Engine(RANDOM_MODEL, dtype=dtype, quantization="int8"), Engine(RANDOM_MODEL, dtype=dtype)
    typed = [case for case in TEXT_AND_SPEECH if case.request().modalities == ("text",)]
    for case in typed:  # units would hang on text that may be another
        found, expected = first_logits(engine, case), first_logits(exact, case)
        assert 10 * torch.log10(expected.square().mean() / (found - expected).square().mean()) > 15
    assert typed
    together = answers(engine)
    assert same(together, [engine.generate(case.request())[0] for case in TEXT_AND_SPEECH])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [{"dtype": "bfloat16"}, {"quantization": "int8-weight-only"}, {"quantization": "int8"}],
    ids=str,
)
def test_pictures(settings: dict[str, str]) -> None:
    engine = Engine(RANDOM_MODEL, **settings)  # type: ignore[arg-type]
    seen = [case for case in cases() if case.data["images"]]
    done = engine.generate([case.request() for case in seen])
    assert {completion.finish_reason for completion in done} <= {"stop", "length"}


@pytest.mark.parametrize("quantization", [None, "int8-weight-only", "int8"])
def test_random_weights(quantization: str | None) -> None:
    engine = Engine(RANDOM_MODEL, load_format="dummy", dtype="bfloat16", quantization=quantization)
    [done] = engine.generate(TEXT_AND_SPEECH[0].request())
    assert done.finish_reason in ("stop", "length")


@pytest.mark.parametrize("wrong", ["int4", "INT8", "", 8, True, ["int8-weight-only"]])
def test_other_schemes_are_refused(wrong: object) -> None:
    with pytest.raises(
        ConfigError, match=r"^quantization: expected None or one of 'int8', 'int8-weight-only', "
    ):
        Engine(RANDOM_MODEL, quantization=wrong)  # type: ignore[arg-type]
