"""Requests of different kinds in one batch, their events as they come.

python examples/many_at_once.py                    # the packaged checkpoint
python examples/many_at_once.py MODEL CODEC        # a Stream-Omni checkpoint and its CosyVoice folder
"""

from __future__ import annotations

import sys
from pathlib import Path

from antiphon import Engine, Finished, Image, Request, SamplingParams, Speech, TextDelta, TranscriptDelta

MEDIA = Path(__file__).parents[1] / "runtime" / "assets" / "demo"


def main(model: str | None = None, codec: str | None = None) -> None:
    question, picture = Speech(MEDIA / "question.wav"), Image(MEDIA / "shapes.png")
    requests = [
        Request("Name three shapes.", request_id="text to text"),
        Request([picture, "Describe this."], request_id="text to speech", modalities=("text", "audio")),
        Request([picture, question], request_id="speech to text"),
        Request([picture, question], request_id="speech to speech", modalities=("text", "audio")),
    ]
    with Engine(model, codec=codec) as engine:
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
    main(*sys.argv[1:3])
