"""Reads a HyperPyYAML recipe as plain data. Tags are kept as text: nothing is imported, nothing is called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from antiphon.errors import CheckpointError

__all__ = ["Section", "read_recipe"]

MAX_RECIPE_BYTES = 2**20
REFERENCE_TAG = "ref"


@dataclass(frozen=True)
class Tagged:
    """A node with a `!tag`: "new:package.Class", "name:...", "apply:...", "ref"."""

    tag: str
    value: Any


class RecipeLoader(yaml.SafeLoader):
    """SafeLoader that keeps nodes tagged `!...` as `Tagged` data; `!!python/...` is still refused."""


def keep_tag(loader: RecipeLoader, suffix: str, node: yaml.Node) -> Tagged:
    value: Any
    if isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.ScalarNode), "a YAML node is a mapping, a sequence or a scalar"
        value = loader.construct_scalar(node)
    return Tagged(suffix, value)


RecipeLoader.add_multi_constructor("!", keep_tag)


class Section:
    """One `!new:` mapping of a recipe, read key by key; what nobody asked for is refused at the end."""

    def __init__(self, path: Path, name: str, values: dict[Any, Any], top: dict[Any, Any]) -> None:
        self.path = path
        self.name = name
        self._values = values
        self._top = top
        self._used: set[str] = set()

    def section(self, key: str, class_name: str) -> Section:
        """The mapping below `key`, which must be tagged `!new:class_name`."""
        value = self._take(key)
        if not isinstance(value, Tagged) or value.tag != f"new:{class_name}":
            found = f"!{value.tag}" if isinstance(value, Tagged) else repr(value)
            raise self._error(key, f"!new:{class_name}", found)
        return self._below(key, value.value)

    def mapping(self, key: str) -> Section:
        """The plain mapping below `key`."""
        return self._below(key, self._take(key))

    def integer(self, key: str) -> int:
        """A positive integer."""
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._error(key, "an integer >= 1", repr(value))
        return value

    def number(self, key: str) -> float:
        """A finite number >= 0. YAML 1.1 reads "1e-06" as text, so text that spells a number is one."""
        value = self._take(key)
        try:
            number = float("nan") if isinstance(value, (bool, list, dict)) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not 0 <= number < float("inf"):
            raise self._error(key, "a number >= 0", repr(value))
        return number

    def integers(self, key: str, count: int | None = None) -> tuple[int, ...]:
        """A list of positive integers, `count` of them if given."""
        value = self._take(key)
        plain = isinstance(value, list) and all(type(item) is int and item > 0 for item in value)
        if not plain or not value or (count is not None and len(value) != count):
            many = "" if count is None else f"{count} "
            raise self._error(key, f"a list of {many}integers >= 1", repr(value))
        return tuple(value)

    def expect(self, key: str, expected: Any, *, required: bool = True) -> None:
        """Refuses any value but `expected`: others would need a computation that is not written here."""
        if key not in self._values and not required:
            return
        value = self._take(key)
        if value != expected or isinstance(value, bool) != isinstance(expected, bool):
            raise self._error(key, repr(expected), repr(value))

    def skip(self, *keys: str) -> None:
        """Keys that only training reads."""
        self._used.update(keys)

    def finish(self) -> None:
        """Refuses keys that nobody asked for: they may change the computation."""
        extra = sorted(str(key) for key in self._values if key not in self._used)
        if extra:
            raise CheckpointError(f"{self.path}: {self.name}: unknown key {', '.join(map(repr, extra))}")

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
            raise self._error(key, "a reference <key> to a plain value at the top", repr(value.value))
        return target

    def _below(self, key: str, values: Any) -> Section:
        if not isinstance(values, dict):
            raise self._error(key, "a mapping", repr(values))
        return Section(self.path, f"{self.name}.{key}" if self.name else key, values, self._top)

    def _error(self, key: str, expected: str, found: str) -> CheckpointError:
        name = f"{self.name}.{key}" if self.name else key
        return CheckpointError(f"{self.path}: {name}: expected {expected}, found {found[:200]}")


def read_recipe(path: Path) -> Section:
    """The top level of the recipe at `path`. Raises CheckpointError where it is not plain tagged YAML."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if len(content) > MAX_RECIPE_BYTES:
        raise CheckpointError(f"{path}: expected at most {MAX_RECIPE_BYTES} bytes, found {len(content)}")
    try:
        values = yaml.load(content.decode("utf-8"), Loader=RecipeLoader)
    # ValueError: not UTF-8, or a number or date that is none. RecursionError: nested without end.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a YAML recipe in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a mapping, found {type(values).__name__}")
    return Section(path, "", values, values)
