"""The JSON files beside the weights, read key by key so that no key can be overlooked."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from antiphon.errors import CheckpointError

__all__ = ["Settings", "read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; anything else is a `CheckpointError` naming the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number without end
        raise CheckpointError(f"{path}: expected JSON, found what is none: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


class Settings:
    """The keys of one JSON object. Each is taken with the type and range it must have; what is left
    over in the end is refused, because a key that nobody knows may change what the model computes.

    Every method raises `CheckpointError` naming file, key, expected and found. A key whose value is
    null counts as absent. `prefix` names the place of a nested object ("rope_scaling.").
    """

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix
        self._values = values
        self._taken: set[str] = set()

    def take(self, name: str) -> Any:
        """The value as it stands, or None."""
        self._taken.add(name)
        return self._values.get(name)

    def error(self, name: str, expected: str) -> CheckpointError:
        found = repr(self._values[name]) if name in self._values else "no such key"
        return CheckpointError(f"{self.path}: {self.prefix}{name}: expected {expected}, found {found}")

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = 2**20) -> int:
        """An integer from `low` to `high`; without a default the key must be there.

        Sizes are bounded so that nonsense is refused by name here and not by a failing allocation.
        """
        value = self.take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, f"an integer from {low} to {high}")
        return value

    def positive(self, name: str, default: float | None = None) -> float:
        """A finite number above 0; without a default the key must be there."""
        value = self.take(name)
        if value is None and default is not None:
            return default
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is None or not number or not 0 < value <= sys.float_info.max:
            raise self.error(name, "a number above 0")
        return float(value)

    def text(self, name: str, default: str | None = None) -> str:
        """A string that is not empty; without a default the key must be there."""
        value = self.take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value:
            raise self.error(name, "a string")
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
        """The key is absent or has one of these values: the only ones that are implemented."""
        value = self.take(name)
        # compared with their types, since 1 == True and 0 == False
        if value is not None and not any(type(value) is type(a) and value == a for a in allowed):
            expected = " or ".join(repr(a) for a in allowed) or "null"
            raise self.error(name, f"{expected} (nothing else is implemented)")

    def refuse_unknown(self, harmless: Collection[str]) -> None:
        """Every key must have been taken, be among those known to change nothing, or be off."""
        for name, value in self._values.items():
            off = value is None or value is False or value in ("", [], {})
            if name not in self._taken and name not in harmless and not off:
                raise CheckpointError(
                    f"{self.path}: {self.prefix}{name}: expected no such key, found {value!r}: "
                    "it is unknown and might change what the model computes"
                )
