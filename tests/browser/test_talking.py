"""A conversation on the page: turns by voice and by hand, pictures, breaking in, and what is shown."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from browser_page import Talker
from mock_realtime import MODEL, WORD_MS, MockRealtime, Reply
from PIL import Image
from playwright.sync_api import FilePayload

pytestmark = [pytest.mark.slow, pytest.mark.long]

Open = Callable[..., Talker]

SEEN = """() => {
    window.seen = [];
    const note = () => {
        const text = document.querySelector(".turn.user .words")?.textContent ?? "…";
        if (text !== "…" && text !== window.seen.at(-1)) window.seen.push(text);
    };
    new MutationObserver(note).observe(document.getElementById("turns"), { childList: true, subtree: true });
}"""
"""Has the page note what the user's first turn says from time to time."""


def heard(mock: MockRealtime) -> Any:
    """The samples that the page has sent."""
    sent = b"".join(base64.b64decode(event["audio"]) for event in mock.events("input_audio_buffer.append"))
    return np.frombuffer(sent, "<i2").astype(np.float32) / 32768


def picture(mock: MockRealtime) -> Any:
    """The last picture that the page has sent."""
    content = mock.events("conversation.item.create")[-1]["item"]["content"][0]
    assert content["type"] == "input_image"
    return Image.open(io.BytesIO(base64.b64decode(content["image_url"].partition(",")[2])))


def file_of(content: bytes) -> FilePayload:
    return {"name": "red.png", "mimeType": "image/png", "buffer": content}


def png(width: int, height: int) -> FilePayload:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, "PNG")
    return file_of(file.getvalue())


def test_hands_free_words_appear_while_one_speaks_and_light_up_as_they_are_heard(
    mock: MockRealtime, talker: Open
) -> None:
    page = talker().open()
    page.page.evaluate(SEEN)
    page.get("talk").click()
    page.phase("hearing")
    page.phase("speaking")
    page.wait(".word.now")
    spoken = page.page.locator(".word.spoken").count()
    assert 0 < spoken < len(mock.reply.text.split())
    page.settled()
    seen = page.page.evaluate("window.seen")
    assert {"What can", "What can you see"} <= set(seen) and seen == sorted(seen, key=len)
    assert page.turns("user") == [mock.heard]
    assert page.turns("assistant") == [mock.reply.text]
    assert page.page.locator(".word").count() == 0
    told = page.page.locator(".assistant .about").inner_text()
    (first_s,) = re.findall(r"^first sound after (\d+\.\d\d) s$", told)
    assert 0.25 < float(first_s) < 5  # from the last word, so the silence that ends a turn is part of it
    session = mock.events("session.update")[0]["session"]
    assert session["audio"]["input"]["turn_detection"]["type"] == "semantic_vad"
    assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert session["audio"]["input"]["transcription"] == {"model": MODEL}
    assert session["output_modalities"] == ["audio"]
    played = [event["audio_end_ms"] for event in mock.events("antiphon.output_audio.played")]
    length_ms = len(mock.reply.text.split()) * WORD_MS
    assert played == sorted(played) and played[-1] == length_ms
    assert 2 * length_ms / 1000 <= len(played) <= 5 * length_ms / 1000 + 2
    assert mock.events("conversation.item.truncate") == []


def test_what_the_microphone_hears_arrives_whole_at_24_khz(mock: MockRealtime, talker: Open) -> None:
    """The device runs at a rate of its own, which the page changes without losing the voice."""
    page = talker().open()
    page.get("talk").click()
    page.settled()
    page.get("talk").click()
    assert page.get("talk-text").inner_text() == "Start talking"
    page.page.wait_for_timeout(200)
    num_frames = len(mock.events("input_audio_buffer.append"))
    page.page.wait_for_timeout(300)
    assert len(mock.events("input_audio_buffer.append")) == num_frames
    sound = heard(mock)
    assert np.abs(sound).max() > 0.05
    loudness = np.abs(np.fft.rfft(sound)) ** 2
    frequencies = np.fft.rfftfreq(len(sound), 1 / 24000)
    assert loudness[frequencies < 4000].sum() > 0.9 * loudness.sum()


