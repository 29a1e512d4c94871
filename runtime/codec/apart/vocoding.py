"""What a vocoder's process does with what it is sent: it computes, and keeps nothing."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antiphon.codec.apart.packing import Packer, on_device, unpacked
from antiphon.codec.apart.stream import NOT_SENT
from antiphon.codec.codec import Codec
from antiphon.codec.stopping import Stopped, stoppable
from antiphon.codec.stream import SpeechStream, advance
from antiphon.codec.voices import Voice
from antiphon.config import StreamSchedule
from antiphon.device.current import current_device
from antiphon.kernels.threads import set_num_threads
from antiphon.plain import told
from antiphon.process.forking import num_threads
from antiphon.sound.arrays import AudioArray

__all__ = ["Vocoding"]

Answer = tuple[dict[str, Any], bytes]


class Vocoding:
    """A codec that speaks, and messages about it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """settings: see `Vocoders`. Raises what `Codec.from_pretrained` does."""
        count = settings["num_threads"]
        if count is not None and count != num_threads():
            # Not otherwise: from the first call on, MKL no longer follows OpenMP, and rounds differently.
            torch.set_num_threads(count)
        self._codec = Codec.from_pretrained(
            Path(settings["folder"]),
            settings["device"],
            settings["dtype"],
            settings["backend"],
            enforce_eager=settings["enforce_eager"],
            hears=False,
        )
        if self._codec.device.type == "cpu":
            set_num_threads(num_threads())
        elif not settings["enforce_eager"]:
            with current_device(self._codec.device):
                for _ in self._codec.record():
                    pass

    def about(self) -> dict[str, Any]:
        """What whoever plans batches has to know."""
        ladder = self._codec.decoder.ladder
        return {
            "max_batch_frames": self._codec.max_batch_frames,
            "ladder": None if ladder is None else {"rows": ladder.rows, "frames": ladder.frames},
        }

    def answer(self, message: dict[str, Any], data: bytes, is_unwanted: Callable[[], bool]) -> Answer:
        """The answer to one message. An error in it is told, whatever it is."""
        try:
            with stoppable(is_unwanted), current_device(self._codec.device):
                if "advance" in message:
                    return self._advance(message["advance"], data)
                return self._decode(message["decode"], data)
        except Stopped:
            return {"stopped": True}, b""
        except Exception as error:  # noqa: BLE001 - it concerns these rows alone
            traceback.print_exc()
            return {"failed": told(error)}, b""

    @torch.inference_mode()
    def _advance(self, rows: Sequence[dict[str, Any]], data: bytes) -> Answer:
        sizes = [row["voice_bytes"] + row["state_bytes"] for row in rows]
        parts = on_device(data, self._codec.device).split(sizes)
        streams = [self._stream(row, part) for row, part in zip(rows, parts, strict=True)]
        samples = advance(streams)
        packer = Packer()
        made = []
        for stream, own in zip(streams, samples, strict=True):
            begin = packer.num_bytes
            made.append(
                {
                    "flow": packer.put(_sent(stream.flow.state()), begin),
                    "hift": packer.put(_sent(stream.hift.state()), begin),
                    "state_bytes": packer.num_bytes - begin,
                    "is_last_made": stream.hift.is_complete,
                    "is_done": stream.is_done,
                    "num_samples": len(own),
                }
            )
        return {"rows": made}, packer.data() + _bytes(samples)

    def _stream(self, row: dict[str, Any], data: Tensor) -> SpeechStream:
        voice, state = data.split([row["voice_bytes"], row["state_bytes"]])
        schedule = StreamSchedule(**row["schedule"])
        stream = SpeechStream(self._codec.decoder, _voice(row, voice), row["seed"], schedule)
        stream.flow.restore(unpacked(row["flow"], state))
        if row["hift"] is not None:
            stream.hift.restore(unpacked(row["hift"], state))
        return stream

    def _decode(self, rows: Sequence[dict[str, Any]], data: bytes) -> Answer:
        parts = on_device(data, self._codec.device).split([row["voice_bytes"] for row in rows])
        voices = [_voice(row, part) for row, part in zip(rows, parts, strict=True)]
        samples = self._codec.decode([row["units"] for row in rows], voices, [row["seed"] for row in rows])
        return {"samples": [len(own) for own in samples]}, _bytes(samples)


def _voice(row: dict[str, Any], data: Tensor) -> Voice:
    return Voice(**unpacked(row["voice"], data))


def _sent(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in NOT_SENT}


def _bytes(samples: Sequence[AudioArray]) -> bytes:
    return b"".join(np.ascontiguousarray(own, np.float32).tobytes() for own in samples)
