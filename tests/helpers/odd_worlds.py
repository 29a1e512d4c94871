"""Checkpoints of odd shapes, what they are asked, and what the reference model answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from random_checkpoint import CheckpointShape, write_checkpoint
from random_tower import VisionShape
from reference_model import Answer, ReferenceModel

from antiphon import Completion, Engine, Image, Message, Request, SamplingParams, Units
from antiphon.types import Part

__all__ = ["SHAPES", "TEXT_LIMIT", "Ask", "World"]

SYSTEM = "Be brief."
LIMIT = 48
"""The limit on the units or the text of an answer."""
TEXT_LIMIT = 800
"""The limit on the text under speech: nothing reaches it in float32."""

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Wavelengths of theta 10000 start at 6.3: kept below 16, divided above 64, blended between.
    "original_max_position_embeddings": 64,
}

SHAPES = {
    "as many kv heads as heads": CheckpointShape(
        seed=10, kv_heads=4, stops=("eot_id",), config={"num_key_value_heads": None}
    ),
    "one kv head, head_dim 12, hidden 60": CheckpointShape(
        seed=2,
        hidden=60,
        heads=5,
        kv_heads=1,
        head_dim=12,
        intermediate=91,
        vision=VisionShape(),
        config={"rope_scaling": LLAMA3, "image_aspect_ratio": "pad", "mm_patch_merge_type": "flat"},
    ),
    "heads wider than hidden, one LLM layer": CheckpointShape(
        seed=6,
        hidden=50,
        heads=3,
        kv_heads=3,
        head_dim=40,
        llm_layers=1,
        top_layers=3,
        vision=VisionShape(image_size=30, patch=8),
        config={"image_aspect_ratio": "anyres"},
    ),
    "seven LLM layers, tower apart": CheckpointShape(
        seed=6,
        llm_layers=7,
        text_vocab=290,
        units=17,
        vision=VisionShape(layers=2, apart=True),
        config={"rope_scaling": LLAMA3, "image_aspect_ratio": "anyres_max_2"},
    ),
    "window 1, lag 1": CheckpointShape(
        seed=11,
        head_dim=6,
        vision=VisionShape(image_size=32, patch=8, heads=1),
        config={
            "fusion_window": 1,
            "fusion_lag": 1,
            "image_aspect_ratio": "anyres_max_2",
            "image_grid_pinpoints": [[32, 64], [64, 32], [96, 96], [32, 160]],
        },
    ),
    "window 7, lag 4": CheckpointShape(
        seed=4,
        intermediate=37,
        bottom_layers=3,
        top_layers=1,
        vision=VisionShape(),
        config={
            "fusion_window": 7,
            "fusion_lag": 4,
            "image_aspect_ratio": "anyres",
            "mm_patch_merge_type": "flat",
            "image_grid_pinpoints": "(1x2),...,(2x3)",
        },
    ),
    "text tables with the units": CheckpointShape(
        seed=7,
        text_rows=331 + 40,
        config={"rope_parameters": {"rope_theta": 500.0, **LLAMA3}, "rope_theta": None},
    ),
    "no text vocabulary of its own": CheckpointShape(
        seed=8, text_rows=331 + 40, config={"text_vocab_size": None}
    ),
    "speech tables above text tables with the units": CheckpointShape(
        seed=10,
        text_vocab=300,
        units=33,
        text_rows=333,
        speech_rows=366,
        config={"text_vocab_size": 333, "vocab_size": 366},
        num_files=3,
    ),
    "bfloat16 shards": CheckpointShape(
        seed=1,
        hidden=72,
        heads=2,
        kv_heads=1,
        bottom_layers=2,
        top_layers=5,
        dtype=torch.bfloat16,
        num_files=4,
        vision=VisionShape(apart=True),
        config={"image_aspect_ratio": "pad", "rope_scaling": LLAMA3},
    ),
}


@dataclass(frozen=True)
class Ask:
    """One request, in the words of the engine and in those of the reference."""

    name: str
    messages: tuple[tuple[str, tuple[Part, ...]], ...]
    speaks: bool

    @property
    def hears(self) -> bool:
        return any(isinstance(part, Units) for _, parts in self.messages for part in parts)

    def request(self) -> Request:
        return Request(
            messages=[Message(role, parts) for role, parts in self.messages],
            modalities=("text", "audio") if self.speaks else ("text",),
            system=SYSTEM,
            sampling_params=SamplingParams(max_tokens=TEXT_LIMIT if self.speaks else LIMIT, max_units=LIMIT),
        )

    def answer(self, model: ReferenceModel) -> Answer:
        written = [(role, "".join(map(_written, parts))) for role, parts in self.messages]
        pictures = [part.source for _, parts in self.messages for part in parts if isinstance(part, Image)]
        return model.answer(SYSTEM, written, pictures, speaks=self.speaks, limit=LIMIT)


def _written(part: Part) -> str:
    if isinstance(part, Units):
        return "".join(f"<Audio_{unit}>" for unit in part.units)
    return "<image>\n" if isinstance(part, Image) else str(part)


def asks(shape: CheckpointShape) -> list[Ask]:
    """All four modes, with pictures if the checkpoint takes them, and conversations."""
    rng = random.Random(shape.seed)

    def units() -> Units:
        return Units([rng.randrange(shape.units) for _ in range(rng.randint(3, 24))])

    def picture() -> Image:
        width, height = rng.randint(12, 140), rng.randint(12, 140)
        pixels = np.random.default_rng(rng.randrange(1000)).integers(0, 256, (height, width, 3), np.uint8)
        return Image(PilImage.fromarray(pixels))

    def one(name: str, speaks: bool, *parts: Part) -> Ask:
        return Ask(name, (("user", parts),), speaks)

    def turns(name: str, speaks: bool, first: tuple[Part, ...], *last: Part) -> Ask:
        return Ask(name, (("user", first), ("assistant", ("So it is.",)), ("user", last)), speaks)

    text = " What\nabout the other one, 猫 or cat? "
    found = [
        one("t2t", False, text),
        one("t2s", True, text),
        one("s2t", False, units()),
        one("s2s", True, units()),
        turns("t2s two turns", True, (text,), "And then?"),
        turns("s2s two turns", True, (units(),), "Hear: ", units()),
        turns("s2t speech first", False, (units(),), "What was that?"),
    ]
    if shape.vision is not None:
        found += [
            one("t2t picture", False, picture(), text),
            one("t2s two pictures", True, picture(), picture(), text),
            one("s2t two pictures", False, picture(), picture(), units()),
            one("s2s picture", True, picture(), units()),
            turns("s2s two turns with pictures", True, (picture(), units()), picture(), units()),
        ]
    return found


class World:
    """A checkpoint, what is asked of it, and what the reference says; made once for all tests."""

    def __init__(self, folder: Path, shape: CheckpointShape) -> None:
        self.shape = shape
        self.folder = write_checkpoint(folder, shape)
        self.asks = asks(shape)
        self.model = ReferenceModel(self.folder)
        self.answers = [ask.answer(self.model) for ask in self.asks]

    def engine(self, **settings: Any) -> Engine:
        return Engine(self.folder, device="cpu", progress=False, **settings)

    def small_engine(self) -> Engine:
        """Blocks for just the longest request, and every other setting at random."""
        rng = random.Random(self.shape.seed)
        shape, block_size = self.shape, rng.randint(1, 9)
        speech_layers = shape.bottom_layers + shape.top_layers
        most_layers = max(shape.llm_layers, speech_layers)

        def blocks(answer: Answer) -> int:
            text = -(-answer.num_text_positions // (block_size * most_layers // shape.llm_layers))
            return text - (-answer.num_speech_positions // (block_size * most_layers // speech_layers))

        head_dim = shape.head_dim or shape.hidden // shape.heads
        block_bytes = block_size * most_layers * 2 * shape.kv_heads * head_dim * 4
        return self.engine(
            block_size=block_size,
            kv_cache_bytes=(max(map(blocks, self.answers)) + 4) * block_bytes,
            max_num_batched_tokens=rng.choice([3, 29, 2048]),
            text_lookahead=rng.randint(0, 20),
            enable_prefix_caching=rng.random() < 0.5,
        )

    def differences(self, done: list[Completion], asks: list[Ask] | None = None) -> dict[str, list[str]]:
        """By name of the request, the fields in which its completion differs from the reference."""
        asks = self.asks if asks is None else asks
        found = {}
        for ask, completion in zip(asks, done, strict=True):
            answer = self.answers[self.asks.index(ask)]
            unit_ids = answer.output_ids if ask.speaks else []
            expected = {
                "transcript_ids": answer.asr_ids,
                "transcript": answer.asr_text,
                "text_ids": answer.llm_ids,
                "text": answer.text,
                "fusion_ids": answer.fusion_ids if ask.speaks else [],
                "unit_ids": unit_ids,
                "units": [i - self.model.units[0] for i in unit_ids if i in self.model.units],
                "finish_reason": "stop" if answer.stopped else "length",
            }
            wrong = [name for name, value in expected.items() if getattr(completion, name) != value]
            if wrong:
                found[ask.name] = wrong
        return found
