"""A YAML text as plain data, in time and memory bounded by its length.

PyYAML's own loaders copy merged mappings again for each mention, take time quadratic in a number's digits to
read it, and hash any kind of key. So only its graph of nodes is used, in which an alias is the node itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

__all__ = ["Tagged", "read_nodes"]

CORE = "tag:yaml.org,2002:"
MAX_NUMBER_CHARS = 64
"""Longer numbers stay text."""
MAX_MERGED = 100_000
"""Entries that `<<` copies in all."""
INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)")
FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*)?\.?[0-9_]*(?:[eE][-+]?[0-9]+)?")
TRUE, FALSE = ("yes", "true", "on"), ("no", "false", "off")


@dataclass(frozen=True, eq=False)
class Tagged:
    """A node with a `!tag`: "new:package.Class", "name:...", "apply:...", "ref"."""

    tag: str
    value: Any

    def __repr__(self) -> str:
        return f"!{self.tag}"


def read_nodes(text: str) -> Any:
    """The document of `text`: None, bool, int, float, str, list, dict and `Tagged`.

    Aliases of a node share one value. What YAML 1.1 takes for a date or for base 60 stays text.
    Raises ValueError or yaml.YAMLError for any other document, RecursionError if it is nested too deeply.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return None if node is None else _Reader().value(node)


class _Reader:
    def __init__(self) -> None:
        self._values: dict[int, Any] = {}
        self._open: set[int] = set()
        self._num_merged = 0

    def value(self, node: yaml.Node) -> Any:
        key = id(node)
        if key in self._values:
            return self._values[key]
        if key in self._open:
            raise ValueError(f"an alias inside the value that it refers to, {_place(node)}")
        self._open.add(key)
        value = self._new_value(node)
        self._open.remove(key)
        self._values[key] = value
        return value

    def _new_value(self, node: yaml.Node) -> Any:
        tag: str = node.tag
        if tag.startswith("!"):
            return Tagged(tag[1:], self._content(node))
        kind = tag.removeprefix(CORE)
        if tag == kind or kind not in KINDS:
            raise ValueError(f"could not determine a constructor for the tag {tag[:100]!r}, {_place(node)}")
        if not isinstance(node, yaml.ScalarNode):
            return self._content(node)
        return _scalar(kind, node.value)

    def _content(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item) for item in node.value]
        return node.value

    def _mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"a key that is not a plain value, {_place(key_node)}")
            value = self.value(value_node)
            if key_node.tag == f"{CORE}merge":
                for other in value if isinstance(value, list) else [value]:
                    if not isinstance(other, dict):
                        raise ValueError(f"<< with a value that is not a mapping, {_place(value_node)}")
                    self._num_merged += len(other)
                    if self._num_merged > MAX_MERGED:
                        raise ValueError(
                            f"<< with more than {MAX_MERGED} entries in all, {_place(value_node)}"
                        )
                    for name, item in other.items():
                        merged.setdefault(name, item)
                continue
            key = self.value(key_node)
            if isinstance(key, Tagged) or key in own:
                raise ValueError(f"a key that appears twice or is not a plain value, {_place(key_node)}")
            own[key] = value
        return {**merged, **own}


KINDS = ("null", "bool", "int", "float", "str", "seq", "map", "timestamp", "merge", "value")


def _scalar(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    if len(text) > MAX_NUMBER_CHARS:
        return text
    if kind == "int" and INTEGER.fullmatch(text):
        digits = text.replace("_", "")
        octal = re.fullmatch(r"[-+]?0[0-7]+", digits)
        return int(digits, 8) if octal else int(digits, 0)
    if kind == "float":
        digits = text.replace("_", "").lower()
        if digits.lstrip("+-") in (".inf", ".nan"):
            digits = digits.replace(".", "")
        elif not FLOAT.fullmatch(text):
            return text  # base 60
        return float(digits)
    return text


def _place(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"
