"""`antiphon bench turns`: how many turns are cut in the middle, and how late the others end."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, cast, get_args

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from antiphon.bench.options import JsonFile, check_output, record_of, write_record
from antiphon.bench.serving.questions import WORKLOAD
from antiphon.device.machine import cpu_name
from antiphon.engine.engine import Engine
from antiphon.errors import AntiphonError
from antiphon.sound.arrays import AudioArray
from antiphon.sound.reading import read_audio
from antiphon.turns.activity import ActivityKind, voice_activity
from antiphon.turns.detector import TurnDetector
from antiphon.turns.events import SpeechEnded, SpeechPaused, TurnEvent
from antiphon.turns.settings import Eagerness, TurnDetection, TurnKind
from antiphon.types import Request, TranscriptUpdate, Units

__all__ = ["Mixed", "TurnsRun", "bench_turns", "mixed_recordings", "run", "turn_ends"]

GAPS_S = {
    "00.flac": (0.6, 0.864, 1.135),
    "01.flac": (0.275, 0.55, 0.95, 1.08),
    "02.flac": (0.242, 0.91, 1.149, 1.42),
    "03.flac": (0.25, 0.89),
    "04.flac": (0.565, 0.92, 1.19, 1.616),
    "05.flac": (0.421,),
    "06.flac": (0.541, 0.675, 0.894),
    "07.flac": (0.45, 0.507, 0.665),
    "08.flac": (0.48, 0.898, 1.003, 1.658, 1.95),
    "09.flac": (0.498, 0.97, 1.306, 1.44, 1.67),
}
"""Where one word ends and the next begins in the workload's recordings: quiet spots at which the model reads
whole words before it."""
PAUSES_MS = (200.0, 900.0)
SNRS_DB = (None, None, 20.0, 15.0, 10.0)
"""Of the noise behind a recording. None: room tone, 60 dB below."""
ROOM_TONE_DB = 60.0
LEAD_S = (0.5, 1.5)
TAIL_S = 10.0
FADE_S = 0.01
PIECE_S = 0.02
ENVELOPE_S = 0.03
FAINTEST_DB = 35.0
"""The last word ends where the sound is this much below the loudest."""


@dataclass(frozen=True)
class Mixed:
    """A recorded question with a pause inside."""

    samples: AudioArray
    rate_hz: int
    speech_end: int
    """In samples: where its last word ends."""
    pause_ms: float
    snr_db: float | None
    name: str


@dataclass(frozen=True)
class TurnsRun:
    """What one way to detect turns made of all recordings."""

    kind: str
    activity: str
    eagerness: str
    num_recordings: int
    num_cut: int
    """A turn ended before the last word did."""
    num_missed: int
    """No turn began, or none ended within 10 s."""
    median_delay_ms: float
    """From the end of the last word to the end of the turn, of those that are neither cut nor missed, in
    audio time, as if computing took none."""
    p95_delay_ms: float


def mixed_recordings(count: int, seed: int) -> Iterator[Mixed]:
    """Recordings with pauses, which the seed decides."""
    rng = np.random.default_rng(seed)
    sounds = {name: read_audio((WORKLOAD / name).read_bytes()) for name in GAPS_S}
    for number in range(count):
        name = list(GAPS_S)[number % len(GAPS_S)]
        yield _mix(name, *sounds[name], rng)


def _mix(name: str, speech: AudioArray, rate_hz: int, rng: np.random.Generator) -> Mixed:
    cut = round(float(rng.choice(GAPS_S[name])) * rate_hz)
    pause_ms = float(rng.uniform(*PAUSES_MS))
    snr_db = SNRS_DB[int(rng.integers(len(SNRS_DB)))]
    lead, pause, tail = (
        np.zeros(round(seconds * rate_hz)) for seconds in (rng.uniform(*LEAD_S), pause_ms / 1000, TAIL_S)
    )
    fade = np.linspace(0, 1, round(FADE_S * rate_hz))
    first, second = speech[:cut].astype(np.float64), speech[cut:].astype(np.float64)
    first[-len(fade) :] *= fade[::-1]
    second[: len(fade)] *= fade
    clean = np.concatenate([lead, first, pause, second, tail])
    level = float(speech.std()) * 10 ** (-(ROOM_TONE_DB if snr_db is None else snr_db) / 20)
    noise = _noise(len(clean), float(rng.choice([0.0, 0.5, 1.0])), rng) * level
    end = len(lead) + len(pause) + _speech_end(speech, rate_hz)
    return Mixed((clean + noise).astype(np.float32), rate_hz, end, pause_ms, snr_db, name)


def _noise(num: int, slope: float, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of standard deviation 1: white (0), pink (0.5) or brown (1)."""
    spectrum = np.fft.rfft(rng.normal(size=num))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** slope
    noise = np.fft.irfft(spectrum, num)
    return np.asarray(noise / noise.std(), np.float64)


