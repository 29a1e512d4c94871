"""Keeps the packages below from sending anything from this machine, or leaving anything on it, unasked."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

__all__ = ["switch_telemetry_off", "use_passing_caches"]

CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "XDG_CACHE_HOME": "cache",  # for fontconfig, which matplotlib uses
}
"""Environment variables that say where caches lie, and the folders that `use_passing_caches` gives them."""


def switch_telemetry_off() -> None:
    """Make onnxruntime keep no device id, gather no events and look up no host, here and in child processes.

    From 1.29 on it reads the variable when it is imported, so `antiphon` calls this on its own import.
    Whatever the variable held is replaced: that nothing leaves the machine is not up to a setting. If
    onnxruntime was imported earlier, what it did then cannot be undone, but it sends no more events.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    disable = getattr(sys.modules.get("onnxruntime"), "disable_telemetry_events", None)
    if disable is not None:
        disable()


def use_passing_caches() -> None:
    """Keep font lists and what torch.compile makes in a folder that is removed with this process, unless the
    environment says where to put them. To be called before matplotlib or the compiler is imported."""
    missing = [variable for variable in CACHES if variable not in os.environ]
    if not missing:
        return
    folder = tempfile.mkdtemp(prefix="antiphon-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for variable in missing:
        os.environ[variable] = str(Path(folder, CACHES[variable]))
