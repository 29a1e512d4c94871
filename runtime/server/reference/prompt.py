"""A chat as one string in the Llama 3 layout, read into messages; and units as runs of `<Audio_k>`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from antiphon.errors import InvalidRequest
from antiphon.types import ROLES, Image, Message, Part, Units

__all__ = ["IMAGE_MARK", "read_prompt", "read_units", "units_text"]

IMAGE_MARK = "<image>"
BEGIN = "<|begin_of_text|>"
END = "<|eot_id|>"
OPEN = "<|start_header_id|>assistant<|end_header_id|>\n\n"
HEADER = re.compile(r"<\|start_header_id\|>([^<>|]{0,40})<\|end_header_id\|>\n\n")
RUN = re.compile(r"((?:<Audio_[0-9]+>)+)")
UNIT = re.compile(r"<Audio_([0-9]+)>")
MAX_DIGITS = 9


def read_prompt(prompt: str, images: Sequence[bytes] = ()) -> list[Message]:
    """The messages of a prompt: the user's pictures first, as the layout has them, then text and `Units`.

    images: the files of the pictures, one for each `<image>`. A system message is kept; without one, the
    messages hold an empty one, so that the model's default is not added. `InvalidRequest` for a prompt that
    messages cannot stand for.
    """
    if not prompt.startswith(BEGIN):
        raise InvalidRequest(f"prompt: expected it to begin with {BEGIN}")
    if not prompt.endswith(OPEN):
        raise InvalidRequest("prompt: expected it to end with the header of the assistant's message")
    left = iter(images)
    messages = [
        Message(role, list(_parts(f"prompt: message {index}", content, left)) or "")
        for index, (role, content) in enumerate(_messages(prompt[len(BEGIN) : -len(OPEN)]))
    ]
    if next(left, None) is not None:
        raise InvalidRequest(f"images: expected one for each {IMAGE_MARK} of the prompt, got more")
    if not messages or messages[0].role != "system":
        messages.insert(0, Message("system", ""))
    return messages


def read_units(tokens: str) -> list[int]:
    """The units of a run of `<Audio_k>`; `InvalidRequest` for anything else."""
    run = "".join(tokens.split())
    if not RUN.fullmatch(run):
        raise InvalidRequest("tokens: expected a run of <Audio_k>, such as <Audio_1><Audio_2>")
    return list(_numbers("tokens", run))


def units_text(units: Sequence[int]) -> str:
    """Units as a run of `<Audio_k>`."""
    return "".join(f"<Audio_{unit}>" for unit in units)


def _messages(text: str) -> Iterator[tuple[str, str]]:
    """(role, content) of each message."""
    position, index = 0, 0
    while position < len(text):
        where = f"prompt: message {index}"
        header = HEADER.match(text, position)
        if header is None:
            raise InvalidRequest(f"{where}: expected it to begin with the header of its role")
        if header[1] not in ROLES:
            raise InvalidRequest(f"{where}: expected the role {', '.join(ROLES)}, got {header[1]!a}")
        end = text.find(END, header.end())
        if end < 0:
            raise InvalidRequest(f"{where}: expected it to end with {END}")
        content = text[header.end() : end]
        if "<|start_header_id|>" in content:
            raise InvalidRequest(f"{where}: expected it to end with {END} before the next header")
        yield header[1], content
        position, index = end + len(END), index + 1


def _parts(where: str, content: str, images: Iterator[bytes]) -> Iterator[Part]:
    while content.startswith(IMAGE_MARK):
        content = content[len(IMAGE_MARK) :]
        if not content.startswith("\n"):
            raise InvalidRequest(f"{where}: expected a newline after {IMAGE_MARK}")
        content = content[1:]
        if (image := next(images, None)) is None:
            raise InvalidRequest(f"images: expected one for each {IMAGE_MARK} of the prompt, got fewer")
        yield Image(image)
    if IMAGE_MARK in content:
        raise InvalidRequest(f"{where}: expected {IMAGE_MARK} before all other content of the message")
    for piece in RUN.split(content):
        if piece.startswith("<Audio_") and RUN.fullmatch(piece):
            yield Units(list(_numbers(where, piece)))
        elif piece:
            yield piece


def _numbers(where: str, run: str) -> Iterator[int]:
    for digits in UNIT.findall(run):
        if len(digits) > MAX_DIGITS:  # Python itself refuses to read very long numbers
            raise InvalidRequest(f"{where}: expected numbers of units, got one of {len(digits)} digits")
        yield int(digits)
