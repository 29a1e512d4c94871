"""What a checkpoint has lost by `antiphon quantize`: memory, signal to noise, the same replies, perplexity.

The source answers first, then the quantized one: only one of them is in memory at a time. While the source
answers, each of its matrices also multiplies in int8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.bench.loss import names_of, perplexity, replies, tapped, tensors_of
from antiphon.bench.serving.questions import Question, read_workload
from antiphon.codec import Codec
from antiphon.config import ModelConfig
from antiphon.engine.engine import Engine
from antiphon.errors import CheckpointError
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.quantization import SCALE_SUFFIX, scheme_of
from antiphon.model.checkpoint.quantized_folder import Sizes
from antiphon.model.checkpoint.quantizing import matrix_names
from antiphon.model.checkpoint.shards import TensorFiles, read_headers
from antiphon.sound.reading import read_audio
from antiphon.types import Completion, Request, SamplingParams, Units

__all__ = ["Agreement", "MatrixSignal", "PartBytes", "QuantizationReport", "Report", "agreement", "report"]

Report = Callable[[str, int, "int | None"], None]
"""What is being done, how much of it, and of how much; None: nobody knows."""

BATCH = 5
LIMITS = SamplingParams(max_tokens=64, max_units=150)
SETTINGS: dict[str, Any] = {"device": "cpu", "max_num_seqs": BATCH, "max_model_len": 2048, "progress": False}
DTYPES = {frozenset({"BF16"}): "bfloat16", frozenset({"F16"}): "float16"}


@dataclass(frozen=True)
class PartBytes:
    """Weights of one part of the model."""

    name: str
    source: int
    target: int


@dataclass(frozen=True)
class MatrixSignal:
    """Signal to noise of one matrix's products, on the model's own activations."""

    name: str
    """As `bench.loss.names_of` calls it"""
    decibels: float | None
    """None: it lost nothing, or is kept."""
    kept: bool = False
    """It stays as it is."""


@dataclass(frozen=True)
class Agreement:
    """Replies to one kind of prompts beside those of the source. Ids are the same at their places, and
    include stop ids."""

    prompts: str
    """ "typed" or "spoken"."""
    num_prompts: int
    same_transcripts: int
    same_texts: int
    same_units: int
    """Replies with the same text and units"""
    num_text_ids: int
    """Of the source"""
    same_text_ids: int
    num_unit_ids: int
    same_unit_ids: int


@dataclass(frozen=True)
class QuantizationReport:
    scheme: str
    dtype: str
    """What the source's weights are held in; it computes in float32."""
    files: PartBytes
    """All weights, as files hold them"""
    parts: tuple[PartBytes, ...]
    """What one step reads"""
    signals: tuple[MatrixSignal, ...]
    """Of the matrices that the source's replies used, those that are kept among them"""
    agreements: tuple[Agreement, ...]
    source_perplexity: float
    """Of the source's own replies to the typed prompts"""
    target_perplexity: float


class _Asked(NamedTuple):
    kind: str
    requests: list[Request]


def report(source: Path, target: Path, sizes: Sizes, progress: Report) -> QuantizationReport:
    """Compare a checkpoint and what was quantized of it, on the CPU, by questions that come with the package:
    typed and, where the packaged codec has the model's units, spoken.

    Args:
        sizes: of the files, see `write_quantized`.
        progress: called before each piece of work.

    Raises:
        CheckpointError: one of them cannot be loaded, or the model cannot be asked such questions.
    """
    config = read_config(source)
    scheme = scheme_of(target)
    if scheme is None:
        raise CheckpointError(f"{target}: expected a quantized checkpoint, found one that is not")
    dtype = _dtype_of(read_headers(source), config)
    asked = _questions(config, progress)
    progress("loading the source", 0, None)
    with tapped([scheme.is_dynamic]) as taps, Engine(source, dtype=dtype, **SETTINGS) as engine:
        expected = _answers(engine, source, asked, "the source answers", progress)
        typed = [replace(each, modalities=("text",), sampling_params=None) for each in asked[0].requests]
        texts = replies(engine, typed)
        source_perplexity = perplexity(engine, texts)
        source_bytes = engine.model.num_bytes_read()
    names = names_of(config)
    decibels = {name: tap.decibels()[0] for name, tap in zip(names, taps, strict=True) if tap.signal > 0}
    taps.clear()
    del engine
    progress("loading the quantized one", 0, None)
    with Engine(target, dtype=dtype, **SETTINGS) as engine:
        found = _answers(engine, target, asked, "the quantized one answers", progress)
        target_perplexity = perplexity(engine, texts)
        target_bytes = engine.model.num_bytes_read()
    kept = _kept(config, read_headers(target))
    return QuantizationReport(
        scheme=scheme.name,
        dtype=dtype,
        files=PartBytes("files", *sizes),
        parts=tuple(PartBytes(name, size, target_bytes[name]) for name, size in source_bytes.items()),
        signals=tuple(_signal(name, decibels[name], name in kept) for name in names if name in decibels),
        agreements=tuple(
            agreement(each.kind, *pair) for each, *pair in zip(asked, expected, found, strict=True)
        ),
        source_perplexity=source_perplexity,
        target_perplexity=target_perplexity,
    )


