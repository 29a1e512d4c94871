"""Forked children: whatever they do with an engine works, or raises at once. A child that hangs is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL

COMMON = f"""
import asyncio, multiprocessing, os, signal, sys, threading, time
from antiphon.errors import EngineDead

MODEL, CODEC = {str(RANDOM_MODEL)!r}, {str(RANDOM_CODEC)!r}
SETTINGS = dict(device="cpu", kv_cache_bytes=32 << 20, progress=False)
SOUND = [0.1, -0.1] * 4000

def requests():
    from antiphon import Image, Request, Speech
    import numpy as np
    picture = np.zeros((40, 60, 3), np.uint8)
    heard = Speech((np.array(SOUND, np.float32), 16000))
    return [Request("Hello", ("text", "audio")), Request([Image(picture), "What is it?"]), Request(heard)]

def limits():
    from antiphon import SamplingParams
    return SamplingParams(max_tokens=6, max_units=6, seed=1)

def answers(engine):
    return [(c.text_ids, c.unit_ids, c.error) for c in engine.generate(requests(), limits())]

def new_engine():
    from antiphon import Engine
    with Engine(MODEL, codec=CODEC, **SETTINGS) as engine:
        return answers(engine)

def attempt(name, action, expected=None):
    try:
        result = action()
        same = expected is None or result == expected
        print(name, "works" if same else f"differs: {{result}}", flush=True)
    except EngineDead as error:
        print(name, "refused:", error, flush=True)

def child(name, action, expected=None, **others):
    pid = os.fork()
    if pid == 0:
        signal.alarm(100)
        attempt(name, action, expected)
        for other in others.items():
            attempt(*other)
        sys.exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        print(name, "ended with", status, flush=True)
"""


def outcome(program: str) -> dict[str, str]:
    """What the program's children came to, by name; it must end well itself."""
    done = subprocess.run(
        # Python 3.12 warns of every fork beside a thread: that it goes well is what is tested.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", COMMON + program],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.long
def test_children_of_a_process_with_engines() -> None:
    """The parent goes on serving, while they are forked and after."""
    found = outcome("""
from antiphon import AsyncEngine, Engine, Request, SamplingParams, Units

engine, served = Engine(MODEL, codec=CODEC, **SETTINGS), AsyncEngine(MODEL, **SETTINGS)
codec, stream, listener = engine.codec, engine.codec.stream(), engine.codec.listen(16000)
expected = answers(engine)
engine.add_request(Request("Hello"), SamplingParams(max_tokens=50, ignore_eos=True))

# It serves in the background while children are forked.
long, ended = SamplingParams(max_tokens=700, ignore_eos=True), []
background = threading.Thread(
    target=lambda: ended.append(asyncio.run(served.generate(Request("Hello"), long)).finish_reason)
)
background.start()

loop, opened = asyncio.new_event_loop(), served.stream(Request("Hello"), long)
loop.run_until_complete(anext(opened))

async def session():
    async with served.open(Request(Units([1]))) as opened:
        await opened.push_units([1, 2])

child(
    "generate",
    lambda: engine.generate(Request("Hello")),
    step=engine.step,
    add_request=lambda: engine.add_request(Request("Hello")),
    abort=lambda: engine.abort("nobody"),
    from_engine=lambda: AsyncEngine.from_engine(engine),
)
child(
    "stream",
    lambda: asyncio.run(served.generate(Request("Hello"))),
    opened=lambda: asyncio.run(anext(opened)),
    session=lambda: asyncio.run(session()),
)
child(
    "tokenize",
    lambda: codec.tokenize(SOUND, 16000),
    decode=lambda: codec.decode([[1, 2, 3]]),
    speech_stream=lambda: stream.push([1, 2, 3], final=True),
    listener=lambda: (listener.push(SOUND * 2), listener.finish()),
    engine_of_codec=lambda: Engine(MODEL, codec=codec, **SETTINGS),
)
child("health", lambda: served.health().alive, False)
child("close", lambda: (engine.close(), served.close(), asyncio.run(served.aclose())))
child("new", new_engine, expected)
with multiprocessing.get_context("fork").Pool(1) as pool:
    results = pool.starmap_async(new_engine, [()]).get(timeout=100)
print("pool", "works" if results == [expected] else results)

loop.run_until_complete(opened.aclose())
background.join()
assert ended == ["length"], ended
while engine.has_unfinished():
    engine.step()
assert answers(engine) == expected
engine.close()
served.close()
""")
    refused = {name for name, what in found.items() if what.startswith("refused:")}
    assert refused == {
        *(
            "generate",
            "step",
            "add_request",
            "abort",
            "stream",
            "opened",
            "session",
            "from_engine",
            "tokenize",
            "decode",
        ),
        *("speech_stream", "listener", "engine_of_codec"),
    }, found
    for name in refused:
        assert re.fullmatch(
            r"refused: (engine|codec): made in process \d+, and this is its forked child \d+, which has none "
            r"of its threads; make one here, or start processes by 'spawn' or 'forkserver'",
            found[name],
        )
    works = found.keys() - refused
    assert {name: found[name] for name in works} == dict.fromkeys(works, "works")
    assert works == {"health", "close", "new", "pool"}


@pytest.mark.slow
@pytest.mark.long
def test_children_of_a_process_that_has_computed_with_torch_alone() -> None:
    found = outcome("""
import torch
rows = torch.randn(700, 700)
(rows @ rows).sum(), torch.randn(4_000_000).sum()
torch.conv1d(torch.randn(8, 64, 900), torch.randn(64, 64, 3))
child("childs", lambda: (new_engine(), child("grandchilds", new_engine)))
""")
    assert set(found.values()) == {"works"}
    assert len(found) == 2


@pytest.mark.slow
@pytest.mark.long
def test_children_of_a_process_that_has_only_imported_us() -> None:
    """They compute with as many threads as ever."""
    found = outcome("""
import antiphon

def num_threads():
    import os
    engine = new_engine()
    import torch
    return torch.get_num_threads() == len(os.sched_getaffinity(0)) or os.environ.get("OMP_NUM_THREADS")

child("new", num_threads)
""")
    assert found == {"new": "works"}


@pytest.mark.slow
@pytest.mark.long
def test_importing_registers_nothing(tmp_path: Path) -> None:
    program = """
import os
registered = []
os.register_at_fork = lambda **hooks: registered.append(hooks)
import logging, threading, random, concurrent.futures.thread, torch
del registered[:]
import antiphon, antiphon.engine.engine, antiphon.aio.async_engine, antiphon.codec
assert not registered, registered
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=300)
