"""The router on Serve's own classes, where Ray is installed."""

from __future__ import annotations

import asyncio
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray.serve.experimental.consistent_hash_router")
StreamingHTTPRequest: Any = pytest.importorskip("ray.serve._private.common").StreamingHTTPRequest
ReplicaID: Any = pytest.importorskip("ray.serve.request_router").ReplicaID

from antiphon.scale.router import ConversationRouter  # noqa: E402 - it imports Ray


def replica(name: str, waiting_s: float = 0.0) -> Any:
    """What Serve's routers know of a replica."""
    return SimpleNamespace(
        replica_id=ReplicaID(unique_id=name, deployment_id=None), routing_stats={"waiting_audio_s": waiting_s}
    )


def request(session: str = "", scope: dict[str, Any] | None = None) -> Any:
    """What Serve's proxy asks a router."""
    sent = pickle.dumps(StreamingHTTPRequest(asgi_scope=scope or {"type": "http"}, proxy_actor_name="proxy"))
    return SimpleNamespace(
        args=[sent],
        metadata=SimpleNamespace(session_id=session, is_http_request=True, internal_request_id="1"),
        routing_context=SimpleNamespace(should_backoff=False),
    )


def chosen(replicas: list[Any], pending: Any, spill_s: float = 10.0) -> list[list[str]]:
    """The names of those that are asked, in their order."""
    router: Any = ConversationRouter.__new__(ConversationRouter)
    router._num_virtual_nodes, router._num_fallback_replicas, router._spill_s = 100, 2, spill_s
    router._deployment_id = SimpleNamespace()
    router._replicas = {each.replica_id: each for each in replicas}
    router._rebuild_ring(frozenset(router._replicas))
    ranks = asyncio.run(router.choose_replicas(replicas, pending))
    return [[each.replica_id.unique_id for each in rank] for rank in ranks]


def test_a_conversation_keeps_its_replica_while_that_keeps_up() -> None:
    names = ["a", "b", "c"]
    order = chosen([replica(name) for name in names], request("x"))
    assert sorted(name for (name,) in order) == names
    assert chosen([replica(name) for name in reversed(names)], request("x")) == order
    first = order[0][0]
    busy = [replica(name, 11.0 if name == first else 0.0) for name in names]
    assert chosen(busy, request("x")) == [*order[1:], order[0]]
    assert chosen([replica(name, 99.0) for name in names], request("x")) == order


def test_conversations_are_spread() -> None:
    replicas = [replica(name) for name in "abc"]
    assert {chosen(replicas, request(f"conversation {i}"))[0][0] for i in range(64)} == set("abc")


def test_others_go_to_the_less_busy_of_two() -> None:
    replicas = [replica(name) for name in "abc"]
    seen = [chosen(replicas, request())[0] for _ in range(64)]
    assert all(len(set(two)) == 2 for two in seen)
    assert {name for two in seen for name in two} == set("abc")
    assert chosen(replicas[:1], request()) == [["a"]]


def test_a_secret_leads_to_its_replica_and_a_lost_one_anywhere() -> None:
    replicas = [replica(name) for name in "abc"]
    scope = {"type": "websocket", "query_string": b"resume=s3cret.at-b&after=1", "headers": []}
    assert chosen(replicas, request("x", scope)) == [["b"]]
    gone = scope | {"query_string": b"resume=s3cret.at-z"}
    assert len(chosen(replicas, request(scope=gone))[0]) == 2
    unreadable = request()
    unreadable.args = [b"not a pickle"]
    assert len(chosen(replicas, unreadable)[0]) == 2
