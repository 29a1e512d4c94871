"""How many replicas there should be: by the speech that is waited for, and by the requests that run.

Serve sends this to its controller by value, so it imports nothing.
"""

from __future__ import annotations

from typing import Any

__all__ = ["WaitingAudio"]


class WaitingAudio:
    """A policy for Serve's `AutoscalingConfig`, which adds bounds, delays and factors of its own.

    There should be as many replicas as keep the speech that is waited for at each below `target_s`, and the
    requests at each below Serve's own `target_ongoing_requests`; whichever needs more.
    """

    def __init__(self, target_s: float = 10.0) -> None:
        """target_s: seconds of speech that may be waited for at a replica."""
        if target_s <= 0:
            raise ValueError(f"target_s: expected more than 0, got {target_s}")
        self.target_s = target_s

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """The number wanted, and no state. context: Serve's `AutoscalingContext`."""
        waiting = (context.aggregated_metrics or {}).get("waiting_audio_s", {})
        for_speech = sum(waiting.values()) / self.target_s
        for_requests = context.total_num_requests / context.config.get_target_ongoing_requests()
        return max(for_speech, for_requests), {}
