"""Builds engines from the ONNX files of a folder, beside them, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from antiphon.codec.checkpoint.onnx_graph import check_graph
from antiphon.codec.exported import KIND, PRECISION, WEIGHTS, sha256
from antiphon.codec.tensorrt.library import FULL, RTX, Library, installed
from antiphon.codec.tensorrt.manifest import Manifest, sm, target_of
from antiphon.codec.tensorrt.profile import Profile, Shape
from antiphon.errors import AntiphonError, CheckpointError, ConfigError
from antiphon.export.folder import NUM_IDS
from antiphon.export.onnx_file import check_packages
from antiphon.export.part import EnginePlan
from antiphon.export.parts import PARTS, part_of
from antiphon.export.tensorrt.graphs import between, written_beside
from antiphon.export.tensorrt.memory import activation_bytes, weight_bytes
from antiphon.export.tensorrt.ranges import Ranges, measured
from antiphon.export.tokenizer import NOT_OURS, PRODUCER
from antiphon.files.checkpoint import is_there, shown
from antiphon.files.writing import write_whole, written_whole
from antiphon.plain import one_line

if TYPE_CHECKING:
    import onnx

__all__ = ["BuildFailed", "build_engine", "builder_for", "rest_path"]

CHILD = Path(__file__).with_name("child.py")
MAX_LOG_LINES = 60
MB = 1e6


class BuildFailed(AntiphonError):
    """The builder refused or crashed. `log` holds the last lines of what it said."""

    def __init__(self, text: str, log: Sequence[str]) -> None:
        super().__init__(text)
        self.log = list(log)


def builder_for(target: str | None) -> tuple[Library, str, bool]:
    """What builds for a target, the target, and whether that is the GPU of this machine.

    target: sm80, ...; None: the GPU of this machine. TensorRT builds for the GPU that it runs on, TensorRT
    for RTX for those that it knows, without one. Raises ConfigError if nothing here builds for the target.
    """
    own = sm(torch.cuda.get_device_capability()) if torch.cuda.is_available() else None
    wanted = own if target is None else sm(target_of(target))
    if wanted is None:
        raise ConfigError("target: expected a compute capability, such as sm80, since there is no GPU here")
    problems = []
    for name in (FULL, RTX):
        try:
            library = installed(name)
        except ConfigError as error:
            problems.append(str(error))
            continue
        known = [own] if name == FULL else _targets(library)
        if wanted in known:
            return library, wanted, wanted == own
        where = "the GPU of this machine" if name == FULL else ", ".join(map(str, known))
        problems.append(f"{library} builds for {where}")
    raise ConfigError(f"target: expected one that can be built for here, got {wanted}: {'; '.join(problems)}")


def _targets(library: Library) -> list[str]:
    names = library.module.ComputeCapability.__members__
    return [name.lower() for name in names if name.startswith("SM")]


def build_engine(
    path: Path,
    library: Library,
    target: str,
    *,
    is_here: bool = False,
    profiles: Sequence[Profile] = (),
    report: Callable[[str], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Manifest, bool]:
    """Builds the engine of an ONNX file that `antiphon export` wrote, beside it; returns what it is, and
    whether it had to be built: one with the same content is taken as it is.

    library, target, is_here: see `builder_for`. profiles: none for those of the part. report: is told what is
    being done, say: what was found.
    Raises CheckpointError for another file, ConfigError if float16 does not hold its numbers, BuildFailed.
    """
    check_packages()
    model, engine_model, plan, manifest = _planned(path, library, target, profiles)
    folder = path.parent
    if is_there(folder / manifest.file):
        known = Manifest.read(folder / manifest.file)
        is_whole = is_there(folder / manifest.engine)
        if known is not None and is_whole and sha256(folder / manifest.engine) == known.engine_sha256:
            if plan.rest and not is_there(rest_path(path)):
                _write_rest(model, plan, path)
            return known, False
    if plan.why:
        say(f"{path.name}: the engine leaves out {plan.why}")
    weights = weight_bytes(engine_model)
    for profile in manifest.profiles:
        bytes_ = activation_bytes(engine_model, manifest.axes, profile)
        say(
            f"profile {profile}: about {bytes_ / MB:.0f} MB for activations, {weights / MB:.0f} MB of weights"
        )
    report(f"{path.name}: measuring the ranges of its tensors")
    say(f"{path.name}: {_ranges(engine_model, plan, manifest, path)}")
    with ExitStack() as stack:
        source = path if engine_model is model else stack.enter_context(written_beside(engine_model, path))
        part = stack.enter_context(written_whole(folder / manifest.engine))
        built = _built(source, path, part, manifest, is_here=is_here, report=report)
        digest = sha256(part)
    if plan.rest:
        _write_rest(model, plan, path)
    made = replace(
        manifest,
        engine_sha256=digest,
        memory_bytes=tuple(built["memory_bytes"]),
        types=built["types"],
        built=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    )
    write_whole(folder / made.file, made.as_json().encode())
    return made, True


def _planned(
    path: Path, library: Library, target: str, profiles: Sequence[Profile]
) -> tuple[onnx.ModelProto, onnx.ModelProto, EnginePlan[Any], Manifest]:
    """The file's graph and the engine's, without the weights that lie beside, how the engine is to be made,
    and all that is known of it."""
    import onnx

    check_graph(path, may_loop=True, may_lie_beside=True)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's have no base of their own
        raise CheckpointError(f"{path}: expected an ONNX file: {one_line(error)}") from error
    about = {each.key: each.value for each in model.metadata_props}
    missing = [key for key in (KIND, PRECISION, WEIGHTS) if key not in about]
    if missing:
        raise CheckpointError(f"{path}: expected what `antiphon export` wrote, found no {missing[0]}")
    if PRODUCER in about:
        raise ConfigError(f"{path}: {NOT_OURS}")
    part = part_of(about[KIND])
    if part is None:
        known = ", ".join(each.kind for each in PARTS)
        raise CheckpointError(f"{path}: {KIND}: expected one of {known}, found {shown(about[KIND])}")
    plan = part.engine
    engine_model = between(model, path, plan.inputs, plan.outputs)
    shapes, axes = _shapes(engine_model, path)
    for profile in profiles:
        profile.check_axes(axes)
    manifest = Manifest(
        kind=about[KIND],
        precision=about[PRECISION],
        weights=about[WEIGHTS],
        onnx=path.name,
        onnx_sha256=sha256(path),
        inputs=tuple(shapes),
        outputs=tuple(value.name for value in engine_model.graph.output),
        axes=axes,
        shapes=shapes,
        target=target,
        library=library.name,
        version=library.version,
        profiles=tuple(profiles or plan.profiles),
        built="",
    )
    return model, engine_model, plan, manifest


def _shapes(model: onnx.ModelProto, path: Path) -> tuple[dict[str, Shape], tuple[str, ...]]:
    """Of each input, and the axes that vary. The first one of the first input is the rows; all have it."""
    shapes: dict[str, Shape] = {
        value.name: tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in model.graph.input
    }
    rows = next(iter(shapes.values()))[:1]
    for name, shape in shapes.items():
        if not rows or not isinstance(rows[0], str) or shape[:1] != rows:
            raise CheckpointError(
                f"{path}: expected inputs whose first axis is the same and has a name, found {shape} of "
                f"{name}"
            )
    others = [size for shape in shapes.values() for size in shape[1:] if isinstance(size, str)]
    return shapes, (*dict.fromkeys(others), str(rows[0]))


def _ranges(model: onnx.ModelProto, plan: EnginePlan[Any], manifest: Manifest, path: Path) -> Ranges:
    largest = {
        axis: max(profile.spans(manifest.axes)[axis].most for profile in manifest.profiles)
        for axis in manifest.axes
    }
    largest[manifest.axes[-1]] = 1
    shapes = {
        name: tuple(largest[size] if isinstance(size, str) else size for size in shape)
        for name, shape in manifest.shapes.items()
    }
    about = {each.key: each.value for each in model.metadata_props}
    try:
        num_ids = {str(name): int(count) for name, count in json.loads(about.get(NUM_IDS, "{}")).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {NUM_IDS}: expected numbers by name: {one_line(error)}") from error
    axes = manifest.axes[:-1] or manifest.axes
    size = " and ".join(f"{largest[axis]} {axis}" for axis in axes)
    return measured(model, plan.tries(shapes, num_ids), size, path)


def _write_rest(model: onnx.ModelProto, plan: EnginePlan[Any], path: Path) -> None:
    """The ONNX file that makes what the engine is given, from the inputs of the whole."""
    import onnx

    wanted = between(model, path, None, plan.rest)
    used = {name for node in wanted.graph.node for name in node.input}
    given = [value for value in wanted.graph.input if value.name in used]
    del wanted.graph.input[:]
    wanted.graph.input.extend(given)
    onnx.external_data_helper.load_external_data_for_model(wanted, str(path.parent))
    for tensor in wanted.graph.initializer:
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
    write_whole(rest_path(path), wanted.SerializeToString())


def rest_path(path: Path) -> Path:
    """Of the ONNX file that is written beside the engine of `path` where the engine leaves something out."""
    return path.with_name(f"{path.stem}.inputs{path.suffix}")


def _built(
    source: Path,
    path: Path,
    engine: Path,
    manifest: Manifest,
    *,
    is_here: bool,
    report: Callable[[str], None],
) -> Mapping[str, Any]:
    """What the child says of the engine that it wrote. source: the graph that it is built of; path: the file
    that this was taken from."""
    what = f"building {manifest.onnx} for {manifest.target}"
    cache = f"{manifest.target}.{manifest.library}-{manifest.version}.timing"
    order = {
        "library": manifest.library,
        "onnx": str(source.absolute()),
        "engine": str(engine.absolute()),
        "target": manifest.target,
        "is_here": is_here,
        "timing_cache": str(path.absolute().with_name(cache)),
        "profiles": [
            {name: each.shapes(manifest.axes, shape) for name, shape in manifest.shapes.items()}
            for each in manifest.profiles
        ],
    }
    log: deque[str] = deque(maxlen=MAX_LOG_LINES)
    error = ""
    with tempfile.TemporaryFile("w+b") as output:
        process, events = _started(order, output)
        try:
            report(what)
            for event in events:
                if event["kind"] == "built":
                    process.wait()
                    return event
                if event["kind"] == "log":
                    log.append(f"{event['severity']}: {event['text']}")
                elif event["kind"] == "phase":
                    report(f"{what}: {event['name']}, {event['done']} of {event['count']}")
                elif event["kind"] == "error":
                    error = event["text"]
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None, "it is a pipe"
            process.stdin.close()
        output.seek(0)
        printed = output.read().decode("utf-8", "replace").splitlines()
    ended = f"ended with status {status}" if status >= 0 else f"crashed ({signal.Signals(-status).name})"
    reason = error or ended
    if not error and printed:
        reason = f"{ended}: {printed[-1]}"
    raise BuildFailed(
        f"{manifest.library} {manifest.version}, {what}: {one_line(reason)}",
        [*log, *printed[-MAX_LOG_LINES:]],
    )


def _started(
    order: Mapping[str, Any], output: IO[bytes]
) -> tuple[subprocess.Popen[bytes], Iterator[dict[str, Any]]]:
    """The child and its events."""
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, str(CHILD), str(writer)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=[writer],
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    assert process.stdin is not None, "asked for as a pipe"
    with suppress(BrokenPipeError):  # it has ended already; its status says how
        process.stdin.write((json.dumps(order) + "\n").encode())
        process.stdin.flush()

    def events() -> Iterator[dict[str, Any]]:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as file:
            for line in file:
                yield json.loads(line)

    return process, events()
