"""A cluster of Ray that runs already: updates, more and fewer replicas, and a server that joins it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets
from command_line import antiphon
from ray_cluster import QUESTIONS, Cluster, needs_ray, ray_cluster, reply
from server_process import server_process, wait_until

ENGINE = {"device": "cpu", "kv_cache_bytes": 64 << 20}
LIMIT_S = 300
CLIENTS = 2
LOOK_S = 0.5
PAUSE_S = 2.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster() as running:
        yield running


async def asking(
    cluster: Cluster, number: int, until: asyncio.Event, pause_s: float = 0.0
) -> list[tuple[str, bytes | None]]:
    """A client that asks one question after the other."""
    said: list[tuple[str, bytes | None]] = []
    async with httpx2.AsyncClient(base_url=cluster.http.base_url, timeout=LIMIT_S) as http:
        while not until.is_set():
            question = QUESTIONS[(number + len(said)) % len(QUESTIONS)]
            said.append((question, await reply(http, question)))
            await asyncio.sleep(pause_s)
    return said


async def talking(cluster: Cluster) -> tuple[list[str], int | None]:
    """A conversation in which nobody speaks, to its end: its events, and the code that it ends with."""
    url = str(cluster.http.base_url).replace("http", "ws").rstrip("/") + "/v1/realtime"
    events = []
    async with websockets.connect(url) as socket:
        try:
            while True:
                event = json.loads(await socket.recv())
                events.append(event.get("error", {}).get("code") or event["type"])
        except websockets.ConnectionClosed as closed:
            return events, None if closed.rcvd is None else closed.rcvd.code


@needs_ray
@pytest.mark.slow
@pytest.mark.long
def test_an_update_breaks_off_no_stream_and_ends_conversations_in_order(
    cluster: Cluster, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    args: dict[str, Any] = {"engine": ENGINE, "scale": {"num_cpus": 0.4, "surge_percent": 100}}
    server = {"drain_timeout_s": LIMIT_S}
    cluster.deploy(tmp_path, **args, server=server | {"served_model_name": "old"})
    cluster.wait_for("old")

    async def main() -> tuple[list[tuple[str, bytes | None]], tuple[list[str], int | None]]:
        is_over = asyncio.Event()
        clients = [asyncio.create_task(asking(cluster, number, is_over)) for number in range(CLIENTS)]
        talk = asyncio.create_task(talking(cluster))
        new = server | {"served_model_name": "new"}
        await asyncio.to_thread(cluster.deploy, tmp_path, **args, server=new)
        await asyncio.to_thread(cluster.wait_for, "new")
        ended = await talk
        is_over.set()
        return [each for client in await asyncio.gather(*clients) for each in client], ended

    said, talk = asyncio.run(main())
    assert len(said) > CLIENTS
    assert all(sound == expected[question] for question, sound in said)
    assert talk == (["session.created", "shutting_down"], 1001)


@needs_ray
@pytest.mark.slow
@pytest.mark.long
def test_speech_that_is_waited_for_starts_a_replica_and_calm_ends_it(
    cluster: Cluster, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """Requests alone would need a thousand times as many before another replica was wanted."""
    scale = {
        "num_cpus": 0.4, "max_replicas": 2, "target_waiting_s": 3.0, "target_requests": 10000,
        "upscale_delay_s": 1.0, "downscale_delay_s": 30.0,
    }  # fmt: skip
    engine = ENGINE | {"max_num_seqs": 1}
    cluster.deploy(tmp_path, engine=engine, scale=scale, server={"served_model_name": "scaled"})
    cluster.wait_for("scaled")
    assert cluster.replicas() == (1, ["RUNNING"])

    async def main() -> list[tuple[str, bytes | None]]:
        wanted, is_calm = asyncio.Event(), asyncio.Event()
        clients = [asyncio.create_task(asking(cluster, number, wanted)) for number in range(5)]
        while cluster.replicas()[0] == 1:
            await asyncio.sleep(LOOK_S)
        wanted.set()
        clients.append(asyncio.create_task(asking(cluster, 0, is_calm, PAUSE_S)))
        while cluster.replicas()[1] != ["RUNNING", "RUNNING"]:
            await asyncio.sleep(LOOK_S)
        while cluster.replicas()[1] != ["RUNNING"]:
            await asyncio.sleep(LOOK_S)
        is_calm.set()
        return [each for client in await asyncio.gather(*clients) for each in client]

    said = asyncio.run(asyncio.wait_for(main(), LIMIT_S))
    assert all(sound == expected[question] for question, sound in said)


@needs_ray
@pytest.mark.slow
@pytest.mark.long
def test_a_server_joins_a_cluster_and_leaves_it_up(cluster: Cluster, expected: dict[str, bytes]) -> None:
    cluster.run("serve", "shutdown", "--yes")
    wait_until(lambda: not cluster.model_name(), "what was served before ends", LIMIT_S)
    options = ("--ray", "--ray-address", cluster.address, "--cpus-per-replica", "0.4")

    async def ask(address: str) -> bytes | None:
        async with httpx2.AsyncClient(base_url=address, timeout=LIMIT_S) as http:
            return await reply(http, QUESTIONS[0])

    with server_process(*options, env=cluster.env, limit_s=2 * LIMIT_S) as server:
        assert asyncio.run(ask(server.address)) == expected[QUESTIONS[0]]
        command = [sys.executable, "-m", "antiphon", "serve", "--device", "cpu", *options]
        second = subprocess.run(
            command, env=cluster.env, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert second.returncode == 2
        assert "the cluster serves an application 'antiphon' already" in second.stderr
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
    assert "Active:" in cluster.run("ray", "status", "--address", cluster.address)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "Ray could not be reached at 127.0.0.1:1: "),
        ("local", "--ray-address: expected HOST:PORT or auto, got 'local'"),
        ("127.0.0.1:99999", "--ray-address: expected HOST:PORT or auto, got '127.0.0.1:99999'"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_at_once(address: str, message: str) -> None:
    ended = antiphon("serve", "--ray", "--ray-address", address)
    assert ended.status in (1, 2)
    assert ended.err.splitlines()[-1].startswith(f"antiphon: {message}")
