"""`antiphon export verify --word-error`: who is judged by what, and what comes of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from checkpoints import RANDOM_CODEC

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.cli import main
from antiphon.errors import CheckpointError
from antiphon.export import judge as judges
from antiphon.export import word_error
from antiphon.export.folder import export_flow
from antiphon.export.judge import judge, word_errors
from antiphon.export.replies import Reply
from antiphon.export.sources import read_flow
from antiphon.export.word_error import judged

TEXTS = ("Two plus three is five.", "A frog is green.")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of the packaged codec: float32, and bfloat16, for which ONNX Runtime has no kernels."""
    made = tmp_path_factory.mktemp("exports")
    source = read_flow(EMBEDDED_CODEC)
    export_flow(source, made / "fp32")
    export_flow(source, made / "bf16", precision="bf16", cosyvoice_names=True)
    return made / "fp32", made / "bf16"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the judge hears, one after another. The model's replies are two of a few units."""
    answers: list[str] = []

    @contextmanager
    def fixed() -> Iterator[tuple[str, Any]]:
        def listen(sound: Any, rate_hz: int) -> str:
            assert np.abs(sound).max() > 0
            assert rate_hz == 22050
            return answers.pop(0)

        yield "whisper", listen

    def made(questions: Any, report: Any) -> list[Reply]:
        report(len(questions))
        return [Reply(text, [3, 1, 4, 1, 5], np.zeros(1), 22050) for text in TEXTS]

    monkeypatch.setattr(word_error, "judge", fixed)
    monkeypatch.setattr(word_error, "replies", made)
    return answers


@pytest.mark.slow
def test_errors_are_counted_beside_those_of_pytorch(exports: tuple[Path, Path], heard: list[str]) -> None:
    heard += ["2 plus 3 is five", "A dog is green"]
    heard += ["two plus three is five", "A frog is green"]
    heard += ["two plus three", "A frog's green"]
    told: list[str] = []
    rows = list(judged(exports, lambda what, *_: told.append(what)))
    assert [(row.precision, row.num_words, row.judge) for row in rows] == [
        (name, 9, "whisper") for name in ("fp32", "fp32", "bf16")
    ]
    assert [round(row.per_cent * 9 / 100) for row in rows] == [1, 0, 4]
    assert [round(row.worse * 9 / 100) for row in rows] == [0, -1, 3]
    assert [row.is_within for row in rows] == [True, True, False]
    assert rows[0].way == "PyTorch"
    assert rows[2].way == str(exports[1] / "flow.decoder.estimator.bf16.onnx")
    assert {what.split()[0] for what in told} == {"the", "listening"}


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "status"), [(TEXTS[1], 0), ("A log is green", 1)])
def test_the_command(
    answer: str,
    status: int,
    exports: tuple[Path, Path],
    heard: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    heard += [*TEXTS, TEXTS[0], answer]
    monkeypatch.setattr("antiphon.export.verify.verify", lambda *_, **__: iter([]))
    out = tmp_path / "figures.json"
    arguments = ["export", "verify", str(exports[0]), "--word-error", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["antiphon", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert int(end.value.code or 0) == status
    rows = json.loads(out.read_text())["word_error"]
    assert [row["is_within"] for row in rows] == [True, not status]
    shown = capsys.readouterr().out
    assert "word error of 2 replies (9 words), heard by whisper" in shown
    assert ("+11.1" in shown) == bool(status)


def test_what_cannot_be_judged(
    exports: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(CheckpointError, match=r"expected flow\.onnx, as `antiphon export flow` writes it"):
        next(judged([tmp_path]))
    model = onnx.load(exports[0] / "flow.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "flow.onnx")
    with pytest.raises(CheckpointError, match=r"antiphon.precision: expected fp32 or fp16 or .*, found ''"):
        next(judged([tmp_path]))
    arguments = ["export", "verify", str(exports[0]), "--word-error", "--codec", str(RANDOM_CODEC)]
    monkeypatch.setattr(sys, "argv", ["antiphon", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert "--word-error: expected the packaged codec, got --codec" in capsys.readouterr().err


@pytest.mark.slow
def test_without_whisper_the_packaged_model_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "PACKAGES", ("no_such_package",))
    samples, rate_hz = soundfile.read(EMBEDDED_CODEC.parents[1] / "demo" / "question.wav", dtype="float32")
    with judge() as (name, listen):
        assert name == "own"
        assert word_errors("What is in the picture?", listen(samples, rate_hz)) == (0, 5)


def test_word_errors() -> None:
    assert word_errors("There are 2 grey hearts.", "there are two gray hearts") == (0, 5)
    assert word_errors("Thirteen minus one plus two.", "13-1 + 2") == (0, 5)
    assert word_errors("One two three four.", "1-2-3-4.") == (0, 4)
    assert word_errors("Twenty sixteen fourteen.", "2016, 14.") == (0, 3)
    assert word_errors("Twenty sixteen.", "2060") == (2, 2)
    assert word_errors("It is red.", "It is") == (1, 3)
    assert word_errors("Yes.", "oh yes it is") == (3, 1)
