"""The libraries that build and run engines: TensorRT, and TensorRT for RTX, which builds without a GPU."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from antiphon.errors import ConfigError
from antiphon.plain import one_line

__all__ = ["FULL", "RTX", "Library", "installed", "logger_for"]

FULL: Final = "tensorrt"
RTX: Final = "tensorrt_rtx"
INSTALL = {FULL: "pip install 'antiphon[tensorrt]'", RTX: "pip install 'antiphon[tensorrt-rtx]'"}
MAX_LINES = 200
"""Of a log that are kept."""


@dataclass(frozen=True)
class Library:
    """One of them, imported."""

    name: str
    module: Any
    version: str
    """All of it: an engine runs only with the very version that built it."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


def installed(name: str) -> Library:
    """Raises ConfigError, which says what to install."""
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: without one of the shared libraries
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        why = "is not installed" if missing else f"cannot be loaded ({one_line(error)})"
        raise ConfigError(f"expected the package {name}, which {why}: {INSTALL[name]}") from error
    return Library(name, module, str(module.__version__))


def logger_for(library: Library, report: Callable[[str, str], None] | None = None) -> tuple[Any, deque[str]]:
    """A logger for the library's objects, and the last lines of INFO and above. report: is told the severity
    and the text of each."""
    lines: deque[str] = deque(maxlen=MAX_LINES)

    class Log(library.module.ILogger):  # type: ignore[misc, name-defined]  # known at run time
        def __init__(self) -> None:
            library.module.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            name = str(getattr(severity, "name", severity)).rpartition(".")[2]
            if name == "VERBOSE":
                return
            lines.append(f"{name}: {text}")
            if report is not None:
                report(name, text)

    return Log(), lines
