"""What the packages below would send from this machine or leave on it, unasked: nothing."""

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
    "XDG_CACHE_HOME": "cache",  # of fontconfig, which matplotlib asks
}
"""Variables of the environment that say where caches lie, and the folders there of `use_passing_caches`"""


def switch_telemetry_off() -> None:
    """onnxruntime keeps no device id, gathers no events and looks up no host, here and in child processes.

    From 1.29 on it reads the variable when it is imported, so `antiphon` calls this when it is imported
    itself. Whatever the variable held is replaced: that nothing leaves the machine is not up to a setting.
    Where onnxruntime was imported before, what it did then is done; it sends no more events.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    disable = getattr(sys.modules.get("onnxruntime"), "disable_telemetry_events", None)
    if disable is not None:
        disable()


def use_passing_caches() -> None:
    """Lists of fonts and what torch.compile makes are kept in a folder that ends with this process, unless
    the environment says where they are wanted. To be called before matplotlib or the compiler is imported."""
    missing = [variable for variable in CACHES if variable not in os.environ]
    if not missing:
        return
    folder = tempfile.mkdtemp(prefix="antiphon-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for variable in missing:
        os.environ[variable] = str(Path(folder, CACHES[variable]))
