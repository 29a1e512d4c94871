"""Many clients, good and bad, for as long as one likes: `make soak` (an hour), `SOAK_S=120 make soak`.

64 connections ask a server in a process of its own for sums, each of which has its own answer. A third of
them leave in the middle, some read slowly, and others send what is malformed or too large. Nothing may be
lost or mixed up, and nothing may grow.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

from server_process import ServerProcess, chat, server_process

__all__ = ["Soak", "soak"]

NUM_CONNECTIONS = 64
PATH = "/v1/chat/completions"
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
]
WARM_SHARE = 0.25
"""Share of the time after which memory is measured for the first time."""
MAX_GROWTH = 1.15
SLACK_MB = 64


@dataclass
class Soak:
    """What was seen."""

    num_right: int = 0
    num_refused: int = 0
    num_left: int = 0
    num_bad: int = 0
    wrong: list[str] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    """Of well-behaved requests, from asking to the end."""
    states: list[dict[str, float]] = field(default_factory=list)
    """Memory in MB, threads and file descriptors of the server with nothing to do."""

    def p95_s(self) -> float:
        return sorted(self.times_s)[int(0.95 * (len(self.times_s) - 1))]

    def leaks(self) -> list[str]:
        first, last = self.states[0], self.states[-1]
        grown = [name for name in ("threads", "files") if last[name] > first[name] + 4]
        if last["memory"] > first["memory"] * MAX_GROWTH + SLACK_MB:
            grown.append("memory")
        return [f"{name}: {first[name]:.0f} to {last[name]:.0f}" for name in grown]


async def soak(server: ServerProcess, duration_s: float, *, quiet: bool = False, seed: int = 0) -> Soak:
    """Load a server in two halves, idle between them. quiet: all clients behave."""
    seen = Soak()
    for share in (WARM_SHARE, 1 - WARM_SHARE):
        until_s = time.monotonic() + share * duration_s
        clients = (_client(server, seen, until_s, number, seed, quiet) for number in range(NUM_CONNECTIONS))
        await asyncio.gather(*clients)
        seen.states.append(await _idle_state(server))
    return seen


async def _client(
    server: ServerProcess, seen: Soak, until_s: float, number: int, seed: int, quiet: bool
) -> None:
    rng = random.Random(seed * 1000 + number)
    kind = "good" if quiet else ("leaves", "good", "slow", "leaves", "good", "bad")[number % 6]
    async with httpx2.AsyncClient(base_url=server.address, timeout=300) as http:
        while time.monotonic() < until_s:
            try:
                await _ask(http, seen, rng, kind)
            except Exception as error:  # noqa: BLE001 - every one is told
                seen.wrong.append(f"{kind}: {type(error).__name__}: {error}")
                await asyncio.sleep(0.1)
            await asyncio.sleep(rng.uniform(0, 0.2))


async def _ask(http: httpx2.AsyncClient, seen: Soak, rng: random.Random, kind: str) -> None:
    if kind == "bad":
        content, status = rng.choice(
            [
                (b"{", 400),
                (b"x" * (2 << 20), 413),
                (json.dumps({"messages": 1}).encode(), 400),
                (json.dumps(chat("Hello", nonsense=1)).encode(), 400),
            ]
        )
        seen.num_bad += 1
        answer = await http.post(PATH, content=content, headers={"Content-Type": "application/json"})
        if answer.status_code != status:
            seen.wrong.append(f"bad body: expected {status}, got {answer.status_code}")
        return
    left, right = rng.randint(1, 9), rng.randint(1, 9)
    fields = SPOKEN if rng.random() < 0.1 else {}
    body = chat(f"How much is {NUMBERS[left]} plus {NUMBERS[right]}?", stream=True, **fields)
    begun_s, said, last = time.perf_counter(), "", ""
    async with http.stream("POST", PATH, json=body) as answer:
        if answer.status_code == 429:
            seen.num_refused += 1
            await answer.aread()
            await asyncio.sleep(rng.uniform(0, 1))
            return
        async for line in answer.aiter_lines():
            if not line:
                continue
            last = line.removeprefix("data: ")
            if kind == "leaves" and rng.random() < 0.3:
                seen.num_left += 1
                return
            if kind == "slow":
                await asyncio.sleep(0.05)
            if last != "[DONE]":
                event = json.loads(last)
                if "error" in event:
                    seen.wrong.append(f"an error: {event}")
                    return
                delta = event["choices"][0]["delta"]
                said += delta.get("content") or (delta.get("audio") or {}).get("transcript") or ""
    expected = NUMBERS[left + right]
    if last != "[DONE]" or expected not in said.lower().replace(".", " ").split():
        seen.wrong.append(f"{NUMBERS[left]} plus {NUMBERS[right]}: {said!r}, then {last[:50]!r}")
        return
    seen.num_right += 1
    if kind == "good":
        seen.times_s.append(time.perf_counter() - begun_s)


async def _idle_state(server: ServerProcess) -> dict[str, float]:
    """Once nothing runs: what the server holds. Its KV cache must be free by then."""
    process, deadline_s = Path(f"/proc/{server.process.pid}"), time.monotonic() + 60
    async with httpx2.AsyncClient(base_url=server.address, timeout=60) as http:
        while True:
            shown = (await http.get("/metrics")).text
            names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
            if all(f"antiphon:{name} 0.0\n" in shown for name in names):
                break
            assert time.monotonic() < deadline_s, "requests are still held"
            await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)  # closed connections are gone
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    files = len(list((process / "fd").iterdir()))
    return {
        "memory": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "files": files,
    }


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main() -> int:
    """Says what was seen; the status is 1 if anything is wrong."""
    duration_s = float(os.environ.get("SOAK_S", "3600"))
    with server_process("--max-body-mb", "1", limit_s=2 * duration_s + 600) as server:
        calm = asyncio.run(soak(server, max(20.0, duration_s / 10), quiet=True))
        seen = asyncio.run(soak(server, duration_s))
    _say(f"{seen.num_right} right, {len(seen.wrong)} wrong, {seen.num_left} left early, {seen.num_bad} bad")
    _say(f"{seen.num_refused} refused for load")
    for name in ("memory", "threads", "files"):
        _say(f"{name}: " + " -> ".join(f"{state[name]:.0f}" for state in (*calm.states, *seen.states)))
    _say(f"p95 of the well-behaved: {seen.p95_s():.2f} s; of a quiet run: {calm.p95_s():.2f} s")
    problems = [*seen.wrong[:20], *seen.leaks(), *calm.wrong[:20]]
    if seen.p95_s() > 2 * calm.p95_s():
        problems.append("the well-behaved wait more than twice as long as in a quiet run")
    for problem in problems:
        _say(f"WRONG: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