def _signal(name: str, decibels: float, kept: bool) -> MatrixSignal:
    return MatrixSignal(name, None if kept or math.isinf(decibels) else decibels, kept)


def agreement(prompts: str, expected: Sequence[Completion], found: Sequence[Completion]) -> Agreement:
    """expected: the replies of the source."""
    pairs = list(zip(expected, found, strict=True))
    return Agreement(
        prompts=prompts,
        num_prompts=len(pairs),
        same_transcripts=sum(one.transcript_ids == other.transcript_ids for one, other in pairs),
        same_texts=sum(one.text_ids == other.text_ids for one, other in pairs),
        same_units=sum(
            one.text_ids == other.text_ids and one.unit_ids == other.unit_ids for one, other in pairs
        ),
        num_text_ids=sum(len(one.text_ids) for one in expected),
        same_text_ids=sum(_num_same(one.text_ids, other.text_ids) for one, other in pairs),
        num_unit_ids=sum(len(one.unit_ids) for one in expected),
        same_unit_ids=sum(_num_same(one.unit_ids, other.unit_ids) for one, other in pairs),
    )


def _num_same(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=False))


def _dtype_of(files: TensorFiles, config: ModelConfig) -> str:
    """16 bits where all matrices are stored so: the same numbers in half of float32's memory."""
    return DTYPES.get(frozenset(files.entries[name].dtype for name in matrix_names(config)), "float32")


def _kept(config: ModelConfig, written: TensorFiles) -> frozenset[str]:
    may_stay = {*matrix_names(config)}
    return frozenset(
        name
        for name, tensors in tensors_of(config).items()
        if tensors[0] in may_stay and tensors[0] + SCALE_SUFFIX not in written.entries
    )


def _questions(config: ModelConfig, progress: Report) -> list[_Asked]:
    """Those of the workload, without their pictures. Typed ones come first."""
    workload = read_workload()
    typed = [question for question in workload if question.text is not None]
    asked = [_Asked("typed", [_request(question.text or "") for question in typed])]
    codec = Codec.from_pretrained(EMBEDDED_CODEC, "cpu")
    if codec.num_units_vocab == config.audio_vocab_size:
        spoken = [question for question in workload if question.sound is not None]
        requests = []
        for index, question in enumerate(spoken):
            progress("tokenizing spoken questions", index, len(spoken))
            requests.append(_request(_units(codec, question)))
        asked.append(_Asked("spoken", requests))
    return asked


def _units(codec: Codec, question: Question) -> Units:
    return Units(codec.tokenize(*read_audio(question.sound)))


def _request(part: str | Units) -> Request:
    return Request([part], ("text", "units"), sampling_params=LIMITS)


def _answers(
    engine: Engine, folder: Path, asked: Sequence[_Asked], what: str, progress: Report
) -> list[list[Completion]]:
    total = sum(len(each.requests) for each in asked)
    made: list[Completion] = []
    for each in asked:
        for begin in range(0, len(each.requests), BATCH):
            progress(what, len(made), total)
            made += engine.generate(each.requests[begin : begin + BATCH])
    for done in made:
        if done.error is not None:
            raise CheckpointError(
                f"{folder}: expected a model that answers the report's questions, found: {done.error}"
            )
    rest = iter(made)
    return [[next(rest) for _ in each.requests] for each in asked]
