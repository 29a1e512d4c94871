"""The tensors of `flow.pt` and `hift.pt`: only data, with every name and shape checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from antiphon.codec.checkpoint.torch_file import read_torch_file
from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import shortened, shown

__all__ = ["fill_module", "match_tensors", "read_tensors"]

HIFT_PREFIX = "generator."
DISCRIMINATOR = "discriminator."
"""Prefix of tensors that only the training of HiFT uses."""
WRAPPERS = ("state_dict", "model", "model_state_dict", "module", "generator", "params")
PARALLEL_MARKS = ("module.", "_orig_mod.")
# Two spellings of a weight-normalised weight: torch.nn.utils.weight_norm and its parametrization.
NORM_SPELLINGS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
MAX_NAMES_SHOWN = 5

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a flat file as float32, with `prefix` removed from the names that have it.

    Also reads files as a trainer leaves them: with the tensors under a name of their own (`WRAPPERS`), the
    marks of parallel and compiled modules before each name, numbers such as an epoch, and a discriminator.
    """
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected names and tensors, found {type(content).__name__}")
    content = _unwrapped(content)
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: expected names as text, found {shown(name)}")
        if _is_note(name, value) or name.startswith(DISCRIMINATOR):
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            found = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                f"{path}: {shortened(name)}: expected a floating point tensor, found {found}"
            )
        short = name.removeprefix(prefix)
        if short in tensors:
            raise CheckpointError(
                f"{path}: {shortened(name)}: expected once, found with and without {prefix!r}"
            )
        tensors[short] = value.to(torch.float32).contiguous()
    return tensors


def _unwrapped(content: dict[Any, Any]) -> dict[Any, Any]:
    """What a trainer saved, by the tensors' names in the module."""
    for wrapper in WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, dict) and not any(isinstance(value, Tensor) for value in content.values()):
            content = inner
            break
    for mark in PARALLEL_MARKS:
        names = [name for name, value in content.items() if isinstance(value, Tensor)]
        if names and all(isinstance(name, str) and name.startswith(mark) for name in names):
            content = {
                name.removeprefix(mark) if isinstance(name, str) else name: value
                for name, value in content.items()
            }
    return content


def _is_note(name: str, value: Any) -> bool:
    """Whether it is metadata that trainers add, such as the number of an epoch. A tensor's name has a dot."""
    plain = value is None or isinstance(value, (bool, int, float, str))
    counter = isinstance(value, Tensor) and value.ndim == 0 and not value.is_floating_point()
    return "." not in name and (plain or counter)


def match_tensors(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Exactly the `expected` names and shapes from `tensors`, with weight normalisation folded.

    A convolution's weight may be stored as magnitude g and direction v; then w = g v / |v|, with the norm
    over all but the first dimension (in a transposed convolution, that is the input channel).
    """
    rest = dict(tensors)
    found: dict[str, Tensor] = {}
    missing: list[str] = []
    for name, like in expected.items():
        if name in rest:
            found[name] = _checked(path, name, rest.pop(name), like.shape)
            continue
        names = next((pair for pair in _norm_names(name) if any(part in rest for part in pair)), None)
        if names is None or like.ndim != 3:
            missing.append(name)
            continue
        absent = [part for part in names if part not in rest]
        if absent:
            missing += absent
            continue
        magnitude = _checked(path, names[0], rest.pop(names[0]), torch.Size((like.shape[0], 1, 1)))
        direction = _checked(path, names[1], rest.pop(names[1]), like.shape)
        found[name] = magnitude * (direction / direction.square().sum(dim=(1, 2), keepdim=True).sqrt())
    if missing:
        raise CheckpointError(f"{path}: missing tensor{_listed(missing)}")
    if rest:
        raise CheckpointError(f"{path}: unexpected tensor{_listed(sorted(rest))}")
    return found


def fill_module(module: ModuleT, tensors: Mapping[str, Tensor], path: Path, device: torch.device) -> ModuleT:
    """Puts the tensors of file `path` into `module`, built on the meta device, and makes it ready to run."""
    weights = match_tensors(module.state_dict(), tensors, path)
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name}: expected finite numbers, found NaN or infinity")
    module.load_state_dict({name: tensor.to(device) for name, tensor in weights.items()}, assign=True)
    return module.requires_grad_(False).eval()


def _norm_names(name: str) -> list[tuple[str, str]]:
    stem = name.removesuffix("weight")
    return [] if stem == name else [(stem + g, stem + v) for g, v in NORM_SPELLINGS]


def _checked(path: Path, name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    if tensor.shape != shape:
        raise CheckpointError(
            f"{path}: {name}: expected shape {tuple(shape)}, found {shown(tuple(tensor.shape))}"
        )
    return tensor


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_NAMES_SHOWN
    listed = ", ".join(map(shortened, names[:MAX_NAMES_SHOWN])) + (f" and {more} more" if more > 0 else "")
    return f"{'s' if len(names) > 1 else ''} {listed}"
