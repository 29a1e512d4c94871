"""Copies of what others hand in, and how it is shown in messages."""

from __future__ import annotations

import array
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from poison import Poison, Unprintable, poisoned

from antiphon.errors import ConfigError, InvalidRequest
from antiphon.plain import count, flag, integer, items, number, reading, shown, string, told


class Level(IntEnum):
    LOW = 3


def test_integers() -> None:
    scalars = [np.int8(3), np.uint64(3), np.int64(3), np.arange(4)[3]]
    for value in (3, *scalars, Level.LOW, poisoned(int)(3)):
        found = integer("n", value, 3, 3)
        assert (type(found), found) == (int, 3)
        as_number = number("n", value, 0)
        assert (type(as_number), as_number) == (float, 3.0)


def test_numbers() -> None:
    scalars = [np.float16(0.5), np.float32(0.5), np.float64(0.5), np.longdouble(0.5)]
    for value in (0.5, *scalars, poisoned(float)(0.5)):
        found = number("x", value, 0.0, 0.5)
        assert (type(found), found) == (float, 0.5)
        with pytest.raises(InvalidRequest, match=r"x: expected a number > 0.5, got 0\.5"):
            number("x", value, 0.5, above=True)


def test_flags() -> None:
    for value in (True, np.True_, np.bool_(1)):
        assert flag("f", value) is True
    assert flag("f", np.False_) is False
    for wrong in (0, 1, 1.0, "yes", None, np.zeros(3), np.array(True), Poison(), np.int64(1)):
        with pytest.raises(InvalidRequest, match="f: expected True or False, got"):
            flag("f", wrong)


@pytest.mark.parametrize("error", [InvalidRequest, ConfigError])
def test_what_is_no_number(error: Any) -> None:
    huge = 10**5000
    plain: list[Any] = [None, "3", b"3", 3j, True, [3], (3,), {3}, object, huge, -huge, float("nan"), -np.inf]
    scalars: list[Any] = [np.complex64(3), np.True_, np.str_("3"), np.float32("nan")]
    scalars += [np.datetime64("2020-01-01"), np.timedelta64(3, "s")]
    for value in (*plain, *scalars, np.array(3), np.array([3]), Poison()):
        for take in (
            partial(integer, "here", value, 0, 10, error=error),
            partial(number, "here", value, 0, error=error),
        ):
            with pytest.raises(error, match=r"^here: expected an? (integer|number) .*got ") as caught:
                take()
            assert len(str(caught.value)) < 300


def test_integers_of_other_types_are_no_floats() -> None:
    for value in (3.0, np.float32(3), poisoned(float)(3.0)):
        with pytest.raises(InvalidRequest):
            integer("n", value)


def test_strings() -> None:
    for value in ("abc", poisoned(str)("abc"), np.str_("abc")):
        found = string("s", value, 3)
        assert (type(found), found) == (str, "abc")
    for wrong in (None, b"abc", 3, Poison(), ["abc"]):
        with pytest.raises(InvalidRequest, match="s: expected a string, got"):
            string("s", wrong)
    with pytest.raises(InvalidRequest, match="s: expected at most 2 characters, got 3"):
        string("s", "abc", 2)


class Short(Sequence[int]):
    """Has two numbers, and says what it is told to say of its length."""

    def __init__(self, length: Any) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length()  # type: ignore[no-any-return]

    def __getitem__(self, index: Any) -> Any:
        return [1, 2][index]


def test_sequences() -> None:
    for value in ([1, 2], (1, 2), range(1, 3), deque([1, 2]), array.array("i", [1, 2]), Short(lambda: 2)):
        assert items("n", value, "numbers", 2, 2) == (1, 2)
    assert items("n", [], "numbers", 0) == ()