def test_hold_to_talk_with_the_space_bar_and_with_the_button(mock: MockRealtime, talker: Open) -> None:
    page = talker(silence_s=0.1).open()
    page.get("hold").check()
    page.page.locator("#scroller").focus()
    page.page.keyboard.down("Space")
    page.phase("hearing")
    page.until(lambda: len(mock.events("input_audio_buffer.append")) > 40)
    page.page.keyboard.up("Space")
    page.settled()
    assert mock.events("session.update")[0]["session"]["audio"]["input"]["turn_detection"] is None
    assert mock.types()[-2:] == ["input_audio_buffer.commit", "response.create"]
    assert page.turns("user") == [mock.heard]

    box = page.get("talk").bounding_box()
    assert box is not None
    page.page.mouse.move(box["x"] + 40, box["y"] + box["height"] / 2)
    page.page.mouse.down()
    page.phase("hearing")
    page.page.wait_for_timeout(700)
    page.page.mouse.up()
    page.settled(2)
    assert page.turns("user") == [mock.heard] * 2

    page.get("talk").press("Enter")
    page.phase("hearing")
    page.page.wait_for_timeout(700)
    page.get("talk").press("Enter")
    page.settled(3)

    page.page.locator("#scroller").focus()
    page.page.keyboard.press("Space")
    assert "Hold the button" in page.notice()
    assert len(page.turns("user")) == 3


def test_breaking_in_stops_the_reply_and_tells_what_was_heard_of_it(mock: MockRealtime, talker: Open) -> None:
    mock.reply = Reply(" ".join(["word"] * 40), pace=8)
    page = talker(silence_s=2.0).open()
    page.get("talk").click()
    page.phase("speaking")
    page.until(lambda: len(mock.events("conversation.item.truncate")) == 1)
    page.until(lambda: len(page.turns("user")) == 2)
    (truncated,) = mock.events("conversation.item.truncate")
    played = [
        event["audio_end_ms"]
        for event in mock.events("antiphon.output_audio.played")
        if event["item_id"] == truncated["item_id"]
    ]
    assert truncated["content_index"] == 0
    assert max(played) <= truncated["audio_end_ms"] <= max(played) + 400
    first = page.page.locator(".turn.assistant").first
    assert "stopped" in first.locator(".about").inner_text()
    num_heard = first.locator(".word:not(.unheard)").count()
    assert abs(num_heard - truncated["audio_end_ms"] / WORD_MS) <= 1.5
    assert first.locator(".word.unheard").count() > 0
    assert mock.events("response.cancel") == []  # the server cancels it by itself


def test_stop_cancels_what_is_computed_and_what_is_played(mock: MockRealtime, talker: Open) -> None:
    mock.reply = Reply(" ".join(["word"] * 40), pace=1.2)
    page = talker().open()
    assert page.get("stop").is_hidden()
    page.ask("Count to forty.")
    page.phase("speaking")
    page.page.wait_for_timeout(500)
    page.get("stop").click()
    page.phase("idle")
    page.until(lambda: "conversation.item.truncate" in mock.types())
    (cancelled,) = mock.events("response.cancel")
    assert cancelled["response_id"].startswith("resp_")
    (truncated,) = mock.events("conversation.item.truncate")
    assert 100 < truncated["audio_end_ms"] < 5000
    count = len(mock.events("antiphon.output_audio.played"))
    mock.reply = Reply("Done.")
    page.ask("And now?")  # a second turn, after the first was stopped
    page.until(lambda: page.turns("assistant")[-1] == "Done.")
    page.settled(2)
    assert len(mock.events("antiphon.output_audio.played")) > count
    page.ask("Once more.")
    page.phase("speaking")
    page.page.keyboard.press("Escape")
    page.phase("idle")


