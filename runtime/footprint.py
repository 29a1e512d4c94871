"""What the packages below would send from this machine or leave on it, unasked: nothing."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

__all__ = ["switch_telemetry_off", "use_passing_caches"]

CACHES = {"MPLCONFIGDIR": "matplotlib", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""Variables of the environment that say where caches lie, and how `use_passing_caches` names their folders."""


def switch_telemetry_off() -> None:
    """onnxruntime writes no device id, gathers no events and looks up no host, in this process and its children.

    From 1.29 on it reads the variable when it is imported, so `antiphon` calls this when it is imported
    itself. Whatever the variable held is replaced: that nothing leaves the machine is not up to a setting.
    Where onnxruntime was imported before, what it did then is done; it sends no more events.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    disable = getattr(sys.modules.get("onnxruntime"), "disable_telemetry_events", None)
    if disable is not None:
        disable()


def use_passing_caches() -> None:
    """What matplotlib knows of fonts and what torch.compile makes lies in a folder that ends with this process,
    unless the environment says where it is wanted. To be called before either is imported."""
    missing = [variable for variable in CACHES if variable not in os.environ]
    if not missing:
        return
    folder = tempfile.mkdtemp(prefix="antiphon-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for variable in missing:
        os.environ[variable] = str(Path(folder, CACHES[variable]))
