"""The router of the engine's replicas, which runs in Serve's proxies and handles.

Serve sends it there by value, so it imports little, and keeps nothing in the module.
"""

from __future__ import annotations

import pickle
import random
from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from antiphon.scale.routing import by_waiting, replica_of

__all__ = ["ConversationRouter"]


class ConversationRouter(ConsistentHashRouter):  # type: ignore[misc]  # Ray is optional
    """Conversations keep their replica, whose prefix cache has what was said; other requests go to the less
    busy of two replicas.

    A conversation is what Serve calls a session: a client names it in the header `x-session-id`. Serve's own
    consistent hashing says where it belongs; while more than `spill_s` seconds of speech wait there, it goes
    to the next on the ring. A WebSocket whose client shows a secret of one replica goes to that one.
    """

    def initialize_state(self, spill_s: float = 10.0, **kwargs: Any) -> None:
        """spill_s: see `by_waiting`. kwargs: those of `ConsistentHashRouter`."""
        super().initialize_state(**kwargs)
        self._spill_s = spill_s

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Replicas in the order in which they are asked; of those in one list, the one with the fewest
        requests is."""
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        if (name := _named_replica(pending_request)) is not None:
            named = [r for r in candidate_replicas if r.replica_id.unique_id == name]
            if named:
                return [named]
        if not pending_request.metadata.session_id:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        ranked = await super().choose_replicas(candidate_replicas, pending_request)
        replicas = [replica for rank in ranked for replica in rank]
        waiting_s = [float(r.routing_stats.get("waiting_audio_s", 0.0)) for r in replicas]
        return [[replicas[i]] for i in by_waiting(waiting_s, self._spill_s)]


def _named_replica(pending_request: Any) -> str | None:
    """What Serve's proxy hands over is its own affair: where it cannot be read, nobody is named."""
    if not pending_request.metadata.is_http_request or not pending_request.args:
        return None
    try:
        return replica_of(pickle.loads(pending_request.args[0]).asgi_scope)
    except Exception:  # noqa: BLE001 - whatever it is, the request can be routed
        return None
