"""Speech to units and back: the CosyVoice codec (arXiv 2407.05407)."""

from antiphon.codec.codec import Codec
from antiphon.sound.reading import read_audio
from antiphon.sound.writing import encode_audio, write_audio

__all__ = ["Codec", "encode_audio", "read_audio", "write_audio"]
