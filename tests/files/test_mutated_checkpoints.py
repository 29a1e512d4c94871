"""Whatever bytes of a checkpoint change, it is loaded or refused by the name of the file, in one line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antiphon.codec.analysis.speech_tokenizer import SpeechTokenizer
from antiphon.codec.checkpoint.hyperparams import read_hyperparams
from antiphon.codec.checkpoint.tensors import HIFT_PREFIX, fill_module, read_tensors
from antiphon.codec.hift.hift import Hift
from antiphon.codec.voices import read_voices
from antiphon.errors import CheckpointError
from antiphon.inputs.tiles import Tiler
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.loading import load_weights
from antiphon.text.tokenizer import Tokenizer

SAMPLES = np.sin(np.arange(3200) * 0.1).astype(np.float32)
CPU = torch.device("cpu")


def use_model(folder: Path) -> None:
    config = read_config(folder)
    load_weights(folder, config, device=CPU, dtype=torch.float32)
    if config.vision is not None:
        Tiler(config).plan(40, 60)


def use_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.decode(tokenizer.encode("Hello there, it's 5 o'clock.\n"))


def use_vocoder(folder: Path) -> None:
    params = read_hyperparams(RANDOM_CODEC / "cosyvoice.yaml")
    with torch.device("meta"):
        hift = Hift(params.hift)
    fill_module(hift, read_tensors(folder / "hift.pt", HIFT_PREFIX), folder / "hift.pt", CPU)


USES: dict[str, tuple[Path, Callable[[Path], object]]] = {
    "config.json": (RANDOM_MODEL, use_model),
    "generation_config.json": (RANDOM_MODEL, use_model),
    "vision_tower/config.json": (RANDOM_MODEL, use_model),
    "model.safetensors": (RANDOM_MODEL, use_model),
    "tokenizer.json": (RANDOM_MODEL, use_tokenizer),
    "cosyvoice.yaml": (RANDOM_CODEC, lambda folder: read_hyperparams(folder / "cosyvoice.yaml")),
    "hift.pt": (RANDOM_CODEC, use_vocoder),
    "spk2info.pt": (RANDOM_CODEC, lambda folder: read_voices(folder / "spk2info.pt", 192)),
    "speech_tokenizer_v1.onnx": (
        RANDOM_CODEC,
        lambda folder: SpeechTokenizer(folder / "speech_tokenizer_v1.onnx", 64, 1).tokenize(SAMPLES),
    ),
}
HEADER_BYTES = 20_000
"""Of a long file, changes go into its first bytes, where what describes it lies, and its last."""
VALUES = [
    b"0",
    b"-1",
    b"99999999999",
    b"1e400",
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"1" * 500,
    b"4294967296",
]


def changed(data: bytes, draw: Callable[[st.SearchStrategy[int]], int]) -> bytes:
    """The bytes after one to four changes."""
    content = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        if not content:  # all of it was deleted
            break
        place = draw(st.integers(0, min(len(content), 2 * HEADER_BYTES) - 1))
        if place >= HEADER_BYTES:
            place += len(content) - min(len(content), 2 * HEADER_BYTES)
        match draw(st.integers(0, 5)):
            case 0:
                content[place] = draw(st.integers(0, 255))
            case 1:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case 2:
                del content[place : place + draw(st.integers(1, 40))]
            case 3:
                content[place:place] = content[: draw(st.integers(1, 200))]
            case 4:
                numbers = list(re.finditer(rb"\d+", bytes(content[:HEADER_BYTES])))
                if numbers:
                    number = numbers[draw(st.integers(0, len(numbers) - 1))]
                    content[number.start() : number.end()] = VALUES[draw(st.integers(0, len(VALUES) - 1))]
            case _:
                del content[place + 1 :]
    return bytes(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("mutated") / "checkpoint"
    shutil.copytree(RANDOM_MODEL, target)
    shutil.copytree(RANDOM_CODEC, target, dirs_exist_ok=True)
    return target


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", USES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes(folder: Path, name: str, data: st.DataObject) -> None:
    source, use = USES[name]
    whole = (source / name).read_bytes()
    (folder / name).write_bytes(changed(whole, data.draw))
    try:
        use(folder)
    except CheckpointError as error:
        message = str(error)
        assert str(folder) in message
        assert "\n" not in message
        assert len(message) < 900
    finally:
        (folder / name).write_bytes(whole)
