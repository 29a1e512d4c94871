"""The released code's codec worker, with the packaged codec; and a whole spoken turn through all three."""

from __future__ import annotations

import base64
import io
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile
from http_server import Served, serving_http
from reference_client import Answer, ReferenceClient, chat, units_of
from serving import load

from antiphon import AsyncEngine
from antiphon.errors import ConfigError
from antiphon.server.reference.codec_worker import WavFolder
from antiphon.server.settings import ReferenceSettings

DEMO = Path(__file__).parents[2] / "runtime" / "assets" / "demo"
QUESTION = (DEMO / "question.wav").read_bytes()
ANY_PORTS = ReferenceSettings(0, 0, 0)


@pytest.fixture(scope="module")
def speaking() -> Iterator[Served]:
    with serving_http(reference=ANY_PORTS) as running:
        yield running


@pytest.fixture
def client(speaking: Served) -> Iterator[ReferenceClient]:
    with ReferenceClient(speaking.sites["codec worker"]) as client:
        yield client


def run_of(units: list[int]) -> str:
    return "".join(f"<Audio_{unit}>" for unit in units)


def codec_of(speaking: Served) -> Any:
    codec = speaking.engine.engine.codec
    assert codec is not None
    return codec


def test_a_recording_becomes_units(speaking: Served, client: ReferenceClient) -> None:
    samples, rate_hz = soundfile.read(DEMO / "question.wav", dtype="float32")
    assert units_of(client.speech_to_token(QUESTION)) == codec_of(speaking).tokenize(samples, rate_hz)


@pytest.mark.slow
def test_units_become_a_wav_in_the_default_voice(speaking: Served, client: ReferenceClient) -> None:
    units = [1, 7, 30, 30, 2, 9, 11, 12]
    path = client.token_to_speech(run_of(units))
    assert path.is_absolute()
    samples, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == 22050
    [expected] = codec_of(speaking).decode([units])
    assert np.abs(samples - np.clip(expected, -1, 1)).max() < 2 / 2**15


@pytest.mark.slow
@pytest.mark.long
def test_sixteen_at_a_time_each_get_a_file_of_their_own(speaking: Served, client: ReferenceClient) -> None:
    asked = [[unit] * (2 + unit // 2) for unit in range(16)]
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda units: client.token_to_speech(run_of(units)), asked))
    assert len(set(paths)) == 16
    for units, path in zip(asked, paths, strict=True):
        [expected] = codec_of(speaking).decode([units])
        assert soundfile.info(path).frames == len(expected)


