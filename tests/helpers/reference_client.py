"""A client of the released code's protocol, written from its description alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

__all__ = ["Answer", "ReferenceClient", "chat", "units_of"]

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that "
    "the user provides, and assist the user with a variety of tasks using natural language."
)


def chat(*contents: str, system: str | None = SYSTEM) -> str:
    """A prompt in the Llama 3 layout: the contents of the user and of the assistant, in turn."""
    pieces = ["<|begin_of_text|>"]
    if system is not None:
        pieces.append(f"<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>")
    for index, content in enumerate(contents):
        role = "assistant" if index % 2 else "user"
        pieces.append(f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>")
    return "".join([*pieces, "<|start_header_id|>assistant<|end_header_id|>\n\n"])


def units_of(text: str) -> list[int]:
    """The numbers of a run of `<Audio_k>`."""
    return [int(piece.removeprefix("<Audio_")) for piece in text.split(">") if piece]


@dataclass
class Answer:
    """All messages of a stream."""

    prompt: str
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any]:
        return self.messages[-1]

    @property
    def error_code(self) -> int:
        return int(self.last["error_code"])

    @property
    def text(self) -> str:
        """What was generated, once the prompt is cut off."""
        return str(self.last["text"])[len(self.prompt) :]

    @property
    def asr(self) -> str:
        return str(self.last["asr_outputs"])

    @property
    def llm(self) -> str:
        return str(self.last["llm_outputs"])


class ReferenceClient:
    """Speaks to one of the three services."""

    def __init__(self, address: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx2.Client(base_url=address, timeout=60, headers=headers)

    def __enter__(self) -> ReferenceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @contextmanager
    def stream(self, body: bytes | dict[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        """The messages as they come."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self.http.stream("POST", "/worker_generate_stream", content=content) as answer:
            assert answer.status_code == 200
            yield _messages(answer.iter_bytes())

    def generate(self, prompt: str, inference_type: str, **fields: Any) -> Answer:
        body = {"model": "any", "prompt": prompt, "inference_type": inference_type} | fields
        with self.stream(body) as messages:
            return Answer(prompt, list(messages))

    def speech_to_token(self, sound: bytes) -> str:
        answer = self.http.post("/speech_to_token", files={"file": ("question.wav", sound)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["tokens"])

    def token_to_speech(self, tokens: str) -> Path:
        return Path(self.post("/token_to_speech", {"tokens": tokens})["audio_file"])


def _messages(pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    held = b""
    for piece in pieces:
        *whole, held = (held + piece).split(b"\0")
        for each in whole:
            yield json.loads(each)
    assert held == b"", "the last message ends with a NUL"
