"""What was said in sound files, and nothing else.

A Stream-Omni model transcribes on the way to its reply. The engine has no way to leave the reply out, so this
asks for a single token of it; that costs one pass of the language model over each recording.

python examples/transcribe.py
python examples/transcribe.py question.wav question.wav
"""

from __future__ import annotations

import argparse
from pathlib import Path

import antiphon
from antiphon import Engine, Request, SamplingParams, Speech

QUESTION = Path(antiphon.__file__).parent / "assets" / "demo" / "question.wav"


def main() -> None:
    parser = argparse.ArgumentParser(description="Transcribe sound files.")
    parser.add_argument("files", nargs="*", type=Path, default=[QUESTION], help="wav, flac, ogg, mp3 ...")
    options = parser.parse_args()

    with Engine() as engine:
        requests = [Request(Speech(file)) for file in options.files]
        completions = engine.generate(requests, SamplingParams(max_tokens=1))
        for file, done in zip(options.files, completions, strict=True):
            print(f"{file.name}: {done.error or done.transcript or '(no speech)'}")


if __name__ == "__main__":
    main()
