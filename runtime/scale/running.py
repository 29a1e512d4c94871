"""`antiphon serve --ray`: Ray Serve with one application, from its start to the end of its last request."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from antiphon.errors import AntiphonError, ConfigError
from antiphon.plain import told
from antiphon.scale.deployment import LOGGING, NAME
from antiphon.scale.joining import check_address, proxy_address, refuse_second
from antiphon.scale.ray import ray_serve
from antiphon.server.settings import ServerSettings
from antiphon.server.site import address_of, bound

__all__ = ["APPLICATION", "serve_by_ray"]

APPLICATION = "antiphon"
OBJECT_STORE_BYTES = 256 << 20
"""Ray's memory for large objects. Requests and answers do not go through it."""
LOOK_S = 0.1
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOCAL = {
    # Ray's name for it: one machine, whose processes talk over its loopback address
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_gcs_server_port_wait_time_s": "120",  # a busy machine starts it slowly
}
"""Environment of a Ray that this process starts."""
GONE = ("DEPLOY_FAILED", "DELETING")
"""States of an application that does not serve."""
ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Dead): ")
"""The line of a traceback that says what happened."""
PORT_TRIES = 5
CANNOT_BIND = "Failed to bind"
"""What Serve says where a port is taken"""
SPARE_S = 10.0
"""How much longer than `drain_timeout_s` Serve may take to end its replicas."""


def serve_by_ray(
    make: Callable[[], Any],
    settings: ServerSettings,
    ready: Callable[[str], None],
    must_end: Callable[[], bool],
    *,
    address: str | None = None,
    num_cpus: int | None = None,
) -> bool:
    """Serve until `must_end` says so. Returns whether it ended in order. To be called before anything imports
    Ray, which reads its environment then.

    make: makes the application, by `deployment`. settings: those that it was made with. ready: called with
    the server's address once it answers. address: of the cluster that serves it, as `ray.init` takes it;
    None: a Ray of its own, which ends with it, on this machine alone. num_cpus: cores that replicas may take
    there; None: all.

    Raises ConfigError for a port that cannot be bound, if the replicas cannot be started, and for a cluster
    that serves such an application already; AntiphonError for one that cannot be reached.
    """
    if address is None:
        _set_environment(is_local=settings.host in LOOPBACK)
    else:
        check_address(address)
    serve = ray_serve()
    logging.getLogger("ray.serve").setLevel(LOGGING["log_level"])
    application = make()
    if address is None:
        bound("server", settings.host, settings.port).close()  # told before Ray is started, if it is taken
    with _ray(address, num_cpus):
        url = proxy_address(serve)
        has_serve = url is not None
        if has_serve:
            refuse_second(serve, APPLICATION)
        try:
            if url is None:
                url = _start_serve(serve, settings, "HeadOnly" if address is None else "EveryNode")
            target = serve.RunTarget(application, name=APPLICATION)
            try:
                serve.run_many([target], wait_for_applications_running=False)
            except Exception as error:  # of a cluster's other applications, say one that has our routes
                raise ConfigError(f"Serve does not take the application: {told(error)}") from error
            has_begun = False
            while not must_end():
                status, message = _state(serve)
                if not has_begun and status == "RUNNING":
                    has_begun = True
                    ready(url)
                elif status in GONE:
                    if not has_begun:
                        raise ConfigError(f"the replicas could not be started: {message}")
                    return False
                time.sleep(LOOK_S)
            if has_begun:
                _drain(serve, settings.drain_timeout_s)
            return True
        finally:
            with suppress(Exception):  # of a Ray that has gone
                serve.delete(APPLICATION)
            with suppress(Exception):
                if not has_serve and not serve.status().applications:
                    serve.shutdown()


def _start_serve(serve: Any, settings: ServerSettings, proxy_location: str) -> str:
    """Start Serve, whose proxy binds the port itself. Returns the server's address. Any port will do if the
    settings' is 0: others may take the one that was free a moment ago, and then the next is tried."""
    for tries_left in reversed(range(1 if settings.port else PORT_TRIES)):
        listening = bound("server", settings.host, settings.port)
        url, port = address_of(listening), listening.getsockname()[1]
        listening.close()
        try:
            serve.start(
                proxy_location=proxy_location,
                http_options={"host": settings.host, "port": port},
                logging_config=LOGGING,
            )
        except Exception as error:  # of the proxy, whatever Ray makes of it
            if not tries_left or CANNOT_BIND not in str(error):
                raise ConfigError(
                    f"Serve could not be started at {url}: {_last_error(str(error))}"
                ) from error
            serve.shutdown()
        else:
            return url
    raise AssertionError("the last try returns or raises")


def _set_environment(*, is_local: bool) -> None:
    """For a Ray of its own. is_local: whether only this machine is answered."""
    # Whoever may connect to Ray may run code, so there is a key, which is written nowhere.
    chosen = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_DEDUP_LOGS": "0",
        "RAY_COLOR_PREFIX": "0",
    }
    for name, value in (chosen | LOCAL if is_local else chosen).items():
        os.environ.setdefault(name, value)


@contextmanager
def _ray(address: str | None, num_cpus: int | None) -> Iterator[None]:
    """Connected to Ray in the block. Signals are handled as before it: Ray would end the process."""
    import ray

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    own: dict[str, Any] = {}
    if address is None:
        own = {
            "num_cpus": num_cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": tempfile.mkdtemp(prefix="antiphon-"),  # short: names of sockets have 107 bytes
        }
    try:
        try:
            ray.init(address=address, logging_level=logging.WARNING, **own)
        except Exception as error:  # it has no class of its own for this
            where = "could not be started" if own else f"could not be reached at {address}"
            raise AntiphonError(f"Ray {where}: {told(error)}") from error
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if own:
            shutil.rmtree(own["_temp_dir"], ignore_errors=True)


def _state(serve: Any) -> tuple[str, str]:
    """Serve's word for the application's state, and if it has failed, the last line of its replicas."""
    found = serve.status().applications.get(APPLICATION)
    if found is None:
        return "DELETING", ""
    messages = [each.message for each in found.deployments.values()] + [found.message]
    return found.status.value, _last_error("\n".join(messages))


def _last_error(text: str) -> str:
    """The last line of a traceback, or of several, that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR_LINE.match(line)] or lines
    return errors[-1] if errors else "Serve does not say why"


def _drain(serve: Any, timeout_s: float) -> None:
    """Have each replica end its requests and conversations in order, before Serve ends the replicas."""
    with suppress(Exception):  # whatever it is, Serve drains too, though it cannot tell conversations
        handle = serve.get_deployment_handle(NAME, APPLICATION)
        handle.broadcast("drain").results(timeout_s=timeout_s + SPARE_S)
