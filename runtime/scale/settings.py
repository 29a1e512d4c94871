"""How many replicas there are, what each takes, and how requests reach them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from antiphon.errors import ConfigError

__all__ = ["ScaleSettings"]


@dataclass(frozen=True)
class ScaleSettings:
    """Of an application of Ray Serve. Times are in seconds."""

    num_replicas: int = 1
    """Replicas of the engine, if their number is fixed."""
    min_replicas: int = 1
    max_replicas: int | None = None
    """With it, Serve changes the number of replicas between these two, and `num_replicas` says nothing."""
    target_waiting_s: float = 10.0
    """Seconds of speech that may be waited for at a replica before there should be another."""
    target_requests: float = 16.0
    """Requests and conversations that a replica is meant to have at a time: what it serves without gaps."""
    upscale_delay_s: float = 10.0
    """How long more replicas must be wanted before they are started."""
    downscale_delay_s: float = 300.0
    """How long fewer must be wanted before some are ended."""
    spill_s: float = 10.0
    """With more seconds of speech than this waited for at its replica, a conversation goes to another."""
    surge_percent: int = 0
    """How many replicas an update may start before it ends old ones, as a share of their number, rounded up.
    0: old ones end first. More: the update waits until there is room for new ones."""
    num_cpus: float = 1.0
    """Cores of a replica; its engine computes with as many threads."""
    num_gpus: float | None = None
    """GPUs of a replica; None: one if its device is a GPU, or "auto" where this process sees one."""
    codec_replicas: int = 0
    """Replicas of the codec, which make the speech of all engines; 0: each engine makes its own."""
    codec_num_cpus: float = 1.0
    """Cores of such a replica."""
    codec_num_gpus: float | None = None
    """GPUs of such a replica; None: as `num_gpus`."""

    def __post_init__(self) -> None:
        if self.num_replicas < 1:
            raise ConfigError(f"num_replicas: expected at least 1, got {self.num_replicas}")
        if self.min_replicas < 0:
            raise ConfigError(f"min_replicas: expected at least 0, got {self.min_replicas}")
        if self.max_replicas is not None and self.max_replicas < max(1, self.min_replicas):
            raise ConfigError(
                f"max_replicas: expected at least 1 and min_replicas ({self.min_replicas}), "
                f"got {self.max_replicas}"
            )
        if not 0 <= self.surge_percent <= 100:
            raise ConfigError(f"surge_percent: expected 0 to 100, got {self.surge_percent}")
        if self.codec_replicas < 0:
            raise ConfigError(f"codec_replicas: expected at least 0, got {self.codec_replicas}")
        for name in ("target_waiting_s", "target_requests", "num_cpus", "codec_num_cpus"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("upscale_delay_s", "downscale_delay_s", "spill_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected at least 0, got {getattr(self, name)}")
        for name in ("num_gpus", "codec_num_gpus"):
            if (count := getattr(self, name)) is not None and count < 0:
                raise ConfigError(f"{name}: expected at least 0, got {count}")

    def gpus(self, device: Any) -> float:
        """GPUs of a replica whose engine is given this device."""
        if self.num_gpus is not None:
            return self.num_gpus
        if str(device) == "auto":
            import torch

            return float(torch.cuda.is_available())
        return float(str(device).startswith("cuda"))

    def codec_gpus(self, device: Any) -> float:
        """GPUs of a replica of the codec, likewise."""
        return self.gpus(device) if self.codec_num_gpus is None else self.codec_num_gpus
