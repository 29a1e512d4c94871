"""Packages that only some evaluations need."""

from __future__ import annotations

import importlib
from typing import Any

from antiphon.errors import ConfigError

__all__ = ["needed"]


def needed(module: str, what: str) -> Any:
    """The module. Raises ConfigError, which names the extra that holds it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{what} needs the extra: pip install 'antiphon[eval]' ({error})") from error
