"""A sentence in the voice of a clip of 1 to 30 seconds.

This takes a codec folder with `campplus.onnx`, which tells speakers apart. The packaged codec lacks it, so
without --codec the sentence is spoken in the packaged voice.

python examples/clone_voice.py
python examples/clone_voice.py --codec path/to/CosyVoice-300M-25Hz --clip question.wav --out cloned.wav
"""

from __future__ import annotations

import argparse
from pathlib import Path

import antiphon
from antiphon.codec import Codec, read_audio, write_audio

ASSETS = Path(antiphon.__file__).parent / "assets"


def main() -> None:
    parser = argparse.ArgumentParser(description="Say what one recording says in the voice of another.")
    parser.add_argument("--codec", type=Path, default=ASSETS / "tiny" / "cosyvoice", help="CosyVoice folder")
    parser.add_argument("--clip", type=Path, default=ASSETS / "demo" / "question.wav", help="whose voice")
    parser.add_argument("--say", type=Path, default=ASSETS / "demo" / "question.wav", help="what is said")
    parser.add_argument("--out", type=Path, default=Path("cloned.wav"))
    options = parser.parse_args()

    codec = Codec.from_pretrained(options.codec)
    voice = codec.default_voice
    if (options.codec / "campplus.onnx").exists():
        voice = "clip"
        codec.add_voice(voice, *read_audio(options.clip))
    else:
        print(f"{options.codec.name} has no campplus.onnx: it cannot clone a voice")
    units = codec.tokenize(*read_audio(options.say))
    [samples] = codec.decode([units], voice)
    write_audio(options.out, samples, codec.sample_rate_hz)
    print(f"{options.out}: {len(samples) / codec.sample_rate_hz:.2f} s in the voice {voice!r}")


if __name__ == "__main__":
    main()
