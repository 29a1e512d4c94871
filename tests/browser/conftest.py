"""A headless Chromium with a recorded voice as its microphone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser_page import Talker
from mock_realtime import MockRealtime, mock_realtime
from playwright.sync_api import Browser, Playwright, sync_playwright

QUESTION = Path(__file__).parents[2] / "runtime" / "assets" / "demo" / "question.wav"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--disable-background-networking",
    "--disable-component-update",
]


@pytest.fixture(scope="module")  # no longer: while it is there, nothing else in this thread can run a loop
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def launch(
    playwright: Playwright, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Browser]]:
    """Starts a browser whose microphone gives a second of silence, the demo's question, and silence of some
    seconds, again and again; each silence is asked for once."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    folder = tmp_path_factory.mktemp("microphone")
    started: dict[float, Browser] = {}

    def launched(silence_s: float = 20.0) -> Browser:
        if silence_s not in started:
            sound, rate_hz = soundfile.read(QUESTION, dtype="float32")
            silences = [np.zeros(int(seconds * rate_hz), np.float32) for seconds in (1.0, silence_s)]
            path = folder / f"{silence_s}.wav"
            soundfile.write(path, np.concatenate([silences[0], sound, silences[1]]), rate_hz)
            flags = [*FLAGS, f"--use-file-for-fake-audio-capture={path}"]
            started[silence_s] = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        return started[silence_s]

    yield launched
    for browser in started.values():
        browser.close()


@pytest.fixture
def mock() -> Iterator[MockRealtime]:
    with mock_realtime() as running:
        yield running


@pytest.fixture
def talker(mock: MockRealtime, launch: Callable[..., Browser]) -> Iterator[Callable[..., Talker]]:
    """Opens the page in a fresh context; at the end, no script may have failed."""
    with ExitStack() as stack:
        opened: list[Talker] = []

        def opener(silence_s: float = 20.0, **settings: Any) -> Talker:
            settings.setdefault("permissions", ["microphone", "camera"])
            context = launch(silence_s).new_context(**settings)
            stack.callback(context.close)
            opened.append(Talker(context.new_page(), mock))
            return opened[-1]

        yield opener
        for talker in opened:
            assert talker.errors == []
