"""The released code's model worker: golden replies, pictures, many at a time, and bodies that are wrong."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from golden_cases import GOLDEN, Case, cases
from http_server import Served, serving_http
from reference_client import Answer, ReferenceClient, chat, units_of
from serving import load

from antiphon import AsyncEngine, Engine
from antiphon.server.settings import ReferenceSettings
from antiphon.types import Event

ANY_PORTS = ReferenceSettings(0, 0, 0)
ERROR = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
LONG = {"max_new_tokens": 1024, "temperature": 1.0}


@pytest.fixture(scope="module")
def golden_server() -> Iterator[Served]:
    """The golden model, whose engine takes 16 requests at a time."""

    def engine() -> AsyncEngine:
        return AsyncEngine.from_engine(load(max_model_len=2048))

    with serving_http(engine, reference=ANY_PORTS) as running:
        yield running


@pytest.fixture
def client(golden_server: Served) -> Iterator[ReferenceClient]:
    with ReferenceClient(golden_server.sites["model worker"]) as client:
        yield client


def body_of(case: Case) -> dict[str, Any]:
    pictures = [(GOLDEN / "images" / f"{name}.png").read_bytes() for name in case.data["images"]]
    return {
        "model": "any",
        "prompt": case.data["prompt"],
        "images": [base64.b64encode(picture).decode() for picture in pictures] or None,
        "inference_type": case.data["mode"],
        "temperature": 0,
        "max_new_tokens": case.data["max_new_tokens"],
        "stop": "<|eot_id|>",
    }


def ask(client: ReferenceClient, case: Case) -> Answer:
    with client.stream(body_of(case)) as messages:
        return Answer(case.data["prompt"], list(messages))


def check(case: Case, answer: Answer) -> None:
    """The answer is the golden one, and each message begins with the one before."""
    ids = case.data["output_ids"][: -1 if case.data["stopped"] else None]
    if case.speaks:
        assert units_of(answer.text) == [i - 512 for i in ids]
        assert answer.llm == case.data["text"]
    else:
        assert answer.text == case.data["text"]
        assert answer.llm == ""
    assert answer.asr == case.data.get("asr_text", "")
    assert len(answer.messages) > 1
    before = case.data["prompt"]
    for message in answer.messages:
        assert message.keys() == {"text", "asr_outputs", "llm_outputs", "error_code"}
        assert message["error_code"] == 0
        assert message["text"].startswith(before)
        before = message["text"]


def check_idle(served: Served) -> None:
    """Nothing runs any more, within a moment."""
    until_s = time.monotonic() + 10
    while served.service.num_running or served.engine.health().num_running:
        assert time.monotonic() < until_s
        time.sleep(0.01)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_golden_replies(client: ReferenceClient, case: Case) -> None:
    check(case, ask(client, case))


@pytest.mark.slow
def test_no_sound_is_made_of_units(monkeypatch: pytest.MonkeyPatch) -> None:
    def engine() -> AsyncEngine:
        made = Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", progress=False, kv_cache_bytes=32 << 20)
        assert made.speech_worker is not None
        monkeypatch.setattr(made.speech_worker, "begin", None)
        return AsyncEngine.from_engine(made)

    with (
        serving_http(engine, reference=ANY_PORTS) as served,
        ReferenceClient(served.sites["model worker"]) as client,
    ):
        for name in ("t2s", "s2s"):
            case = next(case for case in cases() if case.name == name)
            check(case, ask(client, case))


@pytest.mark.slow
def test_sixteen_at_a_time_each_get_their_own_reply(client: ReferenceClient) -> None:
    asked = [cases()[index % len(cases())] for index in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for case, answer in zip(asked, pool.map(lambda case: ask(client, case), asked), strict=True):
            check(case, answer)


def test_the_controller_answers_as_the_worker_does(golden_server: Served) -> None:
    with ReferenceClient(golden_server.sites["controller"]) as client:
        [model] = client.post("/list_models")["models"]
        case = cases()[0]
        with client.stream(body_of(case) | {"model": model}) as messages:
            check(case, Answer(case.data["prompt"], list(messages)))


@pytest.mark.slow
def test_defaults_are_speech_to_speech_of_256_units(client: ReferenceClient) -> None:
    with client.stream({"prompt": chat("<Audio_1><Audio_2>")}) as messages:
        answer = Answer(chat("<Audio_1><Audio_2>"), list(messages))
    assert answer.error_code == 0
    assert 0 < len(units_of(answer.text)) <= 256


@pytest.mark.slow
def test_the_limit_is_of_units_or_of_tokens_and_1024_at_most(client: ReferenceClient) -> None:
    spoken = client.generate(chat("<Audio_1>"), "speech_to_speech", max_new_tokens=5, temperature=0.001)
    assert len(units_of(spoken.text)) == 5
    written = [
        client.generate(chat("Hello"), "text_to_text", max_new_tokens=3, temperature=temperature).text
        for temperature in (0, 0.0005, -1)
    ]
    assert len(set(written)) == 1
    case = next(case for case in cases() if case.name == "t2t")
    long = client.generate(case.data["prompt"], "text_to_text", max_new_tokens=99999, temperature=0)
    assert long.error_code == 0
    assert long.text.startswith(case.data["text"][:40])


def test_the_stop_string_is_cut_off_the_end_of_the_text(client: ReferenceClient) -> None:
    case = next(case for case in cases() if case.name == "t2t")
    whole = case.data["text"]
    with client.stream(body_of(case) | {"stop": whole[-7:]}) as messages:
        assert Answer(case.data["prompt"], list(messages)).text == whole[:-7]
    with client.stream(body_of(case) | {"stop": ""}) as messages:
        assert Answer(case.data["prompt"], list(messages)).text == whole


def test_sampling(client: ReferenceClient) -> None:
    replies = {client.generate(chat("Hello"), "text_to_text", max_new_tokens=20).text for _ in range(4)}
    assert len(replies) > 1
    nucleus = {
        client.generate(chat("Hello"), "text_to_text", max_new_tokens=20, top_p=top_p).text
        for top_p in (0, 1e-9)
    }
    greedy = client.generate(chat("Hello"), "text_to_text", max_new_tokens=20, temperature=0).text
    assert nucleus == {greedy}


def test_a_system_message_is_kept_and_none_is_added(client: ReferenceClient) -> None:
    replies = {
        client.generate(
            chat("Hello", "Yes", "Who?", system=system), "text_to_text", temperature=0, max_new_tokens=20
        ).text
        for system in (None, "Sing.", "Be brief.")
    }
    assert len(replies) == 3


PIECES = [b'"', b"{", b"<image>", b"<|eot_id|>", b"-1e999", b"\\u0000"]
PICTURE = base64.b64encode((GOLDEN / "images" / "p0.png").read_bytes()).decode()
WRONG: list[dict[str, Any] | bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"prompt": 1}',
    b"[" * 100_000,
    b'{"prompt": "\\ud800"}',
    b"\xff\xfe",
    {},
    {"prompt": ""},
    {"prompt": "Hello", "inference_type": "text_to_text"},
    {"prompt": chat("Hello")},
    {"prompt": chat("Hello"), "inference_type": "speech_to_text"},
    {"prompt": chat("<Audio_1>"), "inference_type": "text_to_text"},
    {"prompt": chat("Hello"), "inference_type": "text_to_smell"},
    {"prompt": chat("<Audio_64>")},
    {"prompt": chat("<Audio_" + "1" * 5000 + ">")},
    {"prompt": chat("<image>\nHello"), "inference_type": "text_to_text"},
    {"prompt": chat("Hello"), "inference_type": "text_to_text", "images": [PICTURE]},
    {"prompt": chat("<image>\nHello"), "inference_type": "text_to_text", "images": [PICTURE, PICTURE]},
    {
        "prompt": chat("<image>\nHello"),
        "inference_type": "text_to_text",
        "images": ["data:,AAAA"],
    },
    {"prompt": chat("<image>\nHello"), "inference_type": "text_to_text", "images": ["AAAA"]},
    {"prompt": chat("<image>Hello"), "inference_type": "text_to_text", "images": [PICTURE]},
    {"prompt": chat("Hello <image>\n"), "inference_type": "text_to_text", "images": [PICTURE]},
    {"prompt": chat("Hello", "Yes"), "inference_type": "text_to_text"},
    {"prompt": chat(""), "inference_type": "text_to_text"},
    {"prompt": chat("Hello", system="a<|eot_id|>b"), "inference_type": "text_to_text"},
    {"prompt": chat("Hello").replace("user", "robot"), "inference_type": "text_to_text"},
    {"prompt": chat("Hello").replace("<|eot_id|><|start_header_id|>user", "<|start_header_id|>user")},
    {"prompt": chat("Hello"), "inference_type": "text_to_text", "temperature": "hot"},
    {"prompt": chat("Hello"), "inference_type": "text_to_text", "top_p": 1.5},
    {"prompt": chat("Hello"), "inference_type": "text_to_text", "max_new_tokens": 0},
    {"prompt": chat("Hello"), "inference_type": "text_to_text", "max_new_tokens": 1.5},
    {"prompt": chat("Hello"), "inference_type": "text_to_text", "stop": 7},
    b'{"prompt": "x", "temperature": NaN}',
]


@pytest.mark.parametrize("body", WRONG, ids=lambda body: str(body)[:40])
def test_what_is_wrong_is_told_by_one_message(client: ReferenceClient, body: dict[str, Any] | bytes) -> None:
    with client.stream(body) as messages:
        [told] = list(messages)
    assert (told["text"], told["error_code"]) == (ERROR, 1)
    assert 0 < len(told["detail"]) < 300


@pytest.mark.parametrize(
    ("content", "kind"), [("word " * 3000, "text_to_text"), ("<Audio_1>" * 2500, "speech_to_speech")]
)
def test_a_prompt_that_is_too_long(client: ReferenceClient, content: str, kind: str) -> None:
    answer = client.generate(chat(content), kind)
    [told] = answer.messages
    assert told["error_code"] == 0
    assert answer.text == "Exceeds max token length. Please start a new conversation, thanks."


def test_a_lost_client_ends_its_request(
    golden_server: Served, client: ReferenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    [endless] = [case for case in cases() if case.name == "s2s_short"]
    assert not endless.data["stopped"]
    engine = golden_server.engine.engine
    step = engine.step

    def slowly() -> list[Event]:
        time.sleep(0.05)  # or a busy client would find its reply finished
        return step()

    monkeypatch.setattr(engine, "step", slowly)
    for _ in range(3):
        with client.stream(body_of(endless)) as messages:
            next(messages)
            assert golden_server.service.num_running == 1
        check_idle(golden_server)
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


@pytest.mark.slow
def test_lost_clients_leave_the_others_alone(golden_server: Served, client: ReferenceClient) -> None:
    def leave(_: int) -> None:
        with client.stream({"prompt": chat("<Audio_1>"), **LONG}) as messages:
            next(messages)

    with ThreadPoolExecutor(16) as pool:
        left = [pool.submit(leave, index) for index in range(8)]
        asked = cases()[:8]
        for case, answer in zip(asked, pool.map(lambda case: ask(client, case), asked), strict=True):
            check(case, answer)
        for each in left:
            each.result()
    check_idle(golden_server)


@pytest.mark.slow
def test_hundreds_of_mutated_bodies(
    golden_server: Served, client: ReferenceClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Each gets messages in the protocol's form, and leaves no traceback and no request behind."""
    draw = random.Random(0)
    whole = [
        json.dumps(body_of(case) | {"max_new_tokens": 4}).encode()
        for case in cases()
        if not case.data["images"] or case.data["images"] == ["p0"]
    ]
    for _ in range(400):
        body = bytearray(draw.choice(whole))
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(body))
            length = draw.choice([1, 1, 4, 40])
            change = draw.randrange(4)
            if change == 0:
                del body[place : place + length]
            elif change == 1:
                body[place:place] = draw.randbytes(length)
            elif change == 2:
                body[place : place + length] = draw.choice(PIECES)
            else:
                body[place:place] = body[:length]
        with client.stream(bytes(body)) as messages:
            for message in messages:
                assert isinstance(message["text"], str)
                assert message["error_code"] in (0, 1)
    check_idle(golden_server)
    assert "Traceback" not in caplog.text
    assert "could not be answered" not in caplog.text


