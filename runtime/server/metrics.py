"""What an operator's dashboard shows: vLLM's and vLLM-Omni's names with the prefix `antiphon:`.

Each server has a registry of its own, so that two in one process do not add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from antiphon.aio.conversation.events import ReplyEnded
from antiphon.server.keeper import EngineKeeper
from antiphon.types import Completion, FinishReason, RequestMetrics

__all__ = ["Metrics"]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
CONTINUITY_MS = (0, 100)
"""How much sound a player buffers before it begins, in ms."""
TIMES: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "ttft_s": ("time_to_first_token_seconds", "To the first token of text.", SECONDS),
    "tpot_s": ("inter_token_latency_seconds", "Mean time per id after the first.", SECONDS),
    "e2e_s": ("e2e_request_latency_seconds", "To the end of the reply.", SECONDS),
    "queue_wait_s": ("request_queue_wait_s", "Until the engine first had room for it.", SECONDS),
    "ttfa_s": ("audio_ttfp_s", "To the first samples of speech.", SECONDS),
    "audio_s": ("audio_duration_s", "Length of the speech made.", SECONDS),
    "rtf": ("audio_rtf", "Time to the last sample, by the length of the speech.", FRACTIONS),
    "underrun_s": ("audio_underrun_s", "For how long a player has had nothing to play.", SECONDS),
}
"""By fields of `RequestMetrics`: the name, what it is, and the buckets of a histogram."""
REASONS: dict[str, FinishReason] = {
    "completed": "stop",
    "incomplete": "length",
    "cancelled": "abort",
    "failed": "error",
}
"""How replies of conversations end, as requests do."""
OUTCOMES = ("confirmed", "dropped")
"""Of replies that were begun before their turn was over."""
TYPICAL_AUDIO_S = 5.0
"""How long a spoken reply is taken to be before there was one."""
LATELY = 0.1
"""The weight of the last spoken reply in the mean of their lengths."""
STAGES = ("prefill", "text", "units", "codec")
"""Of which `RequestMetrics` has the times."""


class Metrics:
    """Counts what one server does."""

    def __init__(self, keeper: EngineKeeper) -> None:
        self._keeper = keeper
        self._registry = registry = CollectorRegistry()

        def counter(name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"antiphon:{name}", about, labels, registry=registry)

        def histogram(
            name: str, about: str, buckets: tuple[float, ...] = SECONDS, labels: tuple[str, ...] = ()
        ) -> Histogram:
            return Histogram(f"antiphon:{name}", about, labels, buckets=buckets, registry=registry)

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(f"antiphon:{name}", about, registry=registry)

        self._running = gauge("num_requests_running", "Requests that the engine computes.")
        self._waiting = gauge("num_requests_waiting", "Requests that wait for their turn.")
        self._usage = gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.")
        self._alive = gauge("engine_alive", "1 while the engine serves, else 0.")
        self._restarts = gauge("engine_restarts", "Fresh engines that took over from failed ones.")
        self._speaking = gauge("num_requests_speaking", "Requests whose speech is not complete.")
        self._vocoder_ready = gauge("vocoder_ready", "Vocoders' processes that can make speech.")
        about = "Vocoders' processes that were started in place of others."
        self._vocoder_restarts = gauge("vocoder_restarts", about)
        self._connected = gauge("http_requests_in_flight", "Requests whose answers are under way.")
        self._times = {field: histogram(*row) for field, row in TIMES.items()}
        about = "What each stage of a reply took; they overlap."
        self._stages = histogram("stage_gen_time_s", about, labels=("stage",))
        self._success = counter("request_success", "Requests that ended, by how.", ("finished_reason",))
        self._prompt = counter("prompt_tokens", "Positions of prompts, pictures and speech included.")
        self._generated = counter("generation_tokens", "Ids picked, of text and of speech.")
        self._frames = counter("audio_frames", "Units of speech made, of 40 ms.")
        self._queries = counter("prefix_cache_queries", "Positions looked up in the prefix cache.")
        self._hits = counter("prefix_cache_hits", "Positions found there.")
        self._preemptions = counter("num_preemptions", "Times that a request made way for others.")
        about = "Kernels compiled while requests were served: each held up all of them."
        self._late_compiles = counter("late_compiles", about)
        self._num_late_compiles = 0
        self._continuous = counter(
            "audio_continuity_ok",
            "Replies that a player with such a buffer played without a gap.",
            ("threshold_ms",),
        )
        self._completed = counter("speech_stream_completed", "Spoken replies that came to their end.")
        self._aborted = counter("speech_stream_aborted", "Spoken replies that did not.")
        self.conversations = gauge("realtime_vad_active_sessions", "Conversations by voice.")
        about = "Sound that came in between the end of speech and the end of its turn."
        self._endpoint = histogram("realtime_vad_endpoint_delay_s", about)
        about = "Replies begun before their turn was over, by what became of them."
        self.mean_audio_s = TYPICAL_AUDIO_S
        """How long spoken replies have been lately, in seconds."""
        self._speculative = counter("speculative_replies", about, ("outcome",))
        self._wasted = counter("speculative_units_wasted", "Units of such replies that nobody wanted.")
        for outcome in OUTCOMES:
            self._speculative.labels(outcome)
        for reason in get_args(FinishReason):  # so that each series begins at 0
            self._success.labels(reason)
        for threshold_ms in CONTINUITY_MS:
            self._continuous.labels(str(threshold_ms))
        for stage in STAGES:
            self._stages.labels(stage)

    @cached_property
    def _vocoder_rows(self) -> Gauge:
        """Only there where there are such processes."""
        about = "Requests whose speech a vocoder's process makes now."
        name = "antiphon:vocoder_num_requests_running"
        return Gauge(name, about, ("worker",), registry=self._registry)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A request that is in flight in this block."""
        self._connected.inc()
        try:
            yield
        finally:
            self._connected.dec()

    def note(self, completion: Completion | None) -> None:
        """A request has ended; None: before its completion, because its client left or the engine failed."""
        if completion is None:
            self._success.labels("abort").inc()
            return
        self._note(
            completion.finish_reason,
            completion.metrics,
            len(completion.text_ids) + len(completion.unit_ids),
            len(completion.units),
            speaks=completion.sample_rate_hz is not None,
        )

    def note_reply(self, event: ReplyEnded, *, speaks: bool) -> None:
        """A reply of a conversation has ended."""
        num_ids = event.num_text + event.num_units
        self._note(REASONS[event.status], event.metrics, num_ids, event.num_units, speaks=speaks)

    def note_turn(self, delay_s: float) -> None:
        """A turn has ended, this long after its speech."""
        self._endpoint.observe(delay_s)

    def note_speculation(self, num_confirmed: int, num_dropped: int, num_wasted_units: int) -> None:
        """What has become of further replies that were begun ahead."""
        self._speculative.labels("confirmed").inc(num_confirmed)
        self._speculative.labels("dropped").inc(num_dropped)
        self._wasted.inc(num_wasted_units)

    def _note(
        self, reason: FinishReason, metrics: RequestMetrics, num_ids: int, num_units: int, *, speaks: bool
    ) -> None:
        self._success.labels(reason).inc()
        for field, histogram in self._times.items():
            _observe(histogram, getattr(metrics, field))
        for stage in STAGES:
            _observe(self._stages.labels(stage), getattr(metrics, f"{stage}_s"))
        if metrics.audio_s:
            self.mean_audio_s += LATELY * (metrics.audio_s - self.mean_audio_s)
        self._prompt.inc(metrics.num_prompt_tokens)
        self._generated.inc(num_ids)
        self._frames.inc(num_units)
        self._queries.inc(metrics.num_prompt_tokens)
        self._hits.inc(metrics.num_cached_tokens)
        self._preemptions.inc(metrics.num_preemptions)
        if speaks:
            has_ended = reason in ("stop", "length")
            (self._completed if has_ended else self._aborted).inc()
            for threshold_ms in CONTINUITY_MS:
                if metrics.underrun_s is not None and metrics.underrun_s * 1000 <= threshold_ms:
                    self._continuous.labels(str(threshold_ms)).inc()

    def text(self) -> bytes:
        """All of it in Prometheus's format."""
        is_alive = self._keeper.is_alive
        self._alive.set(is_alive)
        self._restarts.set(self._keeper.num_restarts)
        late = self._keeper.late_compiles.count
        self._late_compiles.inc(late - self._num_late_compiles)
        self._num_late_compiles = late
        if is_alive:
            health = self._keeper.engine.health()
            self._running.set(health.num_running)
            self._waiting.set(health.num_waiting)
            self._usage.set(health.kv_cache_usage)
            self._speaking.set(health.num_speaking)
            self._vocoder_restarts.set(health.num_vocoder_restarts)
            self._vocoder_ready.set(sum(num_rows is not None for num_rows in health.vocoders))
            for number, num_rows in enumerate(health.vocoders):
                self._vocoder_rows.labels(str(number)).set(num_rows or 0)
        return generate_latest(self._registry)


def _observe(histogram: Histogram, value: float | None) -> None:
    if value is not None:
        histogram.observe(value)
