"""What the lines of a chat mean, and what Tab makes of one that is not finished."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["COMMANDS", "WITH_FILE", "completions", "parse"]

WITH_FILE = ("/image", "/audio")
COMMANDS = (*WITH_FILE, "/clear", "/help", "/quit")
WORDS = {"exit": "/quit", "help": "/help", "quit": "/quit", "/exit": "/quit"}
"""Other names of commands: what people type into a terminal that they want to leave, or do not know."""


def parse(line: str) -> tuple[str, str]:
    """The command of a line, and what follows it; ("", line) for a question. A command that does not exist
    is returned as it was typed."""
    command, _, argument = line.partition(" ")
    if (word := WORDS.get(line.lower())) is not None:
        return word, ""
    return (command, argument.strip()) if command.startswith("/") else ("", line)


def completions(line: str) -> list[str]:
    """All lines that this beginning of one may become: commands, and after some of them the names of files,
    written so that a space in a name is part of it."""
    command, space, typed = line.partition(" ")
    if not space:
        endings = {command: " " if command in WITH_FILE else "" for command in COMMANDS}
        return [name + end for name, end in endings.items() if line and name.startswith(line)]
    if command not in WITH_FILE:
        return []
    return [f"{command} {name}" for name in _files(typed.lstrip())]


def _files(typed: str) -> list[str]:
    """The names of files and folders that begin like this, the folder as it was typed."""
    folder, slash, beginning = typed.rpartition("/")
    is_hidden = beginning.startswith(".")
    try:
        found = list(os.scandir(Path(folder + slash or ".").expanduser()))
        return sorted(
            folder + slash + entry.name + ("/" if entry.is_dir() else "")
            for entry in found
            if entry.name.startswith(beginning) and entry.name.startswith(".") == is_hidden
        )
    except (OSError, ValueError, RuntimeError):  # no such folder, or user
        return []
