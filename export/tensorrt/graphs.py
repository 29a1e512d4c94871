"""Graphs that are made from an exported file's for an engine: what the engine is built of, and the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from antiphon.errors import CheckpointError

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
    """A file with this model for the length of the block, in the folder of `path`, whose weights beside it
    the model may refer to."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix) as file:
        file.write(model.SerializeToString())
        file.flush()
        yield Path(file.name)
