"""`antiphon profile`: what it adds up and shows, and that nothing of it stays behind."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda, FakeStream
from typer.testing import CliRunner

from antiphon import Engine
from antiphon.bench.matrix_rate import synchronize
from antiphon.bench.profile import profiling
from antiphon.bench.spans import Span, Spans, replaced
from antiphon.cli.app import app
from antiphon.codec.flow.flow import Flow
from antiphon.device.cuda_graph import NUM_WARM_UPS, CudaCapture
from antiphon.kernels import registry
from antiphon.kernels.linear import CppLinear

CPU = torch.device("cpu")
STAGES = (
    "bottom layers, prompts",
    "bottom layers, decode",
    "LLM, prompts",
    "LLM, decode",
    "top layers, decode",
)


def antiphon(*options: str) -> Any:
    return CliRunner().invoke(app, ["profile", *options])


def rows_of(path: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    return {tuple(row["path"]): row for row in json.loads(path.read_text())["spans"]}


def test_spans_nest_and_add_up() -> None:
    spans = Spans(CPU)
    for _ in range(2):
        with spans.span("a"), spans.span("b"):
            pass
    with pytest.raises(ZeroDivisionError), spans.span("a"):
        spans.timed(lambda: 1 / 0, "c")()
    with spans.span("b"):
        pass
    assert {path: span.calls for path, span in spans.tree()} == {
        ("a",): 3,
        ("a", "b"): 2,
        ("a", "c"): 1,
        ("b",): 1,
    }
    outer = spans.by_path["a",]
    assert outer.inside_s == spans.by_path["a", "b"].total_s + spans.by_path["a", "c"].total_s
    assert 0 < outer.own_s < outer.total_s


def test_the_tree_is_depth_first_and_the_longest_first() -> None:
    spans = Spans(CPU)
    spans.by_path = {
        ("x",): Span(1, 1.0),
        ("y",): Span(1, 3.0),
        ("y", "p"): Span(1, 1.0),
        ("y", "q"): Span(1, 2.0),
    }
    assert [path for path, _ in spans.tree()] == [("y",), ("y", "q"), ("y", "p"), ("x",)]


def test_threads_have_spans_of_their_own() -> None:
    spans = Spans(CPU)
    with spans.span("engine"):
        other = threading.Thread(target=spans.timed(lambda: None, "vocoder"))
        other.start()
        other.join()
    assert set(spans.by_path) == {("engine",), ("vocoder",)}


def test_replaced_restores_what_was_there_and_what_was_not() -> None:
    class Owner:
        def number(self) -> int:
            return 1

    owner, other, own = Owner(), Owner(), Owner.number
    with replaced(owner.number, lambda: 3), replaced(own, lambda self: 2, owner=Owner):
        assert (owner.number(), other.number()) == (3, 2)
    with pytest.raises(ZeroDivisionError), replaced(owner.number, lambda: 4):
        raise ZeroDivisionError
    assert vars(owner) == {}
    assert Owner.number is own


def test_what_is_not_there_is_not_replaced() -> None:
    def forgotten() -> None:
        pass

    with pytest.raises(ValueError, match="has no such function"), replaced(forgotten, print):
        pass
    with pytest.raises(ValueError, match="has no such function"), replaced(forgotten, print, owner=registry):
        pass


def test_nothing_stays_behind() -> None:
    with Engine() as engine:
        before = (dict(vars(engine)), dict(vars(engine.runner)), CppLinear.__call__, Flow.generate)
        known = {op: dict(implementations) for op, implementations in registry._IMPLEMENTATIONS.items()}
        with profiling(engine, Spans(CPU)):
            assert CppLinear.__call__ is not before[2]
            assert known != registry._IMPLEMENTATIONS
        assert (dict(vars(engine)), dict(vars(engine.runner)), CppLinear.__call__, Flow.generate) == before
        assert known == registry._IMPLEMENTATIONS


@pytest.mark.slow
@pytest.mark.long
def test_the_embedded_engine(tmp_path: Path) -> None:
    figures, trace = tmp_path / "figures.json", tmp_path / "trace.json"
    options = ("--requests", "2", "--prompt-units", "10", "--max-units", "20")
    result = antiphon(*options, "--json", str(figures), "--trace", str(trace))
    assert result.exit_code == 0, result.output
    assert "LLM, decode" in result.output
    record = json.loads(figures.read_text())
    assert (record["num_requests"], record["num_units"]) == (2, 40)
    assert record["audio_s"] > 1
    rows = rows_of(figures)
    for stage in STAGES:
        assert rows["step", stage]["calls"] > 0
        assert rows["step", stage, "layers", "paged_attention"]["calls"] > 0
    assert rows["speech", "flow matching"]["total_s"] > 0
    assert rows["step",]["total_s"] <= record["wall_s"]
    for row in rows.values():
        assert 0 <= row["own_s"] <= row["total_s"]
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"step", "LLM, decode", "paged_attention"} <= names


@pytest.mark.slow
def test_stacks_in_one_call(tmp_path: Path) -> None:
    """What runs when nobody looks is `decoder_layers`, of which the pass is all there is to see."""
    figures = tmp_path / "figures.json"
    result = antiphon("--fused", "--prompt-units", "5", "--max-units", "4", "--json", str(figures))
    assert result.exit_code == 0, result.output
    rows = rows_of(figures)
    assert rows["step", "LLM, decode"]["own_s"] > 0
    assert not any("paged_attention" in path for path in rows)


def test_a_question_of_ones_own(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    result = antiphon("--text", "Hello?", "--requests", "1", "--max-units", "6", "--json", str(figures))
    assert result.exit_code == 0, result.output
    assert json.loads(figures.read_text())["num_units"] == 6
    assert ("step", "bottom layers, prompts", "soft_embedding") not in rows_of(figures)


def test_wrong_usage(tmp_path: Path) -> None:
    both = antiphon("--config", "97m", "--model", str(tmp_path))
    assert both.exit_code == 2
    assert "cannot be used with --model" in both.output
    alone = antiphon("--image", str(tmp_path / "cat.jpg"))
    assert "--image: expected --text or --audio with it" in str(alone.exception)


def test_a_span_does_not_wait_while_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a profiled vocoder meets a new size: the recording once failed, and the request with it."""
    cuda = FakeCuda(monkeypatch)
    for name in ("range_push", "range_pop"):
        monkeypatch.setattr(torch.cuda.nvtx, name, lambda *_: None)
    spans = Spans(torch.device("cuda", 0))
    replay = CudaCapture(spans.device)(spans.timed(lambda: torch.ones(2), "norm"))
    assert spans.by_path["norm",].calls == NUM_WARM_UPS + 1
    assert cuda.recorded_on and len(replay()) == 2


def test_benchmarks_wait_for_their_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """To wait for the whole device breaks what the vocoder's thread is recording."""
    FakeCuda(monkeypatch)
    monkeypatch.setattr(FakeCuda, "recording", FakeStream())
    synchronize(torch.device("cuda", 0))
