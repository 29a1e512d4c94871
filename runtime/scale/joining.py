"""A cluster that runs already: whether it can be reached, and where Serve listens there."""

from __future__ import annotations

import re
import socket
from typing import Any

from antiphon.errors import AntiphonError, ConfigError

__all__ = ["check_address", "proxy_address", "refuse_second"]

AUTO = "auto"
ADDRESS = re.compile(r"(?:ray://)?(?P<host>[^\s/]+):(?P<port>\d{1,5})")
CONNECT_S = 5.0


def check_address(address: str) -> None:
    """Find out soon whether somebody listens there; Ray itself would try for minutes.

    address: of a cluster, as `ray.init` takes it. Raises ConfigError for what is none, and AntiphonError if
    nobody listens.
    """
    if address == AUTO:
        return
    if (found := ADDRESS.fullmatch(address)) is None or not 0 < int(found["port"]) < 65536:
        raise ConfigError(f"--ray-address: expected HOST:PORT or {AUTO}, got {address!r}")
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), CONNECT_S).close()
    except OSError as error:
        raise AntiphonError(f"Ray could not be reached at {address}: {error}") from error


def proxy_address(serve: Any) -> str | None:
    """The address of a Serve that runs already; None: none does."""
    client = serve.context._get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    host, port = client.http_config.host, client.http_config.port
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def refuse_second(serve: Any, name: str) -> None:
    """ConfigError if the cluster has an application of this name: it would be replaced, and end with us."""
    if name in serve.status().applications:
        raise ConfigError(
            f"the cluster serves an application {name!r} already; `serve deploy` updates it, "
            "`serve shutdown` ends it"
        )
