"""What many replies amount to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from antiphon.bench.serving.load import Run

__all__ = ["BUFFERS_MS", "METRICS", "Spread", "Summary", "breaking_rate", "summarize"]

METRICS = ("ttft_s", "ttfa_s", "tpot_s", "rtf", "e2el_s", "underrun_s")
BUFFERS_MS = (0, 100)
"""How much sound a player keeps before it begins, in ms."""
ROUNDING_S = 1e-9
"""Of sums of lengths."""


@dataclass(frozen=True)
class Spread:
    """One figure over all replies; percentiles are interpolated."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Summary:
    """One load on one target. Spreads and continuity are over the replies that are whole."""

    target: str
    concurrency: int | None
    """Of a closed loop."""
    rate: float | None
    """Of an open loop: requests per second."""
    num_requests: int
    failures: dict[str, int]
    """How many failed, by kind."""
    num_late: int
    duration_s: float
    requests_per_s: float
    """Replies that are whole."""
    audio_s_per_s: float
    """Their speech."""
    spreads: dict[str, Spread]
    """By the names in METRICS; one that no reply has is missing."""
    continuity: dict[str, float]
    """By the buffer in ms: share of replies that a player with such a buffer plays without a gap."""
    first_audio_by_kind: dict[str, Spread]
    """By the kind of question."""
    ttfa_p95_with_failures_s: float | None
    """Of all requests, where one that failed waits forever; None if that is the percentile."""

    @property
    def num_failed(self) -> int:
        return sum(self.failures.values())

    @property
    def load(self) -> str:
        """For tables: "4 at a time" or "0.5/s"."""
        return f"{self.concurrency} at a time" if self.rate is None else f"{self.rate:g}/s"


def summarize(run: Run, target: str, *, concurrency: int | None = None, rate: float | None = None) -> Summary:
    """The figures of one run."""
    whole = [reply for reply in run.replies if reply.failure is None]
    failures = Counter(reply.failure for reply in run.replies if reply.failure is not None)
    underruns_s = [reply.underrun_s for reply in whole if reply.underrun_s is not None]
    firsts_s = [reply.ttfa_s for reply in whole if reply.ttfa_s is not None]
    firsts_s += [float("inf")] * failures.total()
    by_kind: dict[str, list[float]] = {}
    for reply in whole:
        if reply.ttfa_s is not None:
            by_kind.setdefault(reply.kind, []).append(reply.ttfa_s)
    spreads = {}
    for name in METRICS:
        values = [value for reply in whole if (value := getattr(reply, name)) is not None]
        if values:
            spreads[name] = _spread(values)
    return Summary(
        target=target,
        concurrency=concurrency,
        rate=rate,
        num_requests=len(run.replies),
        failures=dict(failures.most_common()),
        num_late=run.num_late,
        duration_s=run.duration_s,
        requests_per_s=len(whole) / max(run.duration_s, 1e-9),
        audio_s_per_s=sum(reply.audio_s for reply in whole) / max(run.duration_s, 1e-9),
        spreads=spreads,
        continuity={str(ms): _share(underruns_s, ms / 1000) for ms in BUFFERS_MS} if underruns_s else {},
        first_audio_by_kind={kind: _spread(by_kind[kind]) for kind in sorted(by_kind)},
        ttfa_p95_with_failures_s=_nearest(firsts_s, 0.95),
    )


def breaking_rate(summaries: Sequence[Summary], limit_s: float) -> float | None:
    """The lowest rate at which p95 of the time to first audio is beyond `limit_s`, where a request that
    failed waits forever; None if no rate broke it. Closed loops have no rate, and do not count."""
    broken = [
        found.rate
        for found in summaries
        if found.rate is not None
        and (found.ttfa_p95_with_failures_s is None or found.ttfa_p95_with_failures_s > limit_s)
    ]
    return min(broken, default=None)


def _spread(values: list[float]) -> Spread:
    p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
    return Spread(float(np.mean(values)), p50, p95, p99)


def _nearest(values: list[float], share: float) -> float | None:
    """The percentile without interpolation, which infinities do not bear; None if it is one."""
    found = float(np.quantile(values, share, method="inverted_cdf")) if values else float("inf")
    return found if math.isfinite(found) else None


def _share(underruns_s: list[float], buffer_s: float) -> float:
    return sum(underrun <= buffer_s + ROUNDING_S for underrun in underruns_s) / len(underruns_s)