def _speech_end(speech: AudioArray, rate_hz: int) -> int:
    size = round(ENVELOPE_S * rate_hz)
    power = np.convolve(speech.astype(np.float64) ** 2, np.ones(size) / size, "same")
    return int(np.nonzero(power > power.max() * 10 ** (-FAINTEST_DB / 10))[0][-1])


class _Reader:
    """What the model reads of one turn, as its audio comes in, and at each pause all of it."""

    def __init__(self, engine: Engine, recording: Mixed, begin: int) -> None:
        assert engine.codec is not None
        self._engine = engine
        self._recording = recording
        self._end = begin
        self._listener = engine.codec.listen(recording.rate_hz)
        self._id = engine.open_request(Request([Units([])]))

    def read(self, end: int, has_paused: bool) -> TranscriptUpdate | None:
        """What has changed in the transcript of the audio up to `end`; None: nothing."""
        units = self._listener.push(self._recording.samples[self._end : end])
        self._end = end
        if has_paused:
            units = self._listener.peek()
        if not units:
            return None
        self._engine.update_speech(self._id, units)
        update = None
        while self._engine.has_unfinished():
            for event in self._engine.step():
                if isinstance(event, TranscriptUpdate):
                    update = replace(event, num_units=self._listener.sound_units(event.num_units))
        return update

    def close(self) -> None:
        self._engine.abort(self._id)
        while self._engine.has_unfinished():
            self._engine.step()


def turn_ends(recording: Mixed, detector: TurnDetector, engine: Engine | None) -> list[int]:
    """At how many samples of the audio each turn ended, up to the first that ends after the last word.

    engine: what reads the transcripts that the detector is told, if it is of the kind "semantic_vad".
    """
    piece = round(PIECE_S * recording.rate_hz)
    reader: _Reader | None = None
    ends: list[int] = []
    for begin in range(0, len(recording.samples), piece):
        samples = recording.samples[begin : begin + piece]
        now = begin + len(samples)
        events: list[TurnEvent] = detector.push(samples)
        if engine is not None and detector.started_at is not None:
            reader = reader or _Reader(engine, recording, detector.started_at)
            has_paused = any(isinstance(event, SpeechPaused) for event in events)
            update = reader.read(now, has_paused)
            if update is not None:
                events += detector.heard(update.text, update.num_trailing_blanks, update.num_units)
        if reader is not None and detector.started_at is None:
            reader.close()
            reader = None
        ends += [now for event in events if isinstance(event, SpeechEnded)]
        if ends and ends[-1] >= recording.speech_end:
            break
    if reader is not None:
        reader.close()
    return ends


