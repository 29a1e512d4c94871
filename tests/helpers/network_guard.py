"""No test reaches beyond this machine: what Python asks of the network is refused, and remembered."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

__all__ = ["build_preload", "forget_attempts", "watch"]

LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
"""Audit events whose first argument is a host."""
ADDRESSED = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getnameinfo"}
"""Audit events whose last argument is an address."""

_attempts: list[str] = []


def watch() -> None:
    """Refuses the network from now on, until the process ends."""
    sys.addaudithook(_audit)


def forget_attempts() -> list[str]:
    """What has been asked for since the last call, such as "socket.connect 192.0.2.1"."""
    attempts = _attempts[:]
    _attempts.clear()
    return attempts


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in LOOKUPS:
        host = arguments[0]
    elif event in ADDRESSED:
        address = arguments[-1]
        # Otherwise it is a path in the file system, or an address of another family, without a host.
        host = address[0] if isinstance(address, tuple) and address else None
    else:
        return
    if isinstance(host, bytes | bytearray):
        host = host.decode(errors="replace")
    if isinstance(host, str) and not _is_local(host):
        _attempts.append(f"{event} {host}")
        # Not an Exception: code that expects a network to fail must not swallow it.
        pytest.fail(f"a test reached for the network: {event} {host}")


def _is_local(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def build_preload(folder: Path) -> Path:
    """The same guard below Python, where libraries look up names without Python's knowing, for programs that
    are started with LD_PRELOAD set to the file returned."""
    source, target = Path(__file__).with_suffix(".cpp"), folder / "network_guard.so"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", str(source), "-o", str(target), "-ldl"]
    subprocess.run(command, check=True)
    return target