def test_errors_are_500_with_a_detail(client: ReferenceClient) -> None:
    bodies: list[dict[str, Any]] = [
        {"files": {"file": ("x.wav", b"no sound")}},
        {"files": {"file": ("x.wav", b"")}},
        {"files": {"other": ("x.wav", QUESTION)}},
        {"data": {"file": "text"}},
        {"content": b"--", "headers": {"Content-Type": "multipart/form-data"}},
        {"content": b"--x\r\nhm", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": QUESTION},
        {},
    ]
    for body in bodies:
        answer = client.http.post("/speech_to_token", **body)
        assert answer.status_code == 500
        assert answer.json()["detail"].startswith("Error processing audio: ")
    for content in (
        b"",
        b"[]",
        b"{",
        json.dumps({"tokens": ""}).encode(),
        json.dumps({"tokens": "hello"}).encode(),
        json.dumps({"tokens": "<Audio_1> hello"}).encode(),
        json.dumps({"tokens": "<Audio_99999>"}).encode(),
        json.dumps({"tokens": "<Audio_" + "9" * 5000 + ">"}).encode(),
        json.dumps({"tokens": "<Audio_1>" * 100_000}).encode(),
        json.dumps({"tokens": ["<Audio_1>"]}).encode(),
    ):
        answer = client.http.post("/token_to_speech", content=content)
        assert answer.status_code == 500
        assert answer.json()["detail"].startswith("Error generating speech: ")
        assert len(answer.text) < 500


@pytest.mark.long
@pytest.mark.slow
def test_mutated_bodies(client: ReferenceClient, caplog: pytest.LogCaptureFixture) -> None:
    """Each is answered as the protocol has it, and leaves no traceback behind."""
    draw = random.Random(0)
    sound = io.BytesIO()
    soundfile.write(sound, np.sin(np.arange(4000) / 9), 16000, format="WAV", subtype="PCM_16")
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n%s\r\n--x--\r\n'
    whole = {
        "/speech_to_token": (form % sound.getvalue(), "multipart/form-data; boundary=x"),
        "/token_to_speech": (json.dumps({"tokens": run_of([1, 2, 3])}).encode(), "application/json"),
    }
    for turn in range(120):
        path = list(whole)[turn % 2]
        content, kind = whole[path]
        body = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(max(1, min(len(body), 200)))
            length = draw.choice([1, 4, 40])
            change = draw.randrange(3)
            if change == 0:
                del body[place : place + length]
            elif change == 1:
                body[place:place] = draw.randbytes(length)
            else:
                body[place:place] = body[:length]
        answer = client.http.post(path, content=bytes(body), headers={"Content-Type": kind})
        assert answer.status_code in (200, 500)
        assert answer.json().keys() <= {"tokens", "audio_file", "detail"}
    assert "Traceback" not in caplog.text
    assert "Exception in" not in caplog.text


def test_other_paths_and_methods(client: ReferenceClient) -> None:
    assert client.http.post("/nowhere").status_code == 404
    assert client.http.get("/token_to_speech").status_code == 405


@pytest.mark.slow
def test_a_server_without_a_codec_says_so() -> None:
    with (
        serving_http(lambda: AsyncEngine.from_engine(load()), reference=ANY_PORTS) as served,
        ReferenceClient(served.sites["codec worker"]) as client,
    ):
        for answer in (
            client.http.post("/speech_to_token", files={"file": ("x.wav", QUESTION)}),
            client.http.post("/token_to_speech", json={"tokens": "<Audio_1>"}),
        ):
            assert answer.status_code == 500
            assert "--codec" in answer.json()["detail"]


def test_a_lost_client_gives_its_speech_up(
    speaking: Served, client: ReferenceClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(httpx2.TimeoutException):
        client.http.post("/token_to_speech", json={"tokens": "<Audio_1>" * 4000}, timeout=0.3)
    worker = speaking.engine.engine.speech_worker
    assert worker is not None
    until_s = time.monotonic() + 20
    while worker.num_speaking:
        assert time.monotonic() < until_s
        time.sleep(0.02)
    assert speaking.http.get("/ping").status_code == 200
    assert "Exception in" not in caplog.text


@pytest.mark.slow
def test_the_loop_goes_on_while_speech_is_made(speaking: Served, client: ReferenceClient) -> None:
    making = threading.Thread(target=client.token_to_speech, args=(run_of([5, 6] * 30),))
    making.start()
    longest_s, num_pings = 0.0, 0
    while making.is_alive():
        begun_s = time.monotonic()
        assert speaking.http.get("/ping").status_code == 200
        longest_s = max(longest_s, time.monotonic() - begun_s)
        num_pings += 1
    assert num_pings > 3
    assert longest_s < 1.0


@pytest.mark.slow
def test_a_spoken_turn_through_all_three_services(speaking: Served, client: ReferenceClient) -> None:
    """The question about the picture, as the released page asks it: recording, units, reply, wav, units."""
    tokens = client.speech_to_token(QUESTION)
    with ReferenceClient(speaking.sites["controller"]) as controller:
        [model] = controller.post("/list_models")["models"]
        address = controller.post("/get_worker_address", {"model": model})["address"]
    assert address == speaking.sites["model worker"]
    prompt = chat(f"<image>\n{tokens}")
    with (
        ReferenceClient(address) as worker,
        worker.stream(
            {
                "model": model,
                "prompt": prompt,
                "images": [base64.b64encode((DEMO / "shapes.png").read_bytes()).decode()],
                "inference_type": "speech_to_speech",
                "temperature": 0,
                "max_new_tokens": 300,
                "stop": "<|eot_id|>",
            }
        ) as messages,
    ):
        answer = Answer(prompt, list(messages))
    assert answer.error_code == 0
    assert "?" in answer.asr or len(answer.asr.split()) > 2
    assert answer.llm
    spoken = client.token_to_speech(answer.text)
    heard = chat(client.speech_to_token(spoken.read_bytes()))
    with ReferenceClient(address) as worker:
        transcript = worker.generate(heard, "speech_to_text", max_new_tokens=1).asr
    words = answer.llm.lower().strip(".!?").split()
    assert sum(word in transcript.lower() for word in words) > len(words) / 2, (answer.llm, transcript)


@pytest.mark.slow
def test_the_private_folder_is_removed_at_the_end_and_a_named_one_kept(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "new" / "wavs"):
        reference = ReferenceSettings(0, 0, 0, wav_dir=folder)
        with (
            serving_http(reference=reference) as served,
            ReferenceClient(served.sites["codec worker"]) as client,
        ):
            path = client.token_to_speech("<Audio_1><Audio_2>")
            assert path.is_file()
        assert path.exists() == (folder is not None)
        assert path.parent.exists() == (folder is not None)


def test_old_files_of_a_private_folder_go() -> None:
    folder = WavFolder(None, expiry_s=0.0)
    try:
        samples = np.zeros(100, np.float32)
        first = folder.write(samples, 22050)
        time.sleep(0.02)
        second = folder.write(samples, 22050)
        assert not first.exists()
        assert second.exists()
    finally:
        folder.close()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--wav-dir"):
        WavFolder(tmp_path / "file" / "wavs", 60.0)
