"""Reads a HyperPyYAML recipe as plain data. Tags are kept as text: nothing is imported, nothing is called."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from antiphon.codec.checkpoint.recipe_nodes import Tagged, read_nodes
from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import read_file, shown
from antiphon.plain import one_line

__all__ = ["Section", "read_recipe"]

MAX_RECIPE_BYTES = 2**17
"""The released one has 6 KB; PyYAML reads some 50 KB a second."""
MAX_SIZE = 2**20
REFERENCE_TAG = "ref"
MAX_NAMES_SHOWN = 5


class Section:
    """One `!new:` mapping of a recipe, read key by key; keys that were not read are refused at the end."""

    def __init__(self, path: Path, name: str, values: dict[Any, Any], top: dict[Any, Any]) -> None:
        self.path = path
        self.name = name
        self._values = values
        self._top = top
        self._used: set[str] = set()

    def section(self, key: str, class_name: str) -> Section:
        """The mapping under `key`, which must be tagged `!new:class_name`."""
        value = self._take(key)
        if not isinstance(value, Tagged) or value.tag != f"new:{class_name}":
            raise self._error(key, f"!new:{class_name}", value)
        return self._below(key, value.value)

    def mapping(self, key: str) -> Section:
        """The plain mapping under `key`."""
        return self._below(key, self._take(key))

    def integer(self, key: str, high: int = MAX_SIZE) -> int:
        """An integer from 1 to `high`."""
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._error(key, "an integer >= 1", value)
        if value > high:
            raise self._error(key, f"at most {high}", value)
        return value

    def number(self, key: str) -> float:
        """A finite number >= 0. YAML 1.1 reads "1e-06" as text, so text that spells a number is accepted."""
        value = self._take(key)
        try:
            number = float("nan") if isinstance(value, (bool, list, dict)) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not 0 <= number < float("inf"):
            raise self._error(key, "a number >= 0", value)
        return number

    def flag(self, key: str) -> bool:
        """True or false; false if there is no such key."""
        if key not in self._values:
            return False
        value = self._take(key)
        if not isinstance(value, bool):
            raise self._error(key, "true or false", value)
        return value

    def integers(
        self, key: str, count: int | None = None, *, max_count: int = 64, high: int = MAX_SIZE
    ) -> tuple[int, ...]:
        """A list of integers from 1 to `high`, `count` of them if given, else at most `max_count`."""
        value = self._take(key)
        plain = isinstance(value, list) and all(type(item) is int and 0 < item <= high for item in value)
        if not plain or not value or len(value) > max_count or (count is not None and len(value) != count):
            many = f"at most {max_count} " if count is None else f"{count} "
            raise self._error(key, f"a list of {many}integers >= 1", value)
        return tuple(value)

    def expect(self, key: str, expected: Any, *, required: bool = True, hint: str = "") -> None:
        """Refuses any value but `expected`: others would need a computation that is not implemented.

        hint: what to add to the error.
        """
        if key not in self._values and not required:
            return
        value = self._take(key)
        if value != expected or isinstance(value, bool) != isinstance(expected, bool):
            error = self._error(key, repr(expected), value)
            raise CheckpointError(f"{error}{hint}")

    def skip(self, *keys: str) -> None:
        """Accepts keys that only training reads."""
        self._used.update(keys)

    def finish(self) -> None:
        """Refuses keys that were not read: they may change the computation."""
        extra = [key for key in self._values if key not in self._used]
        if extra:
            names = ", ".join(sorted(shown(str(key)) for key in extra[:MAX_NAMES_SHOWN]))
            raise CheckpointError(f"{self.path}: {self.name}: unknown key {names}")

    def _take(self, key: str) -> Any:
        self._used.add(key)
        if key not in self._values:
            raise CheckpointError(f"{self.path}: {self.name}.{key}: expected a value, found no such key")
        return self._resolve(key, self._values[key])

    def _resolve(self, key: str, value: Any) -> Any:
        if not isinstance(value, Tagged) or value.tag != REFERENCE_TAG:
            return value
        match = re.fullmatch(r"<(\w+)>", str(value.value))
        target = self._top.get(match[1]) if match else None
        if not isinstance(target, (str, int, float, bool)):
            raise self._error(key, "a reference <key> to a plain value at the top", value.value)
        return target

    def _below(self, key: str, values: Any) -> Section:
        if not isinstance(values, dict):
            raise self._error(key, "a mapping", values)
        return Section(self.path, f"{self.name}.{key}" if self.name else key, values, self._top)

    def _error(self, key: str, expected: str, found: object) -> CheckpointError:
        name = f"{self.name}.{key}" if self.name else key
        return CheckpointError(f"{self.path}: {name}: expected {expected}, found {shown(found)}")


def read_recipe(path: Path) -> Section:
    """The top level of the recipe at `path`. Raises CheckpointError if it is not plain tagged YAML."""
    content = read_file(path, "a YAML recipe in UTF-8", max_bytes=MAX_RECIPE_BYTES)
    try:
        values = read_nodes(content.decode("utf-8-sig"))
    except RecursionError:
        raise CheckpointError(
            f"{path}: expected a YAML recipe in UTF-8, found values nested too deeply"
        ) from None
    # ValueError: not UTF-8, or not plain data. What else PyYAML raises depends on where the damage is.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected a YAML recipe in UTF-8: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a mapping, found {type(values).__name__}")
    return Section(path, "", values, values)
