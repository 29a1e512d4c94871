"""What is computed of a recording before the networks is computed by the caller's thread alone: others would
spin for longer than it takes, on the cores that the networks want."""

from __future__ import annotations

import subprocess
import sys

import pytest
from command_line import environment

PROGRAM = """
import time

import numpy as np
import torch

from antiphon.{module} import {name}

sound = np.random.default_rng(0).normal(0, 0.1, 16000 * 10).astype(np.float32)
given = {given}
{call}(given)
others_s = 0.0
for _ in range(5):
    before_s = time.process_time() - time.thread_time()
    {call}(given)
    time.sleep(0.05)
    others_s += time.process_time() - time.thread_time() - before_s
print(others_s)
"""
"""Prints the processor time of all threads but the caller's, from five calls to when none spins any more."""


@pytest.mark.parametrize(
    ("module", "call", "given"),
    [
        ("codec.analysis.logmel", "log_mel", "torch.from_numpy(sound)"),
        ("codec.analysis.fbank", "fbank", "sound"),
        ("codec.analysis.prompt_mel", "prompt_mel", "sound"),
        ("sound.activity", "SpeechActivity(16000).push", "sound"),
    ],
)
def test_no_other_thread_is_woken(module: str, call: str, given: str) -> None:
    program = PROGRAM.format(module=module, name=call.partition("(")[0], call=call, given=given)
    many = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment() | many,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 0.02
