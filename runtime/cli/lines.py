"""What is typed into a chat, or piped into it, line by line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from antiphon.cli import signals
from antiphon.cli.streams import say, show_error
from antiphon.cli.terminal import printable
from antiphon.cli.typed_commands import completions
from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest

__all__ = ["bounded", "check_text", "lines"]

PROMPT = "> "
SKIPPED_CHARS = 2**16
"""How much of an overlong line is read at a time."""


def lines() -> Iterator[str]:
    """Lines from the terminal, with its editing and history, or from a pipe; without surrounding spaces."""
    if not sys.stdin.isatty():
        yield from _piped_lines()
        return
    _edit_lines()
    say("/help lists the commands", err=True)
    was_left = False
    while True:
        try:
            if sys.stdout.isatty():
                line = input(PROMPT)
            else:  # `input` would write the prompt among the replies
                say(PROMPT, nl=False, err=True)
                line = input()
        except EOFError:
            return
        except signals.Stopped as stopped:
            if was_left or stopped.number != signals.INTERRUPT:
                raise
            signals.forget()
            was_left = True
            say("\npress Ctrl-C again to leave", err=True)
            continue
        was_left = False
        if line := bounded(line):
            yield line


def _edit_lines() -> None:
    """Gives `input` editing, a history, and completions by Tab."""
    try:
        import readline
    except ImportError:  # some Pythons are built without
        return
    found: list[str] = []

    def complete(line: str, number: int) -> str | None:
        if number == 0:
            found[:] = completions(line)
        return found[number] if number < len(found) else None

    def show(_: str, matches: Sequence[str], __: int) -> None:
        names = [match.partition(" ")[2] or match for match in matches]
        say("\n" + "  ".join(map(printable, names)))
        say(PROMPT + readline.get_line_buffer(), nl=False)

    readline.set_completer(complete)
    readline.set_completer_delims("")  # the whole line: a name may have spaces
    readline.set_completion_display_matches_hook(show)
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")


def _piped_lines() -> Iterator[str]:
    limit = InputLimits().max_text_chars
    while line := sys.stdin.readline(limit + 2):
        rest = line
        while rest and not rest.endswith("\n"):  # read the rest of an overlong line, piece by piece
            rest = sys.stdin.readline(SKIPPED_CHARS)
        if line := bounded(line):
            yield line


def bounded(line: str) -> str:
    """The line without surrounding spaces; if it is too long, reports that and returns an empty one."""
    limit = InputLimits().max_text_chars
    line = line.removesuffix("\n")
    if len(line) > limit:
        show_error(f"expected lines of up to {limit} characters; a longer one was skipped")
        return ""
    return line.strip()


def check_text(line: str) -> None:
    """Raises InvalidRequest for a line that is not in the terminal's encoding."""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        encoding = getattr(sys.stdin, "encoding", None) or "UTF-8"
        raise InvalidRequest(f"expected a line in {encoding}, got other bytes") from error
