"""What the page does, and says in plain words, when something goes wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser_page import Talker
from mock_realtime import MockRealtime, Reply

pytestmark = [pytest.mark.slow, pytest.mark.long]

Open = Callable[..., Talker]

NO_MICROPHONE = """
navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("told by the test", "%s"); };
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NotAllowedError", "may not use the microphone"),
        ("NotFoundError", "No microphone was found"),
        ("NotReadableError", "in use by another program"),
        ("TypeError", "could not be started"),
    ],
)
def test_a_microphone_that_cannot_be_had(talker: Open, name: str, words: str) -> None:
    page = talker().open(NO_MICROPHONE % name)
    page.get("talk").click()
    assert words in page.notice()
    assert page.get("talk-text").inner_text() == "Start talking"
    page.ask("Can I type?")
    page.settled()
    assert page.get("notice").is_hidden()


def test_a_page_that_is_no_secure_place_has_no_microphone(talker: Open) -> None:
    script = "Object.defineProperty(navigator, 'mediaDevices', { value: undefined });"
    page = talker().open(script)
    page.get("talk").click()
    assert "over https" in page.notice()
    page.get("camera").click()
    assert "Choose a file instead" in page.notice()


def test_after_a_cut_the_reply_goes_on_as_if_nothing_had_been(mock: MockRealtime, talker: Open) -> None:
    mock.reply = Reply(pace=1.0)
    page = talker().open()
    page.ask("What is it?")
    page.phase("speaking")
    mock.cut()
    page.until(lambda: len(mock.handshakes) == 2)
    (token,) = mock.sessions
    assert mock.handshakes[1]["resume"] == token
    assert 0 <= int(mock.handshakes[1]["after"]) < len(mock.sessions[token].log)
    page.settled()
    assert page.turns("assistant") == [mock.reply.text]
    assert page.get("notice").is_hidden()
    page.ask("And in the same session?")
    page.settled(2)
    assert len(mock.sessions) == 1


def test_a_session_that_is_gone_is_replaced_and_the_user_told(mock: MockRealtime, talker: Open) -> None:
    page = talker().open()
    page.ask("Hello")
    page.settled()
    mock.is_resumable = False
    mock.cut()
    assert "the model has forgotten what was said" in page.notice()
    page.until(lambda: len(mock.sessions) == 2)
    page.until(lambda: len(mock.events("session.update")) == 2)
    page.ask("Hello again")
    page.settled(2)
    assert page.page.locator(".turn.forgotten").count() == 2
    assert page.page.locator(".turn").count() == 4


def test_a_full_server(mock: MockRealtime, talker: Open) -> None:
    mock.is_full = True
    page = talker().open()
    page.get("talk").click()
    assert "The server is full" in page.notice()
    assert page.get("talk-text").inner_text() == "Start talking"
    mock.is_full = False
    page.get("talk").click()
    page.settled()
    assert page.get("notice").is_hidden()


def test_a_server_that_cannot_be_reached(mock: MockRealtime, talker: Open) -> None:
    page = talker().open()
    page.page.route("**/v1/models", lambda route: route.abort())
    page.page.reload()
    assert "cannot be reached" in page.notice()
    page.page.unroute("**/v1/models")
    page.ask("Hello?")
    page.settled()
    page.page.route("**/v1/models", lambda route: route.fulfill(status=503, body="{}"))
    page.page.reload()
    assert "The model is not there now" in page.notice()


def test_the_end_that_the_server_sets(mock: MockRealtime, talker: Open) -> None:
    page = talker().open()
    page.ask("Hello")
    page.settled()
    mock.cut(1000)
    assert "has ended this conversation" in page.notice()
    page.ask("Hello")
    page.settled(2)
    assert len(mock.sessions) == 2


def test_errors_of_the_model(mock: MockRealtime, talker: Open) -> None:
    mock.reply = Reply(status="failed", error={"type": "server_error", "message": "out of memory"})
    page = talker().open()
    page.ask("Hello")
    assert page.notice() == "The model could not answer: out of memory."
    page.phase("idle")
    page.get("notice-close").click()
    mock.emit("error", error={"type": "invalid_request_error", "message": "no such item", "event_id": "x"})
    assert page.notice() == "The server could not do that: no such item."
    page.get("notice-close").click()
    mock.emit("error", error={"type": "invalid_request_error", "message": "late", "event_id": "truncate_1"})
    page.page.wait_for_timeout(200)
    assert page.get("notice").is_hidden()
    mock.emit("an.event.of.the.future")
    mock.reply = Reply("Fine.")
    page.ask("And now?")
    page.until(lambda: page.turns("assistant")[-1:] == ["Fine."])


def test_a_key_is_asked_for_and_kept_only_if_wished(mock: MockRealtime, talker: Open) -> None:
    mock.key = "sk-right"
    page = talker().open()
    page.page.wait_for_selector("#key-dialog[open]")
    for key in ("wrong", "sk-right"):
        page.get("key").fill(key)
        page.get("key").press("Enter")
        page.page.wait_for_timeout(200)
        if key == "wrong":
            page.page.wait_for_selector("#key-dialog[open]")
            assert "did not take the key" in page.get("key-why").inner_text()
    page.wait("#model:not(:empty)")
    page.ask("Hello")
    page.settled()
    assert (
        page.page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'
    )
    page.page.reload()
    page.page.wait_for_selector("#key-dialog[open]")
    page.get("key-keep").check()
    page.get("key").fill("sk-right")
    page.get("key").press("Enter")
    page.wait("#model:not(:empty)")
    page.page.reload()
    page.wait("#model:not(:empty)")
    assert page.get("key-dialog").is_hidden()
    mock.key = "sk-other"
    page.ask("Hello")
    page.page.wait_for_selector("#key-dialog[open]")
