"""The part that makes units of speech: the speech tokenizer.

A file that `recipes/tiny` wrote is read back, and exported for ragged batches; expected is what PyTorch makes
of each row by itself in float32. Any other file has no source here: it is copied as it is, and expected is
what it gives itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from antiphon.codec.analysis.logmel import NUM_BANDS
from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.codec.codec import TOKENIZER_FILE
from antiphon.codec.exported import fingerprint
from antiphon.codec.tensorrt.profile import Profile, Span
from antiphon.errors import CheckpointError
from antiphon.export.onnx_file import check_packages, traced
from antiphon.export.part import PRECISIONS, Bound, Compared, EnginePlan, Part, Port, Precision, Run
from antiphon.export.sources import hashes
from antiphon.export.tokenizer_network import LEVELS, TokenizerNetwork, tokenizer_of
from antiphon.export.tries import tokenizer_tries
from antiphon.files.checkpoint import is_folder, is_there, shown

if TYPE_CHECKING:
    import onnx

__all__ = ["NOT_OURS", "PRODUCER", "TOKENIZER_PART", "Spoken", "TokenizerSource", "read_tokenizer"]

EXAMPLE_FRAMES = 27
"""Odd, and odd again when halved: each time, half of it is rounded up."""
BATCHES = (
    *((n,) for n in (1, 2, 3, 4, 5, 51, 203, 1000, 3000)),
    (300, 1),
    tuple(1 + 19 * i for i in range(16)),
)
QUICK_BATCHES = ((1,), (2,), (51,), (203, 1, 42))
TYPES = ["tensor(float)", "tensor(int32)"]
PRODUCER = "antiphon.producer"
"""Key of a copied file's metadata: what made it"""
NOT_OURS = (
    "expected a tokenizer that recipes/tiny wrote, found that of another project, which is copied as it is: "
    "its file is for ONNX Runtime"
)


@dataclass(frozen=True, eq=False)
class TokenizerSource:
    """A speech tokenizer that is exported."""

    model: onnx.ModelProto
    """As it is in the file"""
    file: OnnxNetwork
    """The same, to run"""
    network: TokenizerNetwork | None
    """The same in PyTorch; None if another project made it"""
    files: Mapping[str, str]
    """sha256 of the file, by its name"""


def read_tokenizer(codec: Path) -> TokenizerSource:
    """That of a CosyVoice folder. Raises CheckpointError."""
    if not is_folder(codec):
        raise CheckpointError(f"{codec}: expected a CosyVoice folder, found no folder")
    path = codec / TOKENIZER_FILE
    file = OnnxNetwork(path)  # it also checks that there is a file, and that all of the network is in it
    if file.input_types != TYPES:
        raise CheckpointError(
            f"{path}: expected float features and an int32 length as inputs, found {shown(file.input_types)}"
        )
    check_packages()
    import onnx

    model = onnx.load(path)
    return TokenizerSource(model, file, tokenizer_of(model), hashes(codec, TOKENIZER_FILE))


def has_tokenizer(codec: Path) -> bool:
    """Whether a codec's folder has one."""
    return is_there(codec / TOKENIZER_FILE)


def _inputs(source: TokenizerSource) -> tuple[Port, ...]:
    if source.network is not None:
        return Port("feats", ("batch", NUM_BANDS, "frames")), Port("feats_length", ("batch",), torch.int32)
    names, types = source.file.input_names, (torch.float32, torch.int32)
    return tuple(
        Port(name, tuple("any" if axis is None else axis for axis in shape), dtype)
        for name, shape, dtype in zip(names, source.file.input_shapes, types, strict=True)
    )


def _outputs(source: TokenizerSource) -> tuple[Port, ...]:
    if source.network is not None:
        return (Port("indices", ("batch", "units"), torch.int64),)
    return tuple(Port(name, ()) for name in source.file.output_names)


def _graph(source: TokenizerSource, precision: Precision, base: onnx.ModelProto | None) -> onnx.ModelProto:
    import onnx

    network = tokenizer_of(source.model, PRECISIONS[precision])
    if network is None:
        copied = onnx.ModelProto()
        copied.CopyFrom(source.model)
        producer = f"{copied.producer_name} {copied.producer_version}".strip()
        copied.metadata_props.add(key=PRODUCER, value=producer)
        return copied
    example = torch.zeros(2, NUM_BANDS, EXAMPLE_FRAMES), torch.full((2,), EXAMPLE_FRAMES, dtype=torch.int32)
    return traced(network, _inputs(source), example, _outputs(source))


def _weights(source: TokenizerSource) -> str:
    if source.network is None:
        return source.files[TOKENIZER_FILE]
    return fingerprint(LEVELS, source.network)


