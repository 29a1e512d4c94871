"""The codec without a model: speech to units and back, first whole, then unit by unit.

python examples/codec_alone.py
python examples/codec_alone.py --audio question.wav --out again.flac
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import antiphon
from antiphon.codec import Codec, read_audio, write_audio

ASSETS = Path(antiphon.__file__).parent / "assets"


def main() -> None:
    parser = argparse.ArgumentParser(description="Speech to units and back.")
    parser.add_argument("--codec", type=Path, default=ASSETS / "tiny" / "cosyvoice", help="CosyVoice folder")
    parser.add_argument("--audio", type=Path, default=ASSETS / "demo" / "question.wav")
    parser.add_argument("--out", type=Path, default=Path("again.wav"), help=".wav, .flac or .ogg")
    options = parser.parse_args()

    codec = Codec.from_pretrained(options.codec)
    units = codec.tokenize(*read_audio(options.audio))
    print(f"{len(units)} units: {units[:10]} ...")
    [whole] = codec.decode([units])
    write_audio(options.out, whole, codec.sample_rate_hz)

    stream = codec.stream()
    pieces = [stream.push([unit]) for unit in units]  # float32, as soon as they are certain
    first = next((number for number, piece in enumerate(pieces, 1) if len(piece)), len(units))
    pieces.append(stream.push(final=True))
    streamed = np.concatenate(pieces)
    print(f"streamed: first sound after {first} units, {len(streamed)} samples; whole: {len(whole)}")


if __name__ == "__main__":
    main()
