"""Rows of fields from JSONL, JSON and TSV files, each with the place that errors name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphon.errors import ConfigError

__all__ = ["Row", "read_rows"]

MAX_SHOWN = 80
LISTS = ("annotations", "data", "questions")


@dataclass(frozen=True)
class Row:
    """Fields, and where they stand."""

    place: str
    """Such as `questions.jsonl:3`"""
    fields: dict[str, Any]
    folder: Path
    """Of the file, which paths are relative to"""

    def text(self, *names: str, default: str | None = None) -> str:
        """The first of these fields that is there. Raises ConfigError for another kind, and for none without
        a default."""
        for name in names:
            value = self.fields.get(name)
            if isinstance(value, str):
                return value
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return str(value)
            if value is not None:
                raise self.error(f"{name}: expected a text, found {_shown(value)}")
        if default is not None:
            return default
        found = ", ".join(self.fields) or "none"
        raise self.error(f"expected a field {' or '.join(map(repr, names))}, found the fields {found}")

    def texts(self, *names: str) -> tuple[str, ...]:
        """Texts, or one; a list may also be written as a string of JSON, as some sets do. Empty: no such
        field."""
        for name in names:
            value = self.fields.get(name)
            if value is None:
                continue
            if isinstance(value, str):
                value = _as_list(value)
            items = value if isinstance(value, list) else [value]
            items = [item.get("answer") if isinstance(item, dict) else item for item in items]
            if not all(isinstance(item, (str, int, float)) for item in items):
                raise self.error(f"{name}: expected a text or a list of texts, found {_shown(value)}")
            return tuple(str(item) for item in items)
        return ()

    def number(self, name: str) -> float:
        value = self.fields.get(name)
        try:
            return float(value)  # type: ignore[arg-type]  # whatever it is
        except (TypeError, ValueError):
            raise self.error(f"{name}: expected a number, found {_shown(value)}") from None

    def file(self, *names: str, beside: Sequence[str] = ()) -> Path:
        """A file that the row names: as it stands, or in a folder `beside` the row's own file."""
        name = self.text(*names)
        tried = [self.folder / name, *(self.folder / each / name for each in beside)]
        for path in tried:
            if path.is_file():
                return path
        raise self.error(f"no such file: {', nor '.join(map(str, tried))}")

    def error(self, what: str) -> ConfigError:
        return ConfigError(f"{self.place}: {what}")


def read_rows(path: Path) -> Iterator[Row]:
    """One object a line (.jsonl), a list of objects (.json), or columns under a line of names (.tsv).

    A .json file may also hold its list as `annotations`, `data` or `questions`, one object for each id, or
    one object a line, as some sets have it. Raises ConfigError.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected text in UTF-8: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    match path.suffix.lower():
        case ".json":
            numbered = list(_entries(text, path))
        case ".tsv":
            numbered = list(_columns(text, path))
        case _:
            numbered = list(_lines(text, path))
    for place, fields in numbered:
        if not isinstance(fields, dict):
            raise ConfigError(f"{place}: expected an object, found {_shown(fields)}")
        yield Row(place, fields, path.parent)


def _lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", _parsed(line, f"{path}:{number}")


def _entries(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError:
        yield from _lines(text, path)
        return
    if isinstance(found, dict):
        inner = [found[name] for name in LISTS if isinstance(found.get(name), list)]
        if inner:
            found = inner[0]
        elif found and all(isinstance(each, dict) for each in found.values()):
            found = [{"question_id": name, **fields} for name, fields in found.items()]
        else:
            found = [found]
    if not isinstance(found, list):
        raise ConfigError(f"{path}: expected a list of objects, found {_shown(found)}")
    for number, each in enumerate(found, 1):
        yield f"{path}: entry {number}", each


def _columns(text: str, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    lines = text.rstrip("\n").split("\n")
    names = lines[0].rstrip("\r").split("\t")
    for number, line in enumerate(lines[1:], 2):
        values = line.rstrip("\r").split("\t")
        if len(values) != len(names):
            raise ConfigError(f"{path}:{number}: expected {len(names)} columns, found {len(values)}")
        yield f"{path}:{number}", dict(zip(names, values, strict=True))


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{place}: expected JSON: {error}") from error


def _as_list(text: str) -> Any:
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            pass
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
