"""The JSON files beside the weights, read key by key so that no key can be overlooked."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import shortened, shown

__all__ = ["Settings"]

MAX_TEXT_CHARS = 4096
"""Longest string among the settings."""


class Settings:
    """The keys of one JSON object. Each is taken with the type and range it must have; any that are left
    over at the end are refused, because an unknown key may change what the model computes.

    Every method raises `CheckpointError` naming file, key, expected and found. A key whose value is
    null counts as absent. `prefix` names the place of a nested object ("rope_scaling.").
    """

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix
        self._values = values
        self._taken: set[str] = set()

    def take(self, name: str) -> Any:
        """The value as it is in the file, or None."""
        self._taken.add(name)
        return self._values.get(name)

    def error(self, name: str, expected: str) -> CheckpointError:
        found = shown(self._values[name]) if name in self._values else "no such key"
        return CheckpointError(f"{self.path}: {self.prefix}{name}: expected {expected}, found {found}")

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = 2**20) -> int:
        """An integer from `low` to `high`; without a default the key must be present.

        Sizes are bounded so that nonsense is refused here, by name, and not by a failing allocation.
        """
        value = self.take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, f"an integer from {low} to {high}")
        return value

    def positive(self, name: str, default: float | None = None, *, high: float = sys.float_info.max) -> float:
        """A number above 0 and at most `high`; without a default the key must be present."""
        value = self.take(name)
        if value is None and default is not None:
            return default
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is None or not number or not 0 < value <= high:
            limit = "" if high == sys.float_info.max else f" and at most {high:g}"
            raise self.error(name, f"a number above 0{limit}")
        return float(value)

    def text(self, name: str, default: str | None = None) -> str:
        """A string of 1 to 4096 characters; without a default the key must be present."""
        value = self.take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARS:
            raise self.error(name, f"a string of 1 to {MAX_TEXT_CHARS} characters")
        return value

    def nested(self, name: str) -> Settings | None:
        """The object under a key, or None."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, "an object or null")
        return Settings(self.path, value, f"{self.prefix}{name}.")

    def fixed(self, name: str, *allowed: object) -> None:
        """Refuse the key unless it is absent or has one of these values, the only ones implemented."""
        value = self.take(name)
        # types are compared too, since 1 == True and 0 == False
        if value is not None and not any(type(value) is type(a) and value == a for a in allowed):
            expected = " or ".join(repr(a) for a in allowed) or "null"
            raise self.error(name, f"{expected} (nothing else is implemented)")

    def refuse_unknown(self, harmless: Collection[str]) -> None:
        """Refuse any key that has not been taken, is not known to change nothing, and is not off."""
        for name, value in self._values.items():
            off = value is None or value is False or value in ("", [], {})
            if name not in self._taken and name not in harmless and not off:
                raise CheckpointError(
                    f"{self.path}: {self.prefix}{shortened(name)}: expected no such key, "
                    f"found {shown(value)}: it is unknown and might change what the model computes"
                )