def bench_turns(
    recordings: Sequence[Mixed], settings: TurnDetection, activity: ActivityKind, engine: Engine | None
) -> TurnsRun:
    """engine: what reads the transcripts, for "semantic_vad"."""
    cut, missed, delays = 0, 0, []
    for recording in track(recordings, settings.kind, transient=True):
        detector = TurnDetector(settings, voice_activity(activity), recording.rate_hz)
        ends = turn_ends(recording, detector, engine)
        if not ends or ends[-1] < recording.speech_end:
            missed += 1
        elif len(ends) > 1:
            cut += 1
        else:
            delays.append(1000 * (ends[0] - recording.speech_end) / recording.rate_hz)
    ordered = sorted(delays) or [float("nan")]
    return TurnsRun(
        kind=settings.kind,
        activity=activity,
        eagerness=settings.eagerness if settings.kind == "semantic_vad" else "",
        num_recordings=len(recordings),
        num_cut=cut,
        num_missed=missed,
        median_delay_ms=statistics.median(ordered),
        p95_delay_ms=ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))],
    )


def run(
    kind: Annotated[str, typer.Option(help="server_vad, semantic_vad, or both.")] = "both",
    activity: Annotated[str, typer.Option(help="auto, silero (the extra talk) or energy.")] = "auto",
    eagerness: Annotated[str, typer.Option(help="Of semantic_vad: auto, low, medium or high.")] = "auto",
    silence_ms: Annotated[int, typer.Option(min=0, help="The silence that ends a turn of server_vad.")] = 500,
    recordings: Annotated[int, typer.Option(min=1, help="Questions with a pause inside.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Decides where and how long the pauses are.")] = 0,
    model: Annotated[Path | None, typer.Option(help="That reads the transcripts; the packaged one.")] = None,
    codec: Annotated[Path | None, typer.Option(help="The packaged one if not given.")] = None,
    json_out: JsonFile = None,
) -> None:
    """Share of turns cut in the middle, and delay after the last word: recorded questions with a pause of 200
    to 900 ms inside, some of them under noise of 10 to 20 dB."""
    check_output(json_out, "--json")
    _check_choice("--kind", kind, (*get_args(TurnKind), "both"))
    _check_choice("--activity", activity, get_args(ActivityKind))
    _check_choice("--eagerness", eagerness, get_args(Eagerness))
    kinds = get_args(TurnKind) if kind == "both" else [kind]
    runs = []
    with ExitStack() as stack:
        try:
            ways = [
                TurnDetection(
                    cast(TurnKind, name), silence_duration_ms=silence_ms, eagerness=cast(Eagerness, eagerness)
                )
                for name in kinds
            ]
            voice_activity(cast(ActivityKind, activity))
            made = list(mixed_recordings(recordings, seed))
            for settings in ways:
                engine = None
                if settings.kind == "semantic_vad":
                    engine = stack.enter_context(Engine(model, codec=codec, max_num_seqs=1))
                runs.append(bench_turns(made, settings, cast(ActivityKind, activity), engine))
        except AntiphonError as error:
            raise typer.BadParameter(str(error)) from error
    title = f"{recordings} questions with a pause, seed {seed}, activity {activity}, {cpu_name()}"
    Console().print(_table(title, runs))
    if json_out is not None:
        command = (
            f"antiphon bench turns --kind {kind} --activity {activity} --eagerness {eagerness} "
            f"--silence-ms {silence_ms} --recordings {recordings} --seed {seed}"
        )
        write_record(json_out, record_of(title, command, runs=[asdict(run) for run in runs]))


def _check_choice(hint: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise typer.BadParameter(f"expected one of {', '.join(choices)}, got {value!r}", param_hint=hint)


def _table(title: str, runs: Sequence[TurnsRun]) -> Table:
    caption = "cut: the turn ended before its last word did; delay: from the last word to the end of the turn"
    table = Table(title=title, caption=caption, padding=(0, 1))
    for name in ("detection", "cut", "missed", "delay, median", "delay, p95"):
        table.add_column(name, justify="right")
    for found in runs:
        table.add_row(
            f"{found.kind} {found.eagerness}".strip(),
            f"{100 * found.num_cut / found.num_recordings:.0f} %",
            str(found.num_missed),
            f"{found.median_delay_ms:.0f} ms",
            f"{found.p95_delay_ms:.0f} ms",
        )
    return table
