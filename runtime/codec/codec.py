"""The CosyVoice codec: speech to units, units to mel, mel to speech."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from antiphon.codec.analysis.hearing import hear_whole
from antiphon.codec.analysis.listening import Listener, ListenSchedule
from antiphon.codec.analysis.logmel import INPUT_RATE_HZ
from antiphon.codec.analysis.speaker_encoder import SpeakerEncoder
from antiphon.codec.analysis.speech_tokenizer import SpeechTokenizer
from antiphon.codec.arrays import unit_array
from antiphon.codec.checkpoint.hyperparams import (
    HOP,
    MEL_BANDS,
    SAMPLE_RATE_HZ,
    CodecParams,
    read_hyperparams,
)
from antiphon.codec.checkpoint.tensors import HIFT_PREFIX, fill_module, read_tensors
from antiphon.codec.decoder import Decoder
from antiphon.codec.exported import Exported
from antiphon.codec.flow.flow import FlowModel
from antiphon.codec.hift.hift import Hift
from antiphon.codec.stream import SpeechStream
from antiphon.codec.voices import Voice, VoiceTable, clone_voice, read_voices
from antiphon.config import InputLimits, StreamSchedule
from antiphon.device.cuda_graph import Capture, capture_for
from antiphon.device.dtypes import DTYPES, dtype_of, usual_codec_dtype
from antiphon.device.place import resolve_device
from antiphon.errors import CheckpointError, ConfigError, InvalidRequest
from antiphon.files.checkpoint import is_folder, is_there
from antiphon.plain import flag
from antiphon.process.at_exit import awaited_at_exit
from antiphon.process.forking import check_device, make_ready, num_threads
from antiphon.process.load_threads import load_threads
from antiphon.process.ownership import OfOneProcess, check_process
from antiphon.prompt import HeardUnits
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
NUM_WARM_UP_UNITS = 150
"""Enough for a chunk of each length."""

# Mel frames that `decode` puts into one batch. Batched flow and vocoder agree with single ones to 1e-5 each,
# but the source's phase adds up the pitch, which magnifies a rounding in the mel to 1e-3 of the waveform. On
# the CPU, where the estimator is bound by arithmetic and gains little from a batch beyond 3 s of speech, each
# utterance is therefore decoded alone, and gives the same samples bit for bit. bfloat16 promises no such
# thing, and eight utterances of 1 s take 0.6 of the time when they share the reading of the weights.
CPU_BATCH_FRAMES = {torch.float32: 0, torch.bfloat16: 1024, torch.float16: 1024}
CUDA_BATCH_FRAMES = 4608  # 16 rows of the longest chunk


class Codec(OfOneProcess):
    """Speech to units and back: whole utterances, alone or many, and streams. Arrays come out on the CPU as
    float32.

    In bfloat16 and float16 the products of the flow's estimator and of the vocoder's trunk are taken in that
    precision; norms, softmax, the flow's state, pitch and source stay float32 or better. On a CPU with AMX,
    bfloat16 takes half the time or less; float16 is for GPUs, where it is the default. Measured on the small
    golden codec against float32: in bfloat16 the log-mel (natural logarithm) is off by 0.06 at most and by
    0.007 on average, and the waveform of the same source lies 33 dB above its error (40 dB with the flow's
    error alone); tests allow 0.1, 0.01 and 30 dB. Random weights of the released size do better: 0.01, 0.002
    and 46 dB. In float16 the figures are 0.007, 0.001 and 51 dB; tests allow 0.02, 0.002 and 45 dB. Sharing a
    batch with other utterances makes a difference within the same bounds.

    On a GPU, TF32 is switched off while the codec computes (it costs 1e-3 of the mel) and restored
    afterwards; the switch belongs to the process, so only one thread at a time should run a codec there.

    A codec serves the process that made it: in a forked child, its methods raise EngineDead.
    """

    def __init__(
        self,
        params: CodecParams,
        flow: FlowModel | None,
        hift: Hift | None,
        voices: Mapping[str, Voice],
        device: torch.device,
        tokenizer: SpeechTokenizer | None = None,
        max_batch_frames: int | None = None,
        speaker_encoder: SpeakerEncoder | None = None,
        dtype: torch.dtype = torch.float32,
        capture: Capture | None = None,
        exported: Exported | None = None,
        folder: Path | None = None,
    ) -> None:
        """Takes loaded parts; see `from_pretrained`.

        flow, hift: None: they are read from `folder` when they are first needed.
        max_batch_frames: mel frames in a batch of `decode`, including padding; None: by device and dtype.
        dtype: float32, bfloat16 or float16. `hift` is set to it in place, so it serves one codec only.
        capture: records the flow's estimator, on a GPU the vocoder too; None: all runs kernel by kernel.
        exported: what computes the flow's estimator instead of PyTorch.
        Packed copies of the weights take as much memory again in float32, half as much in 16 bits.
        """
        make_ready()
        self.params = params
        self.device = device
        self.dtype = dtype
        self.tokenizer = tokenizer
        self.speaker_encoder = speaker_encoder
        if max_batch_frames is None:
            max_batch_frames = CUDA_BATCH_FRAMES if device.type == "cuda" else CPU_BATCH_FRAMES[dtype]
        self.max_batch_frames = max_batch_frames
        self._is_lazy = flow is None
        """Whether it may never compute: its device is left alone until it does."""
        home = torch.device("cpu") if self._is_lazy else device
        self._voices = VoiceTable({name: voice.to(home) for name, voice in voices.items()})
        self._pid = os.getpid()
        self._capture = capture
        self._exported = exported
        self._folder = folder
        self._loading = Lock()
        self._decoder: Decoder | None = None
        if flow is not None and hift is not None:
            self._decoder = self._decoder_of(flow, hift)

    @property
    def decoder(self) -> Decoder:
        """The networks that speak. Raises CheckpointError if they have yet to be read, and cannot be."""
        if self._decoder is None:
            assert self._folder is not None, "networks are given, or the folder that they are read from"
            with self._loading:
                if self._decoder is None:
                    self._decoder = self._decoder_of(*_networks(self._folder, self.params, self.device))
        return self._decoder

    @decoder.setter
    def decoder(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def _decoder_of(self, flow: FlowModel, hift: Hift) -> Decoder:
        return Decoder.of_networks(
            self.params,
            flow,
            hift,
            self.device,
            self.dtype,
            self._capture,
            self.max_batch_frames,
            self._exported,
        )

    def record(self) -> Iterator[tuple[int, int]]:
        """Records all that streams of the default schedule need, and yields how many recordings of how many
        are made; a codec without recordings has none. Afterwards nothing more is recorded while speech is
        made: batches of other sizes run kernel by kernel. Call it from the thread, and on the stream, that
        will make the speech, or wait for it there."""
        self.check_process()
        yield from self.decoder.record()
        if self.decoder.vocoder is not None:  # what runs beside the recordings is loaded or compiled, too
            self.stream().push([0] * NUM_WARM_UP_UNITS, final=True)

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
        hears: bool = True,
        speaks: bool = True,
    ) -> Codec:
        """Loads a CosyVoice folder: `cosyvoice.yaml`, `flow.pt`, `hift.pt`, `spk2info.pt`, and, if present,
        `speech_tokenizer_v1.onnx` and `campplus.onnx`.

        device: "auto" is the GPU if there is one. dtype: "auto" is float16 on a GPU and float32 on a CPU; see
        the class for what they are off by.
        backend: "torch", or on a CPU "onnxruntime:FOLDER", on a GPU "tensorrt:FOLDER": that computes the
        flow's estimator from the folder that `antiphon export flow` wrote, in the precision of that.
        enforce_eager: on a GPU, launch the flow kernel by kernel instead of as CUDA graphs.
        hears: False: without what hears speech and clones voices.
        speaks: False: the networks that speak are read when they are first needed.
        Raises CheckpointError naming file, tensor or key, expected and found.
        """
        exported = Exported.parse("backend", backend)
        if dtype != "auto" and dtype_of(dtype) is None:
            raise ConfigError(f"dtype: expected one of auto, {', '.join(DTYPES)}, got {dtype}")
        place = resolve_device(device)
        if exported is not None:
            exported.check_place("backend", place)
        precision = dtype_of(dtype) or usual_codec_dtype(place)
        check_device(place)
        make_ready()
        root = Path(folder)
        if not is_folder(root):
            raise CheckpointError(f"{root}: expected a CosyVoice folder, found no folder")
        other = next((name for name in OTHER_RECIPES if is_there(root / name)), None)
        if other is not None and not is_there(root / RECIPE_FILE):
            raise CheckpointError(
                f"{root / other}: expected {RECIPE_FILE} of a first-generation CosyVoice with 25 units a "
                "second (such as CosyVoice-300M-25Hz); later generations are not implemented"
            )
        params = read_hyperparams(root / RECIPE_FILE)
        flow, hift = _networks(root, params, place) if speaks else (None, None)
        tokenizer_path, speaker_path = root / TOKENIZER_FILE, root / SPEAKER_FILE
        dim, vocab_size = params.flow.spk_embed_dim, params.flow.vocab_size
        return cls(
            params,
            flow,
            hift,
            read_voices(root / VOICES_FILE, dim),
            place,
            SpeechTokenizer(tokenizer_path, vocab_size) if hears and is_there(tokenizer_path) else None,
            speaker_encoder=SpeakerEncoder(speaker_path, dim) if hears and is_there(speaker_path) else None,
            dtype=precision,
            capture=capture_for(place, enforce_eager=enforce_eager),
            exported=exported,
            folder=root,
        )

    @property
    def num_workers(self) -> int:
        """How many threads had best decode at a time: one, if each keeps all cores busy."""
        return 1 if self.decoder.num_threads is None else max(1, num_threads() // self.decoder.num_threads)

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the speech that it makes."""
        return SAMPLE_RATE_HZ

    @property
    def unit_rate_hz(self) -> int:
        """Units per second."""
        return self.params.flow.input_frame_rate

    @property
    def trims_silence(self) -> bool:
        """Whether speech is heard without the silence around it and in it where nobody says otherwise: its
        folder's `cosyvoice.yaml` has `trim_silence: true`, as that of the packaged one, whose model has heard
        little silence in training."""
        return self.params.trim_silence

    @property
    def num_units_vocab(self) -> int:
        """Units are numbered from 0 up to, but not including, this."""
        return self.params.flow.vocab_size

    @property
    def voices(self) -> list[str]:
        """The names of the voices: first the folder's, then cloned ones."""
        return self._voices.names

    @property
    def default_voice(self) -> str:
        """The voice that None stands for."""
        return self._voices.default

    def voice(self, name: str | Voice | None) -> Voice:
        """The voice of this name, or the default one for None; it can be used even after its name has been
        removed. Raises InvalidRequest for an unknown name."""
        self.check_process()
        return self._voices.get(name)

    def check_process(self) -> None:
        """Raises EngineDead in a forked child of the process that made it."""
        check_process("codec", self._pid)

    def unit_array(self, name: str, units: Any) -> Any:
        """int64 (n,), n > 0. Raises InvalidRequest, naming the argument, for anything but units."""
        return unit_array(name, units, self.num_units_vocab)

    def add_voice(self, name: str, samples: Any, rate_hz: int) -> None:
        """Clones the voice of a clip of 1 to 30 s: from now on `name` can be given as a voice.

        samples: an array as in `antiphon.sound.samples.mono_samples`, at any rate. Each utterance of the new
        voice continues the clip, so a longer clip makes it take longer. Raises InvalidRequest for a name that
        is taken, for a clip that cannot be used, and if the folder has no `campplus.onnx` or
        `speech_tokenizer_v1.onnx`.
        """
        self.check_process()
        self._voices.check_new(name)
        encoder, tokenizer = self.speaker_encoder, self.tokenizer
        if encoder is None or tokenizer is None:
            missing = SPEAKER_FILE if encoder is None else TOKENIZER_FILE
            raise InvalidRequest(f"voice: this codec folder has no {missing}, so no voice can be cloned")
        clip, rate_hz = mono_samples(samples), check_rate(rate_hz)
        voice = clone_voice(clip, rate_hz, encoder, tokenizer, self.params.flow)
        self._voices.add(name, voice if self._is_lazy else voice.to(self.device))

    def remove_voice(self, name: str) -> None:
        """Forgets a cloned voice; speech that is being made with it goes on. Raises InvalidRequest for a
        voice of the folder and for an unknown name."""
        self._voices.remove(name)

    def tokenize(self, samples: Any, rate_hz: int, *, trim_silence: bool | None = None) -> list[int]:
        """The units of speech. samples: as in `antiphon.sound.samples.mono_samples`, at any rate.

        trim_silence: see `antiphon.types.Speech`.
        """
        return list(self.hear(samples, rate_hz, trim_silence=trim_silence).units)

    @awaited_at_exit
    def hear(self, samples: Any, rate_hz: int, *, trim_silence: bool | None = None) -> HeardUnits:
        """The units of speech, and where in it they lie. Arguments as those of `tokenize`."""
        tokenizer = self._tokenizer()
        sound = resample(mono_samples(samples), check_rate(rate_hz), INPUT_RATE_HZ)
        return hear_whole(tokenizer, sound, trims=self._trims(trim_silence))

    def listen(
        self,
        rate_hz: int,
        schedule: ListenSchedule | None = None,
        max_audio_s: float = InputLimits.max_audio_s,
        *,
        trim_silence: bool | None = None,
    ) -> Listener:
        """A listener for speech that is still coming in: `push(samples)` returns the units so far, `finish()`
        the same as `tokenize`.

        rate_hz: the rate of the samples. max_audio_s: longer speech is refused. trim_silence: see
        `antiphon.types.Speech`. Raises InvalidRequest.
        """
        trims = self._trims(trim_silence)
        return Listener(self._tokenizer(), rate_hz, schedule or ListenSchedule(), max_audio_s, trims=trims)

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
        """Log-mel float32 (80, frames) of units, as a numpy array; takes arrays or tensors.

        noise: (80, prompt frames + frames), instead of the seed's. prompt_units and prompt_mel: what was said
        before and how it sounded, (80, P), or frame by frame as (P, 80) or (1, P, 80), instead of a cloned
        voice's own; their frames are not returned. Raises InvalidRequest for an unknown voice, units out of
        range and wrong shapes.
        """
        row = self.decoder.flow_input(
            units,
            self._speaker(voice),
            seed=seed,
            noise=noise,
            prompt_units=prompt_units,
            prompt_mel=prompt_mel,
        )
        return to_numpy(self.decoder.mels([row])[0])

    @awaited_at_exit
    def vocode(self, mel: Any, *, source: Any = None, seed: int = 0) -> AudioArray:
        """Speech float32 (256 * frames,) of a log-mel (80, frames).

        source: (256 * frames,) excitation, instead of the one made from f0 and the seed.
        """
        self.check_process()
        given = self.decoder.tensor(float_array("mel", mel, (MEL_BANDS, None)))
        sources = None
        if source is not None:
            sources = [self.decoder.tensor(float_array("source", source, (HOP * given.shape[1],)))]
        return to_numpy(self.decoder.vocode([given], [integer("seed", seed)], sources)[0])

    @awaited_at_exit
    def decode(
        self,
        units: Sequence[Any],
        voices: str | Voice | Sequence[str | Voice | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[AudioArray]:
        """Speech float32 (samples_i,) of each utterance, the same as `vocode(mel(...))` of each by itself;
        bit for bit on a CPU in float32.

        voices, seeds: one for each utterance; None: the default voice, seed 0. A single voice serves all.
        """
        self.check_process()
        count = len(units)
        each_voice = [voices] * count if voices is None or isinstance(voices, (str, Voice)) else list(voices)
        each_seed = [0] * count if seeds is None else [integer("seeds", seed) for seed in seeds]
        for name, given in (("voices", len(each_voice)), ("seeds", len(each_seed))):
            if given != count:
                raise InvalidRequest(f"{name}: expected {count}, one for each utterance, got {given}")
        rows = [
            self.decoder.flow_input(own, self._speaker(voice), seed=seed)
            for own, voice, seed in zip(units, each_voice, each_seed, strict=True)
        ]
        return self.decoder.decode(rows, each_seed, self.max_batch_frames)

    def stream(
        self, voice: str | Voice | None = None, seed: int = 0, schedule: StreamSchedule | None = None
    ) -> SpeechStream:
        """An utterance whose units are still coming: `push(units, final=False)` returns samples.

        schedule: None for the default one, with the first sound after 15 units. Raises InvalidRequest for an
        unknown voice.
        """
        speaker = self._speaker(voice)
        return SpeechStream(self.decoder, speaker, integer("seed", seed), schedule or StreamSchedule())

    def _speaker(self, name: str | Voice | None) -> Voice:
        """The voice, where the networks are."""
        voice = self.voice(name)
        return voice.to(self.device) if self._is_lazy else voice

    def _trims(self, trim_silence: bool | None) -> bool:
        return self.trims_silence if trim_silence is None else flag("trim_silence", trim_silence)

    def _tokenizer(self) -> SpeechTokenizer:
        self.check_process()
        if self.tokenizer is None:
            raise InvalidRequest(f"speech: this codec folder has no {TOKENIZER_FILE}, so units must be given")
        return self.tokenizer


def _networks(root: Path, params: CodecParams, place: torch.device) -> tuple[FlowModel, Hift]:
    with torch.device("meta"):
        flow, hift = FlowModel(params.flow), Hift(params.hift)
    flow_path, hift_path = root / FLOW_FILE, root / HIFT_FILE
    with load_threads(root):
        return (
            fill_module(flow, read_tensors(flow_path), flow_path, place),
            fill_module(hift, read_tensors(hift_path, HIFT_PREFIX), hift_path, place),
        )
