"""Who asks what, and when: traces in files, and days drawn from a curve."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from antiphon.files.reading import read_bounded
from antiphon.files.writing import write_whole

__all__ = ["DAY_CURVE", "Arrival", "busiest", "day", "read_trace", "write_trace"]

MAX_TRACE_BYTES = 2**32
MAX_S = 1e9
MAX_COUNT = 1e6
MAX_LENGTH_S = 3600.0
MAX_PICTURES = 64

DAY_CURVE = (
    4,
    2.5,
    1.8,
    1.4,
    1.4,
    2,
    3.5,
    6,
    8,
    9,
    9.5,
    10,
    10,
    9.5,
    9.5,
    9.5,
    10,
    11,
    12,
    13,
    13,
    11.5,
    9,
    6.5,
)
"""Requests at the beginning of each hour of a day, in any unit; straight lines between. Quiet at night, and
busiest in the evening: nobody's figures, but the shape of most people's."""
DAY_S = 86400.0

# Of a day's requests.
MEAN_TURNS = 3.0
THINKING_S = 6.0
SPOKEN = 0.8
WITH_PICTURE = 0.05
SPEECH_S = (3.0, 0.5)
"""Median and spread (of the logarithm) of the speech of a question."""
REPLY_S = (6.0, 0.6)
TYPED_TOKENS = (15.0, 0.6)
TOKENS_PER_S = 3.5
"""Text tokens in a second of a reply's speech."""


@dataclass(frozen=True)
class Arrival:
    """One request."""

    at_s: float
    """When all of it is there: of a live one, when its user stops speaking."""
    reply_s: float
    """Speech that answers it."""
    reply_tokens: int
    speech_s: float = 0.0
    """Speech in it."""
    text_tokens: int = 0
    """Typed text in it."""
    pictures: tuple[str, ...] = ()
    """Names: equal names are equal pictures."""
    conversation: str = ""
    """Requests of one conversation read its earlier turns again; empty: it is alone."""
    prompt: str = ""
    """Requests of one name, in no conversation, have the same content; empty: nobody else has it."""
    realtime: bool = False
    """It is heard while it is spoken, as in the realtime protocol."""
    pause_s: float = 0.0
    """Of a live one: how long after its speech its turn is found to be over. A reply is begun before."""


def read_trace(path: Path) -> list[Arrival]:
    """The requests of a file of JSON lines, whose keys are the fields of `Arrival`, in order of time.

    `pictures` may also be a number of pictures that nobody else has. Raises OSError, and ValueError that
    names the line.
    """
    content = read_bounded(path, MAX_TRACE_BYTES)
    if len(content) > MAX_TRACE_BYTES:
        raise ValueError(f"expected at most {MAX_TRACE_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8, byte {error.start} is not") from error
    arrivals = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                arrivals.append(_arrival(line, number))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    if not arrivals:
        raise ValueError("expected a request in each line, found none")
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def write_trace(path: Path, arrivals: Iterable[Arrival]) -> None:
    """As `read_trace` reads them; fields that say nothing are left out."""
    usual = {field.name: field.default for field in fields(Arrival)}
    lines = [
        json.dumps({name: value for name, value in asdict(arrival).items() if value != usual[name]})
        for arrival in arrivals
    ]
    write_whole(path, "".join(line + "\n" for line in lines).encode())


def day(num_requests: int, seed: int = 0) -> list[Arrival]:
    """A day's requests, about so many: conversations that begin by `DAY_CURVE`, as a Poisson process whose
    rate follows it (by thinning: Lewis and Shedler 1979), each of a few turns, most of them spoken."""
    rng = random.Random(seed)
    # a conversation's later turns may come after midnight: they are those of the night before
    per_s = num_requests / MEAN_TURNS / DAY_S
    mean, most = sum(DAY_CURVE) / len(DAY_CURVE), max(DAY_CURVE)
    arrivals: list[Arrival] = []
    at_s, number = 0.0, 0
    while (at_s := at_s + rng.expovariate(per_s * most / mean)) < DAY_S:
        if rng.random() * most < _curve(at_s):
            arrivals += _conversation(rng, at_s, f"c{number}")
            number += 1
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def busiest(arrivals: Sequence[Arrival], length_s: float) -> list[Arrival]:
    """The requests of the window of this length that holds the most of them, from its beginning on."""
    best, first = (0, 0), 0
    for last, arrival in enumerate(arrivals):
        while arrival.at_s - arrivals[first].at_s > length_s:
            first += 1
        if last + 1 - first > best[1] - best[0]:
            best = (first, last + 1)
    chosen = arrivals[best[0] : best[1]]
    return [replace(arrival, at_s=arrival.at_s - chosen[0].at_s) for arrival in chosen]


