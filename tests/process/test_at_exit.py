"""The interpreter ends as the program says, whatever engines are at."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL

LIMIT_S = 600.0
HEAD = f"""
import asyncio, atexit, gc, sys, threading, time
from antiphon import AsyncEngine, AudioDelta, Engine, Request, SamplingParams

speech, long = Request("Hello", modalities=("text", "audio")), SamplingParams(max_units=1000, ignore_eos=True)

def load(kind=Engine):
    return kind({str(RANDOM_MODEL)!r}, codec={str(RANDOM_CODEC)!r}, device="cpu", kv_cache_bytes=32 << 20)

def speaking(stream_audio):
    '''An engine whose worker is at work and will be for a while.'''
    engine = load()
    worker = engine.speech_worker
    is_at_work, make = threading.Event(), worker.make
    def noted(jobs):
        is_at_work.set()
        return make(jobs)
    worker.make = noted
    engine.add_request(speech, long, stream_audio=stream_audio)
    while not is_at_work.is_set():
        engine.step()
    return engine
"""

ENDS: dict[str, tuple[str, int]] = {
    "of the program": ("engine = speaking(False)", 0),
    "sys.exit": ("engine = speaking(False); sys.exit(3)", 3),
    "an error": ("engine = speaking(True); raise ValueError", 1),
    "ctrl-c": ("engine = speaking(False); raise KeyboardInterrupt", -signal.SIGINT),
    "close": ("speaking(False).close(); sys.exit(4)", 4),
    "dropped": ("engine = speaking(True); del engine; gc.collect()", 0),
    "in a coroutine": (
        """
async def main():
    async for event in load(AsyncEngine).stream(speech, long):
        if isinstance(event, AudioDelta):
            sys.exit(5)
asyncio.run(main())""",
        5,
    ),
    "after a loop": (
        """
async def main():
    engine = load(AsyncEngine)
    stream = engine.stream(speech, long)
    await anext(stream)
    return engine, stream
kept = asyncio.run(main())""",
        0,
    ),
    "under a daemon thread's generate": (
        """
engine = load()
threading.Thread(target=engine.generate, args=([speech] * 3, long), daemon=True).start()
while not engine.speech_worker.num_speaking:
    time.sleep(0.01)""",
        0,
    ),
    "under a daemon thread that loads": (
        "threading.Thread(target=load, daemon=True).start(); time.sleep(0.3)",
        0,
    ),
    "two ctrl-c": (
        """
def interrupt():
    for _ in range(2):
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
engine = load()
threading.Thread(target=interrupt, daemon=True).start()
engine.generate([speech] * 4, long)""",
        -signal.SIGINT,
    ),
    "with a last word": (
        """
engine = speaking(False)
atexit.register(lambda: print(engine.generate(speech, SamplingParams(max_units=3))[0].finish_reason))""",
        0,
    ),
}


# Each program is a child of one process that has imported everything, which is what takes long.
PROGRAM = f"""
import json, os, signal
{HEAD}
programs = json.loads(sys.stdin.read())
status = {{}}
for name, code in programs.items():
    child = os.fork()
    if not child:
        break
    status[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
else:
    print(json.dumps(status))
    sys.exit()
for stream, number in (("out", 1), ("err", 2)):
    os.dup2(os.open(f"{{sys.argv[1]}}/{{name}}.{{stream}}", os.O_CREAT | os.O_WRONLY), number)
exec(code)
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Status and output of each program."""
    folder = tmp_path_factory.mktemp("ends")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        input=json.dumps({name: code for name, (code, _) in ENDS.items()}),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    return {
        name: (status, (folder / f"{name}.out").read_text(), (folder / f"{name}.err").read_text())
        for name, status in json.loads(done.stdout).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
@pytest.mark.long
def test_the_status_is_the_programs_own(ended: dict[str, tuple[int, str, str]], name: str) -> None:
    """It was -6 in most runs: a thread came back from torch to an interpreter that was no more."""
    status, out, err = ended[name]
    assert status == ENDS[name][1], err
    assert "terminate called" not in err
    if name == "with a last word":
        assert out.split()[-1] in ("stop", "length")
    if ENDS[name][1] == 0:
        assert err == ""
