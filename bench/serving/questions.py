"""What the load generator asks: recorded questions, pictures and typed questions, mixed by a seed."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphon.errors import InvalidRequest
from antiphon.sound.reading import read_audio
from antiphon.sound.writing import encode_audio
from antiphon.types import Image, Part, Request, SamplingParams, Speech

__all__ = ["WORKLOAD", "Question", "mixed", "read_workload"]

WORKLOAD = Path(__file__).parent / "workload"
"""The questions that come with the package."""
MODALITIES = ("text", "audio")


@dataclass(frozen=True)
class Question:
    """One user turn, to be answered in speech: a sound or a text, perhaps about a picture."""

    sound: bytes | None
    """A wav file."""
    text: str | None
    picture: bytes | None = None
    """A PNG or JPEG file."""

    @property
    def kind(self) -> str:
        """ "spoken" or "typed", with "+picture" where there is one."""
        return ("typed" if self.sound is None else "spoken") + ("" if self.picture is None else "+picture")

    def content(self) -> list[dict[str, Any]]:
        """As the content of a message of OpenAI's chat completions."""
        parts: list[dict[str, Any]] = []
        if self.picture is not None:
            kind = "png" if self.picture.startswith(b"\x89PNG") else "jpeg"
            url = f"data:image/{kind};base64,{_base64(self.picture)}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        if self.sound is not None:
            sound = {"data": _base64(self.sound), "format": "wav"}
            parts.append({"type": "input_audio", "input_audio": sound})
        if self.text is not None:
            parts.append({"type": "text", "text": self.text})
        return parts

    def request(self) -> Request:
        """As a request of the engine."""
        parts: list[Part] = []
        if self.picture is not None:
            parts.append(Image(self.picture))
        if self.sound is not None:
            parts.append(Speech(self.sound))
        if self.text is not None:
            parts.append(self.text)
        return Request(parts, MODALITIES, sampling_params=SamplingParams(temperature=0.0))


def read_workload(folder: Path = WORKLOAD) -> list[Question]:
    """The questions of a folder, each as speech where it has a sound, and as text where it has a text.

    `questions.json` lists them: `[{"sound": "00.flac", "picture": "00.png", "question": "..."}, ...]`, where
    each field may be null or missing. Raises OSError or ValueError for what is not such a folder.
    """
    rows = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("questions.json: expected a list of objects")
    questions = []
    for number, row in enumerate(rows):
        given = {name: row.get(name) for name in ("sound", "picture", "question")}
        if any(value is not None and not isinstance(value, str) for value in given.values()):
            raise ValueError(f"questions.json: entry {number}: expected strings")
        picture = None if given["picture"] is None else (folder / given["picture"]).read_bytes()
        if given["sound"] is not None:
            questions.append(Question(_wav(folder / given["sound"]), None, picture))
        if given["question"] is not None:
            questions.append(Question(None, given["question"], picture))
    if not questions:
        raise ValueError("questions.json: expected at least one question")
    return questions


def mixed(questions: Sequence[Question], seed: int) -> Iterator[Question]:
    """Without end, in an order that the seed decides: each question comes once before any comes again."""
    rng, order = random.Random(seed), list(questions)
    while True:
        rng.shuffle(order)
        yield from order


def _wav(path: Path) -> bytes:
    content = path.read_bytes()
    if content.startswith(b"RIFF"):
        return content
    try:
        return encode_audio(*read_audio(content))
    except InvalidRequest as error:
        raise ValueError(f"{path.name}: {error}") from error


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
