"""The page in a browser, as a test uses it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mock_realtime import MockRealtime
from playwright.sync_api import Locator, Page

__all__ = ["Talker"]

EXPECTED = ("status of 401", "status of 503", "WebSocket connection to", "ERR_")
"""What Chromium writes to the console about servers that refuse; all else there is a fault of the page."""


class Talker:
    """A page that is open, what is wrong with its scripts, and short names for what tests do."""

    def __init__(self, page: Page, mock: MockRealtime) -> None:
        self.page = page
        self.mock = mock
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._note(message.type, message.text))
        page.set_default_timeout(20000)

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and not any(expected in text for expected in EXPECTED):
            self.errors.append(text)

    def open(self, script: str | None = None) -> Talker:
        """Load the page. script: runs before those of the page."""
        if script is not None:
            self.page.add_init_script(script)
        self.page.goto(self.mock.address)
        self.page.wait_for_selector("#model:not(:empty), #notice:not([hidden]), #key-dialog[open]")
        return self

    def get(self, name: str) -> Locator:
        """An element by its id."""
        return self.page.locator(f"#{name}")

    def ask(self, text: str) -> None:
        """Type a question."""
        self.get("question").fill(text)
        self.get("question").press("Enter")

    def wait(self, selector: str) -> None:
        self.page.wait_for_selector(selector, state="attached")

    def phase(self, name: str) -> None:
        self.wait(f'#state[data-phase="{name}"]')

    def settled(self, count: int = 1) -> None:
        """Wait until this many replies have come to their end."""
        self.until(lambda: self.page.locator(".turn.assistant:not(.growing)").count() >= count)

    def turns(self, role: str) -> list[str]:
        """The words of the turns of "user" or "assistant"."""
        return self.page.locator(f".turn.{role} .words").all_inner_texts()

    def notice(self) -> str:
        """What the page tells of something that went wrong, once it does."""
        self.page.wait_for_selector("#notice:not([hidden])")
        return self.get("notice-text").inner_text()

    def until(self, is_so: Callable[[], Any], seconds: float = 20.0) -> None:
        """Wait while the page goes on."""
        end_s = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end_s, f"it did not happen; the client has sent {self.mock.types()}"
            self.page.wait_for_timeout(20)
