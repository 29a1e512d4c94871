"""A model that is a hash, and a request's answer by the algorithm alone, with neither scheduler nor cache.

A position's "keys and values" are one number, a hash of everything that the real ones depend on, so a single
wrong one changes every id that follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from antiphon.config import ModelConfig
from antiphon.prompt import IMAGE_ID, MergePlan, PreparedImage, Prompt
from antiphon.types import SamplingParams

EOT, BLANK, END_OF_TEXT = 40, 41, 42
STOPS = frozenset({EOT, END_OF_TEXT})
FIRST_UNIT, NUM_UNITS = 50, 12
LAG, WINDOW = 3, 5
OPENING = (1, 2, 3, 4)
SPEAKING_IDS = (*OPENING, 7, 8)


def mix(*parts: object) -> int:
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=6).digest(), "little")


def pick_text(state: int) -> int:
    """Mostly one of 40 words; sometimes a stop id, or the blank."""
    kind = mix("text", state) % 60
    return (EOT, EOT, END_OF_TEXT, BLANK)[kind] if kind < 4 else mix("word", state) % 40


def pick_unit(state: int) -> int:
    kind = mix("unit", state) % 40
    return (EOT, END_OF_TEXT)[kind] if kind < 2 else FIRST_UNIT + mix("which", state) % NUM_UNITS


def read_label(state: int) -> int:
    """Few labels, so that blanks, repeats and repeats across blanks are all frequent."""
    return BLANK if mix("label", state) % 2 else mix("spelt", state) % 3


@dataclass(frozen=True)
class Mind:
    """What the model says: an id or a label, given the state of the position it is read from."""

    text: Callable[[int], int] = pick_text
    unit: Callable[[int], int] = pick_unit
    label: Callable[[int], int] = read_label


STEADY = Mind(text=lambda _: 10, unit=lambda _: FIRST_UNIT, label=lambda _: BLANK)
"""Says one word and one unit for ever; what it reads back is blank, so speech never asks for more."""


def carries_speech(token: int) -> bool:
    return token % 3 != 0 or token == EOT


MODEL = ModelConfig(
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=2,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    rope_scaling=None,
    max_position_embeddings=1000,
    text_vocab_size=43,
    vocab_size=62,
    audio_vocab_size=NUM_UNITS,
    num_bottom_audio_layers=1,
    num_top_audio_layers=1,
    vision=None,
    blank_token_id=BLANK,
    eot_token_id=EOT,
    stop_token_ids=STOPS,
    first_unit_id=FIRST_UNIT,
    fusion_window=WINDOW,
    fusion_lag=LAG,
)


def picture(name: str, side: int = 2) -> PreparedImage:
    """A picture of side * side positions."""
    digest = blake2b(name.encode(), digest_size=32).digest()
    return PreparedImage(np.zeros((1, 2, 2, 3), np.uint8), MergePlan(1, side), digest)


def make_prompt(
    ids: Sequence[int] = (),
    units: Sequence[int] = (),
    pictures: Sequence[PreparedImage] = (),
    *,
    speaks: bool,
) -> Prompt:
    """Opening, pictures each followed by an id, ids, units (0-based), closing."""
    marks = [i for _ in pictures for i in (IMAGE_ID, 5)]
    whole = (*OPENING, *marks, *ids, *(FIRST_UNIT + u for u in units), 6)
    spoken = [i for i in whole if i != IMAGE_ID]
    return Prompt(
        ids=whole,
        images=tuple(pictures),
        unit_positions=tuple(p for p, i in enumerate(spoken) if i >= FIRST_UNIT),
        num_last_units=len(units),
        speaking_ids=SPEAKING_IDS if speaks and not units else None,
    )


def ids(num_positions: int, first: int = 20) -> list[int]:
    """The ids that make a text prompt of `num_positions`, including opening and closing."""
    return [first] * (num_positions - 5)


# --- what a request gets, by the algorithm ----------------------------------------------------------


@dataclass
class Answer:
    text_ids: list[int] = field(default_factory=list)
    fusion_ids: list[int] = field(default_factory=list)
    visible: list[int] = field(default_factory=list)
    unit_ids: list[int] = field(default_factory=list)
    prompt_labels: list[int] = field(default_factory=list)
    finish_reason: str = "stop"


def extend(states: list[int], tag: str, *inputs: object) -> int:
    """One more position, which depends on all before it."""
    states.append(mix(tag, hash(tuple(states)), *inputs))
    return states[-1]


def text_inputs(prompt: Prompt, heard: list[int] | None) -> list[object]:
    """What the LLM reads at each position of the prompt; `heard` is the bottom layers' output."""
    inputs: list[object] = []
    images, spoken = iter(prompt.images), 0
    for token in prompt.ids:
        if token == IMAGE_ID:
            image = next(images)
            inputs += [("picture", image.digest, i) for i in range(image.num_positions)]
        else:
            inputs.append(("plain", token) if heard is None else ("soft", heard[spoken]))
            spoken += 1
    return inputs


def alone(prompt: Prompt, params: SamplingParams, *, speaks: bool, mind: Mind) -> Answer:
    """One request, start to end (Stream-Omni, arXiv 2506.13642, 3.3, with the released code's details)."""
    answer = Answer()
    bottom: list[int] = []
    speech_ids = prompt.speech_ids if prompt.has_speech else (prompt.speaking_ids or ())
    for token in speech_ids:
        extend(bottom, "bottom", token)
    answer.prompt_labels = [mind.label(bottom[p]) for p in prompt.unit_positions]
    thought: list[int] = []
    for given in text_inputs(prompt, bottom if prompt.has_speech else None):
        extend(thought, "text", given)

    def think() -> int:
        if answer.text_ids:
            extend(thought, "text", ("plain", answer.text_ids[-1]))
        answer.text_ids.append(mind.text(thought[-1]))
        return answer.text_ids[-1]

    if not speaks:
        while True:
            if think() in STOPS and not params.ignore_eos:
                return answer
            if len(answer.text_ids) == params.max_tokens:
                answer.finish_reason = "length"
                return answer

    ended, last_label = False, BLANK
    limit = math.inf if params.max_tokens is None else params.max_tokens

    def think_until(num_entries: int) -> None:
        nonlocal ended
        while not ended and len(answer.fusion_ids) < num_entries and len(answer.text_ids) < limit:
            token = think()
            if carries_speech(token):
                answer.fusion_ids.append(token)
            ended = token == EOT

    top: list[int] = []
    for state in bottom[:-1]:
        extend(top, "top", state, [])
    think_until(LAG)
    while True:
        answer.visible.append(len(answer.fusion_ids))
        window = list(enumerate(answer.fusion_ids))[-WINDOW:]
        unit = mind.unit(extend(top, "top", bottom[-1], window))
        answer.unit_ids.append(unit)
        if unit in STOPS and not params.ignore_eos:
            return answer
        if len(answer.unit_ids) == params.max_units:
            answer.finish_reason = "length"
            return answer
        label = mind.label(extend(bottom, "bottom", unit))
        if label not in (BLANK, last_label):
            last_label = label
            said = answer.fusion_ids
            if prompt.has_speech or not said or said[-1] not in (EOT, BLANK):
                think_until(max(len(said) + 1, LAG))
