"""The parts of a Realtime session by themselves."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.server.handshake import given_key, is_allowed
from antiphon.server.realtime import g711
from antiphon.server.realtime.client_secrets import ClientSecrets
from antiphon.server.realtime.heard import GrowingTranscript
from antiphon.server.realtime.outbox import Outbox
from antiphon.server.realtime.session_config import RealtimeConfig, SessionConfig, merged
from antiphon.server.realtime.sound import SoundFormat, SoundReader, SoundWriter
from antiphon.sound.resample import resample

LAWS: tuple[g711.Law, ...] = ("ulaw", "alaw")


@pytest.mark.parametrize("law", LAWS)
def test_g711_is_that_of_ffmpeg(law: g711.Law) -> None:
    """Its decoder byte by byte; of its encoder, which rounds otherwise, how near it comes."""
    av = pytest.importorskip("av")
    codes = np.arange(256, dtype=np.uint8)
    decoder = av.CodecContext.create("pcm_mulaw" if law == "ulaw" else "pcm_alaw", "r")
    decoder.sample_rate, decoder.layout = 8000, "mono"
    (frame,) = decoder.decode(av.Packet(codes.tobytes()))
    assert (g711.decode(codes, law) == frame.to_ndarray().ravel()).all()
    samples = np.arange(-32768, 32768).astype(np.int16)
    error = np.abs(g711.decode(g711.encode(samples, law), law).astype(int) - samples)
    assert (error <= np.maximum(np.abs(samples.astype(int)) / 16, 16)).all()


@pytest.mark.parametrize("law", LAWS)
def test_g711_codes_come_back(law: g711.Law) -> None:
    codes = np.arange(256, dtype=np.uint8)
    again = g711.encode(g711.decode(codes, law), law)
    assert (g711.decode(again, law) == g711.decode(codes, law)).all()


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_sound_may_be_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = SoundReader(SoundFormat())
    pieces = [reader.push(data[begin:end]) for begin, end in pairwise(edges)]
    whole = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
    assert (np.concatenate(pieces) == whole).all()


def test_sound_that_is_written_in_pieces_is_that_of_the_whole() -> None:
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, 30_000).astype(np.float32)

    async def written() -> bytes:
        writer = SoundWriter(SoundFormat(), 22_050)
        pieces = [await writer.push(samples[begin : begin + 13_001]) for begin in range(0, 30_000, 13_001)]
        pieces.append(writer.finish())
        assert writer.end_ms == round(1000 * 30_000 / 22_050)
        return b"".join(base64.b64decode(piece) for piece in pieces)

    whole = np.round(np.clip(resample(samples, 22_050, 24_000), -1, 1) * 32767).astype("<i2")
    assert asyncio.run(written()) == whole.tobytes()


@given(st.lists(st.text("ab c", max_size=8), max_size=6), st.text("ab c", max_size=8))
def test_a_transcript_is_never_taken_back(updates: list[str], whole: str) -> None:
    growing, told = GrowingTranscript(), ""
    for before, text in pairwise(["", *updates]):
        if added := growing.update(text):
            told += added
            assert before.startswith(told) and text.startswith(told)
    added = growing.finish(whole)
    assert told + added == whole if whole.startswith(told) else not added


def test_deltas_are_what_two_updates_agree_on() -> None:
    growing = GrowingTranscript()
    updates = ["Wha", "What is", "What it", "What is in"]
    assert [growing.update(text) for text in updates] == ["", "Wha", "t i", ""]
    assert growing.finish("What is in it?") == "s in it?"


def taken(outbox: Outbox) -> list[Any]:
    async def take() -> list[Any]:
        found = []
        while (text := await outbox.take()) is not None:
            found.append(json.loads(text))
        return found

    return asyncio.run(take())


def test_an_outbox_numbers_what_it_sends_and_gives_it_again() -> None:
    async def main() -> None:
        outbox = Outbox()
        assert not outbox.may_rewind(0)
        for name in "abc":
            outbox.put({"type": name})
        assert [json.loads(str(await outbox.take()))["sequence_number"] for _ in "ab"] == [0, 1]
        assert [outbox.may_rewind(number) for number in (-2, -1, 0, 1, 2)] == [False, True, True, True, False]
        outbox.rewind(0)
        outbox.end()
        outbox.put({"type": "late"})
        told = [json.loads(text) async for text in _all(outbox)]
        assert [(each["type"], each["sequence_number"]) for each in told] == [("b", 1), ("c", 2)]

    asyncio.run(main())


async def _all(outbox: Outbox) -> AsyncIterator[str]:
    while (text := await outbox.take()) is not None:
        yield text


def test_sound_that_nobody_wants_is_left_out_without_a_gap() -> None:
    outbox = Outbox()
    for response_id in ("one", "two"):
        for kind in ("created", "output_audio.delta", "done"):
            outbox.put({"type": f"response.{kind}", "response_id": response_id})
    outbox.drop_sound("one")
    outbox.end()
    told = taken(outbox)
    assert [each["sequence_number"] for each in told] == [0, 1, 2, 3, 4]
    sound = [each for each in told if each["type"] == "response.output_audio.delta"]
    assert [each["response_id"] for each in sound] == ["two"]


def test_a_client_may_only_be_so_far_behind() -> None:
    outbox = Outbox(max_waiting_bytes=5000)
    for _ in range(20):
        outbox.put({"type": "x", "delta": "y" * 1000})
    assert outbox.is_full
    assert taken(outbox) == []


def test_secrets_expire_and_are_bounded() -> None:
    now = [1000.0]
    secrets = ClientSecrets(max_kept=3, clock=lambda: now[0])
    made = [secrets.make(RealtimeConfig(), 60 + number) for number in range(4)]
    assert [secrets.find(each.value) is not None for each in made] == [False, True, True, True]
    now[0] += 61.5
    assert [secrets.find(each.value) is not None for each in made] == [False, False, True, True]
    secrets.make(RealtimeConfig(), 60)
    assert len(secrets) == 3
    assert secrets.find("ek_\udcff") is None


def test_only_what_is_given_changes() -> None:
    config: SessionConfig = RealtimeConfig()
    vad = {"type": "server_vad", "threshold": 0.7}
    config = merged(config, {"instructions": "Sing.", "audio": {"input": {"turn_detection": vad}}})
    vad = {"type": "server_vad", "silence_duration_ms": 300}
    config = merged(config, {"audio": {"input": {"turn_detection": vad}, "output": {"voice": "x"}}})
    assert isinstance(config, RealtimeConfig)
    assert config.instructions == "Sing." and config.audio.output.voice == "x"
    found = config.audio.input.turn_detection
    assert found is not None and found.type == "server_vad"
    assert (found.threshold, found.silence_duration_ms) == (0.7, 300)
    semantic = {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}
    found = merged(config, semantic).audio.input.turn_detection
    assert found is not None and found.type == "semantic_vad"
    assert merged(config, {"audio": {"input": {"turn_detection": None}}}).audio.input.turn_detection is None


def test_where_a_key_and_an_origin_are_found() -> None:
    assert given_key({b"authorization": b"Bearer  k "}, []) == "k"
    assert given_key({}, ["realtime", "openai-insecure-api-key.k"]) == "k"
    assert given_key({b"authorization": b"Basic k"}, ["realtime"]) == ""
    for origin, host, is_fine in (
        (b"https://a.example", b"a.example", True),
        (b"https://a.example:443", b"a.example", True),
        (b"http://a.example:8000", b"a.example:8000", True),
        (b"http://a.example", b"a.example:8000", False),
        (b"http://A.example", b"a.example", True),
        (b"http://[::1]:80", b"[::1]", True),
        (b"http://a.example.evil", b"a.example", False),
        (b"null", b"a.example", False),
        (b"", b"", False),
        (b"file://", b"", False),
    ):
        assert is_allowed({b"origin": origin, b"host": host}, ()) is is_fine, origin
    assert is_allowed({b"origin": b"https://b", b"host": b"a"}, ("https://b",))
    assert is_allowed({b"origin": b"https://b", b"host": b"a"}, ("*",))
    assert is_allowed({b"host": b"a"}, ())
