"""A cluster of Ray on this machine, as `ray start` makes it, and clients of what it serves."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest
from command_line import environment
from server_process import wait_until

__all__ = ["IS_INSTALLED", "QUESTIONS", "Cluster", "Progress", "alive", "needs_ray", "ray_cluster", "reply"]

IS_INSTALLED = find_spec("ray") is not None
QUESTIONS = ("What is two plus three?", "What is four plus five?", "How are you?", "Hello")
LIMIT_S = 300
LOOK_S = 0.5

needs_ray = pytest.mark.skipif(not IS_INSTALLED, reason="it is not installed")


@dataclass
class Progress:
    """Of a reply, as its client sees it."""

    has_begun: bool = False
    """Whether its sound has"""
    has_ended: bool = False

    @property
    def is_speaking(self) -> bool:
        return self.has_begun and not self.has_ended


def body(question: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}],
        "modalities": ["text", "audio"],
        "audio": {"voice": "alloy", "format": "pcm16"},
        "stream": True,
        "temperature": 0,
        "seed": 0,
    }


async def reply(
    http: httpx2.AsyncClient,
    question: str,
    progress: Progress | None = None,
    session: str | None = None,
) -> bytes | None:
    """The sound of a reply; None if it broke off. progress: is kept while it arrives. session: the
    conversation that it is of."""
    progress = progress or Progress()
    try:
        return await _reply(http, question, progress, session)
    finally:
        progress.has_ended = True


async def _reply(
    http: httpx2.AsyncClient, question: str, progress: Progress, session: str | None
) -> bytes | None:
    headers = {} if session is None else {"x-session-id": session}
    sound = b""
    try:
        async with http.stream(
            "POST", "/v1/chat/completions", json=body(question), headers=headers
        ) as answer:
            if answer.status_code != 200:
                return None
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    return sound
                if not line.startswith("data: "):
                    continue
                told = json.loads(line.removeprefix("data: "))
                if "error" in told:
                    return None
                for choice in told["choices"]:
                    data = (choice["delta"].get("audio") or {}).get("data", "")
                    sound += base64.b64decode(data)
                    progress.has_begun = bool(sound)
    except httpx2.TransportError:
        return None
    return None


def alive(mark: str) -> list[int]:
    """Processes that were started for this server."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@dataclass(frozen=True)
class Cluster:
    """One that runs. `ray` and `serve` find it by the environment."""

    address: str
    env: dict[str, str]
    http: httpx2.Client
    """Of the port that Serve is to listen on"""

    @property
    def port(self) -> int:
        return int(str(self.http.base_url).rsplit(":", 1)[1].strip("/"))

    def run(self, *command: str) -> str:
        """A command of Ray's, to its end; what it printed."""
        program = Path(sys.executable).with_name(command[0])
        with tempfile.TemporaryFile("w+") as out:  # what it starts may keep that open
            done = subprocess.run(
                [program, *command[1:]], env=self.env, stdout=out, stderr=out, timeout=LIMIT_S, check=False
            )
            out.seek(0)
            printed = out.read()
        assert done.returncode == 0, printed
        return printed

    def deploy(self, folder: Path, **args: Any) -> None:
        """`serve deploy`, of our application alone. args: of `antiphon.scale:application`."""
        application = {"name": "antiphon", "import_path": "antiphon.scale:application", "args": args}
        config = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": self.port},
            "applications": [application | {"route_prefix": "/"}],
        }
        path = folder / "antiphon.json"  # which is YAML, too
        path.write_text(json.dumps(config))
        self.run("serve", "deploy", str(path))

    def replicas(self) -> tuple[int, list[str]]:
        """How many there are to be, and the state of each that there is."""
        key = {"authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}
        url = f"{self.env['RAY_DASHBOARD_ADDRESS']}/api/serve/applications/"
        applications = httpx2.get(url, headers=key, timeout=60).json()["applications"]
        found = applications["antiphon"]["deployments"]["Antiphon"]
        return found["target_num_replicas"], [replica["state"] for replica in found["replicas"]]

    def model_name(self) -> str:
        """Of the model that is served; empty while none is."""
        try:
            answer = self.http.get("/v1/models")
        except httpx2.TransportError:
            return ""
        return answer.json()["data"][0]["id"] if answer.status_code == 200 else ""

    def wait_for(self, model_name: str) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while self.model_name() != model_name:
            assert time.monotonic() < deadline_s, self.run("serve", "status")
            time.sleep(LOOK_S)  # whatever is asked takes its time from what is waited for


def _free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def ray_cluster(num_cpus: int = 2) -> Iterator[Cluster]:
    """One node, of the loopback address alone, which reports nothing, until the block ends."""
    gcs, dashboard, client, agent, http = _free_ports(5)
    mark, address = uuid.uuid4().hex, f"127.0.0.1:{gcs}"
    env = environment() | {
        "ANTIPHON_TEST_MARK": mark,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_gcs_server_port_wait_time_s": "120",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    folder = tempfile.mkdtemp(prefix="ray-")  # short: names of sockets have 107 bytes
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{http}", timeout=60) as served:
            cluster = Cluster(address, env, served)
            options = {
                "--node-ip-address": "127.0.0.1",
                "--port": gcs,
                "--dashboard-host": "127.0.0.1",
                "--dashboard-port": dashboard,
                "--ray-client-server-port": client,
                "--dashboard-agent-listen-port": agent,
                "--num-cpus": str(num_cpus),
                "--object-store-memory": str(200 << 20),
                "--temp-dir": folder,
            }
            flags = [part for pair in options.items() for part in pair]
            cluster.run("ray", "start", "--head", "--include-dashboard", "true", *flags)
            yield cluster
    finally:
        for pid in alive(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(mark), "the cluster's processes end")
        shutil.rmtree(folder, ignore_errors=True)
