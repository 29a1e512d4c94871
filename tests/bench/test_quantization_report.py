"""What `antiphon quantize --report` measures: each figure is found again in another way."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
from checkpoints import RANDOM_MODEL

from antiphon import Engine, Request
from antiphon.assets.embedded import EMBEDDED_MODEL
from antiphon.bench import quantization
from antiphon.bench.formats import matrix_losses
from antiphon.bench.loss import Replied, names_of, perplexity, replies, tapped, tensors_of
from antiphon.bench.quantization import QuantizationReport, agreement, report
from antiphon.bench.serving.questions import Question, read_workload
from antiphon.errors import CheckpointError
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.quantized_folder import Sizes, write_quantized
from antiphon.model.omni import OmniModel
from antiphon.model.schemes import INT8, INT8_WEIGHT_ONLY
from antiphon.types import Completion, SamplingParams

QUESTIONS = ("How many?", "Which one is it?")
KEPT = ("lm_head", "model.layers.0.*")


LIMITS = SamplingParams(max_tokens=16, max_units=8)
REQUESTS = [Request([text], ("text", "units"), sampling_params=LIMITS) for text in QUESTIONS]


class Seen:
    """An engine's model that must be gone when the next engine is made, and the calls for progress."""

    def __init__(self) -> None:
        self.models: list[weakref.ref[OmniModel]] = []
        self.pieces: list[tuple[str, int, int | None]] = []
        self.num_alive: list[int] = []

    def progress(self, what: str, done: int, total: int | None) -> None:
        self.pieces.append((what, done, total))

    def engine(self, *args: Any, **settings: Any) -> Engine:
        gc.collect()
        self.num_alive.append(sum(model() is not None for model in self.models))
        engine = Engine(*args, **settings)
        self.models.append(weakref.ref(engine.model))
        return engine


def asking(patch: pytest.MonkeyPatch, *texts: str) -> None:
    patch.setattr(quantization, "read_workload", lambda: [Question(None, text) for text in texts])
    patch.setattr(quantization, "LIMITS", LIMITS)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sizes]:
    folder = tmp_path_factory.mktemp("quantized") / "model"
    return folder, write_quantized(RANDOM_MODEL, folder, INT8_WEIGHT_ONLY, keep=KEPT)


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="module")
def found(target: tuple[Path, Sizes], seen: Seen) -> QuantizationReport:
    with pytest.MonkeyPatch.context() as patch:
        asking(patch, *QUESTIONS)
        patch.setattr(quantization, "BATCH", 1)
        patch.setattr(quantization, "Engine", seen.engine)
        return report(RANDOM_MODEL, *target, seen.progress)


@pytest.mark.usefixtures("found")
def test_one_engine_at_a_time_is_in_memory(seen: Seen) -> None:
    assert seen.num_alive == [0, 0]


@pytest.mark.usefixtures("found")
def test_progress_names_the_work(seen: Seen) -> None:
    assert seen.pieces == [
        ("loading the source", 0, None),
        ("the source answers", 0, 2),
        ("the source answers", 1, 2),
        ("loading the quantized one", 0, None),
        ("the quantized one answers", 0, 2),
        ("the quantized one answers", 1, 2),
    ]


def test_signals_are_those_of_the_scheme(found: QuantizationReport) -> None:
    with tapped() as taps, Engine(RANDOM_MODEL, device="cpu", dtype="float32") as engine:
        engine.generate(REQUESTS)
        losses = {loss.name: loss for loss in matrix_losses(names_of(engine.model_config), taps)}
    signals = {each.name: each for each in found.signals}
    assert [*signals] == [*losses]
    kept = {"LM head", *(f"text 0 {part}" for part in ("qkv", "o", "gate_up", "down"))}
    assert {name for name, each in signals.items() if each.kept} == kept
    for name, each in signals.items():
        if not each.kept:
            assert each.decibels == pytest.approx(losses[name].weight_only_db, abs=0.5)
    assert {"CTC head", "unit head", "fusion kv", "top 0 fusion o"} <= {*signals} - kept


