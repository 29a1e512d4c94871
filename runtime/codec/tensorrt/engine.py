"""An engine on its GPU: one execution context for each profile, which share their memory, since they run in
turn on one stream."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from antiphon.codec.tensorrt.library import Library, installed, logger_for
from antiphon.codec.tensorrt.manifest import Manifest, building, manifests, sm
from antiphon.codec.tensorrt.profile import Profile
from antiphon.errors import CheckpointError, ConfigError
from antiphon.files.checkpoint import is_folder, read_file
from antiphon.plain import one_line

__all__ = ["Context", "TensorrtEngine", "fitting", "loaded", "opened"]

MAX_ENGINE_BYTES = 8 * 2**30
SHOWN_DIGITS = 12
TYPES = {"FLOAT": torch.float32, "INT32": torch.int32, "INT64": torch.int64}
"""By the name of TensorRT's"""
LOG = logging.getLogger(__name__)


def fitting(folder: Path, kind: str, weights: str, device: torch.device) -> tuple[Manifest, Library]:
    """The newest engine of a folder that was made from these weights and runs on this device with the library
    that is installed.

    Raises CheckpointError, with the command that builds one where there is none; ConfigError if the library
    or the device is missing.
    """
    if not is_folder(folder):
        raise CheckpointError(
            f"{folder}: expected a folder with an engine that `antiphon export` built, found no folder"
        )
    found = [each for each in manifests(folder) if each.kind == kind]
    if not found:
        raise CheckpointError(
            f"{folder}: expected an engine, found none; to build one from its ONNX files: "
            f"{building(folder, kind)}"
        )
    own = [each for each in found if each.weights == weights]
    if not own:
        raise CheckpointError(
            f"{folder / found[0].file}: weights: expected {weights[:SHOWN_DIGITS]}..., those of this codec, "
            f"found {found[0].weights[:SHOWN_DIGITS]!r}; export it again from this codec"
        )
    target = sm(_capability(device))
    own = [each for each in own if each.target == target] or own
    problems: dict[str, ConfigError] = {}
    for manifest in own:
        try:
            library = installed(manifest.library)
        except ConfigError as error:
            problems[manifest.library] = error
            continue
        if (manifest.target, manifest.version) == (target, library.version):
            return manifest, library
        problems[manifest.library] = ConfigError(f"expected one for {target} and {library}, found {manifest}")
    problem = "; ".join(map(str, problems.values()))
    rebuild = own[0].rebuilding(folder, target)
    raise CheckpointError(f"{folder}: no engine runs here: {problem}; to build one: {rebuild}")


def _capability(device: torch.device) -> tuple[int, int]:
    if not torch.cuda.is_available():
        raise ConfigError("tensorrt: expected a CUDA device, found none")
    return torch.cuda.get_device_capability(device)


def opened(folder: Path, kind: str, weights: str, device: torch.device) -> TensorrtEngine:
    """See `fitting`, which says what is raised."""
    manifest, library = fitting(folder, kind, weights, device)
    return loaded(folder, manifest, library, device)


