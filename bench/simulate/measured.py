"""Times as they were measured on a machine: tables, and straight lines between their rows."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from antiphon.bench.simulate.costs import MODEL, PREPARE, SPEECH, Served, Wake, Work
from antiphon.codec.batches import Ladder
from antiphon.config import CacheConfig, EngineConfig, ModelConfig, StreamSchedule
from antiphon.files.reading import read_bounded

__all__ = ["Curve", "MeasuredCosts", "kind_of", "read_costs"]

MAX_BYTES = 2**24
RATE_DIGITS = 4
KEPT_MODEL = (
    "num_hidden_layers",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "text_vocab_size",
    "vocab_size",
    "audio_vocab_size",
    "num_bottom_audio_layers",
    "num_top_audio_layers",
    "first_unit_id",
    "fusion_lag",
)
"""What a scheduler's simulation has to know of a model."""
KEPT_SETTINGS = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_num_waiting",
    "block_size",
    "text_lookahead",
    "enable_prefix_caching",
    "max_model_len",
)


@dataclass(frozen=True)
class Curve:
    """Seconds over a size, by points with straight lines between them; beyond the last, on as between the
    last two. context_s: for each position that is attended to, on top."""

    sizes: tuple[float, ...]
    seconds: tuple[float, ...]
    context_s: float = 0.0

    def at(self, size: float, context: float = 0.0) -> float:
        if len(self.sizes) == 1:
            return self.seconds[0] + self.context_s * context
        after = min(max(1, bisect_right(self.sizes, size)), len(self.sizes) - 1)
        low, high = self.sizes[after - 1], self.sizes[after]
        first, last = self.seconds[after - 1], self.seconds[after]
        slope = (last - first) / (high - low)
        return max(0.0, first + slope * (max(size, self.sizes[0]) - low)) + self.context_s * context


def kind_of(work: Work) -> str:
    """Which curve times a pass: one position of each request, or prompts among them."""
    return f"{work.stack} {'decode' if work.is_decode else 'prompts'}"


@dataclass(frozen=True)
class MeasuredCosts:
    """Times of one machine, as `bench/simulate/calibrate.py` measures them."""

    served: Served
    passes: Mapping[str, Curve]
    """By `kind_of`; sizes are positions"""
    step: Curve
    """Beside the passes, by requests"""
    speech: Curve
    """One batch of chunks; sizes are mel frames in all, those of contexts included"""
    prepare: tuple[float, float, float]
    """Reading a request: for itself, for each second of its speech, for each picture"""
    intake: float
    wake: Mapping[str, Wake]
    """By the kind of work"""
    tile: float
    """The vision tower, for each tile"""
    slowed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    """What work counted for from moment to moment, see `rates_of`; none: always the same"""
    machine: str = ""
    """Where it was measured"""

    def pass_s(self, work: Work) -> float:
        curve = self.passes.get(kind_of(work)) or self.passes[f"{work.stack} prompts"]
        return curve.at(work.tokens, work.context) + work.picture_tiles * self.tile

    def step_s(self, rows: int) -> float:
        return self.step.at(rows)

    def speech_s(self, frames: Sequence[int], final_frames: Sequence[int]) -> float:
        return self.speech.at(sum(frames))

    def prepare_s(self, speech_s: float, num_pictures: int) -> float:
        alone, per_s, per_picture = self.prepare
        return alone + per_s * speech_s + per_picture * num_pictures

    def intake_s(self) -> float:
        return self.intake

    def wake_s(self, kind: str, pause_s: float) -> float:
        return self.wake[kind].after(pause_s)

    # --- as a file -----------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `read_costs`."""
        served = self.served
        return {
            "machine": self.machine,
            "served": {
                "name": served.name,
                "model": {name: getattr(served.model, name) for name in KEPT_MODEL},
                "cache": asdict(served.cache),
                "settings": {name: getattr(served.settings, name) for name in KEPT_SETTINGS},
                "stream_schedule": asdict(served.settings.stream_schedule),
                "max_batch_frames": served.max_batch_frames,
                "ladder": None if served.ladder is None else asdict(served.ladder),
                "num_speech_threads": served.num_speech_threads,
                "num_prompt_ids": served.num_prompt_ids,
                "picture_side": served.picture_side,
                "picture_tiles": served.picture_tiles,
            },
            "passes": {name: asdict(curve) for name, curve in self.passes.items()},
            "step": asdict(self.step),
            "speech": asdict(self.speech),
            "prepare": list(self.prepare),
            "intake": self.intake,
            "wake": {kind: asdict(wake) for kind, wake in self.wake.items()},
            "tile": self.tile,
            "slowed": {kind: dict(by) for kind, by in self.slowed.items()},
            "rates": [round(rate, RATE_DIGITS) for rate in self.rates],
        }