def test_replies_perplexity_and_sizes_are_those_of_the_engines(
    found: QuantizationReport, target: tuple[Path, Sizes]
) -> None:
    answers: list[list[Completion]] = []
    perplexities: list[float] = []
    sizes: list[dict[str, int]] = []
    texts: list[Replied] = []
    for folder in (RANDOM_MODEL, target[0]):
        with Engine(folder, device="cpu", dtype="float32") as engine:
            answers.append(engine.generate(REQUESTS))
            texts = texts or replies(engine, [Request(text) for text in QUESTIONS])
            perplexities.append(perplexity(engine, texts))
            sizes.append(engine.model.num_bytes_read())
    assert found.agreements == (agreement("typed", *answers),)
    assert [found.source_perplexity, found.target_perplexity] == pytest.approx(perplexities, rel=1e-4)
    assert {part.name: part.source for part in found.parts} == sizes[0]
    assert {part.name: part.target for part in found.parts} == sizes[1]
    assert (found.files.source, found.files.target) == target[1]
    assert (found.scheme, found.dtype) == ("int8-weight-only", "float32")


def test_agreement_counts_ids_at_their_places() -> None:
    def reply(text: list[int], units: list[int], heard: tuple[int, ...] = ()) -> Completion:
        return Completion("r", transcript_ids=[*heard], text_ids=text, unit_ids=units)

    expected = [reply([1, 2, 3], [5, 6, 7, 8], (4,)), reply([1, 2], [5]), reply([1], [5, 6])]
    found = [reply([1, 2, 3], [5, 0, 7], (3,)), reply([1, 9], [5]), reply([1], [5, 6])]
    figures = agreement("spoken", expected, found)
    assert (figures.prompts, figures.num_prompts, figures.same_transcripts) == ("spoken", 3, 2)
    assert (figures.same_texts, figures.same_units) == (2, 1)
    assert (figures.same_text_ids, figures.num_text_ids) == (5, 6)
    assert (figures.same_unit_ids, figures.num_unit_ids) == (5, 7)


def test_tensors_are_named_as_in_files() -> None:
    tensors = tensors_of(read_config(RANDOM_MODEL))
    assert sorted(tensors) == sorted(names_of(read_config(RANDOM_MODEL)))
    assert "model.layers.0.self_attn.k_proj.weight" in tensors["text 0 qkv"]
    assert tensors["top 1 down"] == ["model.top_audio_layers.1.mlp.down_proj.weight"]
    assert tensors["CTC head"] == ["audio_to_text_proj.weight"]
    assert tensors["unit head"] == ["audio_lm_head.weight"]


def test_wrong_folders_are_named(
    target: tuple[Path, Sizes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"expected a quantized checkpoint, found one that is not"):
        report(RANDOM_MODEL, RANDOM_MODEL, target[1], Seen().progress)
    short = Path(shutil.copytree(RANDOM_MODEL, tmp_path / "short"))
    config = json.loads((short / "config.json").read_text("utf-8"))
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16}), "utf-8")
    asking(monkeypatch, "How many are there?")
    with pytest.raises(CheckpointError, match=r"short: expected a model that answers the report's questions"):
        report(short, *target, Seen().progress)


@pytest.mark.slow
def test_the_packaged_model_is_asked_by_speech_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are in 16 bits, and so it is held."""
    one = [*read_workload()[14:16]]
    assert [question.kind for question in one] == ["spoken", "typed"]
    monkeypatch.setattr(quantization, "read_workload", lambda: one)
    sizes = write_quantized(EMBEDDED_MODEL, tmp_path / "int8", INT8)
    found = report(EMBEDDED_MODEL, tmp_path / "int8", sizes, Seen().progress)
    assert [(each.prompts, each.num_prompts) for each in found.agreements] == [("typed", 1), ("spoken", 1)]
    assert all(each.same_texts == each.same_transcripts == 1 for each in found.agreements)
    assert (found.scheme, found.dtype) == ("int8", "float16")
    assert all(each.decibels is not None and each.decibels > 30 for each in found.signals)
    assert len(found.signals) == len(names_of(read_config(EMBEDDED_MODEL)))
    assert found.target_perplexity == pytest.approx(found.source_perplexity, rel=1e-3)
