"""One replica, called as Serve calls it, with a stand-in for Ray."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from serving import run

from antiphon import EngineDead, Finished, Request, SamplingParams
from antiphon.errors import CheckpointError
from antiphon.scale.leaving import is_leaving
from antiphon.scale.replica import Replica
from antiphon.server.errors import ApiError
from antiphon.server.in_process import post
from antiphon.server.settings import REPLICA_MARK, ServerSettings

ARGUMENTS = {"device": "cpu", "progress": False, "kv_cache_bytes": 64 << 20}
HELLO = Request("Hello", modalities=("text",))
FEW = SamplingParams(max_tokens=4, temperature=0.0)


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Ray, a replica asks for its own name."""
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r7x"))
    module: Any = ModuleType("ray")
    module.serve = SimpleNamespace(get_replica_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", module)


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[tuple[Replica, Any]]:
    """A replica and its application, from the beginning of its life to the end."""
    replica = Replica(None, ARGUMENTS, ServerSettings(**settings))
    app = await replica.__serve_build_asgi_app__()
    async with app.router.lifespan_context(app):
        yield replica, app


def test_it_answers_what_a_server_does_and_other_deployments() -> None:
    async def main() -> None:
        async with started() as (replica, app):
            body = b'{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}'
            answer = await post(app, "/v1/chat/completions", body)
            assert answer.status == 200
            completion = await replica.generate(HELLO, FEW)
            events = [event async for event in replica.stream(HELLO, FEW)]
            assert isinstance(events[-1], Finished)
            assert events[-1].completion.text == completion.text
            assert completion.text.encode() in answer.body

    run(main())


def test_one_that_is_to_end_ends_its_conversations_and_still_takes_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actor = SimpleNamespace(_replica_impl=SimpleNamespace(_shutting_down=False))
    worker: Any = ModuleType("ray._private.worker")
    worker.global_worker = SimpleNamespace(actors={"id": actor})
    monkeypatch.setitem(sys.modules, "ray._private", ModuleType("ray._private"))
    monkeypatch.setitem(sys.modules, "ray._private.worker", worker)

    async def main() -> None:
        async with started(drain_timeout_s=60.0) as (replica, app):
            has_ended = asyncio.Event()

            async def end(deadline_s: float) -> None:
                has_ended.set()

            app.state.service.on_drain.append(end)
            assert not is_leaving()
            await replica.generate(HELLO, FEW)
            assert not has_ended.is_set()
            actor._replica_impl._shutting_down = True  # as Serve does
            await asyncio.wait_for(has_ended.wait(), 60)
            assert (await replica.generate(HELLO, FEW)).text

    run(main())


def test_what_is_not_a_replica_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_leaving()  # without Ray
    worker: Any = ModuleType("ray._private.worker")
    worker.global_worker = SimpleNamespace(actors={"id": object()})
    monkeypatch.setitem(sys.modules, "ray._private", ModuleType("ray._private"))
    monkeypatch.setitem(sys.modules, "ray._private.worker", worker)
    assert not is_leaving()


def test_its_secrets_end_in_its_name() -> None:
    async def main() -> None:
        async with started() as (_, app):
            answer = await post(app, "/v1/realtime/client_secrets", b"{}")
            assert f"{REPLICA_MARK}r7x" in answer.body.decode()

    run(main())


def test_what_it_tells_serve() -> None:
    async def main() -> None:
        async with started() as (replica, app):
            await replica.check_health()
            assert await replica.record_routing_stats() == {"waiting_audio_s": 0.0}
            assert await replica.record_autoscaling_stats() == {"waiting_audio_s": 0.0}
            await app.state.service.engine.aclose()
            with pytest.raises(EngineDead):
                await replica.check_health()
            assert await replica.record_routing_stats() == {"waiting_audio_s": 0.0}

    run(main())


def test_a_replica_that_is_drained_takes_nothing_more() -> None:
    async def main() -> None:
        async with started(drain_timeout_s=5.0) as (replica, _):
            running = asyncio.ensure_future(replica.generate(HELLO, FEW))
            while not replica._service.num_running:
                await asyncio.sleep(0)
            await replica.drain()
            assert (await running).finish_reason in ("stop", "length")
            with pytest.raises(ApiError, match="shutting down"):
                await replica.generate(HELLO, FEW)

    run(main())


def test_what_is_wrong_with_its_model_is_raised_to_serve(tmp_path: Any) -> None:
    replica = Replica(str(tmp_path), ARGUMENTS, ServerSettings())
    with pytest.raises(CheckpointError, match=r"config\.json"):
        run(replica.__serve_build_asgi_app__())
