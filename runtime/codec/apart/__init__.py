"""The codec's decoder in processes of its own."""

from antiphon.codec.apart.process import VocoderDied, VocoderProcess
from antiphon.codec.apart.stream import StreamApart
from antiphon.codec.apart.vocoders import Vocoders

__all__ = ["StreamApart", "VocoderDied", "VocoderProcess", "Vocoders"]
