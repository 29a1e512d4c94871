"""Compares exported networks with PyTorch in float32, from single frames to long and ragged batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.codec.exported import PRECISION, open_network
from antiphon.errors import CheckpointError
from antiphon.export.part import Bound, Compared, Part, Run, SourceOf
from antiphon.export.parts import PARTS, parts_in
from antiphon.export.rounded import rounded_copy
from antiphon.export.tensorrt.running import NotHeld, engines_that_run
from antiphon.files.checkpoint import is_folder, shown

__all__ = ["Off", "Row", "difference", "verify"]

MAX_RUN_S = 3600.0


@dataclass(frozen=True)
class Row:
    """One result of one batch through one file."""

    file: str
    precision: str
    size: str
    """The axis that `sizes` are of"""
    sizes: tuple[int, ...]
    """Of each row"""
    result: str
    """Which of the results: velocity, mel, ..."""
    max_error: float
    relative_error: float
    """max_error divided by the largest expected value"""
    rms_error: float
    """The root mean square of the differences, divided by that of the expected values"""
    bound: float
    measure: str
    """Which of the three is bounded: absolute, relative or rms"""
    num_nan: int
    """Numbers that are NaN or infinite"""
    is_within: bool


def verify(
    folder: Path,
    source_of: SourceOf,
    batches: Sequence[Sequence[int]] | None = None,
    *,
    quick: bool = False,
    report: Callable[[str], None] = lambda _: None,
    seed: int = 0,
) -> Iterator[Row]:
    """Yields a row for each batch, file and result. Expected is what PyTorch makes of each row by itself in
    float32, so that a padded batch is compared with rows that were computed one by one.

    batches: instead of those of each part. report: is told what is being done. Raises CheckpointError for a
    folder without an export, or with one of other weights.
    """
    with TemporaryDirectory() as scratch:
        for exports in _groups(_opened(folder, source_of, Path(scratch))):
            part = exports[0].part
            own = batches if batches is not None else part.quick_batches if quick else part.batches
            for number, sizes in enumerate(own):
                names = ", ".join(export.path.name for export in exports)
                report(f"{names}: batch {number + 1} of {len(own)}")
                trial = part.trial(source_of(part), sizes, torch.Generator().manual_seed(seed + number))
                for export in exports:
                    try:
                        compared = export.compare(trial, export.run)
                    except NotHeld:
                        continue
                    yield from export.rows(tuple(sizes), compared)


@dataclass(frozen=True, eq=False)
class _Export:
    part: Part[Any, Any]
    path: Path
    precision: str
    bounds: Mapping[str, Bound]
    run: Run
    """Raises NotHeld for a batch that it cannot be run with."""
    compare: Callable[[Any, Run], Mapping[str, Compared]]

    def rows(self, sizes: tuple[int, ...], compared: Mapping[str, Compared]) -> Iterator[Row]:
        for result, bound in self.bounds.items():
            off = difference(*compared[result])
            measure = "rms" if bound.is_rms else "relative" if bound.is_relative else "absolute"
            error = {"absolute": off.largest, "relative": off.relative, "rms": off.rms}[measure]
            yield Row(
                file=self.path.name,
                precision=self.precision,
                size=self.part.size,
                sizes=sizes,
                result=result,
                max_error=off.largest,
                relative_error=off.relative,
                rms_error=off.rms,
                bound=bound.largest,
                measure=measure,
                num_nan=off.num_nan,
                is_within=not off.num_nan and error <= bound.largest,
            )


def _opened(folder: Path, source_of: SourceOf, scratch: Path) -> list[_Export]:
    if not is_folder(folder):
        raise CheckpointError(f"{folder}: expected a folder that `antiphon export` wrote, found no folder")
    exports = []
    for part, path in parts_in(folder):
        source = source_of(part)
        network = _open(
            path,
            scratch,
            part.kind,
            part.weights(source),
            [
                [None if isinstance(axis, str) else axis for axis in port.shape]
                for port in part.inputs(source)
            ],
            None,
            types=[port.dtype for port in part.inputs(source)],
            num_outputs=len(part.outputs(source)),
            owner=part.folder,
            may_loop=part.may_loop,
        )
        precision = network.metadata.get(PRECISION, "")
        bounds = {str(name): of_results for name, of_results in part.bounds.items()}
        if precision not in bounds:
            expected = " or ".join(bounds)
            raise CheckpointError(f"{path}: {PRECISION}: expected {expected}, found {shown(precision)}")
        run_file = partial(_results, network)
        exports.append(_Export(part, path, precision, bounds[precision], run_file, part.compare))
        for run in engines_that_run(folder, part.kind):
            manifest = run.engine.manifest
            if manifest.weights == part.weights(source) and manifest.precision in bounds:
                of_all, plan = bounds[manifest.precision], part.engine
                of_engine = {name: of_all[name] for name in plan.results or of_all}
                compare = plan.compare or part.compare
                engine = _Export(part, run.engine.path, manifest.precision, of_engine, run, compare)
                exports.append(engine)
    if not exports:
        names = ", ".join(part.file for part in PARTS)
        raise CheckpointError(f"{folder}: expected files that `antiphon export` writes ({names}), found none")
    return exports


def _open(path: Path, scratch: Path, *args: Any, **kwargs: Any) -> OnnxNetwork:
    """As `open_network`; a file in 16 bits by its rounded copy."""
    copy = rounded_copy(path, scratch)
    try:
        return open_network(path if copy is None else copy, *args, **kwargs)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(copy), str(path))) from error


def _results(network: OnnxNetwork, *given: Tensor) -> list[Tensor]:
    results = network.results(*(each.numpy() for each in given), max_s=MAX_RUN_S)
    return [torch.from_numpy(result) for result in results]


def _groups(exports: Sequence[_Export]) -> list[list[_Export]]:
    """Files that are tried with the same batches, which are made once."""
    groups: dict[Any, list[_Export]] = {}
    for export in exports:
        part = export.part
        groups.setdefault((part.trial, part.read, part.folder, part.batches), []).append(export)
    return list(groups.values())


class Off(NamedTuple):
    largest: float
    relative: float
    rms: float
    num_nan: int


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Off:
    """How far off rows are together."""
    num_nan, worst, largest, squares, expected_squares = 0, 0.0, 0.0, 0.0, 0.0
    for row, right in zip(found, expected, strict=True):
        assert row.shape == right.shape, f"{tuple(row.shape)} is compared with {tuple(right.shape)}"
        num_nan += int((~row.isfinite()).sum())
        off = (row.double() - right.double()).nan_to_num(math.inf)
        worst, largest = max(worst, float(off.abs().max())), max(largest, float(right.abs().max()))
        squares += float(off.square().sum())
        expected_squares += float(right.double().square().sum())
    if not worst:
        return Off(0.0, 0.0, 0.0, num_nan)
    if not largest:
        return Off(worst, math.inf, math.inf, num_nan)
    return Off(worst, worst / largest, math.sqrt(squares / expected_squares), num_nan)
