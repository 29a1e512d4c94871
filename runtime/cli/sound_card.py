"""Sound devices, through the package `sounddevice` (the extra `mic`) and the library PortAudio."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from ctypes import CDLL, CFUNCTYPE, c_char_p, c_int
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

from antiphon.cli.streams import one_line
from antiphon.errors import ConfigError

__all__ = ["Device", "Kind", "devices", "find_device", "open_stream", "start_stream"]

Kind = Literal["input", "output"]
NO_PACKAGE = "the package sounddevice is not installed: pip install 'antiphon[mic]'"
NO_LIBRARY = "PortAudio's library is not installed: apt install libportaudio2"
NO_CARD = "no sound card was found"
WORDS = {"input": "microphone", "output": "loudspeaker"}
LATENCY_S = 0.1
"""What the device's buffer holds: Python may be late by this much before there is a gap."""
IN_USE = -9985
OTHER_FORMAT = (-9998, -9997)
"""PortAudio's codes for a number of channels and a rate that a device does not have."""


@dataclass(frozen=True)
class Device:
    """A sound device, for one direction."""

    index: int
    name: str
    num_channels: int
    rate_hz: int
    """The rate that it has by default."""

    def __str__(self) -> str:
        return f"{self.index} {self.name}"


def devices(kind: Kind) -> list[Device]:
    """All devices of a direction. Raises ConfigError if the machine has no sound."""
    library = _library()
    found = list(library.query_devices())
    if not found:
        raise ConfigError(NO_CARD)
    able = [_device(info, kind) for info in found]
    return [device for device in able if device.num_channels > 0]


def find_device(kind: Kind, wanted: str | None) -> Device:
    """The device of a number or of (part of) a name; None: the system's default. Raises ConfigError."""
    able = devices(kind)
    if not able:
        raise ConfigError(f"no {kind} device (a {WORDS[kind]}) was found")
    library = _library()
    asked = int(wanted) if wanted is not None and wanted.isdecimal() else wanted
    try:
        return _device(library.query_devices(asked, kind), kind)
    except (ValueError, library.PortAudioError) as error:
        got = "the system has no default" if wanted is None else f"got {wanted!r}"
        names = ", ".join(map(str, able))
        raise ConfigError(f"--{kind}-device: expected the number or name of one of {names}; {got}") from error


def open_stream(kind: Kind, device: Device, rate_hz: int, callback: Callable[..., None]) -> Any:
    """A sounddevice stream of float32, not started: mono at this rate, or as near to that as the device can.
    Raises ConfigError."""
    library = _library()
    make = library.InputStream if kind == "input" else library.OutputStream
    formats = [(rate_hz, 1), (device.rate_hz, 1), (device.rate_hz, min(2, device.num_channels))]
    why: Exception | None = None
    for rate, num_channels in formats:
        try:
            return make(
                device=device.index,
                samplerate=rate,
                channels=num_channels,
                dtype="float32",
                latency=LATENCY_S,
                callback=callback,
            )
        except library.PortAudioError as error:
            why = error
            code = error.args[1] if len(error.args) > 1 else None
            if code == IN_USE:
                raise ConfigError(
                    f"the {WORDS[kind]} ({device.name}) is in use by another program, or has been unplugged"
                ) from error
            if code not in OTHER_FORMAT:
                break
    raise ConfigError(f"the {WORDS[kind]} ({device.name}) cannot be opened: {one_line(why)}") from why


def start_stream(stream: Any) -> None:
    """Have a stream call its callback. Raises ConfigError."""
    try:
        stream.start()
    except _library().PortAudioError as error:
        raise ConfigError(f"a sound device cannot be started: {one_line(error)}") from error


def _library() -> Any:
    _quieten()
    try:
        return import_module("sounddevice")
    except ImportError as error:
        raise ConfigError(NO_PACKAGE) from error
    except OSError as error:  # ctypes does not find it
        raise ConfigError(NO_LIBRARY) from error
    except Exception as error:  # it starts PortAudio when it is imported
        raise ConfigError(f"the sound card cannot be used: {one_line(error)}") from error


def _device(info: Any, kind: Kind) -> Device:
    return Device(
        int(info["index"]),
        str(info["name"]),
        int(info[f"max_{kind}_channels"]),
        int(info["default_samplerate"]),
    )


# ALSA writes to stderr what it tries and each underrun. It calls this instead, in any thread.
_quiet = CFUNCTYPE(None, c_char_p, c_int, c_char_p, c_int, c_char_p)(lambda *_: None)


@lru_cache(maxsize=1)
def _quieten() -> None:
    with suppress(OSError, AttributeError):  # another system of sound
        CDLL("libasound.so.2").snd_lib_error_set_handler(_quiet)
