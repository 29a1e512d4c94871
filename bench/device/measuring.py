"""The process that measures: each figure is a line on its standard output as soon as it is known.

`check` starts it, and starts it again with the rest if a section takes too long, or ends it as a fault of the
device can.
"""

from __future__ import annotations

import gc
import json
import sys
import traceback
from typing import Any

import torch

from antiphon.bench.bandwidth import memory_bandwidth
from antiphon.bench.device.decoding import int8_steps, speech, steps
from antiphon.bench.device.figures import Figure, Machine, Section
from antiphon.bench.device.kernels import attention, heads, int8, linear, soft_embedding
from antiphon.bench.device.recording import capture
from antiphon.bench.device.vocoder import codec
from antiphon.bench.options import read_device
from antiphon.device.place import sum_in_float32

__all__ = ["MARK", "MEASURED", "main"]

MARK = "@@ "
"""Begins the lines that are meant for `check`."""
DRY_BANDWIDTH = 1e10

MEASURED: dict[str, Section] = {
    "heads": heads,
    "soft_embedding": soft_embedding,
    "attention": attention,
    "steps": steps,
    "int8_steps": int8_steps,
    "codec": codec,
    "speech": speech,
    "linear": linear,
    "int8": int8,
    "capture": capture,
}


def tell(section: str, event: str, **found: Any) -> None:
    print(MARK + json.dumps({"section": section, "event": event, **found}), flush=True)


def main(device: str, names: list[str], *, is_small: bool) -> None:
    place = read_device(device)
    sum_in_float32(place)
    machine = Machine(place, DRY_BANDWIDTH, is_small)
    for name in names:
        tell(name, "begin")
        try:
            with torch.inference_mode():
                if machine.bandwidth_bytes_per_s == DRY_BANDWIDTH and not is_small:
                    machine = Machine(place, memory_bandwidth(place))
                    measured = Figure("bandwidth", machine.bandwidth_bytes_per_s / 1e9, "GB/s")
                    tell("bandwidth", "figure", figure=measured.record())
                for figure in MEASURED[name](machine):
                    tell(name, "figure", figure=figure.record())
        except Exception:  # noqa: BLE001 - the next section is tried
            tell(name, "fault", error=traceback.format_exc()[-2000:])
        else:
            tell(name, "end")
        if place.type == "cuda":
            gc.collect()  # an engine's parts know each other, and the next one takes what memory is free
            torch.cuda.empty_cache()


if __name__ == "__main__":
    _, given, small, *sections = sys.argv
    main(given, sections, is_small=small == "small")
