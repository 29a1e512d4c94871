"""The codec's decoder in processes of its own."""

from antiphon.codec.apart.asking import Asking, VocoderDied
from antiphon.codec.apart.process import VocoderProcess
from antiphon.codec.apart.stream import StreamApart
from antiphon.codec.apart.vocoders import Vocoders

__all__ = ["Asking", "StreamApart", "VocoderDied", "VocoderProcess", "Vocoders"]