def loaded(folder: Path, manifest: Manifest, library: Library, device: torch.device) -> TensorrtEngine:
    """The engine of a manifest that fits. Raises CheckpointError if it is not what the manifest says."""
    path = folder / manifest.engine
    content = read_file(path, "an engine of TensorRT", max_bytes=MAX_ENGINE_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.engine_sha256:
        raise CheckpointError(
            f"{path}: expected sha256 {manifest.engine_sha256[:SHOWN_DIGITS]}..., found "
            f"{digest[:SHOWN_DIGITS]}...; to build it again: {manifest.rebuilding(folder, manifest.target)}"
        )
    return TensorrtEngine(library, content, path, manifest, device)


class TensorrtEngine:
    """Runs on a stream of its own; the host waits for nothing. One thread at a time may use it."""

    def __init__(
        self, library: Library, content: bytes, path: Path, manifest: Manifest, device: torch.device
    ) -> None:
        """Raises CheckpointError if the library does not take it."""
        trt = library.module
        self.path, self.manifest, self.device = path, manifest, device
        self.library = library
        logger, self._lines = logger_for(library, _tell)
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise self.failure(f"expected an engine that {library} takes")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self.inputs, self.outputs = manifest.inputs, manifest.outputs
        if sorted(names) != sorted((*self.inputs, *self.outputs)):
            raise CheckpointError(
                f"{path}: expected the tensors {', '.join((*self.inputs, *self.outputs))}, "
                f"found {', '.join(names)}"
            )
        kinds = {name: self._engine.get_tensor_dtype(name).name for name in names}
        wrong = [name for name, kind in kinds.items() if kind not in TYPES]
        if wrong:
            raise CheckpointError(
                f"{path}: expected inputs and outputs of {', '.join(TYPES)}, found {wrong[0]!r} of "
                f"{kinds[wrong[0]]}"
            )
        self.types = {name: TYPES[kind] for name, kind in kinds.items()}
        self._check_profiles()
        self.memory_bytes = int(self._engine.device_memory_size_v2)
        self._memory = torch.empty(self.memory_bytes, dtype=torch.uint8, device=device)
        self._stream = torch.cuda.Stream(device)
        self.contexts = [self._context(trt, i) for i in range(len(self.profiles))]

    @property
    def profiles(self) -> Sequence[Profile]:
        return self.manifest.profiles

    @property
    def stream_handle(self) -> int:
        handle: int = self._stream.cuda_stream
        return handle

    @contextmanager
    def stream(self) -> Iterator[None]:
        """What the block launches comes after all that the current stream holds, and before what comes there
        later. Buffers that are used here alone need no other order, whichever thread computes."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def _check_profiles(self) -> None:
        """The engine's own, against the manifest's."""
        count = self._engine.num_optimization_profiles
        if count != len(self.profiles):
            raise CheckpointError(f"{self.path}: expected {len(self.profiles)} profiles, found {count}")
        axes = self.manifest.axes
        for number, profile in enumerate(self.profiles):
            for name, shape in self.manifest.shapes.items():
                found = [tuple(each) for each in self._engine.get_tensor_profile_shape(name, number)]
                expected = profile.shapes(axes, shape)
                if found != expected:
                    raise CheckpointError(
                        f"{self.path}: expected profile {profile}, for {name!r} {expected}, found {found}"
                    )

    def _context(self, trt: Any, number: int) -> Context:
        context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise self.failure(f"expected profile {self.profiles[number]} to find its place on {self.device}")
        context.set_device_memory(self._memory.data_ptr(), self.memory_bytes)
        if not context.set_optimization_profile_async(number, self._stream.cuda_stream):
            raise self.failure(f"expected to take profile {self.profiles[number]}")
        return Context(self, context)

    def failure(self, expected: str) -> CheckpointError:
        """With the last error of the library's log."""
        last = [line for line in self._lines if line.startswith(("ERROR", "INTERNAL_ERROR"))] or self._lines
        return CheckpointError(f"{self.path}: {expected}: {one_line(deque(last, 1).pop() if last else '')}")


class Context:
    """One profile's. Tensors are at addresses that are given once; shapes are set when they change."""

    def __init__(self, engine: TensorrtEngine, context: Any) -> None:
        self._engine = engine
        self._context = context
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def run(self, tensors: Mapping[str, Tensor]) -> None:
        """Computes the outputs from the inputs; within `TensorrtEngine.stream`. tensors: all of both, of the
        engine's types and contiguous, at addresses that are multiples of 256."""
        for name, tensor in tensors.items():
            self._bind(name, tensor)
        if not self._context.execute_async_v3(self._engine.stream_handle):
            shapes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in tensors.items())
            raise self._engine.failure(f"expected to compute {shapes}")

    def results(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """New tensors for the outputs. inputs: all of them, see `run`."""
        with self._engine.stream():
            for name, tensor in inputs.items():
                self._bind(name, tensor)
            shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._engine.outputs}
            outputs = {
                name: torch.empty(each, dtype=self._engine.types[name], device=self._engine.device)
                for name, each in shapes.items()
            }
            self.run({**inputs, **outputs})
        return list(outputs.values())

    def _bind(self, name: str, tensor: Tensor) -> None:
        shape, address = tuple(tensor.shape), tensor.data_ptr()
        assert tensor.dtype == self._engine.types[name], f"{name}: {tensor.dtype} is read as another type"
        if name in self._engine.inputs and self._shapes.get(name) != shape:
            if not self._context.set_input_shape(name, shape):
                raise self._engine.failure(f"expected to take {name!r} of shape {shape}")
            self._shapes[name] = shape
        if self._addresses.get(name) != address:
            assert tensor.is_contiguous(), f"{name}: TensorRT is given addresses, not strides"
            assert not tensor.storage_offset(), f"{name}: only what is allocated begins at a multiple of 256"
            if not self._context.set_tensor_address(name, address):
                raise self._engine.failure(f"expected to take the address of {name!r}")
            self._addresses[name] = address


def _tell(severity: str, text: str) -> None:
    level = {"INFO": logging.DEBUG, "WARNING": logging.WARNING}.get(severity, logging.ERROR)
    LOG.log(level, "TensorRT: %s", one_line(text))
