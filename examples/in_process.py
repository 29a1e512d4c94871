"""One question in this process, without a server: what was heard, the reply's text, and its sound in a file.

python examples/in_process.py
python examples/in_process.py --out reply.wav
"""

from __future__ import annotations

import argparse
from pathlib import Path

import antiphon
from antiphon import Engine, Image, Request, Speech
from antiphon.codec import write_audio

DEMO = Path(antiphon.__file__).parent / "assets" / "demo"


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a spoken question about a picture.")
    parser.add_argument("--picture", type=Path, default=DEMO / "shapes.png")
    parser.add_argument("--question", type=Path, default=DEMO / "question.wav")
    parser.add_argument("--out", type=Path, default=Path("reply.wav"))
    options = parser.parse_args()

    with Engine() as engine:
        question = Request([Image(options.picture), Speech(options.question)], modalities=("text", "audio"))
        [done] = engine.generate([question])
    print("heard:", done.transcript)
    print("reply:", done.text)
    if done.audio is not None and done.sample_rate_hz is not None:
        write_audio(options.out, done.audio, done.sample_rate_hz)
        print("sound:", options.out)


if __name__ == "__main__":
    main()
