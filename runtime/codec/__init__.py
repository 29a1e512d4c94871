"""Speech to units and back: the CosyVoice codec (arXiv 2407.05407)."""

from antiphon.codec.audio import read_audio
from antiphon.codec.audio_file import encode_audio, write_audio
from antiphon.codec.codec import Codec

__all__ = ["Codec", "encode_audio", "read_audio", "write_audio"]
