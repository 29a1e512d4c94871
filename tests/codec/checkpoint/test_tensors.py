from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from antiphon.codec import Codec
from antiphon.codec.checkpoint.tensors import match_tensors, read_tensors
from antiphon.errors import CheckpointError

Change = Callable[[dict[str, Tensor]], Any]


def rewrite(path: Path, change: Change) -> None:
    tensors: dict[str, Tensor] = torch.load(path, weights_only=True)
    change(tensors)
    torch.save(tensors, path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("flow.pt", lambda t: t.pop("encoder_proj.bias"), "missing tensor encoder_proj.bias"),
        ("hift.pt", lambda t: t.pop("ups.1.weight_v"), "missing tensor ups.1.weight_v"),
        ("hift.pt", lambda t: t.pop("resblocks.0.activations1.0.alpha"), "resblocks.0.activations1.0.alpha"),
        ("flow.pt", lambda t: t.update(more=torch.zeros(1)), "unexpected tensor more"),
        (
            "flow.pt",
            lambda t: t.update({"encoder_proj.weight": torch.zeros(80, 63)}),
            r"encoder_proj.weight: expected shape \(80, 64\), found \(80, 63\)",
        ),
        (
            "hift.pt",
            lambda t: t.update({"conv_pre.weight_g": torch.ones(64)}),
            r"conv_pre.weight_g: expected shape \(64, 1, 1\), found \(64,\)",
        ),
        (
            "flow.pt",
            lambda t: t["encoder_proj.bias"].fill_(float("nan")),
            "encoder_proj.bias: expected finite",
        ),
        ("hift.pt", lambda t: t["conv_pre.weight_v"].zero_(), "conv_pre.weight: expected finite"),
        (
            "flow.pt",
            lambda t: t.update({"encoder_proj.bias": "text"}),
            "expected a floating point tensor, found str",
        ),
        (
            "flow.pt",
            lambda t: t.update({"encoder_proj.bias": torch.zeros(80, dtype=torch.int64)}),
            "expected a floating point tensor, found torch.int64",
        ),
    ],
)
def test_wrong_tensors_are_named(folder_copy: Path, file: str, change: Change, message: str) -> None:
    rewrite(folder_copy / file, change)
    with pytest.raises(CheckpointError, match=message) as error:
        Codec.from_pretrained(folder_copy, device="cpu")
    assert file in str(error.value)


@pytest.mark.parametrize("file", ["flow.pt", "hift.pt", "spk2info.pt"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated_file_is_refused(folder_copy: Path, file: str, share: float) -> None:
    path = folder_copy / file
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=file):
        Codec.from_pretrained(folder_copy, device="cpu")


@pytest.mark.parametrize("file", ["flow.pt", "hift.pt", "spk2info.pt", "cosyvoice.yaml"])
def test_missing_file_is_named(folder_copy: Path, file: str) -> None:
    (folder_copy / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        Codec.from_pretrained(folder_copy, device="cpu")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: expected a CosyVoice folder"):
        Codec.from_pretrained(tmp_path / "nowhere", device="cpu")


class Payload:
    """Unpickled carelessly, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("file", ["flow.pt", "hift.pt", "spk2info.pt"])
def test_code_in_a_file_is_refused_and_not_run(folder_copy: Path, tmp_path: Path, file: str) -> None:
    torch.save({"a": Payload(tmp_path / "made")}, folder_copy / file)
    with pytest.raises(CheckpointError, match="nothing that runs"):
        Codec.from_pretrained(folder_copy, device="cpu")
    assert not (tmp_path / "made").exists()


def test_prefix_and_every_spelling_of_weight_norm(folder_copy: Path, codec: Codec) -> None:
    """The same weights, however they are written, make the same sound."""
    expected = codec.decode([[1, 2, 3]])[0]

    def prefixed(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[f"generator.{name}"] = tensors.pop(name)

    def parametrized(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
                if name.endswith(old):
                    tensors[name.removesuffix(old) + f"parametrizations.weight.{new}"] = tensors.pop(name)

    def folded(tensors: dict[str, Tensor]) -> None:
        tensors.clear()
        tensors.update(codec.decoder.hift.state_dict())

    for change in (prefixed, parametrized, folded):
        rewrite(folder_copy / "hift.pt", change)
        found = Codec.from_pretrained(folder_copy, device="cpu").decode([[1, 2, 3]])[0]
        torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_folding_is_pytorch_weight_norm(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    plain = kind(4, 6, 3)
    normed = parametrizations.weight_norm(kind(4, 6, 3))
    found = match_tensors(plain.state_dict(), normed.state_dict(), Path("x.pt"))
    torch.testing.assert_close(found["weight"], normed.weight)


def test_name_with_and_without_prefix_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "generator.a": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="with and without"):
        read_tensors(tmp_path / "x.pt", "generator.")


def test_half_precision_file_becomes_float32(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, dtype=torch.float16)}, tmp_path / "x.pt")
    assert read_tensors(tmp_path / "x.pt")["a"].dtype == torch.float32
