"""Programs talk with the server through LiveKit Agents and through Pipecat. Their code is that of
docs/serving.md, and each runs in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_line import TIMEOUT_S
from http_server import Served
from openai_client import DEMO, heard_again, words
from package_index import environment_with

from antiphon.codec import read_audio

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
SHAPES = {"blue", "heart", "red", "star", "black", "circle"}
BEGIN = """
import asyncio, base64, json, sys, wave
from pathlib import Path

import numpy as np

code, demo, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
found = {"errors": [], "heard": [], "said": []}

with wave.open(str(demo / "question.wav")) as file:
    rate = file.getframerate()
    question = np.frombuffer(file.readframes(file.getnframes()), "<i2")


def pieces(after_s):
    "The question between silences, as a microphone gives it."
    silences = [np.zeros(int(seconds * rate), "<i2") for seconds in (0.3, after_s)]
    samples = np.concatenate([silences[0], question, silences[1]])
    return [samples[start : start + rate // 50] for start in range(0, len(samples), rate // 50)]


def keep(text, sound):
    "A reply: its text, and its sound at 24 kHz."
    with wave.open(str(out / f"{len(found['said'])}.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24000)
        file.writeframes(sound)
    found["said"].append(text)
"""
LIVEKIT = """
from livekit import rtc
from livekit.agents import llm as agents


async def reply(generation):
    text, sound = [], []

    async def read_text(message):
        async for piece in message.text_stream:
            text.append(piece)

    async def read_sound(message):
        async for frame in message.audio_stream:
            assert frame.sample_rate == 24000
            sound.append(bytes(frame.data))

    async for message in generation.message_stream:
        await asyncio.gather(read_text(message), read_sound(message))
    keep("".join(text), b"".join(sound))


async def main():
    names = {}
    exec(code, names)
    session = names["llm"].session()
    begun, heard = asyncio.Queue(), asyncio.Queue()
    session.on("error", lambda told: found["errors"].append(str(told.error)))
    session.on("generation_created", begun.put_nowait)
    session.on(
        "input_audio_transcription_completed",
        lambda told: heard.put_nowait(told.transcript) if told.is_final else None,
    )

    async def hear():
        found["heard"].append(await asyncio.wait_for(heard.get(), 20))

    def speak(after_s):
        for piece in pieces(after_s):
            session.push_audio(rtc.AudioFrame(piece.tobytes(), rate, 1, len(piece)))

    # What an AgentSession sets up.
    await session.update_instructions("Answer.")
    await session.update_tools([])
    context = agents.ChatContext.empty()
    picture = "data:image/png;base64," + base64.b64encode((demo / "shapes.png").read_bytes()).decode()
    context.add_message(role="user", content=[agents.ImageContent(image=picture)])
    await session.update_chat_ctx(context)

    # The server finds the end of a turn, then the client says when it is.
    speak(2)
    await reply(await asyncio.wait_for(begun.get(), 20))
    await hear()
    session.update_options(turn_detection=None)
    speak(0.3)
    session.commit_audio()
    await reply(await session.generate_reply())
    await hear()

    # A reply to text is interrupted; it is too late for that the second time.
    context = session.chat_ctx.copy()
    context.add_message(role="user", content=["What is in the picture?"])
    await session.update_chat_ctx(context)
    generation = await session.generate_reply(instructions="Be brief.")
    session.interrupt()
    session.interrupt()
    await reply(generation)
    await session.aclose()
    await names["llm"].aclose()


asyncio.run(main())
print(json.dumps(found))
"""
PIPECAT = """
from loguru import logger
from PIL import Image
from pipecat.frames import frames
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.realtime import events
from pipecat.workers.runner import WorkerRunner

logger.remove()
logger.add(sys.stderr, level="ERROR")


class Watch(FrameProcessor):
    def __init__(self):
        super().__init__()
        self.frames = asyncio.Queue()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, frames.ErrorFrame):
            found["errors"].append(frame.error)
        self.frames.put_nowait(frame)
        await self.push_frame(frame, direction)

    async def until(self, kind):
        passed = []
        while not passed or not isinstance(passed[-1], kind):
            passed.append(await asyncio.wait_for(self.frames.get(), 20))
        return passed


class Talk:
    "A pipeline around the service."

    def __init__(self, llm):
        self.before, self.after = Watch(), Watch()
        pipeline = Pipeline([self.before, llm, self.after])
        self.worker = PipelineWorker(pipeline, cancel_on_idle_timeout=False)

    async def play(self, turns):
        started = asyncio.Event()

        @self.worker.event_handler("on_pipeline_started")
        async def begin(worker, frame):
            started.set()

        async def talk():
            await asyncio.wait_for(started.wait(), 20)
            await turns(self)

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        tasks = [asyncio.create_task(talk()), asyncio.create_task(runner.run())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await runner.cancel()
        await asyncio.gather(*tasks)

    async def put(self, *given):
        for frame in given:
            await self.worker.queue_frame(frame)

    async def show(self):
        picture = Image.open(demo / "shapes.png").convert("RGB")
        await self.put(frames.InputImageRawFrame(picture.tobytes(), picture.size, "RGB"))

    async def speak(self, after_s):
        for piece in pieces(after_s):
            await self.put(frames.InputAudioRawFrame(piece.tobytes(), rate, 1))

    async def hear(self):
        found["heard"].append((await self.before.until(frames.TranscriptionFrame))[-1].text)

    async def reply(self):
        passed = await self.after.until(frames.LLMFullResponseEndFrame)
        text = [frame.text for frame in passed if isinstance(frame, frames.TTSTextFrame)]
        sound = [frame for frame in passed if isinstance(frame, frames.TTSAudioRawFrame)]
        assert {frame.sample_rate for frame in sound} == {24000}
        keep("".join(text), b"".join(frame.audio for frame in sound))


async def detected(talk):
    "The server finds the ends of turns; the second interrupts what is still to be played of the first reply."
    await talk.show()
    for _ in range(2):
        await talk.speak(2)
        await talk.hear()
        await talk.reply()


async def committed(talk):
    "The pipeline finds them, and interrupts when there is no reply."
    await talk.show()
    await talk.put(frames.InterruptionFrame(), frames.UserStartedSpeakingFrame())
    await talk.speak(0.3)
    await talk.put(frames.UserStoppedSpeakingFrame())
    await talk.hear()
    await talk.reply()


async def asked(talk):
    "By text, in a context."
    context = LLMContext([{"role": "user", "content": "How much is two plus three?"}])
    await talk.put(frames.LLMContextFrame(context))
    await talk.reply()


async def main():
    names = {}
    exec(code, names)
    llm = names["llm"]
    await Talk(llm).play(detected)
    hearing = events.AudioConfiguration(input=events.AudioInput(turn_detection=False))
    changed = llm.Settings(
        model=llm._settings.model, session_properties=events.SessionProperties(audio=hearing)
    )
    for turns in (committed, asked):
        again = type(llm)(base_url=llm.base_url.partition("?")[0], api_key="any", settings=changed)
        await Talk(again).play(turns)


asyncio.run(main())
print(json.dumps(found))
"""


def talked(served: Served, folder: Path, name: str, script: str, *packages: str) -> dict[str, Any]:
    """Runs a script with the packages. Returns what it has found. name: in the code of the document."""
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    (code,) = (block for block in blocks if name in block)
    for told, actual in (
        ("127.0.0.1:8000", served.address.removeprefix("http://")),
        ("stream-omni-8b", served.service.model_name),
    ):
        assert told in code
        code = code.replace(told, actual)
    python = environment_with(folder / "environment", *packages)
    command = [python, "-c", BEGIN + script, code, DEMO, folder]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def assert_sounds(served: Served, file: Path, expected: set[str]) -> None:
    samples, rate_hz = read_audio(file)
    assert len(samples) > rate_hz and abs(samples).max() > 0.1
    assert expected <= words(asyncio.run(served.do(heard_again(served, file.read_bytes()))))


@pytest.mark.index
def test_livekit_agents(served: Served, tmp_path: Path) -> None:
    packages = ("livekit-agents==1.*", "livekit-plugins-openai==1.*")
    found = talked(served, tmp_path, "livekit", LIVEKIT, *packages)
    assert found["errors"] == []
    assert found["heard"] == ["What is in the picture?"] * 2
    *whole, interrupted = found["said"]
    assert len(whole) == 2 and all(words(said) >= SHAPES for said in whole), found
    assert not words(interrupted) >= SHAPES
    for number in range(2):
        assert_sounds(served, tmp_path / f"{number}.wav", {"heart", "star", "circle"})


@pytest.mark.index
def test_pipecat(served: Served, tmp_path: Path) -> None:
    found = talked(served, tmp_path, "pipecat", PIPECAT, "pipecat-ai[openai]==1.*")
    assert found["errors"] == []
    assert found["heard"] == ["What is in the picture?"] * 3
    *seen, summed = found["said"]
    assert len(seen) == 3 and all(words(said) >= SHAPES for said in seen), found
    assert "five" in words(summed)
    for number in range(3):
        assert_sounds(served, tmp_path / f"{number}.wav", {"heart", "star", "circle"})
