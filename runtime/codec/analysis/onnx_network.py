"""The networks of a CosyVoice folder that come as ONNX files, run by onnxruntime on the CPU."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.codec.checkpoint.onnx_graph import EXPECTED, check_graph
from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import refusing_failures
from antiphon.plain import one_line
from antiphon.process import forking
from antiphon.process.footprint import switch_telemetry_off
from antiphon.process.ownership import check_process

__all__ = ["OnnxNetwork"]

MAX_MEMORY_BYTES = 4 * 2**30
"""For all networks: weights and results. The released ones take half of it."""
MAX_RUN_S = 120.0
"""A piece of 30 s of sound takes the released network several seconds."""


class OnnxNetwork:
    """Takes inputs by position, since released files name them differently; returns outputs by position.

    Several threads may run it at a time.
    """

    def __init__(
        self,
        path: Path,
        num_threads: int | None = None,
        *,
        may_loop: bool = False,
        may_lie_beside: bool = False,
    ) -> None:
        """num_threads: None for all that may compute. Raises CheckpointError if the file is not a network, or
        is one that may run forever or whose weights lie elsewhere (see `check_graph`; may_loop: loops are
        taken; may_lie_beside: so are weights in the one file beside it)."""
        switch_telemetry_off()  # again: the environment may have changed since
        import onnxruntime

        foldable = check_graph(path, may_loop=may_loop, may_lie_beside=may_lie_beside)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or forking.num_threads()
        options.log_severity_level = 4  # its errors come as exceptions
        # Threads that spin while they wait would take the cores from the model.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if _bound_memory() == os.getpid():  # in a child, the lock of the parent's memory may be held forever
            options.add_session_config_entry("session.use_env_allocators", "1")
        with refusing_failures(path, EXPECTED):
            self._session = onnxruntime.InferenceSession(
                str(path),
                sess_options=options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
                disabled_optimizers=[] if foldable else ["ConstantFolding"],
            )
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            self.input_names: list[str] = [item.name for item in inputs]
            self.input_types: list[str] = [item.type for item in inputs]
            """As onnxruntime spells them: tensor(float), ..."""
            self.input_shapes: list[list[int | str | None]] = [item.shape for item in inputs]
            """A size that may vary is given as a name or None."""
            self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
            names = [item.name for item in outputs]
        if not names:
            raise CheckpointError(f"{path}: expected {EXPECTED}, found one without outputs")
        self.output_names: list[str] = names
        forking.keep_in_children(self._session)
        self._pid = os.getpid()
        self.path = path

    def run(self, *inputs: np.ndarray[Any, Any], max_s: float = MAX_RUN_S) -> np.ndarray[Any, Any]:
        """The first output. See `results`."""
        return self._run(self.output_names[:1], inputs, max_s)[0]

    def results(self, *inputs: np.ndarray[Any, Any], max_s: float = MAX_RUN_S) -> list[np.ndarray[Any, Any]]:
        """All outputs. inputs: all that the network has.

        max_s: when it is stopped. Raises CheckpointError if it cannot take these shapes, takes more time or
        memory than a network needs, or returns no tensor; EngineDead in a forked child, which has none of its
        threads.
        """
        return self._run(self.output_names, inputs, max_s)

    def _run(
        self, outputs: list[str], inputs: tuple[np.ndarray[Any, Any], ...], max_s: float
    ) -> list[np.ndarray[Any, Any]]:
        check_process("codec", self._pid)
        import onnxruntime

        feeds = dict(zip(self.input_names, inputs, strict=True))
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        late = threading.Event()

        def stop() -> None:
            late.set()
            options.terminate = True

        timer = threading.Timer(max_s, stop)
        timer.daemon = True
        timer.start()
        try:
            results = self._session.run(outputs, feeds, options)
        except Exception as error:  # onnxruntime's errors have no more specific base
            if late.is_set():
                raise CheckpointError(
                    f"{self.path}: expected a network that takes less than {max_s:g} s; it was still running"
                ) from error
            shapes = ", ".join(str(item.shape) for item in inputs)
            raise CheckpointError(
                f"{self.path}: expected a network for inputs of shape {shapes}: {one_line(error)}"
            ) from error
        finally:
            timer.cancel()
        for result in results:
            if not isinstance(result, np.ndarray):
                raise CheckpointError(f"{self.path}: expected a tensor, found {type(result).__name__}")
        return list(results)


@cache
def _bound_memory() -> int:
    """Make the networks of this process allocate from one arena with a limit. Returns the process's id."""
    import onnxruntime

    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    with suppress(Exception):  # the program has registered an allocator of its own
        onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg(MAX_MEMORY_BYTES, -1, -1, -1))
    return os.getpid()
