"""`antiphon serve --ray`, with Ray where it is installed: replicas serve, one dies, all end in order."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import uuid
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets
from command_line import antiphon, environment
from ray_cluster import IS_INSTALLED, QUESTIONS, Progress, alive, needs_ray, reply
from server_process import ServerProcess, server_process, wait_until

KEY = {"authorization": "Bearer right"}
CPU = ("--cpus-per-replica", "0.5")
LIMIT_S = 300
ON_ITS_WAY_S, LOOK_S = 0.5, 0.02
LINE = re.compile(r"\(ServeReplica:antiphon:Antiphon pid=(\d+)\).*'(/[^']*)' (\d+) ")


def replicas_seen(server: ServerProcess) -> list[int]:
    """The processes that have answered, in the order of the answers."""
    return [int(pid) for pid, _, status in LINE.findall(server.err) if status == "200"]


def asked(server: ServerProcess, session: str) -> list[int]:
    """The processes that answer four requests of a conversation."""
    before = len(replicas_seen(server))
    asyncio.run(ask(server, session))
    wait_until(lambda: len(replicas_seen(server)) >= before + 4, "answers are logged")
    return replicas_seen(server)[before:]


async def ask(server: ServerProcess, session: str) -> None:
    async with httpx2.AsyncClient(base_url=server.address, headers=KEY, timeout=60) as http:
        for _ in range(4):
            assert (await http.get("/v1/models", headers={"x-session-id": session})).status_code == 200


def client(server: ServerProcess) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=40)
    return httpx2.AsyncClient(base_url=server.address, headers=KEY, timeout=120, limits=limits)


async def all_asked(server: ServerProcess, sessions: list[str]) -> list[bytes | None]:
    """32 replies, in turn of these conversations."""
    async with client(server) as http:
        return list(await asyncio.gather(*(_asked_in(http, sessions, i, Progress()) for i in range(32))))


async def asked_while_one_dies(server: ServerProcess, sessions: list[str], victim: int) -> list[bytes | None]:
    """The same, of conversations that have a replica each. The victim, that of the first conversation, is
    killed in the middle of a reply."""
    async with client(server) as http:
        replies = [Progress() for _ in range(32)]
        asked = asyncio.gather(*(_asked_in(http, sessions, i, reply) for i, reply in enumerate(replies)))
        while not await _is_held_while_speaking(victim, replies[:: len(sessions)]):
            assert not asked.done(), "all replies have ended, and none was caught in its middle"
        os.kill(victim, signal.SIGKILL)
        return list(await asked)


async def _asked_in(
    http: httpx2.AsyncClient, sessions: list[str], i: int, progress: Progress
) -> bytes | None:
    return await reply(http, QUESTIONS[i % len(QUESTIONS)], progress, sessions[i % len(sessions)])


async def _is_held_while_speaking(victim: int, replies: list[Progress]) -> bool:
    """Stop this process, its replies being these, and wait until nothing is on its way any more: is there a
    reply that has begun and not ended? If there is none, it goes on."""
    if any(reply.is_speaking for reply in replies):
        os.kill(victim, signal.SIGSTOP)
        await asyncio.sleep(ON_ITS_WAY_S)
        if any(reply.is_speaking for reply in replies):
            return True
        os.kill(victim, signal.SIGCONT)
    await asyncio.sleep(LOOK_S)
    return False


async def voice(server: ServerProcess) -> None:
    """Four conversations, each of which comes back after its connection was lost."""
    url = server.address.replace("http", "ws") + "/v1/realtime"
    for _ in range(4):
        socket = await websockets.connect(url, additional_headers=KEY)
        created = json.loads(await socket.recv())
        socket.transport.abort()
        token = created["session"]["resume_token"]
        again = await websockets.connect(f"{url}?resume={token}&after=0", additional_headers=KEY)
        await again.send(json.dumps({"type": "input_audio_buffer.clear"}))
        cleared = json.loads(await asyncio.wait_for(again.recv(), 60))
        assert cleared["type"] == "input_audio_buffer.cleared"
        await again.close()
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(url, additional_headers={"authorization": "Bearer wrong"})
    assert refused.value.response.status_code == 401


@needs_ray
@pytest.mark.slow
def test_replicas_serve_one_dies_another_comes_and_all_end_in_order(expected: dict[str, bytes]) -> None:
    mark = uuid.uuid4().hex
    options: dict[str, Any] = {"env": environment() | {"ANTIPHON_TEST_MARK": mark}}
    arguments = ("--ray", "--replicas", "2", *CPU, "--api-key", "right", "--drain-timeout-s", "5")
    with server_process(*arguments, limit_s=LIMIT_S, **options) as server:
        assert server.http.get("/v1/models").status_code == 401
        homes: dict[int, str] = {}
        while len(homes) < 2:
            session = uuid.uuid4().hex
            [home] = set(asked(server, session))  # a conversation keeps its replica
            homes[home] = session
        asyncio.run(voice(server))

        sessions = list(homes.values())
        said = asyncio.run(all_asked(server, sessions))
        assert all(said[i] == expected[QUESTIONS[i % 4]] for i in range(32))
        first, second = homes

        said = asyncio.run(asked_while_one_dies(server, sessions, first))
        right = [sound for i, sound in enumerate(said) if sound == expected[QUESTIONS[i % 4]]]
        assert len(right) + said.count(None) == 32  # none is wrong, and none hangs
        assert right
        assert None in said

        def has_another() -> bool:
            return bool({*asked(server, uuid.uuid4().hex)} - {first, second})

        wait_until(has_another, "a new replica serves")
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        wait_until(lambda: not alive(mark), "its processes end")


@needs_ray
@pytest.mark.slow
@pytest.mark.long
def test_replicas_of_the_codec_make_the_speech_of_all(expected: dict[str, bytes]) -> None:
    arguments = ("--ray", "--replicas", "2", *CPU, "--codec-replicas", "1", "--cpus-per-codec", "0.5")
    with server_process(*arguments, "--api-key", "right", limit_s=LIMIT_S) as server:
        said = asyncio.run(all_asked(server, ["a", "b"]))
        assert all(said[i] == expected[QUESTIONS[i % 4]] for i in range(32))
        server.signal(signal.SIGTERM)
        assert server.ended() == 0


@needs_ray
@pytest.mark.slow
@pytest.mark.long
def test_a_model_that_cannot_be_loaded_is_said_in_one_line(tmp_path: Path) -> None:
    ended = antiphon("serve", "--ray", "--device", "cpu", "--port", "0", "--model", str(tmp_path))
    assert ended.status == 2
    assert "the replicas could not be started" in ended.err
    assert "config.json" in ended.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replicas", "2"], "needs --ray"),
        (["--codec-replicas", "1"], "needs --ray"),
        (["--ray", "--reference-ports"], "cannot be combined with --ray"),
        (["--ray", "--replicas", "2", "--max-replicas", "3"], "cannot be combined with --max-replicas"),
        (["--ray", "--min-replicas", "2"], "needs --max-replicas"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
@pytest.mark.slow
def test_wrong_options_are_said(arguments: list[str], message: str) -> None:
    ended = antiphon("serve", *arguments)
    assert ended.status == 2
    assert message in ended.err


@pytest.mark.skipif(IS_INSTALLED, reason="it is installed")
@pytest.mark.slow
def test_the_missing_package_is_named() -> None:
    ended = antiphon("serve", "--ray")
    assert ended.status == 2
    assert ended.err.strip() == "antiphon: Ray Serve is not installed: pip install 'antiphon[ray]'"
