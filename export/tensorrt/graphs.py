"""Graphs that are made from an exported file's for an engine: what the engine is built of, and the rest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from antiphon.codec.checkpoint.onnx_graph import data_path
from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import is_there

if TYPE_CHECKING:
    import onnx

__all__ = ["between", "written_beside"]


def between(
    model: onnx.ModelProto, path: Path, inputs: Sequence[str] | None, outputs: Sequence[str] | None
) -> onnx.ModelProto:
    """What computes these values of the graph from those, with the model's metadata; None: the graph's own.

    path: the model's file, which an error names. Weights that lie beside it are not read.
    """
    import onnx

    own_inputs = [value.name for value in model.graph.input]
    own_outputs = [value.name for value in model.graph.output]
    given, wanted = list(inputs or own_inputs), list(outputs or own_outputs)
    if (given, wanted) == (own_inputs, own_outputs):
        return model
    known = {*own_inputs, *own_outputs, *(value.name for value in model.graph.value_info)}
    for name in (*given, *wanted):
        if name not in known:
            raise CheckpointError(
                f"{path}: expected a value {name!r} in the graph, found none; export it again"
            )
    part = onnx.utils.Extractor(model).extract_model(given, wanted)
    part.metadata_props.extend(model.metadata_props)
    return part


@contextmanager
def written_beside(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """A file with this model for the length of the block, in a folder of its own beside `path`, whose weights
    it may share: they are not copied where the file system has links."""
    with TemporaryDirectory(dir=path.parent, prefix=".engine-") as scratch:
        made = Path(scratch) / path.name
        made.write_bytes(model.SerializeToString())
        if is_there(data_path(path)):
            try:
                os.link(data_path(path), data_path(made))
            except OSError:
                shutil.copyfile(data_path(path), data_path(made))
        yield made
