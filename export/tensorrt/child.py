"""The process that builds an engine: run as a script, so that a builder's crash ends nothing else, and with
nothing but the standard library and TensorRT, so that it starts at once.

Standard input: one line of JSON, the order; its end is the end of the process, so that none outlives the one
that gave the order. To the descriptor in the first argument go events, one a line, as JSON: `log`, `phase`,
`error`, `built`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

QUIET_S = 0.2
"""Between two events about phases."""
ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")
RTX = "tensorrt_rtx"


class Refused(Exception):
    """It cannot be built; the text says why."""


class Events:
    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")
        self._lock = threading.Lock()  # TensorRT calls back from several threads

    def send(self, kind: str, **fields: Any) -> None:
        with self._lock:
            print(json.dumps({"kind": kind, **fields}), file=self._file)


def build(order: dict[str, Any], events: Events) -> dict[str, Any]:
    """Writes the engine to `order["engine"]`, and says what is known of it."""
    trt = importlib.import_module(order["library"])
    logger = log(trt, events)
    builder = trt.Builder(logger)
    network = strongly_typed(trt, builder)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(order["onnx"]):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise Refused(f"it does not take the ONNX file: {errors[0] if errors else 'it does not say why'}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is float32
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    monitor = progress(trt, events)  # to be kept: the config does not
    config.progress_monitor = monitor
    if order["library"] == RTX:
        capability = trt.ComputeCapability.__members__[order["target"].upper()]
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(capability, 0):
            raise Refused(f"it does not build for {order['target']}")
    for profile in order["profiles"]:
        add_profile(builder, network, config, profile)
    cache = timing_cache(config, order)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Refused("it returned no engine")
    content = memoryview(plan)
    Path(order["engine"]).write_bytes(content)
    if cache is not None:
        Path(order["timing_cache"]).write_bytes(memoryview(config.get_timing_cache().serialize()))
    return {
        "types": types_of(network),
        "memory_bytes": memory(trt, logger, content, len(order["profiles"]), is_here=order["is_here"]),
    }


def strongly_typed(trt: Any, builder: Any) -> Any:
    """Tensors have the types of the ONNX file. From TensorRT 11 on there is nothing else, and the flag does
    nothing or is gone."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))


def add_profile(builder: Any, network: Any, config: Any, shapes: dict[str, list[list[int]]]) -> None:
    """shapes: the least, usual and largest one of each input."""
    profile = builder.create_optimization_profile()
    names = [network.get_input(i).name for i in range(network.num_inputs)]
    if sorted(names) != sorted(shapes):
        raise Refused(f"it finds the inputs {', '.join(names)}, expected {', '.join(shapes)}")
    for name, of_input in shapes.items():
        profile.set_shape(name, *map(tuple, of_input))
    if config.add_optimization_profile(profile) < 0:
        raise Refused(f"it does not take the profile {shapes}")


def timing_cache(config: Any, order: dict[str, Any]) -> Any:
    """How long kernels took when they were tried, kept between builds; TensorRT for RTX tries none."""
    if order["library"] == RTX:
        return None
    path = Path(order["timing_cache"])
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if not config.set_timing_cache(cache, False):  # of another GPU
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def types_of(network: Any) -> dict[str, dict[str, int]]:
    """How many layers of each type have a first output of each data type: in a strongly typed network, what
    the engine keeps to."""
    found: dict[str, Counter[str]] = {}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.num_outputs:
            kind, data = (str(each).rpartition(".")[2] for each in (layer.type, layer.get_output(0).dtype))
            found.setdefault(kind, Counter())[data] += 1
    return {kind: dict(sorted(found[kind].items())) for kind in sorted(found)}


def memory(trt: Any, logger: Any, content: memoryview, count: int, *, is_here: bool) -> list[int]:
    """For the activations of each profile: as the engine says on its own GPU, else as the builder's log said;
    empty if neither did."""
    if is_here:
        engine = trt.Runtime(logger).deserialize_cuda_engine(content)
        if engine is None:
            raise Refused("it does not open the engine that it built")
        return [int(engine.get_device_memory_size_for_profile_v2(i)) for i in range(count)]
    said: list[int] = logger.activations
    return said if len(said) == count else []


def log(trt: Any, events: Events) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the class is known at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.activations: list[int] = []

        def log(self, severity: Any, text: str) -> None:
            name = str(severity).rpartition(".")[2]
            if name == "VERBOSE":
                return
            if (found := ACTIVATIONS.search(text)) is not None:
                self.activations.append(int(found[1]))
            events.send("log", severity=name, text=text)

    return Log()


def progress(trt: Any, events: Events) -> Any:
    class Progress(trt.IProgressMonitor):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._last = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return True  # go on

        def _tell(self, phase: str, done: int) -> None:
            now = time.monotonic()
            if now - self._last >= QUIET_S:
                self._last = now
                events.send("phase", name=phase, done=done, count=self._steps.get(phase, 0))

    return Progress()


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> int:
    events = Events(int(sys.argv[1]))
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        events.send("built", **build(order, events))
    except Refused as error:
        events.send("error", text=str(error))
        return 1
    return 0


if __name__ == "__main__":
    del sys.path[0]  # this folder: its modules are not meant
    status = main()
    sys.stdout.flush()
    os._exit(status)  # at once: the thread waits for the end of the input
