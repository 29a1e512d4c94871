"""Whether others computed while a benchmark ran."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from antiphon.bench.other_load import OtherLoad, too_busy

HZ = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The time, and what this process has computed."""
    now = {"time": 100.0, "ours": 10.0}
    monkeypatch.setattr("antiphon.bench.other_load.time.monotonic", lambda: now["time"])
    monkeypatch.setattr("antiphon.bench.other_load.os.times", lambda: (now["ours"] - 3.0, 1.0, 1.5, 0.5, 0.0))
    return now


def test_what_is_not_ours_is_of_others(tmp_path: Path, clock: dict[str, float]) -> None:
    stat = tmp_path / "stat"

    def write(user_s: float, steal_s: float, idle_s: float) -> None:
        user, steal, idle = (int(seconds * HZ) for seconds in (user_s, steal_s, idle_s))
        stat.write_text(f"cpu  {user} 0 0 {idle} 7 0 0 {steal} 0 0\ncpu0 1 1 1\n")

    write(50, 0, 1000)
    load = OtherLoad(stat)
    clock["time"] += 10
    clock["ours"] += 8
    write(50 + 8 + 4, 1, 5000)  # others: 4 s here, and a second on a machine beside this one
    assert load.cores == pytest.approx(0.5)
    write(50 + 7.99, 0, 5000)  # counted in ticks
    assert load.cores == 0.0


@pytest.mark.parametrize("content", [None, "", "cpu", "cpu 1 2 x 4 5 6 7 8"])
def test_a_system_that_does_not_tell(tmp_path: Path, content: str | None) -> None:
    stat = tmp_path / "stat"
    if content is not None:
        stat.write_text(content)
    assert OtherLoad(stat).cores is None


def test_more_than_a_little_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.bench.other_load.os.cpu_count", lambda: 4)
    assert too_busy(None) is None
    assert too_busy(0.2) is None
    assert "kept 1.3 of its 4 cores" in (too_busy(1.3) or "")
