"""`antiphon bench formats`: it asks what it says, and counts what is the same. Documents run the command."""

from __future__ import annotations

import pytest
import typer

from antiphon.bench import formats
from antiphon.bench.formats import FORMATS, compare, installed_formats, questions, read_formats
from antiphon.types import Completion, Image


def reply(text: str, units: tuple[int, ...], transcript: str = "") -> Completion:
    return Completion("r", transcript=transcript, text=text, units=list(units))


def test_each_question_is_asked_with_each_picture() -> None:
    alone, shown = questions(0), questions(2)
    assert len(shown) == 3 * len(alone)
    contents = [request.content for request in shown]
    with_picture = [parts for parts in contents if isinstance(parts, list) and isinstance(parts[0], Image)]
    assert len(with_picture) == 2 * len(alone)


def test_units_count_where_the_text_is_the_same() -> None:
    expected = [reply("Two.", (1, 2, 3)), reply("Two.", (1, 2, 3)), reply("A star.", (4,), "What")]
    found = [reply("Two.", (1, 2, 3)), reply("Two.", (1, 2, 9)), reply("A heart.", (4,), "What?")]
    figures = compare("int8", 3 << 20, expected, found, 1.5)
    assert (figures.name, figures.weight_mb, figures.num_questions) == ("int8", 3.0, 3)
    assert (figures.same_transcripts, figures.same_texts) == (2, 2)
    assert (figures.same_units, figures.same_lengths) == (1, 2)
    assert figures.perplexity == 1.5


def test_formats_of_a_library_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    own = ["float32", "bfloat16", "float16", "int8", "int8-weight-only", "kv-int8"]
    assert installed_formats() == own
    monkeypatch.setattr(formats, "find_spec", lambda name: name == "bitsandbytes")
    assert installed_formats() == [*FORMATS] == [*own, "bitsandbytes", "bitsandbytes-4bit"]
    assert [*read_formats("kv-int8,bitsandbytes")] == ["kv-int8", "bitsandbytes"]
    with pytest.raises(typer.BadParameter, match=r"expected some of float32, .*, got int4"):
        read_formats("float32,int4")
