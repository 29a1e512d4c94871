"""A program that uses the `openai` package works with the version that is installed here, and with the last
one of the series before, which is still in wide use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from command_line import TIMEOUT_S
from http_server import Served
from openai_client import DEMO, words
from package_index import install

from antiphon.codec import read_audio
from antiphon.errors import EngineOverloaded

OLDER = "openai==2.*"
SCRIPT = """
import base64, json, sys, time
from pathlib import Path
import openai

base_url, demo, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
client = openai.OpenAI(base_url=base_url, api_key="any", timeout=60, max_retries=2)
found = {"version": openai.__version__}

model = found["model"] = client.models.list().data[0].id
begun_s = time.monotonic()
hello = [{"role": "user", "content": "How much is two plus three?"}]
found["text"] = client.chat.completions.create(model=model, messages=hello).choices[0].message.content
found["waited_s"] = time.monotonic() - begun_s

coded = lambda name: base64.b64encode((demo / name).read_bytes()).decode()
content = [
    {"type": "image_url", "image_url": {"url": "data:image/png;base64," + coded("shapes.png")}},
    {"type": "input_audio", "input_audio": {"data": coded("question.wav"), "format": "wav"}},
]
chunks = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": content}], modalities=["text", "audio"],
    audio={"voice": "alloy", "format": "wav"}, stream=True, stream_options={"include_usage": True},
)
sound, said = "", ""
for chunk in chunks:
    audio = (chunk.choices[0].delta.model_dump().get("audio") or {}) if chunk.choices else {}
    said += audio.get("transcript") or ""
    sound += audio.get("data") or ""
found["said"], found["units"] = said, chunk.usage.completion_tokens_details.audio_tokens
(out / "chat.wav").write_bytes(base64.b64decode(sound))

with (demo / "question.wav").open("rb") as file:
    found["heard"] = client.audio.transcriptions.create(model=model, file=file).text
with client.audio.speech.with_streaming_response.create(
    model=model, voice="alloy", input="There are three shapes.", response_format="wav"
) as answer:
    answer.stream_to_file(out / "speech.wav")
found["response"] = client.responses.create(model=model, input=hello).output_text

found["errors"] = {}
for name, options in {
    "NotFoundError": {"model": "other"},
    "BadRequestError": {"n": 2},
    "AuthenticationError": {"model": model},
}.items():
    try:
        asked = client if name != "AuthenticationError" else openai.OpenAI(base_url=sys.argv[4], api_key="x")
        asked.chat.completions.create(**{"model": model, "messages": hello, **options})
    except openai.APIStatusError as error:
        found["errors"][type(error).__name__] = [error.status_code, error.code, error.param]
print(json.dumps(found))
"""


def assert_works(served: Served, keyed: Served, folder: Path, monkeypatch: Any, packages: Path | None) -> str:
    """Runs the script; the version that it used."""
    stream = served.service.stream
    refused: list[bool] = []

    async def once_overloaded(*arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        if not refused:
            refused.append(True)
            raise EngineOverloaded("the engine is full")
        async for event in stream(*arguments, **options):
            yield event

    monkeypatch.setattr(served.service, "stream", once_overloaded)
    environment = os.environ | ({"PYTHONPATH": str(packages)} if packages else {})
    command = [sys.executable, "-c", SCRIPT, f"{served.address}/v1", str(DEMO), str(folder)]
    command.append(f"{keyed.address}/v1")
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["model"] == "stream_omni"
    assert "five" in found["text"].lower() and "five" in found["response"].lower()
    assert refused and found["waited_s"] > 0.9, "it tried again, when it was told to"
    assert {"blue", "heart", "red", "star", "black", "circle"} <= words(found["said"])
    assert found["units"] > 25
    assert found["heard"] == "What is in the picture?"
    for name in ("chat.wav", "speech.wav"):
        samples, rate_hz = read_audio(folder / name)
        assert len(samples) > rate_hz and abs(samples).max() > 0.1
    assert found["errors"] == {
        "NotFoundError": [404, "model_not_found", "model"],
        "BadRequestError": [400, "invalid_value", "n"],
        "AuthenticationError": [401, "invalid_api_key", None],
    }
    return str(found["version"])


@pytest.mark.slow
def test_the_installed_version(
    served: Served, keyed: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert int(assert_works(served, keyed, tmp_path, monkeypatch, None).partition(".")[0]) >= 2


@pytest.mark.index
def test_the_series_before(
    served: Served, keyed: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    install("--target", packages, OLDER)
    assert assert_works(served, keyed, tmp_path, monkeypatch, packages).startswith("2.")
