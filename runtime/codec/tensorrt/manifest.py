"""What an engine is, in a JSON file beside it.

An engine runs on GPUs of the compute capability, and with the version of the library, that it was built for,
and on nothing else. It is named by its content: the ONNX file, the target, the library and its version, the
profiles and the precision. The same content has the same name, so it need not be built twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from antiphon.codec.exported import FLOW
from antiphon.codec.tensorrt.profile import Profile, Shape
from antiphon.errors import CheckpointError, ConfigError
from antiphon.files.checkpoint import read_json, shown

__all__ = ["ENGINE_SUFFIX", "Manifest", "building", "manifests", "sm", "target_of"]

FORMAT = "antiphon-engine-2"
ENGINE_SUFFIX = ".engine"
KEY_DIGITS = 12


def sm(capability: tuple[int, int]) -> str:
    """(8, 0) as sm80"""
    return f"sm{capability[0]}{capability[1]}"


def target_of(text: str) -> tuple[int, int]:
    """sm80 as (8, 0). Raises ConfigError."""
    digits = text.removeprefix("sm")
    if not text.startswith("sm") or not digits.isascii() or not digits.isdigit() or not 2 <= len(digits) <= 3:
        raise ConfigError(f"target: expected a compute capability such as sm80, got {text!r:.40}")
    return int(digits[:-1]), int(digits[-1])


@dataclass(frozen=True)
class Manifest:
    """All that must fit before an engine is opened, and what is known of it."""

    kind: str
    """Which network, as in the metadata of an ONNX file"""
    precision: str
    weights: str
    """The fingerprint of the source's weights"""
    onnx: str
    """Name of the ONNX file that it was built from, in the same folder"""
    onnx_sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """Names in the graph's order, of what the engine has: it may leave out some of the file's"""
    axes: tuple[str, ...]
    """Those that vary, as in `profiles`: the last one is the rows"""
    shapes: Mapping[str, Shape]
    """Of each input"""
    target: str
    """sm80, ..."""
    library: str
    version: str
    profiles: tuple[Profile, ...]
    built: str
    """When, in UTC, as ISO 8601"""
    engine_sha256: str = ""
    memory_bytes: tuple[int, ...] = ()
    """For activations, profile by profile, as the builder said; empty if it did not"""
    types: Mapping[str, Mapping[str, int]] | None = None
    """How many layers of each type have an output of each data type"""

    @property
    def key(self) -> str:
        own = (self.onnx_sha256, self.target, self.library, self.version, self.precision)
        content = (*own, self.inputs, self.outputs)
        return hashlib.sha256(repr((content, [str(each) for each in self.profiles])).encode()).hexdigest()

    @property
    def stem(self) -> str:
        part = self.onnx.removesuffix(".onnx")
        return f"{part}.{self.target}.{self.library}-{self.version}.{self.key[:KEY_DIGITS]}"

    @property
    def engine(self) -> str:
        return self.stem + ENGINE_SUFFIX

    @property
    def file(self) -> str:
        return self.stem + ".json"

    def __str__(self) -> str:
        return f"{self.engine} ({self.target}, {self.library} {self.version})"

    def as_json(self) -> str:
        fields = asdict(self) | {"profiles": [str(each) for each in self.profiles]}
        return json.dumps({"format": FORMAT, **fields}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """None for a JSON file that is something else. Raises CheckpointError for one that is wrong."""
        values = read_json(path)
        found = values.pop("format", None)
        if not isinstance(found, str) or not found.startswith("antiphon-engine-"):
            return None
        if found != FORMAT:
            raise CheckpointError(f"{path}: format: expected {FORMAT!r}, found {shown(found)}")
        try:
            values["profiles"] = tuple(Profile.parse(each) for each in values["profiles"])
            for name in ("inputs", "outputs", "axes"):
                values[name] = tuple(str(each) for each in values[name])
            values["shapes"] = {str(name): _shape(each) for name, each in values["shapes"].items()}
            values["memory_bytes"] = tuple(int(each) for each in values["memory_bytes"])
            made = cls(**values)
        except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: expected what `antiphon export` wrote: {error}") from error
        made._check(path)
        return made

    def _check(self, path: Path) -> None:
        for name in ("kind", "precision", "weights", "onnx", "target", "library", "version", "built"):
            if not isinstance(getattr(self, name), str):
                raise CheckpointError(f"{path}: {name}: expected text, found {shown(getattr(self, name))}")
        if not self.profiles:
            raise CheckpointError(f"{path}: profiles: expected at least one, found none")
        if tuple(self.shapes) != self.inputs:
            raise CheckpointError(f"{path}: shapes: expected those of {', '.join(self.inputs)}")
        named = {size for shape in self.shapes.values() for size in shape if isinstance(size, str)}
        counts = {len(each.sizes) + 1 for each in self.profiles}
        if not named.issubset(self.axes) or counts != {len(self.axes)}:
            raise CheckpointError(f"{path}: axes: expected those of shapes and profiles, found {self.axes}")
        if path.name != self.file:
            raise CheckpointError(f"{path}: expected the name {self.file}, which its content has")

    def rebuilding(self, folder: Path, target: str) -> str:
        """The command that builds this engine where it is run, for another GPU or version."""
        options = Profile.options(self.profiles)
        return f"{building(folder, self.kind)} --target {target} {options}"


def building(folder: Path, kind: str) -> str:
    """The command that builds an engine of a kind from the ONNX files of a folder."""
    part = "" if kind == FLOW else f" --part {kind}"
    return f"antiphon export engine {quote(str(folder))}{part}"


def _shape(sizes: Sequence[object]) -> Shape:
    if not all(isinstance(size, str | int) for size in sizes):
        raise ValueError(f"shapes: expected names and numbers, found {shown(sizes)}")
    return tuple(size for size in sizes if isinstance(size, str | int))


def manifests(folder: Path) -> Sequence[Manifest]:
    """Those of a folder, the newest first. Raises CheckpointError for one that is wrong."""
    found: list[Manifest] = []
    for path in sorted(folder.glob("*.json")):
        manifest: Any = Manifest.read(path)
        if manifest is not None:
            found.append(manifest)
    return sorted(found, key=lambda each: each.built, reverse=True)
