"""The CosyVoice codec: speech to units, units to mel, mel to speech."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from antiphon.codec.arrays import AudioArray, bands_first, float_array, integer, to_numpy, unit_array
from antiphon.codec.audio import check_rate, mono_samples
from antiphon.codec.batches import plan_batches
from antiphon.codec.checkpoint import HIFT_PREFIX, fill_module, read_tensors
from antiphon.codec.device import exact_float32, resolve_device
from antiphon.codec.flow import Flow, FlowInput, FlowModel
from antiphon.codec.hift import Hift
from antiphon.codec.hyperparams import HOP, MEL_BANDS, SAMPLE_RATE_HZ, CodecParams, read_hyperparams
from antiphon.codec.logmel import INPUT_RATE_HZ
from antiphon.codec.noise import MEL, normal_rows
from antiphon.codec.resample import resample
from antiphon.codec.source import draw, harmonics
from antiphon.codec.speech_tokenizer import SpeechTokenizer
from antiphon.codec.voices import default_voice, read_voices
from antiphon.errors import CheckpointError, InvalidRequest

__all__ = ["Codec"]

RECIPE_FILE = "cosyvoice.yaml"
FLOW_FILE = "flow.pt"
HIFT_FILE = "hift.pt"
VOICES_FILE = "spk2info.pt"
TOKENIZER_FILE = "speech_tokenizer_v1.onnx"
BACKENDS = ("torch",)
DTYPES = ("auto", "float32")

# Mel frames that `decode` puts into one batch. Batched flow and vocoder agree with single ones to 1e-5 each,
# but the source's phase adds up the pitch, which magnifies a rounding in the mel to 1e-3 of the waveform. On
# the CPU, where the estimator is bound by arithmetic and gains nothing from a batch beyond 3 s of speech,
# each utterance therefore goes alone and equals itself bit for bit.
CPU_BATCH_FRAMES = 0
CUDA_BATCH_FRAMES = 4096


class Codec:
    """Whole utterances, alone or many, in float32. Arrays come out on the CPU.

    On a GPU, TF32 is switched off while it computes (it costs 1e-3 of the mel) and restored after; the
    switch belongs to the process, so one thread at a time should run a codec there.
    """

    def __init__(
        self,
        params: CodecParams,
        flow: FlowModel,
        hift: Hift,
        voices: dict[str, Tensor],
        device: torch.device,
        tokenizer: SpeechTokenizer | None = None,
        max_batch_frames: int | None = None,
    ) -> None:
        """Takes loaded parts; see `from_pretrained`. max_batch_frames: mel frames in a batch of `decode`,
        padding included; None: by the device."""
        self.params = params
        self.device = device
        self.hift = hift
        self.tokenizer = tokenizer
        if max_batch_frames is None:
            max_batch_frames = CUDA_BATCH_FRAMES if device.type == "cuda" else CPU_BATCH_FRAMES
        self.max_batch_frames = max_batch_frames
        self._voices = {name: embedding.to(device) for name, embedding in voices.items()}
        with exact_float32(device):
            self.flow = Flow(flow, params.flow, device)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        backend: str = "torch",
    ) -> Codec:
        """Loads a CosyVoice folder: `cosyvoice.yaml`, `flow.pt`, `hift.pt`, `spk2info.pt`, and
        `speech_tokenizer_v1.onnx` where it is there.

        device: "auto" is the GPU if there is one. dtype: "auto" is float32, the one there is so far.
        Raises CheckpointError naming file, tensor or key, expected and found.
        """
        if backend not in BACKENDS:
            raise InvalidRequest(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
        if str(dtype).removeprefix("torch.") not in DTYPES:
            raise InvalidRequest(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype}")
        place = resolve_device(device)
        root = Path(folder)
        if not root.is_dir():
            raise CheckpointError(f"{root}: expected a CosyVoice folder, found none")
        params = read_hyperparams(root / RECIPE_FILE)
        with torch.device("meta"):
            flow, hift = FlowModel(params.flow), Hift(params.hift)
        flow_path, hift_path, tokenizer_path = (
            root / name for name in (FLOW_FILE, HIFT_FILE, TOKENIZER_FILE)
        )
        return cls(
            params,
            fill_module(flow, read_tensors(flow_path), flow_path, place),
            fill_module(hift, read_tensors(hift_path, HIFT_PREFIX), hift_path, place),
            read_voices(root / VOICES_FILE, params.flow.spk_embed_dim),
            place,
            SpeechTokenizer(tokenizer_path, params.flow.vocab_size) if tokenizer_path.is_file() else None,
        )

    @property
    def sample_rate_hz(self) -> int:
        """Of the speech that comes out."""
        return SAMPLE_RATE_HZ

    @property
    def unit_rate_hz(self) -> int:
        """Units per second."""
        return self.params.flow.input_frame_rate

    @property
    def num_units_vocab(self) -> int:
        """Units are numbered from 0 up to this."""
        return self.params.flow.vocab_size

    @property
    def voices(self) -> list[str]:
        return list(self._voices)

    @property
    def default_voice(self) -> str:
        """The voice that None stands for."""
        return default_voice(self._voices)

    def tokenize(self, samples: Any, rate_hz: int) -> list[int]:
        """Units of speech: samples (frames,) or (frames, channels), as in `read_audio`, at any rate."""
        if self.tokenizer is None:
            raise InvalidRequest(f"speech: this codec folder has no {TOKENIZER_FILE}, so units must be given")
        return self.tokenizer.tokenize(resample(mono_samples(samples), check_rate(rate_hz), INPUT_RATE_HZ))

    def mel(
        self,
        units: Any,
        voice: str | None = None,
        *,
        noise: Any = None,
        prompt_units: Any = None,
        prompt_mel: Any = None,
        seed: int = 0,
    ) -> AudioArray:
        """Log-mel float32 (80, frames) of units, as a numpy array; arrays or tensors go in.

        noise: (80, prompt frames + frames) instead of what the seed gives. prompt_units and prompt_mel: what
        was said before and how it sounded, (80, P), or frame by frame as (P, 80) or (1, P, 80); their frames
        are not returned. Raises InvalidRequest for an unknown voice, units out of range and wrong shapes.
        """
        row = self.flow_input(
            units, voice, seed=seed, noise=noise, prompt_units=prompt_units, prompt_mel=prompt_mel
        )
        with exact_float32(self.device):
            return to_numpy(self.flow.generate([row])[0].mel)

    def vocode(self, mel: Any, *, source: Any = None, seed: int = 0) -> AudioArray:
        """Speech float32 (256 * frames,) of a log-mel (80, frames).

        source: (256 * frames,) excitation instead of what f0 and the seed give.
        """
        rows = [self._tensor(float_array("mel", mel, (MEL_BANDS, None)))]
        sources = None
        if source is not None:
            sources = [self._tensor(float_array("source", source, (HOP * rows[0].shape[1],)))]
        return to_numpy(self._vocode(rows, [integer("seed", seed)], sources)[0])

    def decode(
        self,
        units: Sequence[Any],
        voices: str | Sequence[str | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[AudioArray]:
        """Speech float32 (samples_i,) of each utterance, as `vocode(mel(...))` gives it one by one.

        voices, seeds: one for each utterance; None: the default voice, seed 0. A single voice is for all.
        """
        count = len(units)
        each_voice = [voices] * count if voices is None or isinstance(voices, str) else list(voices)
        each_seed = [0] * count if seeds is None else [integer("seeds", seed) for seed in seeds]
        for name, given in (("voices", len(each_voice)), ("seeds", len(each_seed))):
            if given != count:
                raise InvalidRequest(f"{name}: expected {count}, one for each utterance, got {given}")
        rows = [
            self.flow_input(own, voice, seed=seed)
            for own, voice, seed in zip(units, each_voice, each_seed, strict=True)
        ]
        speech: dict[int, AudioArray] = {}
        for batch in plan_batches([row.noise.shape[1] for row in rows], self.max_batch_frames):
            with exact_float32(self.device):
                mels = [output.mel for output in self.flow.generate([rows[i] for i in batch])]
            for i, samples in zip(batch, self._vocode(mels, [each_seed[i] for i in batch]), strict=True):
                speech[i] = to_numpy(samples)
        return [speech[i] for i in range(count)]

    def flow_input(
        self,
        units: Any,
        voice: str | None = None,
        *,
        seed: int = 0,
        noise: Any = None,
        prompt_units: Any = None,
        prompt_mel: Any = None,
        cache: Tensor | None = None,
    ) -> FlowInput:
        """Checked input of `flow`, for callers that batch or carry the flow's cache themselves; see `mel`."""
        if (prompt_units is None) != (prompt_mel is None):
            raise InvalidRequest("prompt: expected both prompt_units and prompt_mel, or neither")
        own = unit_array("units", units, self.num_units_vocab)
        said = heard = None
        prompt_frames = 0
        if prompt_units is not None:
            said = self._tensor(unit_array("prompt_units", prompt_units, self.num_units_vocab))
            mel = float_array("prompt_mel", bands_first("prompt_mel", prompt_mel), (MEL_BANDS, None))
            heard, prompt_frames = self._tensor(mel), mel.shape[1]
        frames = self.params.flow.mel_frames(len(own))
        if noise is None:
            # Frame 0 is the first of the units, whatever was said before.
            rows = normal_rows(integer("seed", seed), MEL, -prompt_frames, prompt_frames + frames, MEL_BANDS)
            noise = rows.T
        return FlowInput(
            units=self._tensor(own),
            embedding=self._embedding(voice),
            noise=self._tensor(float_array("noise", noise, (MEL_BANDS, prompt_frames + frames))),
            prompt_units=said,
            prompt_mel=heard,
            cache=cache,
        )

    @torch.inference_mode()
    def _vocode(
        self, mels: Sequence[Tensor], seeds: Sequence[int], sources: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        with exact_float32(self.device):
            speech: list[Tensor] = self.hift(mels, self._sources(mels, seeds) if sources is None else sources)
        return speech

    def _sources(self, mels: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
        params = self.params.hift
        sources = []
        for f0, seed in zip(self.hift.f0(mels), seeds, strict=True):
            draws = draw(params, seed, 0, f0.shape[0], self.device)
            sources.append(self.hift.mix(harmonics(f0, draws, params)[0]))
        return sources

    def _embedding(self, voice: str | None) -> Tensor:
        name = self.default_voice if voice is None else voice
        if not isinstance(name, str) or name not in self._voices:
            raise InvalidRequest(f"voice: expected one of {', '.join(self._voices)}, got {name!r}")
        return self._voices[name]

    def _tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self.device)
