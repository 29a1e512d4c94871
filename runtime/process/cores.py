"""How many cores a container's CPU quota is worth.

A quota (`docker run --cpus 2`, a CPU limit of a pod) hides no cores: once all threads together have computed
for their share of a tenth of a second, they are stopped for the rest of it. Threads beyond the quota gain
nothing therefore, and those that wait by spinning take from the ones that compute.

Source: Linux on control groups, `cpu.max` (version 2) and `cpu.cfs_quota_us` (version 1).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["quota_cores", "within_quota"]

GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
MAX_DEPTH = 64


def within_quota(count: int) -> int:
    """This number of threads, or as many as the quota leaves whole cores, but at least 1."""
    quota = _quota()
    return count if quota is None else max(1, min(count, int(quota)))


def quota_cores(groups: Path = GROUPS, mount: Path = MOUNT) -> float | None:
    """The smallest quota of the groups that this process is in, in cores; None: there is no quota, or the
    system does not tell."""
    quotas = []
    for line in _text(groups).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            root, read = mount, _version_2
        elif "cpu" in controllers.split(","):
            root, read = mount / "cpu", _version_1
        else:
            continue
        # In a container, the path may be that of the host, and what is mounted the container's own group.
        steps = [part for part in path.split("/") if part not in ("", "..")][:MAX_DEPTH]
        folders = [root.joinpath(*steps[:depth]) for depth in range(len(steps) + 1)]
        quotas += [quota for folder in folders if (quota := read(folder)) is not None]
    return min(quotas, default=None)


@cache
def _quota() -> float | None:
    """That of this process, read once."""
    return quota_cores()


def _version_2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    return _cores(quota, period)


def _version_1(folder: Path) -> float | None:
    return _cores(_text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip())


def _cores(quota: str, period: str) -> float | None:
    """`max` and -1 are no quota."""
    if not (quota.isdecimal() and period.isdecimal()) or int(quota) == 0 or int(period) == 0:
        return None
    return int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
