"""Units to speech: the networks of one codec, used for whole utterances and for streams."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antiphon.codec.arrays import bands_first, unit_array
from antiphon.codec.batches import Ladder, flow_ladder, plan_batches, vocoder_ladder
from antiphon.codec.checkpoint.hyperparams import MEL_BANDS, CodecParams
from antiphon.codec.exported import Exported
from antiphon.codec.flow.flow import Flow, FlowInput, FlowModel
from antiphon.codec.flow.stream import FlowStream, chunks_on_device
from antiphon.codec.hift.cpp_trunk import OneCallTrunk
from antiphon.codec.hift.hift import Hift
from antiphon.codec.hift.packed_trunk import PackedTrunk
from antiphon.codec.hift.source import draw, harmonics
from antiphon.codec.hift.stream import HiftStream, vocode_streams
from antiphon.codec.hift.vocoder import MEL_TAIL, Vocoder
from antiphon.codec.hift.window_stream import WindowStream, vocode_mels, vocode_windows
from antiphon.codec.layers.packed import has_onednn
from antiphon.codec.noise import MEL, normal_rows
from antiphon.codec.voices import Voice
from antiphon.config import StreamSchedule
from antiphon.device.cuda_graph import Capture
from antiphon.device.current import current_device
from antiphon.device.place import exact_float32, sum_in_float32
from antiphon.device.transfer import from_device
from antiphon.errors import InvalidRequest
from antiphon.kernels.registry import cpp_available
from antiphon.kernels.threads import openmp_threads
from antiphon.process.forking import num_threads_of_quota
from antiphon.process.ownership import OfOneProcess, check_process
from antiphon.sound.arrays import AudioArray, float_array, integer, to_numpy

__all__ = ["SMALL_FLOW", "Decoder"]

SMALL_FLOW = 16_000_000
"""A flow of up to this number of parameters gains little from a second core (the packaged one, with 4.7
million, a tenth): with one for each utterance, two at a time take 0.55 of the time that they take in turn."""


@dataclass(frozen=True, eq=False)
class Decoder(OfOneProcess):
    """Flow and vocoder on their device. Keeps nothing between calls: any number of streams may share it."""

    params: CodecParams
    flow: Flow
    hift: Hift
    device: torch.device
    num_threads: int | None = None
    """How many threads an utterance is computed by; None: those of the caller. What torch computes of it may
    depend on that, in the last bits."""
    vocoder: Vocoder | None = None
    """What computes a batch at once, on a GPU; None: `hift`, row by row where rows differ."""
    ladder: Ladder | None = None
    """The sizes that batches of streams have on a GPU; None: any."""
    pid: int = field(default_factory=os.getpid)
    """The process that made it."""

    @classmethod
    def of_networks(
        cls,
        params: CodecParams,
        flow: FlowModel,
        hift: Hift,
        device: torch.device,
        dtype: torch.dtype,
        capture: Capture | None,
        max_batch_frames: int = 0,
        exported: Exported | None = None,
    ) -> Decoder:
        """Takes loaded networks on `device`. dtype: that of their products; `hift` is set to it in place, so
        it serves only one decoder. capture, exported: see `FlowMatching`. max_batch_frames: of streams, on
        a GPU."""
        hift.f0_predictor.double()  # see `Hift.f0`
        is_small = sum(each.numel() for each in flow.parameters()) <= SMALL_FLOW
        is_alone = is_small and device.type == "cpu"
        sum_in_float32(device)
        # Small weights are packed by one thread, see `antiphon.process.load_threads`.
        with current_device(device), exact_float32(device), openmp_threads(1 if is_alone else None):
            matching = Flow(flow, params.flow, device, dtype, capture, is_alone=is_alone, exported=exported)
            if device.type == "cpu" and dtype == torch.float32 and cpp_available():
                hift.use(OneCallTrunk(hift, is_alone=is_alone))
            elif device.type != "cuda" and (dtype != torch.float32 or has_onednn(device, dtype)):
                hift.use(PackedTrunk(hift, dtype))
        made = cls(params, matching, hift, device, 1 if is_alone else None)
        if device.type == "cuda":
            return made.batched(dtype, capture, StreamSchedule(), max_batch_frames)
        return made

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Within the context, the networks compute as they should on their device."""
        count = self.num_threads
        if count is None and self.device.type == "cpu":
            count = num_threads_of_quota()
        with current_device(self.device), exact_float32(self.device), openmp_threads(count):
            yield

    def check_process(self) -> None:
        """Raises EngineDead in a forked child of the process that made it."""
        check_process("codec", self.pid)

    def batched(
        self,
        dtype: torch.dtype,
        capture: Capture | None,
        schedule: StreamSchedule,
        max_batch_frames: int,
    ) -> Decoder:
        """The same networks as a GPU computes them: each batch of a vocoder's as a whole, and batches of
        streams of this schedule, the usual one, in a few sizes, which `capture` records."""
        sizes = flow_ladder(self.params.flow, schedule, max_batch_frames)
        windows = vocoder_ladder(self.params.flow, schedule, max_batch_frames, MEL_TAIL)
        self.flow.matching.use(sizes)
        vocoder = Vocoder(self.hift, dtype, capture, windows)
        return replace(self, vocoder=vocoder, ladder=sizes)

    @torch.inference_mode()
    def record(self) -> Iterator[tuple[int, int]]:
        """Records every size of the ladders, on the caller's stream, and yields how many of how many are
        done. From then on nothing is recorded: other sizes run kernel by kernel."""
        if self.vocoder is None or self.ladder is None or not self.vocoder.is_recorded:
            return
        windows = [] if self.vocoder.ladder is None else self.vocoder.ladder.sizes
        done, total = 0, len(self.ladder.sizes) + len(windows)
        for rows, frames in self.ladder.sizes:
            with self.computing():
                z = torch.zeros(rows, MEL_BANDS, frames, device=self.device)
                self.flow.matching.integrate(z, z, z[:, :, 0], z, None)
            yield (done := done + 1), total
        for rows, frames in windows:
            with self.computing():
                self.vocoder.windows(rows, frames)
            yield (done := done + 1), total
        self.flow.matching.close()
        self.vocoder.close()

    def chunks(self, streams: Sequence[FlowStream]) -> list[FlowInput]:
        """The input of the next chunk of each stream."""
        if self.vocoder is not None and streams:
            return chunks_on_device(streams, self.device)
        return [stream.chunk(self.device) for stream in streams]

    def hift_stream(self, seed: int) -> HiftStream | WindowStream:
        """The vocoder's part of a stream."""
        return HiftStream(self.hift, seed) if self.vocoder is None else WindowStream(self.vocoder, seed)

    def vocode_streams(self, streams: Sequence[HiftStream | WindowStream]) -> list[AudioArray]:
        """The samples float32 (n_i,), n_i >= 0, that each stream can make now; all as one batch."""
        if self.vocoder is not None:
            return vocode_windows(self.vocoder, [each for each in streams if isinstance(each, WindowStream)])
        own = [each for each in streams if isinstance(each, HiftStream)]
        return [to_numpy(wave) for wave in vocode_streams(self.hift, own)]

    def tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def unit_array(self, name: str, units: Any) -> Any:
        """int64 (n,), n > 0. Raises InvalidRequest, naming the argument, for anything but units."""
        return unit_array(name, units, self.params.flow.vocab_size)

    def flow_input(
        self,
        units: Any,
        voice: Voice,
        *,
        seed: int = 0,
        noise: Any = None,
        prompt_units: Any = None,
        prompt_mel: Any = None,
    ) -> FlowInput:
        """The checked input of `flow` for a whole utterance; arguments and errors as in `Codec.mel`."""
        if (prompt_units is None) != (prompt_mel is None):
            raise InvalidRequest("prompt: expected both prompt_units and prompt_mel, or neither")
        own = self.unit_array("units", units)
        said, sounded = voice.prompt_units, voice.prompt_mel
        if prompt_units is not None:
            said = self.tensor(self.unit_array("prompt_units", prompt_units))
            mel = float_array("prompt_mel", bands_first("prompt_mel", prompt_mel), (MEL_BANDS, None))
            sounded = self.tensor(mel)
        prompt_frames = 0 if sounded is None else sounded.shape[1]
        frames = self.params.flow.mel_frames(len(own))
        if noise is None:
            # Frame 0 is the first frame of the units; a prompt lies before it.
            rows = normal_rows(integer("seed", seed), MEL, -prompt_frames, prompt_frames + frames, MEL_BANDS)
            noise = rows.T
        return FlowInput(
            units=self.tensor(own),
            embedding=voice.embedding,
            noise=self.tensor(float_array("noise", noise, (MEL_BANDS, prompt_frames + frames))),
            prompt_units=said,
            prompt_mel=sounded,
        )

    def mels(self, rows: Sequence[FlowInput]) -> list[Tensor]:
        """The mel (80, frames_i) of each utterance, as one batch."""
        with self.computing():
            return self.flow.generate(rows)

    @torch.inference_mode()
    def vocode(
        self, mels: Sequence[Tensor], seeds: Sequence[int], sources: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Samples (256 * frames_i,) of each mel (80, frames_i), as one batch.

        sources: (256 * frames_i,) each, instead of those made from pitch and seed.
        """
        if self.vocoder is not None:
            with self.computing():
                return vocode_mels(self.vocoder, mels, seeds, sources)
        with self.computing():
            speech: list[Tensor] = self.hift(mels, self._sources(mels, seeds) if sources is None else sources)
        return speech

    def decode(
        self, rows: Sequence[FlowInput], seeds: Sequence[int], max_batch_frames: int
    ) -> list[AudioArray]:
        """Samples float32 (n_i,) of each utterance, in batches planned by `plan_batches`."""
        speech: dict[int, AudioArray] = {}
        for batch in plan_batches([row.noise.shape[1] for row in rows], max_batch_frames):
            waves = self.vocode(self.mels([rows[i] for i in batch]), [seeds[i] for i in batch])
            speech.update(zip(batch, self._fetched(waves), strict=True))
        return [speech[i] for i in range(len(rows))]

    def _fetched(self, waves: Sequence[Tensor]) -> list[AudioArray]:
        """From a GPU in one copy."""
        if self.vocoder is None:
            return [to_numpy(wave) for wave in waves]
        ends = np.cumsum([len(wave) for wave in waves])[:-1]
        return [wave.copy() for wave in np.split(from_device(torch.cat(list(waves))), ends)]

    def _sources(self, mels: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
        params = self.params.hift
        sources = []
        for f0, seed in zip(self.hift.f0(mels), seeds, strict=True):
            draws = draw(params, seed, 0, f0.shape[0], self.device)
            sources.append(self.hift.mix(harmonics(f0, draws, params)[0]))
        return sources