def read_costs(path: Path) -> MeasuredCosts:
    """Raises OSError, and ValueError for what `--calibrate` has not written."""
    try:
        row = json.loads(read_bounded(path, MAX_BYTES))
        served = row["served"]
        ladder = served["ladder"]
        return MeasuredCosts(
            served=Served(
                name=str(served["name"]),
                model=_model(served["model"]),
                cache=CacheConfig(**served["cache"]),
                settings=EngineConfig(
                    **served["settings"], stream_schedule=StreamSchedule(**served["stream_schedule"])
                ),
                max_batch_frames=int(served["max_batch_frames"]),
                ladder=None if ladder is None else Ladder(tuple(ladder["rows"]), tuple(ladder["frames"])),
                num_speech_threads=int(served["num_speech_threads"]),
                num_prompt_ids=int(served["num_prompt_ids"]),
                picture_side=int(served["picture_side"]),
                picture_tiles=int(served["picture_tiles"]),
            ),
            passes={name: _curve(curve) for name, curve in row["passes"].items()},
            step=_curve(row["step"]),
            speech=_curve(row["speech"]),
            prepare=(float(row["prepare"][0]), float(row["prepare"][1]), float(row["prepare"][2])),
            intake=float(row["intake"]),
            wake={kind: _wake(row["wake"][kind]) for kind in (MODEL, SPEECH, PREPARE)},
            tile=float(row["tile"]),
            slowed={kind: {k: float(v) for k, v in by.items()} for kind, by in row["slowed"].items()},
            rates=_rates(row["rates"]),
            machine=str(row["machine"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError("expected a file that --calibrate has written") from error


def _curve(row: Mapping[str, Any]) -> Curve:
    sizes, seconds = tuple(map(float, row["sizes"])), tuple(map(float, row["seconds"]))
    if not sizes or len(sizes) != len(seconds) or list(sizes) != sorted(set(sizes)):
        raise ValueError("a curve's sizes rise, and each has its seconds")
    return Curve(sizes, seconds, float(row["context_s"]))


def _wake(row: Mapping[str, float]) -> Wake:
    wake = Wake(float(row["alone_s"]), float(row["per_s"]))
    if not (0 <= wake.alone_s < float("inf") and 0 <= wake.per_s < float("inf")):
        raise ValueError("waking up takes no negative time")
    return wake


def _rates(row: Sequence[float]) -> tuple[float, ...]:
    rates = tuple(map(float, row))
    if not all(0 < rate < float("inf") for rate in rates):
        raise ValueError("each moment has some work done in it")
    return rates


def _model(kept: Mapping[str, int]) -> ModelConfig:
    """With numbers that no scheduler asks for."""
    if set(kept) != set(KEPT_MODEL):
        raise ValueError("other fields of the model")
    unasked = {f.name: 0 for f in fields(ModelConfig)[:12] if f.name not in kept}
    return ModelConfig(
        **unasked | {"rope_scaling": None} | dict(kept),  # type: ignore[arg-type]
        vision=None,
        blank_token_id=kept["text_vocab_size"] - 1,
        eot_token_id=kept["text_vocab_size"] - 2,
        stop_token_ids=frozenset((kept["text_vocab_size"] - 2,)),
    )
