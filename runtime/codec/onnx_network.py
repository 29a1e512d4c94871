"""The networks of a CosyVoice folder that come as ONNX files, run by onnxruntime on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from antiphon import forking
from antiphon.errors import CheckpointError
from antiphon.ownership import check_process

__all__ = ["OnnxNetwork"]


class OnnxNetwork:
    """Inputs go in by position, since released files name them differently; the first output comes back.

    Several threads may run it at a time.
    """

    def __init__(self, path: Path, num_threads: int | None = None) -> None:
        """num_threads: None for as many as may compute. Raises CheckpointError where the file is not a
        network."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or forking.num_threads()
        # Threads that spin while they wait would take the cores from the model.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except _errors() as error:
            raise CheckpointError(f"{path}: expected an ONNX network: {error}") from error
        forking.keep_in_children(self._session)
        self._pid = os.getpid()
        self.path = path
        inputs = self._session.get_inputs()
        self._names = [item.name for item in inputs]
        self.input_types: list[str] = [item.type for item in inputs]
        """As onnxruntime spells them: tensor(float), ..."""
        self.input_shapes: list[list[int | str | None]] = [item.shape for item in inputs]
        """A size that may vary is a name or None."""
        self._output = self._session.get_outputs()[0].name

    def run(self, *inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The first output, for as many inputs as the network has. Raises CheckpointError where it cannot
        take their shapes, EngineDead in a forked child, where its threads are not."""
        check_process("codec", self._pid)
        feeds = dict(zip(self._names, inputs, strict=True))
        try:
            return np.asarray(self._session.run([self._output], feeds)[0])
        except _errors() as error:
            shapes = ", ".join(str(item.shape) for item in inputs)
            raise CheckpointError(
                f"{self.path}: expected a network for inputs of shape {shapes}: {error}"
            ) from error


def _errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises about a file. These have no common base below Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors  # pyright: ignore[reportAttributeAccessIssue]

    return (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NoSuchFile,
        errors.NotImplemented,
        errors.RuntimeException,
    )
