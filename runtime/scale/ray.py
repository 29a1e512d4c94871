"""Ray, where it is installed, and what it must not do unasked."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from antiphon.errors import ConfigError

__all__ = ["ray_serve", "switch_reports_off"]

NO_EXTRA = "Ray Serve is not installed: pip install 'antiphon[ray]'"


def switch_reports_off() -> None:
    """Make a cluster that this process starts report nothing to Ray's makers. Whatever the variable held is
    replaced: that nothing leaves the machine is not up to a setting."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def ray_serve() -> Any:
    """Serve's module. ConfigError if it is not installed."""
    if find_spec("ray") is None:
        raise ConfigError(NO_EXTRA)
    switch_reports_off()
    try:
        from ray import serve
    except ImportError as error:  # Ray without what Serve needs
        raise ConfigError(f"{NO_EXTRA} ({error})") from error
    return serve
