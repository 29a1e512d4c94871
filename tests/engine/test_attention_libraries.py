"""Engines whose attention a library computes, with stand-ins in their places: the golden ids come out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_MODEL
from fake_attention_libraries import asked_for
from golden_cases import cases
from plain_capture import PlainCapture, recording

from antiphon import Completion, Engine
from antiphon.config import CacheConfig
from antiphon.errors import ConfigError
from antiphon.kernels.attention_libraries import LIBRARIES
from antiphon.model import attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BLOCK_SIZES = {"flash-attn": 256, "flashinfer": 16}
RELEASED = CacheConfig(
    num_blocks=1,
    block_size=16,
    num_text_layers=32,
    num_speech_layers=8,
    num_kv_heads=8,
    head_dim=128,
    dtype_bytes=2,
)


def golden(backend: Any, **settings: Any) -> list[list[str]]:
    """What differs from each golden case, all of them answered at once."""
    settings = {"block_size": BLOCK_SIZES[backend]} | settings
    with Engine(RANDOM_MODEL, attention_backend=backend, device="cpu", **settings) as engine:
        done: list[Completion] = engine.generate([case.request() for case in cases()])
        engine.check_integrity()
    return [case.differences(each) for case, each in zip(cases(), done, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", LIBRARIES)
def test_golden_ids_in_small_pieces(backend: str) -> None:
    """Prompts are read in chunks beside requests that decode."""
    with asked_for(backend) as calls:
        assert not any(golden(backend, max_num_batched_tokens=29))
    functions = {"flash-attn": {"flash_attn_with_kvcache", "flash_attn_varlen_func"}}
    assert set(calls) == functions.get(backend, {"decode", "prefill"})


@pytest.mark.slow
def test_recorded_steps_by_flash_attn() -> None:
    """Rows that pad a recording have no keys."""
    capture = PlainCapture()
    with asked_for("flash-attn") as calls, recording(capture):
        assert not any(golden("flash-attn", max_num_seqs=6))
    assert capture.num_replayed > 3
    assert calls["flash_attn_with_kvcache"] > capture.num_replayed
    assert calls["flash_attn_varlen_func"] > 0


@pytest.mark.slow
def test_recorded_steps_beside_flashinfer() -> None:
    """It reads the prompts, and our kernels take the steps."""
    capture = PlainCapture()
    with asked_for("flashinfer") as calls, recording(capture):
        assert not any(golden("flashinfer"))
    assert calls["prefill"] > 0
    # The last position of a prompt may be left for a pass of its own, which is not recorded.
    assert calls["decode"] < capture.num_replayed


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "is_installed", lambda _: False)
    for backend, package in (("flash-attn", "flash-attn"), ("flashinfer", "flashinfer-python")):
        message = f"needs the package {package}, which is not installed: pip install 'antiphon[{backend}]'"
        with pytest.raises(ConfigError, match=re.escape(message)):
            Engine(RANDOM_MODEL, attention_backend=backend, device="cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", LIBRARIES)
def test_what_they_do_not_take(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "is_installed", lambda _: True)

    def refused(cache: CacheConfig, device: torch.device = CUDA, dtype: torch.dtype = torch.bfloat16) -> str:
        with pytest.raises(ConfigError) as caught:
            attention.check_attention_backend(backend, cache, device, dtype)
        return str(caught.value)

    place = f"attention_backend: '{backend}' computes in float16 or bfloat16 on a GPU of NVIDIA, got "
    assert refused(RELEASED, CPU) == f"{place}torch.bfloat16 on cpu"
    assert refused(RELEASED, dtype=torch.float32) == f"{place}torch.float32 on cuda"
    assert refused(_like(has_scales=True, dtype_bytes=1)) == (
        f"kv_cache_dtype: expected 'auto' with attention_backend '{backend}', which reads keys and values in "
        "16 bits, got 'int8'"
    )
    assert refused(_like(head_dim=36)).startswith(f"attention_backend: {backend} takes heads of ")


def _like(**changes: Any) -> CacheConfig:
    return CacheConfig(**(vars(RELEASED) | changes))


@pytest.mark.parametrize(
    ("layers", "block_size", "sizes", "advised"),
    [((32, 8), 16, "16 and 64", 256), ((8, 8), 100, "100", 256), ((5, 7), 256, "358 and 256", 1280)],
)
def test_flash_attn_wants_large_blocks_of_both_tracks(
    layers: tuple[int, int], block_size: int, sizes: str, advised: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "is_installed", lambda _: True)
    text, speech = layers
    cache = _like(num_text_layers=text, num_speech_layers=speech, block_size=block_size)
    with pytest.raises(ConfigError) as caught:
        attention.check_attention_backend("flash-attn", cache, CUDA, torch.float16)
    assert str(caught.value) == (
        f"attention_backend: flash-attn reads pages of a multiple of 256 positions, got {sizes} "
        f"(block_size={block_size}); block_size={advised} would do"
    )
    advice = _like(num_text_layers=text, num_speech_layers=speech, block_size=advised)
    attention.check_attention_backend("flash-attn", advice, CUDA, torch.float16)
    attention.check_attention_backend("flashinfer", cache, CUDA, torch.float16)


def test_doctor_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphon.cli import doctor

    monkeypatch.setattr(doctor, "_version", {"flash-attn": "2.8.3"}.get)
    found = doctor._attention_backends()
    assert found == {
        "native": True,
        "flash-attn": f"2.8.3; for {LIBRARIES['flash-attn'].use}",
        "flashinfer": f"not installed (antiphon[flashinfer]); for {LIBRARIES['flashinfer'].use}",
    }


def test_the_extras_install_what_the_backends_import() -> None:
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    for name, library in LIBRARIES.items():
        assert re.search(rf'^{name} = \["{library.distribution}>=', declared, re.MULTILINE)