@pytest.mark.parametrize(
    "length", [lambda: 10**30, lambda: -1, lambda: 1 / 0, lambda: "two", lambda: 2**62, lambda: 0]
)
def test_lengths_that_are_not_so(length: Callable[[], Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"n: (it cannot be read|expected 1 to 5 of them)"):
        items("n", Short(length), "numbers", 5, 1)


def test_what_is_walked_is_bounded() -> None:
    walked = []

    class Endless(list[int]):
        def __iter__(self) -> Iterator[int]:
            while True:
                walked.append(1)
                yield 1

    with pytest.raises(InvalidRequest, match="n: expected at most 10 numbers, got 11"):
        items("n", Endless([1, 2]), "a list", 10, noun="numbers")
    assert len(walked) == 11
    for huge in (range(10**8), range(10**40), range(0, -(10**40), -3)):
        with pytest.raises(InvalidRequest, match="expected at most 10 of them, got "):
            items("n", huge, "numbers", 10)


def test_what_is_no_sequence() -> None:
    for wrong in (None, 3, "ab", b"ab", bytearray(2), memoryview(b"ab"), {1}, {1: 2}, iter([1]), Poison()):
        with pytest.raises(InvalidRequest, match="n: expected numbers, got"):
            items("n", wrong, "numbers", 10)
    with pytest.raises(InvalidRequest, match="n: it cannot be read: RuntimeError: its message cannot"):
        items("n", poisoned(list)([1]), "numbers", 10)


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(-9, 9).filter(bool))
def test_the_length_of_a_range(start: int, stop: int, step: int) -> None:
    assert count(range(start, stop, step)) == len(range(start, stop, step))


# --- messages -------------------------------------------------------------------------------------


class Named(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Nameless(metaclass=Named):
    pass


def test_values_in_messages() -> None:
    for value, expected in (
        (3, "3"),
        (10**5000, "an integer of 16610 bits"),
        (poisoned(int)(7), "7"),
        (0.25, "0.25"),
        (None, "None"),
        (True, "True"),
        ("it's", '"it\'s"'),
        ("a\nb", r"'a\nb'"),
        ("x" * 10**6, repr("x" * 60) + "..."),
        (b"x" * 10**6, repr(b"x" * 60) + "..."),
        (poisoned(str)("x"), "'x'"),
        (np.float64(0.5), "0.5"),
        (np.int8(3), "3"),
        ([1, "a", None], "[1, 'a', None]"),
        ((1, [2], Poison()), "(1, list, PoisonedObject)"),
        (list(range(10**6)), "[0, 1, 2, 3, ... 1000000 in all]"),
        (np.zeros((2, 3), np.int8), "an array of int8 of shape (2, 3)"),
        (Poison(), "PoisonedObject"),
        (poisoned(list)([1]), "PoisonedList"),
        ({1: 2}, "dict"),
        (Nameless(), "Nameless"),
        (type("T" * 500, (), {})(), "T" * 57 + "..."),
    ):
        assert shown(value) == expected


@pytest.mark.slow
@given(
    st.recursive(st.none() | st.text() | st.binary() | st.floats() | st.integers(), st.lists, max_leaves=30)
)
def test_values_are_one_short_line(value: Any) -> None:
    line = shown(value)
    assert line.isprintable()
    assert len(line) < 300


def test_errors_in_messages() -> None:
    assert told(ValueError("a\n  b")) == "ValueError: a b"
    assert told(ValueError()) == "ValueError"
    assert told(ValueError("x" * 10**6)) == "ValueError: " + "x" * 197 + "..."
    assert told(RuntimeError(Unprintable())) == "RuntimeError: its message cannot be printed"
    assert told(ValueError(10**5000)) == "ValueError: its message cannot be printed"
    assert told(OSError("\udcff")).encode() == b"OSError: ?"


def test_what_is_raised_while_something_is_read() -> None:
    cause = RuntimeError(Unprintable())
    with (
        pytest.raises(InvalidRequest, match=r"^there: .* read: RuntimeError") as caught,
        reading("there"),
    ):
        raise cause
    assert caught.value.__cause__ is cause
    for ours in (InvalidRequest("a"), ConfigError("b"), KeyboardInterrupt(), SystemExit(2)):
        with pytest.raises(type(ours)) as unchanged, reading("there"):
            raise ours
        assert unchanged.value is ours


def test_it_loads_nothing() -> None:
    """It is imported by the types that every program has; numpy's are known where numpy is."""
    code = "import sys, antiphon; antiphon.SamplingParams(seed=3); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
