"""Speech faster or slower at the same pitch, by ffmpeg's `atempo`, which PyAV brings."""

from __future__ import annotations

from typing import Any

import numpy as np

from antiphon.server.errors import ApiError
from antiphon.sound.arrays import AudioArray

__all__ = ["Tempo", "check_speed"]

SLOWEST_STAGE = 0.5
"""What one `atempo` can do; slower takes two."""


def check_speed(speed: float) -> None:
    """ApiError 400 for a speed that cannot be made here."""
    from antiphon.sound.ffmpeg import is_there

    if speed != 1 and not is_there():
        raise ApiError(
            400,
            "speed: any but 1 needs PyAV on the server: pip install 'antiphon[audio]'",
            param="speed",
            code="unsupported_value",
        )


class Tempo:
    """Speech that comes in pieces, at another speed: what `push` and `finish` return, joined."""

    def __init__(self, speed: float, rate_hz: int) -> None:
        """speed: 0.25 to 4; 1 changes nothing."""
        self._rate_hz = rate_hz
        self._num_samples = 0
        self._graph: Any = None
        if speed != 1:
            self._graph = _graph(speed, rate_hz)

    def push(self, samples: AudioArray) -> AudioArray:
        """Takes float32 (n,), and returns what is ready."""
        if self._graph is None or not len(samples):
            return samples
        import av

        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = self._rate_hz
        frame.pts = self._num_samples
        self._num_samples += len(samples)
        self._graph.push(frame)
        return self._pulled()

    def finish(self) -> AudioArray:
        """The rest. Nothing may be pushed after this."""
        if self._graph is None or not self._num_samples:
            return np.zeros(0, np.float32)
        self._graph.push(None)
        return self._pulled()

    def _pulled(self) -> AudioArray:
        parts: list[AudioArray] = [np.zeros(0, np.float32)]
        while True:
            try:
                parts.append(self._graph.pull().to_ndarray()[0])
            except (BlockingIOError, EOFError):
                return np.concatenate(parts)


def _graph(speed: float, rate_hz: int) -> Any:
    import av.filter

    graph = av.filter.Graph()
    stages = [graph.add_abuffer(format="flt", sample_rate=rate_hz, layout="mono")]
    while speed < SLOWEST_STAGE:
        stages.append(graph.add("atempo", str(SLOWEST_STAGE)))
        speed /= SLOWEST_STAGE
    stages += [graph.add("atempo", str(speed)), graph.add("abuffersink")]
    graph.link_nodes(*stages).configure()
    return graph
