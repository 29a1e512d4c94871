"""What the machine reports about itself."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["available_memory_bytes", "cpu_flags", "cpu_name", "memory_bytes"]


def cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction set extensions by their Linux names; empty on machines that do not list them."""
    return frozenset(_cpu_info("flags").split())


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory_bytes() -> int:
    """Memory that can be allocated without swapping; all of it if the system does not say."""
    path = Path("/proc/meminfo")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else memory_bytes()


def _cpu_info(field: str) -> str:
    """A field of the first processor; "" on machines that do not list them."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0] == field), "")
