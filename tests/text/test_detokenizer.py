from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.text.detokenizer import IncrementalDetokenizer
from antiphon.text.tokenizer import Tokenizer

# The golden tokenizer has a token for each byte, so most random sequences are no valid UTF-8.
IDS = st.lists(st.integers(-1, 580), max_size=60)
# A few bytes of one and of several characters, white space among them, so that strings repeat.
BYTES = st.lists(st.sampled_from(list(b"abc \n" + "é猫🐈".encode() + b"\xff")), max_size=60)
CUTS = st.lists(st.integers(0, 60), max_size=8)


def byte_ids(tokenizer: Tokenizer, data: Sequence[int]) -> list[int]:
    """The ids of the single-byte tokens."""
    ids = {tokenizer.token_bytes(i): i for i in range(576) if len(tokenizer.token_bytes(i)) == 1}
    return [ids[bytes([byte])] for byte in data]


def pushed(detokenizer: IncrementalDetokenizer, ids: list[int], cuts: list[int]) -> list[str]:
    """What comes of pushing ids split at `cuts`, the last piece that of `finish`."""
    bounds = [0, *sorted(cuts), len(ids)]
    pieces = [detokenizer.push(ids[i:j]) for i, j in itertools.pairwise(bounds)]
    return [*pieces, detokenizer.finish()]


def may_become_one_character(data: list[int]) -> bool:
    """Whether UTF-8 of one character begins with these bytes and is longer."""
    for num_more in range(1, 5 - len(data)):
        for more in itertools.product(b"\x80\xbf", repeat=num_more):
            with contextlib.suppress(UnicodeDecodeError):
                if len(bytes([*data, *more]).decode()) == 1:
                    return True
    return False


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """`text` up to the first stop string to be completed."""
    for end in range(1, len(text) + 1):
        ended = [len(string) for string in stop if text[:end].endswith(string)]
        if ended:
            return text[: end - max(ended)]
    return text


@given(ids=IDS, cuts=CUTS)
def test_pieces_add_up(tokenizer: Tokenizer, ids: list[int], cuts: list[int]) -> None:
    assert "".join(pushed(IncrementalDetokenizer(tokenizer), ids, cuts)) == tokenizer.decode(ids).strip()


@given(data=BYTES)
def test_what_is_certain_comes_at_once(tokenizer: Tokenizer, data: list[int]) -> None:
    """After each token, all text is out but trailing white space and a character that is not complete."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    text = ""
    for end, token_id in enumerate(byte_ids(tokenizer, data), start=1):
        text += detokenizer.push([token_id])
        start = next((i for i in range(max(0, end - 3), end) if may_become_one_character(data[i:end])), end)
        assert text == bytes(data[:start]).decode("utf-8", "replace").strip()


@given(
    data=BYTES,
    cuts=CUTS,
    stop=st.lists(st.text(st.sampled_from("abc \né猫\ufffd"), min_size=1, max_size=5), max_size=3),
)
def test_stop_strings(tokenizer: Tokenizer, data: list[int], cuts: list[int], stop: list[str]) -> None:
    whole = bytes(data).decode("utf-8", "replace")
    expected = cut_at_stop(whole, stop)
    detokenizer = IncrementalDetokenizer(tokenizer, stop)
    pieces = pushed(detokenizer, byte_ids(tokenizer, data), cuts)
    assert "".join(pieces) == expected.strip()
    assert detokenizer.stopped == (expected != whole)


@given(text=st.text("ab", max_size=20), stop=st.lists(st.text("ab", min_size=1, max_size=6), max_size=3))
def test_stop_strings_that_overlap(tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    """With themselves and with each other: two letters make the most of that."""
    detokenizer = IncrementalDetokenizer(tokenizer, stop)
    pieces = pushed(detokenizer, byte_ids(tokenizer, text.encode()), list(range(len(text))))
    assert "".join(pieces) == cut_at_stop(text, stop)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("aaab", ["aab"], "a"),
        ("ababac", ["abac"], "ab"),
        ("xabc", ["bc", "abc"], "x"),
        ("abcd", ["abcd", "bc"], "a"),
    ],
)
def test_which_stop_string_ends_the_text(
    tokenizer: Tokenizer, text: str, stop: list[str], expected: str
) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, stop)
    assert "".join(pushed(detokenizer, byte_ids(tokenizer, text.encode()), [])) == expected


def test_a_character_in_two_tokens(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert [detokenizer.push([i]) for i in byte_ids(tokenizer, "é!".encode())] == ["", "é", "!"]


def test_special_tokens_do_not_split_a_character(tokenizer: Tokenizer, golden: dict[str, Any]) -> None:
    first, second = byte_ids(tokenizer, "é".encode())
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert detokenizer.push([first, golden["eot_id"]]) == ""
    assert detokenizer.push([second]) == "é"


def test_an_unfinished_character_comes_at_the_end(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert detokenizer.push(byte_ids(tokenizer, "a猫".encode()[:-1])) == "a"
    assert detokenizer.finish() == "\ufffd"


def test_the_beginning_of_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, ["###"])
    assert [detokenizer.push(byte_ids(tokenizer, b)) for b in (b"hi ", b"##", b"-", b"#")] == [
        "hi",
        "",
        " ##-",
        "",
    ]
    assert detokenizer.push(byte_ids(tokenizer, b"##and more")) == ""
    assert detokenizer.stopped
    assert detokenizer.push(byte_ids(tokenizer, b"and more")) == ""
    assert detokenizer.finish() == ""


def test_a_stop_string_may_be_white_space(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, ["\n\n"])
    assert detokenizer.push(byte_ids(tokenizer, b" one\n two\n\nthree")) == "one\n two"
    assert detokenizer.stopped


@pytest.mark.parametrize("token", [b"\n", b"\xff", b"\xe7", b"#"])
def test_endless_text(tokenizer: Tokenizer, token: bytes) -> None:
    """Tokens that a model repeats for ever, among them ones that may always be held back."""
    (token_id,) = byte_ids(tokenizer, token)
    detokenizer = IncrementalDetokenizer(tokenizer, ["###!"])
    pieces = [detokenizer.push([token_id]) for _ in range(20_000)]
    assert "".join(pieces) + detokenizer.finish() == (token * 20_000).decode("utf-8", "replace").strip()