def _has(source: TokenizerSource, precision: Precision) -> bool:
    return source.network is not None or precision == "fp32"


@dataclass(frozen=True, eq=False)
class Spoken:
    """Log-mels, padded with numbers that must not matter, and what they are to PyTorch and to the file."""

    feats: Tensor
    """(batch, 128, frames)"""
    lengths: Tensor
    """int32 (batch,)"""
    units: Sequence[Tensor]
    """What the file makes of each row"""
    digits: Sequence[Tensor] | None
    """What PyTorch makes of it: (units, 4), places on the grid of units before they are rounded. None for a
    file of another project"""

    @classmethod
    def drawn(cls, source: TokenizerSource, sizes: Sequence[int], generator: torch.Generator) -> Spoken:
        """Noise that gets louder and softer, from band to band and frame to frame."""
        rows = []
        for size in sizes:
            bands = torch.randn(NUM_BANDS, 1, generator=generator)
            frames = torch.randn(1, size // 8 + 2, generator=generator).repeat_interleave(8, 1)[:, :size]
            noise = torch.randn(NUM_BANDS, size, generator=generator)
            rows.append((0.3 * bands + 0.4 * frames + 0.2 * noise).clamp(-1, 1.5))
        return cls.of(source, rows)

    @classmethod
    def of(cls, source: TokenizerSource, rows: Sequence[Tensor]) -> Spoken:
        """rows: log-mels (128, frames)"""
        lengths = torch.tensor([row.shape[1] for row in rows], dtype=torch.int32)
        feats = torch.full((len(rows), NUM_BANDS, int(lengths.max())), 9.0)
        for padded, row in zip(feats, rows, strict=True):
            padded[:, : row.shape[1]] = row
        alone = [(row[None], length[None]) for row, length in zip(rows, lengths, strict=True)]
        units = [torch.from_numpy(source.file.run(*map(np.asarray, each)).ravel()).long() for each in alone]
        if source.network is None:
            return cls(feats, lengths, units, None)
        with torch.inference_mode():
            return cls(feats, lengths, units, [source.network.digits(*each)[0] for each in alone])


def _compare(spoken: Spoken, run: Run) -> Mapping[str, Compared]:
    if spoken.digits is None:
        # As the file: one row at a time.
        rows = [
            run(row[None, :, :length], length[None])[0].ravel().float()
            for row, length in zip(spoken.feats, spoken.lengths, strict=True)
        ]
        expected = [row.float() for row in spoken.units]
        return {"units": (rows, expected), "file": (rows, expected)}
    (units,) = run(spoken.feats, spoken.lengths)
    counts = [len(row) for row in spoken.digits]
    found = [row[:count] for row, count in zip(units, counts, strict=True)]
    return {
        name: ([_nearest(row, right) for row, right in zip(rows, spoken.digits, strict=True)], spoken.digits)
        for name, rows in (("units", found), ("file", spoken.units))
    }


def _nearest(units: Tensor, digits: Tensor) -> Tensor:
    """(units, 4): the places nearest to PyTorch's that are rounded to these units: PyTorch's own, unless it
    makes other units."""
    places = []
    for levels in reversed(LEVELS):
        places.append(units % levels)
        units = units // levels
    rounded = torch.stack(places[::-1], dim=1)
    return torch.minimum(torch.maximum(digits, rounded - 0.5), rounded + 0.5)


def _no_engine(source: TokenizerSource) -> str:
    return "" if source.network is not None else NOT_OURS


def _bounds(units: float) -> Mapping[str, Bound]:
    return {"units": Bound(units, is_relative=False), "file": Bound(1e-3, is_relative=False)}


PIECES = Profile((Span(1, 400, 1000),), Span(1, 1, 8))
RECORDINGS = Profile((Span(1, 1500, 3000),), Span(1, 1, 2))
"""Of 30 s"""
TOKENIZER_PART = Part(
    kind="tokenizer",
    file="tokenizer.onnx",
    about="the speech tokenizer",
    folder="codec",
    read=read_tokenizer,
    inputs=_inputs,
    outputs=_outputs,
    graph=_graph,
    weights=_weights,
    size="frames",
    batches=BATCHES,
    quick_batches=QUICK_BATCHES,
    trial=Spoken.drawn,
    compare=_compare,
    bounds={"fp32": _bounds(1e-3), "fp16": _bounds(1e-1)},
    is_there=has_tokenizer,
    has=_has,
    engine=EnginePlan((PIECES, RECORDINGS), tokenizer_tries),
    no_engine=_no_engine,
)
