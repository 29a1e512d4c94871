"""What tests ask a server by the openai package: the demo's media as content, and clients that do not try
again."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import openai
from http_server import Served

from antiphon import Completion, Request, Speech

__all__ = ["DEMO", "PICTURE", "QUESTION", "async_client", "client", "heard_again", "said", "user", "words"]

DEMO = Path(__file__).parents[2] / "runtime" / "assets" / "demo"


def _base64(name: str) -> str:
    return base64.b64encode((DEMO / name).read_bytes()).decode()


PICTURE: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_base64('shapes.png')}"}}
"""A blue heart, a red star and a black circle."""
QUESTION: Any = {"type": "input_audio", "input_audio": {"data": _base64("question.wav"), "format": "wav"}}
"""What is in the picture?"""


def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.address}/v1", api_key="any", max_retries=0, timeout=60)


def async_client(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{served.address}/v1",
        api_key="any",
        max_retries=0,
        # openai's own closes itself when it is collected, in whichever loop runs then: another test's
        http_client=openai.DefaultAsyncHttpxClient(timeout=60),
    )


def user(*content: Any) -> Any:
    """A user's message: text, or parts."""
    if len(content) == 1 and isinstance(content[0], str):
        return {"role": "user", "content": content[0]}
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return {"role": "user", "content": parts}


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def said(completion: Completion) -> str:
    assert completion.finish_reason == "stop", completion.error
    return completion.transcript


async def heard_again(served: Served, data: bytes) -> str:
    """What the engine itself hears in a sound file."""
    return said(await served.engine.generate(Request(Speech(data), modalities=("transcript",))))
