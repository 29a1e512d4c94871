"""Where speech is made: in which processes, and on which devices."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from antiphon.device.place import resolve_device
from antiphon.errors import ConfigError
from antiphon.plain import integer, kind, shown
from antiphon.process.forking import check_device

if TYPE_CHECKING:
    from antiphon.codec import Codec
    from antiphon.codec.apart import Vocoders

__all__ = ["MAX_VOCODER_WORKERS", "VocoderPlace"]

MAX_VOCODER_WORKERS = 64


@dataclass(frozen=True)
class VocoderPlace:
    """`vocoder_workers` and `vocoder_device`, checked."""

    num_workers: int
    """Processes; 0: speech is made in this one."""
    devices: tuple[torch.device, ...]
    """That of each process in turn, of one kind; the only one if there are none."""

    @classmethod
    def parse(
        cls,
        workers: object,
        device: object,
        codec: str | os.PathLike[str] | Codec | None,
        engine: torch.device,
    ) -> VocoderPlace:
        """codec: as the engine is given it. engine: the device of the model, where speech is made too if no
        other is given. Raises ConfigError, naming the argument."""
        num_workers = integer("vocoder_workers", workers, 0, MAX_VOCODER_WORKERS, error=ConfigError)
        given = {"vocoder_workers": num_workers or None, "vocoder_device": device}
        for name, value in given.items():
            if value is not None and not isinstance(codec, (str, os.PathLike)):
                what = f"{shown(value)}, got {'no codec' if codec is None else 'a Codec'}"
                raise ConfigError(f"{name}: expected a codec given as a folder with {what}")
        devices = (engine,) if device is None else _devices(device)
        if len({place.type for place in devices}) > 1:
            raise ConfigError(f"vocoder_device: expected devices of one kind, got {shown(device)}")
        if len(devices) > max(1, num_workers):
            raise ConfigError(
                f"vocoder_device: expected at most {max(1, num_workers)}, one for each of the "
                f"vocoder_workers, got {shown(device)}"
            )
        return cls(num_workers, devices)

    def start(
        self, codec: Codec, folder: str | os.PathLike[str], backend: str, *, enforce_eager: bool
    ) -> Vocoders | None:
        """Begin to start the processes. codec: the same in this one, without networks."""
        if not self.num_workers:
            return None
        from antiphon.codec.apart import Vocoders

        devices = [self.devices[i % len(self.devices)] for i in range(self.num_workers)]
        return Vocoders(codec, folder, devices, backend, enforce_eager=enforce_eager)


def _devices(given: object) -> tuple[torch.device, ...]:
    if isinstance(given, torch.device):
        given = str(given)
    if not isinstance(given, str):
        raise ConfigError(f"vocoder_device: expected cpu, cuda, cuda:1 ..., got {kind(given)}")
    try:
        places = tuple(resolve_device(name.strip()) for name in given.split(","))
        for place in places:
            check_device(place)
    except ConfigError as error:
        raise ConfigError(f"vocoder_{error}") from None
    return places
