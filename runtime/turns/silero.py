"""Voice activity by Silero's network, which the package `silero-vad` contains (the extra `talk`)."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.resources import files
from importlib.util import find_spec, module_from_spec
from typing import Any

import numpy as np

from antiphon.errors import ConfigError
from antiphon.plain import one_line
from antiphon.process import forking
from antiphon.process.footprint import switch_telemetry_off
from antiphon.sound.arrays import AudioArray
from antiphon.turns.frames import FRAME_SAMPLES, RATE_HZ, Frames

__all__ = ["SileroActivity", "has_silero"]

PACKAGE = "silero_vad"
NETWORK = ("data", "silero_vad.onnx")
CONTEXT_SAMPLES = 64
"""The end of the frame before, which the network reads again."""
STATE_SHAPE = (2, 1, 128)
NO_EXTRA = "voice activity: silero-vad is not installed: pip install 'antiphon[talk]'"


def has_silero() -> bool:
    """Whether the extra is installed."""
    return _spec() is not None


class SileroActivity:
    """A `VoiceActivity`. All of a process share one network, which computes in the thread that pushes.

    Raises ConfigError if the package is not installed, or its network cannot be loaded.
    """

    rate_hz = RATE_HZ
    frame_samples = FRAME_SAMPLES

    def __init__(self) -> None:
        self._session = _network(os.getpid())
        self._frames = Frames(FRAME_SAMPLES)
        self._clear()

    def push(self, samples: AudioArray) -> list[float]:
        return [self._probability(frame) for frame in self._frames.push(samples)]

    def reset(self) -> None:
        self._frames.reset()
        self._clear()

    def _clear(self) -> None:
        self._state = np.zeros(STATE_SHAPE, np.float32)
        self._context = np.zeros(CONTEXT_SAMPLES, np.float32)

    def _probability(self, frame: AudioArray) -> float:
        heard = np.concatenate([self._context, frame])
        feeds = {"input": heard[None], "state": self._state, "sr": np.array(RATE_HZ, np.int64)}
        probability, self._state = self._session.run(None, feeds)
        self._context = heard[-CONTEXT_SAMPLES:]
        return float(probability[0, 0])


def _spec() -> ModuleSpec | None:
    try:
        return find_spec(PACKAGE)
    except ValueError:  # a module of this name without a spec
        return None


@lru_cache(maxsize=1)
def _network(pid: int) -> Any:
    """pid: of this process. A forked child loads a network of its own."""
    spec = _spec()
    if spec is None:
        raise ConfigError(NO_EXTRA)
    switch_telemetry_off()  # again: the environment may have changed since
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors come as exceptions
    try:
        # Not imported: the package's own code sets the number of torch's threads.
        content = files(module_from_spec(spec)).joinpath(*NETWORK).read_bytes()
        session = onnxruntime.InferenceSession(
            content, sess_options=options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        names = [item.name for item in session.get_inputs()]
        if sorted(names) != ["input", "sr", "state"]:
            raise ValueError(f"expected a network of input, state and sr, found {', '.join(names)}")
    except Exception as error:  # onnxruntime's errors have no more specific base
        raise ConfigError(f"voice activity: silero-vad cannot be loaded: {one_line(error)}") from error
    forking.keep_in_children(session)
    return session
