"""A server whose speech is made in processes of its own."""

from __future__ import annotations

import os
import signal

from http_server import serving_http
from server_process import chat
from speaking import wait_until

from antiphon import AsyncEngine
from antiphon.codec.apart import Vocoders


def test_a_process_that_dies_is_counted_and_health_stays() -> None:
    with serving_http(lambda: AsyncEngine(vocoder_workers=1, max_num_seqs=4)) as served:

        def shown(name: str) -> str:
            lines = served.http.get("/metrics").text.splitlines()
            return next(line for line in lines if line.startswith(f"antiphon:{name}")).split()[-1]

        asked = chat("Hello", modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}, seed=3)
        first = served.http.post("/v1/chat/completions", json=asked).json()
        assert (shown("vocoder_ready"), shown("vocoder_restarts")) == ("1.0", "0.0")
        assert shown("vocoder_num_requests_running") == "0.0"
        worker = served.engine.engine.speech_worker
        assert worker is not None and isinstance(worker.vocoders, Vocoders)
        os.kill(worker.vocoders.pids[0], signal.SIGKILL)
        wait_until(lambda: shown("vocoder_restarts") == "1.0")
        assert served.http.get("/health").status_code == 200
        again = served.http.post("/v1/chat/completions", json=asked).json()
        assert shown("vocoder_ready") == "1.0"
    sounds = [answer["choices"][0]["message"]["audio"]["data"] for answer in (first, again)]
    assert sounds[0] == sounds[1]
    assert worker.vocoders.pids == []
