"""Reads the pickles in torch's files as data: a small machine that knows plain values and tensors, no calls.

`torch.load(weights_only=True)` executes nothing either, but builds what a file asks for before anyone can
check it: a tensor of any size over one number, keys whose hash takes forever, sparse and fake tensors.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from antiphon.files.checkpoint import shortened

__all__ = ["PersistentLoad", "Storage", "TensorOverStorage", "read_pickle_stream"]

MAX_DIMENSIONS = 16
STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LITERALS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"})
TEXTS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"})
VALUES = NUMBERS | TEXTS
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, eq=False)
class Storage:
    """One of the file's blocks of numbers."""

    key: str
    dtype: torch.dtype
    num_elements: int


PersistentLoad = Callable[[Storage], "Tensor | None"]
"""Returns the numbers of a storage, (num_elements,), or None to leave out the tensors over it."""


@dataclass(frozen=True, eq=False)
class TensorOverStorage:
    """A tensor whose storage was left out."""

    storage: Storage


class Mark:
    """Where a list of arguments begins on the stack."""


@dataclass(frozen=True)
class Global:
    """A name in a module. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return shortened(f"{self.module}.{self.name}")


def read_pickle_stream(stream: IO[bytes], load: PersistentLoad) -> Any:
    """The value of the pickle at the stream's position, which afterwards is its end.

    Raises ValueError for anything but a pickle of plain values and dense tensors.
    """
    return _Machine(load).run(stream)


class _Machine:
    def __init__(self, load: PersistentLoad) -> None:
        self._load = load
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._loaded: dict[str, tuple[Storage, Tensor | None]] = {}

    def run(self, stream: IO[bytes]) -> Any:
        for operation, argument, _ in pickletools.genops(stream):
            name = operation.name
            if name == "STOP":
                return self._pop()
            try:
                self._step(name, argument)
            except (IndexError, KeyError, TypeError) as error:
                raise ValueError(f"a damaged pickle, at {name}") from error
        raise ValueError("a pickle without an end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in VALUES:
            stack.append(argument)
        elif name in LITERALS:
            stack.append(LITERALS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(Mark())
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name in TUPLES:
            items = [self._pop() for _ in range(TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in ("APPEND", "APPENDS"):
            items = self._marked() if name == "APPENDS" else [self._pop()]
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._marked() if name == "SETITEMS" else [self._pop(), self._pop()][::-1]
            self._set_items(items)
        elif name == "GLOBAL":
            module, _, item = argument.partition(" ")
            stack.append(Global(module, item))
        elif name == "STACK_GLOBAL":
            item, module = self._pop(), self._pop()
            stack.append(Global(str(module), str(item)))
        elif name == "BINPERSID":
            stack.append(self._storage(self._pop()))
        elif name == "REDUCE":
            arguments, function = self._pop(), self._pop()
            stack.append(self._known(function, arguments))
        elif name == "BUILD":  # metadata that torch attaches to the dict of a module
            self._pop()
            self._top(dict)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"an object that is not a plain value ({name})")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if isinstance(value, Mark):
            raise ValueError("a damaged pickle")
        return value

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ValueError("an object that is not a plain value")
        return self._stack[-1]

    def _marked(self) -> list[Any]:
        items = []
        while not isinstance(item := self._stack.pop(), Mark):
            items.append(item)
        return items[::-1]

    def _set_items(self, items: list[Any]) -> None:
        values = self._top(dict)
        if len(items) % 2:
            raise ValueError("a damaged pickle")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):  # the hash of nested tuples may take forever
                raise ValueError(f"a key of type {type(key).__name__}")
            values[key] = value

    def _storage(self, named: Any) -> tuple[Storage, Tensor | None]:
        """("storage", type, key, place, number of elements); old files may add a view of another storage."""
        if not isinstance(named, tuple) or len(named) not in (5, 6) or named[0] != "storage":
            raise ValueError("something other than a storage")
        _, kind, key, _, num_elements = named[:5]
        known = isinstance(kind, Global) and kind.module in ("torch", "torch.cuda")
        if not known or kind.name not in STORAGE_DTYPES:
            raise ValueError(f"numbers of type {kind}")
        if not isinstance(key, str) or type(num_elements) is not int or named[5:] not in ((), (None,)):
            raise ValueError("a damaged storage")
        storage = Storage(key, STORAGE_DTYPES[kind.name], num_elements)
        if key not in self._loaded:
            self._loaded[key] = storage, self._load(storage)
        first = self._loaded[key]
        if (first[0].dtype, first[0].num_elements) != (storage.dtype, num_elements):
            raise ValueError("a storage with two types or sizes")
        return first

    def _known(self, function: Any, arguments: Any) -> Any:
        """What a call stands for, if that is plain data; nothing is called."""
        name = str(function) if isinstance(function, Global) else "something that is not a name"
        if not isinstance(arguments, tuple):
            raise ValueError("a damaged pickle")
        match name, arguments:
            case "collections.OrderedDict", ():
                return {}
            case "torch._utils._rebuild_tensor_v2", (loaded, offset, size, stride, *_):
                return _tensor(loaded, offset, size, stride)
            case "torch._utils._rebuild_tensor", (loaded, offset, size, stride):
                return _tensor(loaded, offset, size, stride)
            case "torch._utils._rebuild_parameter", (Tensor() | TensorOverStorage() as data, *_):
                return data
            case "torch.Size", (tuple() as size,):
                return size
        raise ValueError(f"a call of {name}")


def _tensor(loaded: Any, offset: Any, size: Any, stride: Any) -> Tensor | TensorOverStorage:
    if not isinstance(loaded, tuple) or len(loaded) != 2 or not isinstance(loaded[0], Storage):
        raise ValueError("a tensor without numbers")
    storage, numbers = loaded
    for sizes in (size, stride):
        if not isinstance(sizes, tuple) or not all(type(n) is int and 0 <= n < 2**48 for n in sizes):
            raise ValueError("a tensor of no size")
    if type(offset) is not int or offset < 0 or len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise ValueError("a tensor of no size")
    count = 1
    for extent in size:
        count *= extent
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    if count > storage.num_elements or (count and last >= storage.num_elements):
        raise ValueError(f"a tensor of {count} numbers over {storage.num_elements}")
    if numbers is None:
        return TensorOverStorage(storage)
    return torch.as_strided(numbers, size, stride, offset) if count else numbers.new_empty(size)
