"""Whether this process's replica is to end."""

from __future__ import annotations

from typing import Any

__all__ = ["is_leaving"]


def is_leaving() -> bool:
    """Whether Serve has begun to end the replica in this process. Serve calls a replica only when its last
    request and conversation have ended, so its own note is read; False where there is none."""
    try:
        from ray._private.worker import global_worker
    except ImportError:
        return False
    actors: dict[Any, Any] = getattr(global_worker, "actors", {})
    return any(
        getattr(getattr(actor, "_replica_impl", None), "_shutting_down", False) for actor in actors.values()
    )
