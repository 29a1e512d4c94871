"""The voices that a codec speaks with: those of a CosyVoice folder, `spk2info.pt`, {name: {"embedding":
(1, dim), ...}}, and those cloned from a clip of speech (zero-shot, arXiv 2407.05407, section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from antiphon.codec.analysis.logmel import INPUT_RATE_HZ
from antiphon.codec.analysis.prompt_mel import prompt_mel
from antiphon.codec.analysis.speaker_encoder import SpeakerEncoder
from antiphon.codec.analysis.speech_tokenizer import SpeechTokenizer
from antiphon.codec.checkpoint.hyperparams import SAMPLE_RATE_HZ, FlowParams
from antiphon.codec.checkpoint.torch_file import read_torch_file
from antiphon.errors import CheckpointError, InvalidRequest
from antiphon.files.checkpoint import shortened, shown
from antiphon.sound.arrays import AudioArray
from antiphon.sound.resample import resample

__all__ = ["Voice", "VoiceTable", "clone_voice", "default_voice", "read_voices"]

PREFERRED_VOICE = "英文女"
"""The voice that Stream-Omni speaks with: an English-speaking woman."""

MIN_CLIP_S = 1.0
"""A shorter clip tells too little about a voice."""
MAX_CLIP_S = 30.0
"""What the speech tokenizer was trained on. The prompt's length adds to the cost of every utterance."""


@dataclass(frozen=True, eq=False)
class Voice:
    """Who speaks, and for a cloned voice how that person sounded while saying something."""

    embedding: Tensor
    """(spk_embed_dim,) float32"""
    prompt_units: Tensor | None = None
    """(p,) int64: what is said in prompt_mel; None if that is None"""
    prompt_mel: Tensor | None = None
    """(80, P) float32, as long as the p units"""

    def to(self, device: torch.device) -> Voice:
        units, mel = self.prompt_units, self.prompt_mel
        return Voice(
            self.embedding.to(device),
            None if units is None else units.to(device),
            None if mel is None else mel.to(device),
        )


def read_voices(path: Path, embedding_dim: int) -> dict[str, Voice]:
    """Voices by name, with only their embeddings, in the file's order. Other fields are ignored."""
    content = read_torch_file(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: expected at least one voice by name, found {type(content).__name__}")
    voices: dict[str, Voice] = {}
    for name, info in content.items():
        embedding = info.get("embedding") if isinstance(info, dict) else None
        if not isinstance(name, str) or not isinstance(embedding, Tensor):
            raise CheckpointError(f"{path}: {shown(name)}: expected a name with a tensor `embedding`")
        if embedding.numel() != embedding_dim or not embedding.is_floating_point():
            raise CheckpointError(
                f"{path}: {shortened(name)}: embedding: expected {embedding_dim} floating point numbers, "
                f"found {shown(tuple(embedding.shape))} {embedding.dtype}"
            )
        if not torch.isfinite(embedding).all():
            raise CheckpointError(
                f"{path}: {shortened(name)}: embedding: expected finite numbers, found NaN or infinity"
            )
        voices[name] = Voice(embedding.float().flatten().clone())
    return voices


def default_voice(voices: Mapping[str, Voice]) -> str:
    return PREFERRED_VOICE if PREFERRED_VOICE in voices else next(iter(voices))


class VoiceTable:
    """Voices by name: those of the folder, which stay, and cloned ones, which come and go.

    Threads may share it. Its dict is never changed, only replaced as a whole under the lock, so reading needs
    no lock; a voice that was handed out stays usable when its name is removed.
    """

    def __init__(self, voices: Mapping[str, Voice]) -> None:
        self._voices = dict(voices)
        self._lock = Lock()
        self._lasting = frozenset(voices)
        self.default = default_voice(voices)
        """Stays the same, whatever is added."""

    @property
    def names(self) -> list[str]:
        """All names, the folder's first."""
        return list(self._voices)

    def get(self, name: str | Voice | None) -> Voice:
        """The voice of this name, or the default one for None; a voice is returned as it is. Raises
        InvalidRequest for an unknown name."""
        if isinstance(name, Voice):
            return name
        voices = self._voices
        if name is None:
            name = self.default
        if not isinstance(name, str) or name not in voices:
            raise InvalidRequest(f"voice: expected one of {', '.join(voices)}, got {name!r}")
        return voices[name]

    def check_new(self, name: Any) -> None:
        """Raises InvalidRequest for what is not a name, and for a name that is taken."""
        if not isinstance(name, str) or not name.strip():
            raise InvalidRequest(f"voice: expected a name that is not empty, got {name!r}")
        if name in self._voices:
            raise InvalidRequest(f"voice: expected a new name, got {name!r}, which is taken")

    def add(self, name: str, voice: Voice) -> None:
        with self._lock:
            self.check_new(name)
            self._voices = {**self._voices, name: voice}

    def remove(self, name: str) -> None:
        """Raises InvalidRequest for an unknown name and for a voice of the folder."""
        with self._lock:
            cloned = [other for other in self._voices if other not in self._lasting]
            if name not in cloned:
                raise InvalidRequest(
                    f"voice: expected a cloned one of {', '.join(cloned) or 'none'}, got {name!r}"
                )
            self._voices = {other: voice for other, voice in self._voices.items() if other != name}


def clone_voice(
    samples: AudioArray,
    rate_hz: int,
    encoder: SpeakerEncoder,
    tokenizer: SpeechTokenizer,
    params: FlowParams,
) -> Voice:
    """The voice of a clip, float32 (n,), on the CPU. Raises InvalidRequest for a silent clip and for one that
    does not last from 1 to 30 s."""
    seconds = len(samples) / rate_hz
    if not MIN_CLIP_S <= seconds <= MAX_CLIP_S:
        raise InvalidRequest(
            f"audio: expected a clip of {MIN_CLIP_S:g} to {MAX_CLIP_S:g} s, got {seconds:.2f} s"
        )
    if not samples.any():
        raise InvalidRequest("audio: expected a clip of speech, got silence")
    speech = resample(samples, rate_hz, INPUT_RATE_HZ)
    embedding, units = encoder.embed(speech), tokenizer.tokenize(speech)
    mel = prompt_mel(resample(samples, rate_hz, SAMPLE_RATE_HZ))
    # Both end where the shorter one does, or the flow would stretch units over frames that are not theirs.
    count = len(units)
    while params.mel_frames(count) > mel.shape[1]:
        count -= 1
    if count == 0:
        raise CheckpointError(f"{tokenizer.path}: expected units of {seconds:.2f} s of speech, found none")
    return Voice(
        torch.from_numpy(embedding),
        torch.tensor(units[:count]),
        torch.from_numpy(mel[:, : params.mel_frames(count)].copy()),
    )
