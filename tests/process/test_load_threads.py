"""How many threads load a checkpoint: one, if it is small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from antiphon import Engine
from antiphon.codec import codec
from antiphon.engine import loading
from antiphon.process import load_threads

THREADS = 3


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("num_bytes", "expected"), [(9, THREADS), (10, 1), (11, 1)])
def test_files_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int, expected: int
) -> None:
    monkeypatch.setattr(load_threads, "SMALL_BYTES", num_bytes)
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"67890")
    (tmp_path / "c").mkdir()
    with load_threads.load_threads(tmp_path):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == THREADS


@pytest.mark.parametrize("name", ["nowhere", "a\0b", "x" * 5000])
def test_what_is_not_there_is_for_the_loader_to_say(tmp_path: Path, name: str) -> None:
    with load_threads.load_threads(tmp_path / name):
        pass


def test_the_packaged_model_is_loaded_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are read, checked and packed by one; onnxruntime and our kernels get all that may compute."""
    seen: list[tuple[str, int]] = []

    def noting(module: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(module, name)

        def note(*arguments: Any, **named: Any) -> Any:
            seen.append((name, torch.get_num_threads()))
            return original(*arguments, **named)

        monkeypatch.setattr(module, name, note)

    for module, name in (
        (codec, "fill_module"),
        (loading, "load_weights"),
        (loading, "OmniModel"),
        (codec, "SpeechTokenizer"),
        (loading, "set_num_threads"),
    ):
        noting(module, name)
    Engine().close()
    assert seen == [
        ("fill_module", 1),
        ("fill_module", 1),
        ("SpeechTokenizer", THREADS),
        ("set_num_threads", THREADS),
        ("load_weights", 1),
        ("OmniModel", 1),
    ]
