"""Searches an ONNX file, before it is loaded, for anything that would run forever or read other files.

An ONNX file is a protobuf message; only the fields that lead to operators and tensors are read. The package
`onnx` is not needed.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import check_file, is_there, refusing_failures, shown

__all__ = ["EXPECTED", "check_graph", "data_path"]

EXPECTED = "an ONNX network"
MAX_FILE_BYTES = 2 * 2**30
"""The limit of a protobuf message. The released speech tokenizer has 520 MB."""
MAX_DATA_BYTES = 64 * 2**30
"""Of weights beside the file, which are mapped, not read."""
MAX_DATA_DIGITS = 15
MAX_NAME = 1024
MAX_FIELDS = 2_000_000
MAX_NODES = 50_000
MAX_DEPTH = 8
MAX_DIMENSIONS = 16
MAX_FOLDED = 2**26
"""Numbers that onnxruntime may compute from constants during loading, when nothing can stop it."""

ENDLESS = ("Loop", "Scan", "SequenceMap")
"""Operators that repeat a graph a number of times."""

# fmt: off
# Operators that keep the shape of their first input, do not exceed its size, or broadcast their inputs.
SAME_SHAPE = frozenset({
    "Abs", "Cast", "Ceil", "Clip", "Cos", "Erf", "Exp", "Floor", "Identity", "Log", "Neg", "Not",
    "Reciprocal", "Relu", "Round", "Sigmoid", "Sin", "Sqrt", "Tanh",
})
SAME_SIZE = frozenset({
    "Flatten", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Shape", "Size", "Slice", "Squeeze",
    "Transpose", "Unsqueeze",
})
BROADCAST = frozenset({
    "Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Or", "Pow", "Sub", "Where",
})
# fmt: on
UNBOUNDED = 2**62

# Numbers of the fields of a model, graph, node, attribute and tensor.
MODEL_GRAPH, MODEL_FUNCTIONS = 7, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
NODE_INPUT, NODE_OUTPUT, NODE_OPERATOR, NODE_ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
TENSOR_DIMS, TENSOR_NAME, TENSOR_EXTERNAL, TENSOR_PLACE = 1, 8, 13, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2
ENTRY_KEYS = ("location", "offset", "length", "checksum")


def data_path(path: Path) -> Path:
    """The file beside an ONNX file that may hold its weights."""
    return path.with_name(path.name + ".data")


def check_graph(path: Path, *, may_loop: bool = False, may_lie_beside: bool = False) -> bool:
    """Whether so little is computed from constants alone that it may be done during loading.

    Raises CheckpointError for anything but an ONNX file, and for a network with loops, functions of its own,
    sparse tensors or tensors in other files: no released one has them. may_loop: loops are taken, for a
    caller that bounds the time that they run. may_lie_beside: tensors may lie in `data_path(path)`, which
    must be a file of the same folder, and nowhere else.
    """
    size = check_file(path, EXPECTED, max_bytes=MAX_FILE_BYTES)
    beside = _beside(path) if may_lie_beside else None
    with (
        refusing_failures(path, EXPECTED),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data,
    ):
        scan = _Scan(data, beside, may_loop=may_loop)
        scan.model(0, size)
        return scan.num_folded <= MAX_FOLDED


@dataclass(frozen=True)
class Beside:
    """The file that weights may lie in."""

    name: str
    size: int


def _beside(path: Path) -> Beside:
    data = data_path(path)
    if not is_there(data):
        return Beside(data.name, 0)
    size = check_file(data, f"the weights of {path.name}", max_bytes=MAX_DATA_BYTES)
    with refusing_failures(data, f"the weights of {path.name}"):
        if data.resolve().parent != path.resolve().parent:
            raise CheckpointError(f"{data}: expected a file of this folder, found a link to another one")
    return Beside(data.name, size)


@dataclass(frozen=True)
class Constant:
    """A tensor that depends on no input of the network."""

    size: int
    """At most this many numbers are in it."""
    shape: tuple[int, ...] | None = None
    """None if it is not known."""


class _Scan:
    def __init__(self, data: mmap.mmap, beside: Beside | None, *, may_loop: bool) -> None:
        self._data = data
        self._beside = beside
        self._may_loop = may_loop
        self._num_fields = self._num_nodes = 0
        self._constants = {b"": Constant(1, ())}
        """By name. An input that is left out has an empty name."""
        self.num_folded = 0
        """Upper bound on the numbers that are computed from constants alone."""

    def model(self, begin: int, end: int) -> None:
        graphs = 0
        for number, start, stop in self._fields(begin, end):
            if number == MODEL_FUNCTIONS:
                raise ValueError("expected no functions of its own, found one")
            if number == MODEL_GRAPH:
                graphs += 1
                self._graph(start, stop, 0)
        if graphs != 1:
            raise ValueError(f"found {graphs} graphs")

    def _graph(self, begin: int, end: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ValueError(f"expected at most {MAX_DEPTH} graphs within each other, found more")
        nodes = []
        for number, start, stop in self._fields(begin, end):
            if number == GRAPH_NODE:
                nodes.append((start, stop))
            elif number == GRAPH_INITIALIZER:
                name, constant = self._tensor(start, stop)
                self._constants[name] = constant
            elif number == GRAPH_SPARSE:
                raise ValueError("expected no sparse tensors, found one")
        self._num_nodes += len(nodes)
        if self._num_nodes > MAX_NODES:
            raise ValueError(f"expected at most {MAX_NODES} operators, found more")
        for start, stop in nodes:
            self._node(start, stop, depth)

    def _node(self, begin: int, end: int, depth: int) -> None:
        operator, inputs, outputs, constant = "", [], [], Constant(1)
        for number, start, stop in self._fields(begin, end):
            if number == NODE_OPERATOR:
                operator = self._data[start : min(stop, start + 64)].decode("utf-8", "replace")
            elif number == NODE_ATTRIBUTE:
                constant = self._attribute(start, stop, depth) or constant
            elif number == NODE_INPUT:
                inputs.append(self._data[start:stop])
            elif number == NODE_OUTPUT:
                outputs.append(self._data[start:stop])
        if operator in ENDLESS and not self._may_loop:
            raise ValueError(f"expected a network without loops, found the operator {operator}")
        if operator != "Constant":
            known = [self._constants[name] for name in inputs if name in self._constants]
            if len(known) < len(inputs):
                return
            constant = _folded(operator, known)
            self.num_folded += constant.size
        for name in outputs:
            self._constants[name] = constant

    def _attribute(self, begin: int, end: int, depth: int) -> Constant | None:
        """The tensor that an attribute holds, if any."""
        tensor = None
        for number, start, stop in self._fields(begin, end):
            if number in ATTRIBUTE_TENSORS:
                tensor = self._tensor(start, stop)[1]
            elif number in ATTRIBUTE_GRAPHS:
                self._graph(start, stop, depth + 1)
            elif number in ATTRIBUTE_SPARSE:
                raise ValueError("expected no sparse tensors, found one")
        return tensor

    def _tensor(self, begin: int, end: int) -> tuple[bytes, Constant]:
        """A tensor's name, and what is known of it."""
        name = b""
        shape: list[int] = []
        outside: dict[str, str] = {}
        for number, start, stop in self._fields(begin, end):
            if number == TENSOR_EXTERNAL:
                key, value = self._entry(start, stop)
                outside[key] = value
            elif number == TENSOR_PLACE and self._data[start:stop] != b"\0":
                outside.setdefault("location", "")
            elif number == TENSOR_NAME:
                name = self._data[start:stop]
            elif number == TENSOR_DIMS:  # one per field, or all in one
                place = start
                while place < stop:
                    extent, place = self._varint(place, stop)
                    shape.append(extent)
        if outside:
            self._check_outside(outside)
        if len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"expected at most {MAX_DIMENSIONS} dimensions, found {len(shape)}")
        return name, Constant(math.prod(shape), tuple(shape))

    def _check_outside(self, entries: dict[str, str]) -> None:
        """entries: where a tensor lies in another file"""
        if self._beside is None:
            raise ValueError("expected all tensors in this file, found one in another")
        location = entries.get("location")
        if location != self._beside.name:
            raise ValueError(
                f"expected tensors here or in {self._beside.name}, found one in {shown(location)}"
            )
        for key in ("offset", "length"):
            value = entries.get(key, "0")
            if not (value.isascii() and value.isdigit()) or len(value) > MAX_DATA_DIGITS:
                raise ValueError(f"expected the {key} of a tensor in {location}, found {shown(value)}")
        last = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
        if last > self._beside.size:
            raise ValueError(f"expected {location} with at least {last} bytes, found {self._beside.size}")

    def _entry(self, begin: int, end: int) -> tuple[str, str]:
        parts = {ENTRY_KEY: "", ENTRY_VALUE: ""}
        for number, start, stop in self._fields(begin, end):
            if number in parts:
                parts[number] = self._data[start : min(stop, start + MAX_NAME)].decode("utf-8", "replace")
        if parts[ENTRY_KEY] not in ENTRY_KEYS:
            raise ValueError(
                f"expected {' or '.join(ENTRY_KEYS)} of a tensor, found {shown(parts[ENTRY_KEY])}"
            )
        return parts[ENTRY_KEY], parts[ENTRY_VALUE]

    def _fields(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The number, begin and end of each field's contents."""
        place = begin
        while place < end:
            self._num_fields += 1
            if self._num_fields > MAX_FIELDS:
                raise ValueError(f"expected at most {MAX_FIELDS} fields, found more")
            key, place = self._varint(place, end)
            start, kind = place, key & 7
            if kind == 0:
                _, place = self._varint(place, end)
            elif kind == 2:
                length, start = self._varint(place, end)
                place = start + length
            elif kind in (1, 5):
                place += 8 if kind == 1 else 4
            else:
                raise ValueError("a field of unknown kind")
            if place > end:
                raise ValueError("a field that ends after its message (truncated)")
            yield key >> 3, start, place

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if place >= end:
                break
            byte = self._data[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place
        raise ValueError("a number without an end (truncated)")


def _folded(operator: str, inputs: list[Constant]) -> Constant:
    """The largest result that an operator can compute from constants."""
    shapes = [constant.shape for constant in inputs if constant.shape is not None]
    if inputs and operator in SAME_SHAPE:
        return inputs[0]
    if inputs and operator in SAME_SIZE:
        return Constant(inputs[0].size)
    if operator in BROADCAST and len(shapes) == len(inputs):
        extents = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
        shape = tuple(max(extent) for extent in extents)[::-1]
        return Constant(math.prod(shape), shape)
    if operator == "Concat":
        return Constant(sum(constant.size for constant in inputs))
    if len(inputs) <= MAX_DIMENSIONS and (operator in BROADCAST or operator == "Gather"):
        return Constant(min(math.prod(max(1, constant.size) for constant in inputs), UNBOUNDED))
    return Constant(UNBOUNDED)