def test_pictures_are_made_small_sent_once_and_shown_with_the_next_turn(
    mock: MockRealtime, talker: Open
) -> None:
    page = talker().open()
    page.get("file").set_input_files(png(3000, 1500))
    page.page.wait_for_selector("#shown:not([hidden])")
    page.until(lambda: len(mock.events("conversation.item.create")) == 1)
    assert picture(mock).size == (1344, 672)
    first = mock.events("conversation.item.create")[0]["item"]["id"]
    page.get("file").set_input_files(png(40, 30))  # takes the place of the first
    page.until(lambda: len(mock.events("conversation.item.create")) == 2)
    assert picture(mock).size == (40, 30)
    assert [event["item_id"] for event in mock.events("conversation.item.delete")] == [first]
    red = picture(mock).convert("RGB").getpixel((20, 15))
    assert max(abs(a - b) for a, b in zip(red, (200, 30, 30), strict=True)) < 6
    page.ask("Which colour is it?")
    page.settled()
    assert page.get("shown").is_hidden()
    assert page.page.locator(".turn.user img").count() == 1
    assert [event["item"]["content"][0]["type"] for event in mock.events("conversation.item.create")] == [
        *["input_image"] * 2,
        "input_text",
    ]
    page.get("file").set_input_files(png(40, 30))
    page.page.wait_for_selector("#shown:not([hidden])")
    page.get("shown-remove").click()
    page.until(lambda: len(mock.events("conversation.item.delete")) == 2)
    page.get("file").set_input_files(file_of(b"nothing"))
    assert "cannot read this file" in page.notice()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_pictures_may_be_dropped_and_pasted(mock: MockRealtime, talker: Open, way: str) -> None:
    page = talker().open()
    page.page.evaluate(
        """async ([way, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "red.png", { type: "image/png" }));
            const target = document.getElementById("question");
            if (way === "paste") {
                const settings = { clipboardData: transfer, bubbles: true, cancelable: true };
                target.dispatchEvent(new ClipboardEvent("paste", settings));
                return;
            }
            for (const name of ["dragenter", "dragover", "drop"]) {
                const settings = { dataTransfer: transfer, bubbles: true, cancelable: true };
                target.dispatchEvent(new DragEvent(name, settings));
                const isHinted = !document.getElementById("drop").hidden;
                if (name === "dragenter" && !isHinted) throw new Error("no hint");
            }
        }""",
        [way, list(png(60, 20)["buffer"])],
    )
    page.until(lambda: len(mock.events("conversation.item.create")) == 1)
    assert picture(mock).size == (60, 20)
    assert page.get("drop").is_hidden()


def test_the_camera_takes_a_picture(mock: MockRealtime, talker: Open) -> None:
    page = talker().open()
    page.get("camera").click()
    page.page.wait_for_selector("#camera-dialog[open]")
    page.until(lambda: page.page.evaluate("document.getElementById('camera-video').videoWidth") > 0)
    page.get("camera-take").click()
    page.until(lambda: len(mock.events("conversation.item.create")) == 1)
    assert max(picture(mock).size) <= 1344
    assert page.get("camera-dialog").is_hidden()
    assert page.page.evaluate("document.getElementById('camera-video').srcObject") is None


def test_written_replies_and_settings(mock: MockRealtime, talker: Open) -> None:
    page = talker().open()
    page.get("settings-button").click()
    page.get("replies").select_option("text")
    page.get("voice").select_option("anna")
    page.get("turn-end").select_option("server_vad")
    page.page.keyboard.press("Escape")
    page.ask("What is it?")
    page.settled()
    session = mock.events("session.update")[-1]["session"]
    assert session["output_modalities"] == ["text"]
    assert session["audio"]["output"]["voice"] == "anna"
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"
    assert page.turns("assistant") == [mock.reply.text]
    assert page.get("announcer").inner_text() == f"Reply: {mock.reply.text}"
    assert "first word after" in page.page.locator(".assistant .about").inner_text()


def test_a_new_conversation_begins_with_nothing(mock: MockRealtime, talker: Open) -> None:
    page = talker().open()
    page.ask("Hello")
    page.phase("speaking")
    page.get("new").click()
    assert page.turns("user") == []
    assert page.get("welcome").is_visible()
    page.ask("Hello again")
    page.settled()
    assert len(mock.sessions) == 2
    assert page.turns("user") == ["Hello again"]
