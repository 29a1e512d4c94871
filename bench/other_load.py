"""Whether anything else computed while a benchmark ran, which makes its figures worth nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["OtherLoad", "too_busy"]

STAT = Path("/proc/stat")
COUNTED = (0, 1, 2, 5, 6, 7)
"""Of the first line of /proc/stat: user, nice, system, irq, softirq, and steal, which other machines took"""
BUSY_SHARE = 0.05
"""Of all cores; less is what any system does in the background."""


class OtherLoad:
    """How many cores others kept busy since this was made. Source: Linux, proc_stat(5)."""

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._begin = self._now()

    @property
    def cores(self) -> float | None:
        """On average; None where the system does not tell."""
        begin, now = self._begin, self._now()
        if begin is None or now is None or now[1] <= begin[1]:
            return None
        return max(0.0, (now[0] - begin[0]) / (now[1] - begin[1]))

    def _now(self) -> tuple[float, float] | None:
        """Seconds that the cores have computed for others, and the time."""
        try:
            counts = self._stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
            busy = sum(int(counts[index]) for index in COUNTED) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None
        ours = os.times()
        return busy - sum(ours[:4]), time.monotonic()


def too_busy(cores: float | None) -> str | None:
    """What to say if others took so many cores that figures are worth nothing; None if they did not."""
    total = os.cpu_count() or 1
    if cores is None or cores <= BUSY_SHARE * total:
        return None
    return (
        f"the machine was busy: other programs kept {cores:.1f} of its {total} cores. "
        "These figures are no result; measure again when it is idle"
    )
