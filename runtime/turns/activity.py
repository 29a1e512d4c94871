"""How likely each frame of sound is to be speech: the interface, and which implementation to take."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from antiphon.errors import ConfigError
from antiphon.plain import choice
from antiphon.sound.arrays import AudioArray
from antiphon.turns.energy import EnergyActivity
from antiphon.turns.silero import SileroActivity, has_silero

__all__ = ["ActivityKind", "VoiceActivity", "voice_activity"]

ActivityKind = Literal["auto", "silero", "energy"]


class VoiceActivity(Protocol):
    """Tells speech from other sound for one user, frame by frame, as the sound comes in."""

    @property
    def rate_hz(self) -> int:
        """The rate of the samples that it takes."""
        ...

    @property
    def frame_samples(self) -> int: ...

    def push(self, samples: AudioArray) -> list[float]:
        """Take the next samples, finite mono float32 (n,), n >= 0. Returns the probability of speech in each
        frame that is now complete. How the sound is cut into pieces does not change the numbers."""
        ...

    def reset(self) -> None:
        """Begin anew, as if no sound had been pushed."""
        ...


def voice_activity(kind: ActivityKind = "auto") -> VoiceActivity:
    """For one user: "silero" is Silero's network (the extra `talk`), "energy" the built-in detector, and
    "auto" the former where it is installed. Raises ConfigError."""
    kinds = get_args(ActivityKind)
    name = choice("voice activity", kind, kinds, error=ConfigError)
    if name == "energy" or (name == "auto" and not has_silero()):
        return EnergyActivity()
    return SileroActivity()
