"""What was said in sound files of any length, and nothing else.

python examples/transcribe.py
python examples/transcribe.py question.wav question.wav
"""

from __future__ import annotations

import argparse
from pathlib import Path

import antiphon
from antiphon import Engine, InvalidRequest, Speech

QUESTION = Path(antiphon.__file__).parent / "assets" / "demo" / "question.wav"


def main() -> None:
    parser = argparse.ArgumentParser(description="Transcribe sound files.")
    parser.add_argument("files", nargs="*", type=Path, default=[QUESTION], help="wav, flac, ogg, mp3 ...")
    options = parser.parse_args()

    with Engine() as engine:
        for file in options.files:
            try:
                said = engine.transcribe(Speech(file)).text or "(no speech)"
            except InvalidRequest as error:
                said = str(error)
            print(f"{file.name}: {said}")


if __name__ == "__main__":
    main()