def test_no_prompt_is_logged(golden_server: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"), ReferenceClient(golden_server.sites["model worker"]) as client:
        client.generate(chat("swordfish"), "text_to_text", max_new_tokens=3)
        client.generate(chat("swordfish <Audio_99>"), "speech_to_text", max_new_tokens=3)
    assert "/worker_generate_stream" in caplog.text
    assert "swordfish" not in caplog.text


def test_a_client_that_waits_hears_something_again_and_again(
    golden_server: Served, client: ReferenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.server.reference.model_worker.PAUSE_S", 0.0005)
    case = cases()[0]
    answer = ask(client, case)
    check(case, answer)
    texts = [message["text"] for message in answer.messages]
    assert len(set(texts)) < len(texts)


@pytest.mark.slow
def test_while_too_many_wait_others_are_told() -> None:
    def engine() -> AsyncEngine:
        return AsyncEngine.from_engine(load(max_num_seqs=1, max_num_waiting=1))

    with (
        serving_http(engine, reference=ANY_PORTS) as served,
        ReferenceClient(served.sites["model worker"]) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        ask = partial(client.generate, chat("<Audio_1>"), "speech_to_speech", max_new_tokens=64)
        answers = [each.result() for each in [pool.submit(ask) for _ in range(8)]]
    codes = [answer.error_code for answer in answers]
    assert 0 in codes
    assert 1 in codes