def _curve(at_s: float) -> float:
    hour, part = divmod(at_s / DAY_S * len(DAY_CURVE), 1)
    before, after = DAY_CURVE[int(hour)], DAY_CURVE[(int(hour) + 1) % len(DAY_CURVE)]
    return before + (after - before) * part


def _conversation(rng: random.Random, at_s: float, name: str) -> list[Arrival]:
    turns: list[Arrival] = []
    while True:
        is_spoken = rng.random() < SPOKEN
        reply_s = _length(rng, REPLY_S, 0.5, 60.0)
        turns.append(
            Arrival(
                at_s=at_s % DAY_S,
                reply_s=reply_s,
                reply_tokens=max(1, round(reply_s * TOKENS_PER_S)),
                speech_s=_length(rng, SPEECH_S, 0.4, 30.0) if is_spoken else 0.0,
                text_tokens=0 if is_spoken else round(_length(rng, TYPED_TOKENS, 1.0, 500.0)),
                pictures=(f"{name}.{len(turns)}",) if rng.random() < WITH_PICTURE else (),
                conversation=name,
            )
        )
        if rng.random() < 1 / MEAN_TURNS:
            return turns
        at_s += reply_s + rng.expovariate(1 / THINKING_S)


def _length(rng: random.Random, median_and_spread: tuple[float, float], low: float, high: float) -> float:
    median, spread = median_and_spread
    return round(min(max(median * math.exp(rng.gauss(0, spread)), low), high), 2)


def _arrival(line: str, number: int) -> Arrival:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object, got {line.strip()[:80]!r}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {line.strip()[:80]!r}")
    known = {field.name for field in fields(Arrival)}
    if unknown := sorted(set(row) - known):
        raise ValueError(f"{unknown[0]!r:.80} is none of {', '.join(sorted(known))}")
    for name in ("at_s", "reply_s", "reply_tokens"):
        if name not in row:
            raise ValueError(f"{name}: expected a number, found none")
    realtime = row.get("realtime", False)
    if not isinstance(realtime, bool):
        raise ValueError(f"realtime: expected true or false, got {realtime!r:.80}")
    found = Arrival(
        at_s=_number("at_s", row["at_s"], MAX_S),
        reply_s=_number("reply_s", row["reply_s"], MAX_LENGTH_S),
        reply_tokens=_count("reply_tokens", row["reply_tokens"]),
        speech_s=_number("speech_s", row.get("speech_s", 0), MAX_LENGTH_S),
        text_tokens=_count("text_tokens", row.get("text_tokens", 0)),
        pictures=_pictures(row.get("pictures", 0), number),
        conversation=_name("conversation", row.get("conversation", "")),
        prompt=_name("prompt", row.get("prompt", "")),
        realtime=realtime,
        pause_s=_number("pause_s", row.get("pause_s", 0), MAX_LENGTH_S),
    )
    if not found.speech_s and not found.text_tokens:
        raise ValueError("speech_s, text_tokens: expected at least one above 0")
    if not found.reply_tokens:
        raise ValueError("reply_tokens: expected at least 1, got 0")
    if not found.reply_s:
        raise ValueError("reply_s: expected a number above 0, got 0")
    if realtime and not found.speech_s:
        raise ValueError("realtime: expected speech_s above 0 with it")
    if found.pause_s and not realtime:
        raise ValueError("pause_s: expected realtime with it")
    return found


def _number(name: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise ValueError(f"{name}: expected a number from 0 to {most:g}, got {value!r:.80}")
    return float(value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{name}: expected a whole number from 0 to {MAX_COUNT:g}, got {value!r:.80}")
    return value


def _name(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a string, got {value!r:.80}")
    return value


def _pictures(value: Any, number: int) -> tuple[str, ...]:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_PICTURES:
        return tuple(f"line {number}, {i}" for i in range(value))
    if (
        isinstance(value, list)
        and len(value) <= MAX_PICTURES
        and all(isinstance(each, str) for each in value)
    ):
        return tuple(value)
    raise ValueError(
        f"pictures: expected a number from 0 to {MAX_PICTURES} or a list of names, got {value!r:.80}"
    )
