"""Networks that `antiphon export` wrote, opened for the codec whose weights they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn

from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.codec.checkpoint.onnx_graph import data_path
from antiphon.errors import CheckpointError, ConfigError
from antiphon.files.checkpoint import is_folder, is_there, shown
from antiphon.plain import shown as shown_given

__all__ = [
    "BACKENDS",
    "DATA",
    "FLOW",
    "FLOW_FILES",
    "KIND",
    "ONNXRUNTIME",
    "PRECISION",
    "TENSORRT",
    "WEIGHTS",
    "Exported",
    "fingerprint",
    "flow_file",
    "open_network",
    "sha256",
]

KIND, PRECISION, WEIGHTS = "antiphon.kind", "antiphon.precision", "antiphon.weights"
"""Keys of a file's metadata."""
DATA: Final = "antiphon.data"
"""Key of the sha256 of the file with the weights, if they lie beside"""
FLOW: Final = "flow"
"""The kind of the velocity estimator."""
FLOW_FILES = (
    "flow.onnx",
    *(f"flow.decoder.estimator.{name}.onnx" for name in ("fp32", "fp16", "bf16", "int8")),
)
"""What it may be called: by us, and, with their names of inputs, by CosyVoice."""
ONNXRUNTIME: Final = "onnxruntime"
TENSORRT: Final = "tensorrt"
PLACES: Mapping[str, str] = {ONNXRUNTIME: "cpu", TENSORRT: "cuda"}
"""The kind of device that each computes on."""
BACKENDS = f"'torch', '{ONNXRUNTIME}:FOLDER' or '{TENSORRT}:FOLDER'"
SHOWN_DIGITS = 12
NO_KERNEL = "NOT_IMPLEMENTED"
"""In errors of onnxruntime about operators that it knows in other types"""
CHUNK_BYTES = 2**20
TYPES = {
    torch.float32: "tensor(float)",
    torch.float64: "tensor(double)",
    torch.int32: "tensor(int32)",
    torch.int64: "tensor(int64)",
}
"""As onnxruntime spells them."""


@dataclass(frozen=True)
class Exported:
    """What computes the flow's estimator in place of PyTorch."""

    runtime: str
    """onnxruntime or tensorrt"""
    folder: Path

    @classmethod
    def parse(cls, name: str, backend: object) -> Exported | None:
        """That of `onnxruntime:FOLDER` or `tensorrt:FOLDER`; None for `torch`. Raises ConfigError, naming the
        argument, for any other backend."""
        if type(backend) is str and backend == "torch":
            return None
        runtime, _, folder = backend.partition(":") if type(backend) is str else ("", "", "")
        if runtime not in PLACES or not folder:
            raise ConfigError(f"{name}: expected {BACKENDS}, got {shown_given(backend)}")
        return cls(runtime, Path(folder))

    def check_place(self, name: str, place: torch.device) -> None:
        """Raises ConfigError, naming the argument, if it does not compute on such a device."""
        if place.type != PLACES[self.runtime]:
            other = next(runtime for runtime in PLACES if runtime != self.runtime)
            raise ConfigError(
                f"{name}: expected torch or {other}:FOLDER on {place.type}, got "
                f"{shown_given(f'{self.runtime}:{self.folder}')}"
            )


def fingerprint(params: object, *modules: nn.Module) -> str:
    """A hash of weights, and of what their shapes do not say; the same however they were stored.

    params: has a repr that says all of it.
    """
    found = hashlib.sha256(repr(params).encode())
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            found.update(f"{name} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy())
    return found.hexdigest()


def sha256(path: Path) -> str:
    """Of a file's content."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def flow_file(folder: Path) -> Path:
    """The velocity estimator in a folder that `antiphon export flow` wrote. Raises CheckpointError."""
    if not is_folder(folder):
        raise CheckpointError(
            f"{folder}: expected a folder that `antiphon export flow` wrote, found no folder"
        )
    for name in FLOW_FILES:
        if is_there(folder / name):
            return folder / name
    raise CheckpointError(f"{folder}: expected {FLOW_FILES[0]}, as `antiphon export flow` writes it")


def open_network(
    path: Path,
    kind: str,
    weights: str,
    shapes: list[list[int | None]],
    num_threads: int | None,
    *,
    types: Sequence[torch.dtype] | None = None,
    num_outputs: int = 1,
    owner: str = "codec",
    may_loop: bool = False,
) -> OnnxNetwork:
    """Opens one that was exported from these weights (a `fingerprint`).

    shapes: of its inputs; None: any size. types: of its inputs; None: all float32. owner: of the weights,
    codec or model. may_loop: see `check_graph`. Raises CheckpointError, which says what was expected and
    found.
    """
    try:
        network = OnnxNetwork(path, num_threads, may_loop=may_loop, may_lie_beside=True)
    except CheckpointError as error:
        if NO_KERNEL not in str(error):
            raise
        raise CheckpointError(
            f"{path}: expected a precision that onnxruntime computes on a CPU, which bf16 is not: "
            + str(error).removeprefix(f"{path}: ")
        ) from error
    found = network.metadata.get(KIND)
    if found != kind:
        raise CheckpointError(f"{path}: {KIND}: expected {kind!r}, found {shown(found)}")
    stored = network.metadata.get(WEIGHTS, "")
    if stored != weights:
        raise CheckpointError(
            f"{path}: {WEIGHTS}: expected {weights[:SHOWN_DIGITS]}..., those of this {owner}, found "
            f"{shown(stored[:SHOWN_DIGITS])}; export it again from this {owner}"
        )
    data, expected_data = data_path(path), network.metadata.get(DATA)
    if expected_data is not None and sha256(data) != expected_data:
        raise CheckpointError(f"{data}: expected the weights of {path.name}, found those of another file")
    given = [TYPES[each] for each in types or [torch.float32] * len(shapes)]
    if network.input_types != given:
        single = set(given) == {TYPES[torch.float32]}
        expected_types = f"{len(given)} inputs of float32" if single else f"inputs of {given}"
        raise CheckpointError(f"{path}: expected {expected_types}, found {shown(network.input_types)}")
    if len(network.output_names) != num_outputs:
        raise CheckpointError(f"{path}: expected {num_outputs} outputs, found {shown(network.output_names)}")
    for name, expected, shape in zip(network.input_names, shapes, network.input_shapes, strict=True):
        fits = len(expected) == len(shape) and all(
            not isinstance(has, int) if size is None else has == size
            for size, has in zip(expected, shape, strict=True)
        )
        if not fits:
            raise CheckpointError(
                f"{path}: {shown(name)}: expected shape {shown(expected)} (None: any size), "
                f"found {shown(shape)}"
            )
    return network
