"""A spoken reply that plays while it is being made: 16-bit samples go to stdout as they come.

python examples/play_reply.py                                                    # only tells when sound comes
python examples/play_reply.py | aplay --format S16_LE --rate 22050 --channels 1
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from antiphon import AudioDelta, Engine, Request, TextDelta


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a spoken reply to stdout while it is being made.")
    parser.add_argument("question", nargs="?", default="How much is seven plus eight?")
    options = parser.parse_args()

    with Engine() as engine:
        start_s = time.perf_counter()
        engine.add_request(Request(options.question, modalities=("text", "audio")))
        while engine.has_unfinished():
            for event in engine.step():
                passed_s = time.perf_counter() - start_s
                if isinstance(event, TextDelta):
                    print(f"{passed_s:.2f} s: {event.text!r}", file=sys.stderr)
                elif isinstance(event, AudioDelta):
                    sound_s = len(event.samples) / event.sample_rate_hz
                    print(f"{passed_s:.2f} s: {sound_s:.2f} s of sound", file=sys.stderr)
                    if not sys.stdout.isatty():
                        samples = np.clip(event.samples, -1, 1) * 32767
                        sys.stdout.buffer.write(samples.astype("<i2").tobytes())
                        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
