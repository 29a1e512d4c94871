"""What an engine does before it serves: kernels are compiled and steps recorded, so that no request waits for
that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from antiphon.device.urgent import UrgentStream
from antiphon.model.runner import Runner
from antiphon.outputs.speech_worker import SpeechWorker

__all__ = ["prepare"]

SHOWN_AFTER_S = 1.0
"""A start that takes less than this shows nothing."""


def prepare(runner: Runner, worker: SpeechWorker | None, stream: UrgentStream, *, progress: bool) -> None:
    """Compile and record all that serving needs; nothing happens where kernels run one by one.

    progress: say on the terminal's standard error what is being done, once it takes longer than a second.
    """
    with _telling(progress) as tell:
        with stream.inside():
            for step in runner.prepare():
                tell(step)
        if worker is None:
            return
        place = worker.codec.device
        is_elsewhere = place.type == "cuda" and place != runner.device
        if runner.is_replaying or is_elsewhere:
            for done, total in worker.prepare():
                tell(f"recording speech, {done} of {total}")


@contextmanager
def _telling(progress: bool) -> Iterator[Callable[[str], None]]:
    if not progress:
        yield lambda step: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    status = console.status("")
    begin = time.monotonic()
    is_shown = False

    def tell(step: str) -> None:
        nonlocal is_shown
        status.update(f"getting ready: {step}")
        if not is_shown and console.is_terminal and time.monotonic() - begin >= SHOWN_AFTER_S:
            is_shown = True
            status.start()

    try:
        yield tell
    finally:
        if is_shown:
            status.stop()
