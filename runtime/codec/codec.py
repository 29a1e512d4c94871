"""The CosyVoice codec: speech to units, units to mel, mel to speech."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from antiphon.codec.analysis.listening import Listener, ListenSchedule
from antiphon.codec.analysis.logmel import INPUT_RATE_HZ
from antiphon.codec.analysis.speaker_encoder import SpeakerEncoder
from antiphon.codec.analysis.speech_tokenizer import SpeechTokenizer
from antiphon.codec.arrays import bands_first, unit_array
from antiphon.codec.batches import plan_batches
from antiphon.codec.checkpoint.hyperparams import (
    HOP,
    MEL_BANDS,
    SAMPLE_RATE_HZ,
    CodecParams,
    read_hyperparams,
)
from antiphon.codec.checkpoint.tensors import HIFT_PREFIX, fill_module, read_tensors
from antiphon.codec.flow.flow import Flow, FlowInput, FlowModel
from antiphon.codec.hift.hift import Hift
from antiphon.codec.hift.source import draw, harmonics
from antiphon.codec.noise import MEL, normal_rows
from antiphon.codec.packed import has_onednn
from antiphon.codec.stream import SpeechStream
from antiphon.codec.voices import Voice, VoiceTable, clone_voice, read_voices
from antiphon.config import InputLimits, StreamSchedule
from antiphon.device.cuda_graph import Capture, capture_for
from antiphon.device.dtypes import DTYPES, dtype_of
from antiphon.device.place import exact_float32, resolve_device
from antiphon.errors import CheckpointError, ConfigError, InvalidRequest
from antiphon.files.checkpoint import is_folder, is_there
from antiphon.process.at_exit import awaited_at_exit
from antiphon.process.forking import check_device, make_ready
from antiphon.process.ownership import OfOneProcess, check_process
from antiphon.sound.arrays import AudioArray, float_array, integer, to_numpy
from antiphon.sound.resample import resample
from antiphon.sound.samples import check_rate, mono_samples

__all__ = ["Codec"]

RECIPE_FILE = "cosyvoice.yaml"
OTHER_RECIPES = ("cosyvoice2.yaml", "cosyvoice3.yaml")
FLOW_FILE = "flow.pt"
HIFT_FILE = "hift.pt"
VOICES_FILE = "spk2info.pt"
TOKENIZER_FILE = "speech_tokenizer_v1.onnx"
SPEAKER_FILE = "campplus.onnx"
BACKENDS = ("torch",)

# Mel frames that `decode` puts into one batch. Batched flow and vocoder agree with single ones to 1e-5 each,
# but the source's phase adds up the pitch, which magnifies a rounding in the mel to 1e-3 of the waveform. On
# the CPU, where the estimator is bound by arithmetic and gains little from a batch beyond 3 s of speech, each
# utterance therefore goes alone and equals itself bit for bit. Not so in bfloat16, which does not promise as
# much, and in which eight utterances of 1 s take 0.6 of the time when they share the reading of the weights.
CPU_BATCH_FRAMES = {torch.float32: 0, torch.bfloat16: 1024, torch.float16: 1024}
CUDA_BATCH_FRAMES = 4096


class Codec(OfOneProcess):
    """Whole utterances, alone or many. Arrays come out on the CPU as float32.

    In bfloat16 and float16 the products of the flow's estimator and of the vocoder's trunk are; norms,
    softmax, the flow's state, pitch and source stay float32 or better. On a CPU with AMX bfloat16 takes half
    the time or less; float16 is for GPUs. Against float32 the log-mel (natural logarithm) of the small golden
    codec is off by 0.06 at most and by 0.007 on average in bfloat16, and the waveform of the same source lies
    33 dB above its error (40 dB with the flow's error alone); tests hold 0.1, 0.01 and 30 dB. Random weights
    of the released size come out better: 0.01, 0.002 and 46 dB. In float16 it is 0.007, 0.001 and 51 dB;
    tests hold 0.02, 0.002 and 45 dB. Which utterances share a batch shows within the same bounds.

    On a GPU, TF32 is switched off while it computes (it costs 1e-3 of the mel) and restored after; the
    switch belongs to the process, so one thread at a time should run a codec there.

    A codec serves the process that made it: in a forked child, its methods raise EngineDead.
    """

    def __init__(
        self,
        params: CodecParams,
        flow: FlowModel,
        hift: Hift,
        voices: Mapping[str, Voice],
        device: torch.device,
        tokenizer: SpeechTokenizer | None = None,
        max_batch_frames: int | None = None,
        speaker_encoder: SpeakerEncoder | None = None,
        dtype: torch.dtype = torch.float32,
        capture: Capture | None = None,
    ) -> None:
        """Takes loaded parts; see `from_pretrained`. max_batch_frames: mel frames in a batch of `decode`,
        padding included; None: by device and dtype. dtype: float32, bfloat16 or float16. `hift` is made ready
        to compute in it, and so serves one codec only. capture: records the flow's estimator; None: it runs
        kernel by kernel. Packed copies of the weights take as much memory again in float32, half as much in
        16 bits."""
        make_ready()
        self._pid = os.getpid()
        self.params = params
        self.device = device
        self.dtype = dtype
        self.hift = hift
        self.hift.f0_predictor.double()  # see `Hift.f0`
        self.tokenizer = tokenizer
        self.speaker_encoder = speaker_encoder
        if max_batch_frames is None:
            max_batch_frames = CUDA_BATCH_FRAMES if device.type == "cuda" else CPU_BATCH_FRAMES[dtype]
        self.max_batch_frames = max_batch_frames
        self._voices = VoiceTable({name: voice.to(device) for name, voice in voices.items()})
        with exact_float32(device):
            self.flow = Flow(flow, params.flow, device, dtype, capture)
        if dtype != torch.float32 or has_onednn(device, dtype):
            self.hift.pack(dtype)

    @classmethod
    @awaited_at_exit
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        backend: str = "torch",
        *,
        enforce_eager: bool = False,
    ) -> Codec:
        """Loads a CosyVoice folder: `cosyvoice.yaml`, `flow.pt`, `hift.pt`, `spk2info.pt`, and
        `speech_tokenizer_v1.onnx` and `campplus.onnx` where they are there.

        device: "auto" is the GPU if there is one. dtype: "auto" is float32; see the class for the others.
        enforce_eager: on a GPU, launch the flow kernel by kernel instead of as CUDA graphs.
        Raises CheckpointError naming file, tensor or key, expected and found.
        """
        if backend not in BACKENDS:
            raise ConfigError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
        precision = torch.float32 if dtype == "auto" else dtype_of(dtype)
        if precision is None:
            raise ConfigError(f"dtype: expected one of auto, {', '.join(DTYPES)}, got {dtype}")
        place = resolve_device(device)
        check_device(place)
        make_ready()
        root = Path(folder)
        if not is_folder(root):
            raise CheckpointError(f"{root}: expected a CosyVoice folder, found none")
        other = next((name for name in OTHER_RECIPES if is_there(root / name)), None)
        if other is not None and not is_there(root / RECIPE_FILE):
            raise CheckpointError(
                f"{root / other}: expected {RECIPE_FILE} of a first-generation CosyVoice with 25 units a "
                "second (such as CosyVoice-300M-25Hz); later generations are not implemented"
            )
        params = read_hyperparams(root / RECIPE_FILE)
        with torch.device("meta"):
            flow, hift = FlowModel(params.flow), Hift(params.hift)
        flow_path, hift_path, tokenizer_path, speaker_path = (
            root / name for name in (FLOW_FILE, HIFT_FILE, TOKENIZER_FILE, SPEAKER_FILE)
        )
        dim = params.flow.spk_embed_dim
        return cls(
            params,
            fill_module(flow, read_tensors(flow_path), flow_path, place),
            fill_module(hift, read_tensors(hift_path, HIFT_PREFIX), hift_path, place),
            read_voices(root / VOICES_FILE, dim),
            place,
            SpeechTokenizer(tokenizer_path, params.flow.vocab_size) if is_there(tokenizer_path) else None,
            speaker_encoder=SpeakerEncoder(speaker_path, dim) if is_there(speaker_path) else None,
            dtype=precision,
            capture=capture_for(place, enforce_eager=enforce_eager),
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
        """Names, those of the folder before cloned ones."""
        return self._voices.names

    @property
    def default_voice(self) -> str:
        """The voice that None stands for."""
        return self._voices.default

    def voice(self, name: str | Voice | None) -> Voice:
        """The voice of this name, None for the default one: to go on speaking with it whatever becomes of the
        name. Raises InvalidRequest for an unknown one."""
        self.check_process()
        return self._voices.get(name)

    def check_process(self) -> None:
        """Raise EngineDead in a forked child of the process that made it."""
        check_process("codec", self._pid)

    def add_voice(self, name: str, samples: Any, rate_hz: int) -> None:
        """Clones the voice of a clip of 1 to 30 s: from now on `name` may be given as a voice.

        samples: an array as in `antiphon.sound.samples.mono_samples`, at any rate. Each utterance of the new
        voice then goes on from the clip, and takes as much longer to make. Raises InvalidRequest for a name
        that is taken, for such a clip as cannot be used, and where the folder has no `campplus.onnx` or
        `speech_tokenizer_v1.onnx`.
        """
        self.check_process()
        self._voices.check_new(name)
        encoder, tokenizer = self.speaker_encoder, self.tokenizer
        if encoder is None or tokenizer is None:
            missing = SPEAKER_FILE if encoder is None else TOKENIZER_FILE
            raise InvalidRequest(f"voice: this codec folder has no {missing}, so none can be cloned")
        clip, rate_hz = mono_samples(samples), check_rate(rate_hz)
        voice = clone_voice(clip, rate_hz, encoder, tokenizer, self.params.flow)
        self._voices.add(name, voice.to(self.device))

    def remove_voice(self, name: str) -> None:
        """Forgets a cloned voice; what is being spoken with it goes on. Raises InvalidRequest for a voice of
        the folder and for one that is not there."""
        self._voices.remove(name)

    @awaited_at_exit
    def tokenize(self, samples: Any, rate_hz: int) -> list[int]:
        """Units of speech: samples as in `antiphon.sound.samples.mono_samples`, at any rate."""
        tokenizer = self._tokenizer()
        return tokenizer.tokenize(resample(mono_samples(samples), check_rate(rate_hz), INPUT_RATE_HZ))

    def listen(
        self,
        rate_hz: int,
        schedule: ListenSchedule | None = None,
        max_audio_s: float = InputLimits.max_audio_s,
    ) -> Listener:
        """Units of speech that is still coming in: `push(samples)` returns those so far, `finish()` those of
        `tokenize`. rate_hz: of the samples. More than max_audio_s is refused. Raises InvalidRequest."""
        return Listener(self._tokenizer(), rate_hz, schedule or ListenSchedule(), max_audio_s)

    @awaited_at_exit
    def mel(
        self,
        units: Any,
        voice: str | Voice | None = None,
        *,
        noise: Any = None,
        prompt_units: Any = None,
        prompt_mel: Any = None,
        seed: int = 0,
    ) -> AudioArray:
        """Log-mel float32 (80, frames) of units, as a numpy array; arrays or tensors go in.

        noise: (80, prompt frames + frames) instead of what the seed gives. prompt_units and prompt_mel: what
        was said before and how it sounded, (80, P), or frame by frame as (P, 80) or (1, P, 80), instead of a
        cloned voice's own; their frames are not returned. Raises InvalidRequest for an unknown voice, units
        out of range and wrong shapes.
        """
        row = self.flow_input(
            units, voice, seed=seed, noise=noise, prompt_units=prompt_units, prompt_mel=prompt_mel
        )
        with exact_float32(self.device):
            return to_numpy(self.flow.generate([row])[0].mel)

    @awaited_at_exit
    def vocode(self, mel: Any, *, source: Any = None, seed: int = 0) -> AudioArray:
        """Speech float32 (256 * frames,) of a log-mel (80, frames).

        source: (256 * frames,) excitation instead of what f0 and the seed give.
        """
        self.check_process()
        rows = [self._tensor(float_array("mel", mel, (MEL_BANDS, None)))]
        sources = None
        if source is not None:
            sources = [self._tensor(float_array("source", source, (HOP * rows[0].shape[1],)))]
        return to_numpy(self._vocode(rows, [integer("seed", seed)], sources)[0])

    @awaited_at_exit
    def decode(
        self,
        units: Sequence[Any],
        voices: str | Voice | Sequence[str | Voice | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[AudioArray]:
        """Speech float32 (samples_i,) of each utterance, as `vocode(mel(...))` gives it one by one, on a CPU
        in float32 bit for bit.

        voices, seeds: one for each utterance; None: the default voice, seed 0. A single voice is for all.
        """
        self.check_process()
        count = len(units)
        each_voice = [voices] * count if voices is None or isinstance(voices, (str, Voice)) else list(voices)
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

    def stream(
        self, voice: str | Voice | None = None, seed: int = 0, schedule: StreamSchedule | None = None
    ) -> SpeechStream:
        """An utterance whose units are still coming: `push(units, final=False)` returns samples.

        schedule: None for the default one, with first sound after 15 units. Raises InvalidRequest for an
        unknown voice.
        """
        return SpeechStream(self, self.voice(voice), integer("seed", seed), schedule or StreamSchedule())

    def flow_input(
        self,
        units: Any,
        voice: str | Voice | None = None,
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
        speaker = self.voice(voice)
        said, heard = speaker.prompt_units, speaker.prompt_mel
        if prompt_units is not None:
            said = self._tensor(unit_array("prompt_units", prompt_units, self.num_units_vocab))
            mel = float_array("prompt_mel", bands_first("prompt_mel", prompt_mel), (MEL_BANDS, None))
            heard = self._tensor(mel)
        prompt_frames = 0 if heard is None else heard.shape[1]
        frames = self.params.flow.mel_frames(len(own))
        if noise is None:
            # Frame 0 is the first of the units, whatever was said before.
            rows = normal_rows(integer("seed", seed), MEL, -prompt_frames, prompt_frames + frames, MEL_BANDS)
            noise = rows.T
        return FlowInput(
            units=self._tensor(own),
            embedding=speaker.embedding,
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

    def _tokenizer(self) -> SpeechTokenizer:
        self.check_process()
        if self.tokenizer is None:
            raise InvalidRequest(f"speech: this codec folder has no {TOKENIZER_FILE}, so units must be given")
        return self.tokenizer

    def _tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self.device)
