"""A request that is opened while its user is still speaking, fed as a microphone would feed it.

A tenth of a second of sound is pushed at a time, in real time. Meanwhile, what has been heard so far is
printed, and the reply begins soon after the last word.

python examples/open_session.py
python examples/open_session.py --audio question.wav --image shapes.png
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import antiphon
from antiphon import AsyncEngine, Finished, Image, Request, SamplingParams, TextDelta, TranscriptUpdate, Units
from antiphon.aio.session import Session
from antiphon.codec import read_audio

DEMO = Path(antiphon.__file__).parent / "assets" / "demo"
PIECE_S = 0.1


async def speak(session: Session, audio: Path) -> None:
    samples, rate_hz = read_audio(audio)
    size = round(PIECE_S * rate_hz)
    for start in range(0, len(samples), size):
        await session.push_audio(samples[start : start + size], rate_hz)
        await asyncio.sleep(PIECE_S)
    await session.commit()


async def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a question while it is being spoken.")
    parser.add_argument("--audio", type=Path, default=DEMO / "question.wav", help="the question")
    parser.add_argument("--image", type=Path, default=DEMO / "shapes.png", help="what it is about")
    options = parser.parse_args()

    request = Request([Image(options.image), Units([])], modalities=("text", "audio"))  # speech to come
    async with AsyncEngine() as engine, engine.open(request, SamplingParams(max_units=250)) as session:
        speaking = asyncio.create_task(speak(session, options.audio))
        async for event in session:
            if isinstance(event, TranscriptUpdate):
                print("heard so far:", event.text)
            elif isinstance(event, TextDelta):
                print(event.text, end="", flush=True)
            elif isinstance(event, Finished):
                wait_s = event.completion.metrics.ttfa_s
                print(f"\nfirst sound {wait_s:.2f} s after the question" if wait_s else "\nno sound")
        await speaking


if __name__ == "__main__":
    asyncio.run(main())
