"""Stands in for the package `sounddevice`: a room with a person and a listener, in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["FakeSoundDevice", "PortAudioError"]

BLOCK_S = 0.02
NOISE = 1e-5


class PortAudioError(Exception):
    """A message and PortAudio's code, as the package raises it."""

    def __str__(self) -> str:
        return str(self.args[0])


class FakeSoundDevice(ModuleType):
    """The module. `speak` is heard by the microphone, and `played` is what the loudspeaker has played."""

    def __init__(self, rate_hz: int = 16000, output_rate_hz: int = 22050) -> None:
        super().__init__("sounddevice")
        self.PortAudioError = PortAudioError
        self.InputStream = self._open_input
        self.OutputStream = self._open_output
        self.refused: dict[tuple[str, int, int], int] = {}
        """PortAudio's code by direction, rate and channels."""
        self.in_use: set[str] = set()
        self.devices: list[dict[str, Any]] = [
            {
                "index": index,
                "name": name,
                "max_input_channels": num_inputs,
                "max_output_channels": num_outputs,
                "default_samplerate": float(output_rate_hz if num_outputs else rate_hz),
            }
            for index, (name, num_inputs, num_outputs) in enumerate(
                [("Fake Mic", 2, 0), ("Fake Speaker", 0, 2), ("Other Mic", 1, 0)]
            )
        ]
        self.opened: list[_Stream] = []
        self._said = np.zeros(0, np.float32)
        self._played: list[np.ndarray] = []
        self._lock = threading.Lock()
        self._noise = np.random.default_rng(0)

    def speak(self, samples: np.ndarray) -> None:
        """Say something, at the microphone's rate, after what is being said."""
        with self._lock:
            self._said = np.concatenate([self._said, samples.astype(np.float32)])

    @property
    def is_speaking(self) -> bool:
        return len(self._said) > 0

    @property
    def played(self) -> np.ndarray:
        """All that the loudspeaker has played: float32 (n,)."""
        with self._lock:
            return np.concatenate([np.zeros(0, np.float32), *self._played])

    @property
    def is_sounding(self) -> bool:
        """Whether the loudspeaker has just played something."""
        with self._lock:
            return any(np.abs(block).max() > 0 for block in self._played[-25:])  # it pauses between words

    def stream(self, kind: str) -> _Stream:
        """The stream of a direction that was opened last."""
        return [stream for stream in self.opened if stream.kind == kind][-1]

    # --- what the package has ---------------------------------------------------------------------

    def query_devices(self, device: int | str | None = None, kind: str | None = None) -> Any:
        if kind is None:
            return self.devices
        able = [info for info in self.devices if info[f"max_{kind}_channels"] > 0]
        if device is None:
            if not able:
                raise PortAudioError("Error querying device -1")
            return able[0]
        if isinstance(device, int):
            if not 0 <= device < len(self.devices):
                raise PortAudioError(f"Error querying device {device}")
            able = [info for info in able if info["index"] == device]
        else:
            able = [info for info in able if device.lower() in info["name"].lower()]
        if len(able) != 1:
            raise ValueError(f"No {kind} device matching {device!r}")
        return able[0]

    def _open_input(self, **settings: Any) -> _Stream:
        return self._open("input", settings)

    def _open_output(self, **settings: Any) -> _Stream:
        return self._open("output", settings)

    def _open(self, kind: str, settings: dict[str, Any]) -> _Stream:
        rate_hz, num_channels = int(settings["samplerate"]), int(settings["channels"])
        if kind in self.in_use:
            raise PortAudioError("Device unavailable", -9985)
        if (code := self.refused.get((kind, rate_hz, num_channels))) is not None:
            raise PortAudioError("refused", code)
        turn = self._record if kind == "input" else self._play
        stream = _Stream(kind, settings["device"], rate_hz, num_channels, settings["callback"], turn)
        self.opened.append(stream)
        return stream

    def _record(self, stream: _Stream, num_frames: int) -> None:
        block = NOISE * self._noise.standard_normal(num_frames)
        with self._lock:
            said, self._said = self._said[:num_frames], self._said[num_frames:]
        block[: len(said)] += said
        channels = np.repeat(block[:, None], stream.num_channels, axis=1)
        stream.callback(channels.astype(np.float32), num_frames, None, None)

    def _play(self, stream: _Stream, num_frames: int) -> None:
        out = np.full((num_frames, stream.num_channels), np.nan, np.float32)
        stream.callback(out, num_frames, None, None)
        assert np.isfinite(out).all(), "all is filled"
        with self._lock:
            self._played.append(out[:, 0].copy())


class _Stream:
    latency = 0.05

    def __init__(
        self,
        kind: str,
        device: int,
        rate_hz: int,
        num_channels: int,
        callback: Callable[..., None],
        turn: Callable[[_Stream, int], None],
    ) -> None:
        self.kind = kind
        self.device = device
        self.samplerate = float(rate_hz)
        self.num_channels = num_channels
        self.callback = callback
        self.active = False
        self.is_closed = False
        self._turn = turn
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.active = True
        self._thread.start()

    def unplug(self) -> None:
        self.active = False

    def close(self) -> None:
        assert not self.is_closed, "PortAudio frees a stream that is closed"
        self.is_closed = True
        self.active = False
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        num_frames = round(self.samplerate * BLOCK_S)
        due = time.perf_counter()
        while self.active:
            self._turn(self, num_frames)
            due += BLOCK_S
            time.sleep(max(0.0, due - time.perf_counter()))
