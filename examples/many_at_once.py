"""Four requests of different kinds in one batch, and their events as they come.

python examples/many_at_once.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import antiphon
from antiphon import Engine, Finished, Image, Request, SamplingParams, Speech, TextDelta, TranscriptDelta

DEMO = Path(antiphon.__file__).parent / "assets" / "demo"


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer four requests in one batch.")
    parser.add_argument("--model", help="Stream-Omni checkpoint; without it the packaged model")
    parser.add_argument("--codec", help="CosyVoice folder that goes with --model")
    options = parser.parse_args()

    question, picture = Speech(DEMO / "question.wav"), Image(DEMO / "shapes.png")
    requests = [
        Request("How much is two plus three?", request_id="text to text"),
        Request([picture, "Is there a red star?"], request_id="text to speech", modalities=("text", "audio")),
        Request([picture, question], request_id="speech to text"),
        Request([picture, question], request_id="speech to speech", modalities=("text", "audio")),
    ]
    with Engine(options.model, codec=options.codec) as engine:
        for request in requests:
            engine.add_request(request, SamplingParams(max_tokens=64, max_units=100))
        while engine.has_unfinished():
            for event in engine.step():
                if isinstance(event, TranscriptDelta):
                    print(f"{event.request_id}: heard {event.text!r}")
                elif isinstance(event, TextDelta):
                    print(f"{event.request_id}: says {event.text!r}")
                elif isinstance(event, Finished):
                    done = event.completion
                    print(f"{event.request_id}: ends ({done.finish_reason}) after {len(done.units)} units")


if __name__ == "__main__":
    main()
