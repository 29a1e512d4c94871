"""What requests are made of: numbers of any plain kind, wrong ones told at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from antiphon import InvalidRequest, Message, Request, SamplingParams, Units
from antiphon.types import MAX_STOP_CHARS, MAX_STOP_STRINGS, Image


def test_sampling_params_take_scalars_of_numpy() -> None:
    """`rng.integers` gives seeds, and a sweep over temperatures an array of them."""
    found = SamplingParams(
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        top_p=np.float64(0.75),
        top_k=np.int16(40),  # type: ignore[arg-type]
        seed=np.random.default_rng(0).integers(100),  # type: ignore[arg-type]
        max_tokens=np.uint8(5),  # type: ignore[arg-type]
        max_units=np.int64(7),  # type: ignore[arg-type]
        ignore_eos=np.bool_(True),  # type: ignore[arg-type]
        stop=[np.str_("a"), "b"],
    )
    assert found == SamplingParams(0.5, 0.75, 40, found.seed, 5, 7, True, ("a", "b"))
    types = [float, float, int, int, int, int, bool, tuple]
    assert [type(getattr(found, name)) for name in SamplingParams.__dataclass_fields__] == types
    assert [type(text) for text in found.stop] == [str, str]
    assert isinstance(hash(found), int)


WRONG: dict[str, list[Any]] = {
    "temperature": [-1, -0.1, float("nan"), float("inf"), "1", None, 1j, True, [1.0], np.zeros(1), np.nan],
    "top_p": [0, -0.5, 1.0001, float("nan"), "0.5", None, np.float32(0), True],
    "top_k": [-1, 1.0, "3", None, True, np.array([3]), 10**5000],
    "seed": [1.0, "3", True, np.float32(3), np.array(3), 1 << 129, -(1 << 129)],
    "max_tokens": [0, -1, -(10**5000), 1.5, "3", True, np.float64(3)],
    "max_units": [0, -1, 1.5, None, "3", True, np.timedelta64(3, "s")],
    "ignore_eos": [0, 1, None, "yes", np.zeros(3), np.array(True)],
    "stop": [5, None, b"a", "", [""], [None], ["a", 3], {"a"}, iter("a"), np.array(["a"])],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_sampling_params(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(InvalidRequest, match=rf"^SamplingParams\.{name}: expected ") as caught:
            SamplingParams(**{name: value})
        assert len(str(caught.value)) < 200
        with pytest.raises(InvalidRequest):
            replace(SamplingParams(), **{name: value})


def test_stop_strings_are_few_and_short() -> None:
    most = ["x" * MAX_STOP_CHARS] * MAX_STOP_STRINGS
    assert SamplingParams(stop=most).stop == tuple(most)
    assert SamplingParams(stop="a").stop == ("a",)
    for wrong in ([*most, "x"], ["x" * (MAX_STOP_CHARS + 1)], "ab" * 10_000_000, ["a"] * 1_000_000):
        with pytest.raises(InvalidRequest, match=r"^SamplingParams\.stop: expected at most"):
            SamplingParams(stop=wrong)


def test_a_seed_may_have_more_bits_than_count() -> None:
    """As those of numpy's `SeedSequence` have."""
    assert SamplingParams(seed=np.random.SeedSequence(1 << 127).entropy).seed == 1 << 127  # type: ignore[arg-type]
    assert SamplingParams(seed=-5).seed == -5


def test_what_requests_are_made_of_keeps_what_it_is_given() -> None:
    """It is looked at where its request is added, with what else is in it."""
    source = object()
    assert (Image(source).source, Image(source).exact) == (source, False)
    assert Units(range(3)).units == range(3)
    assert Request(messages=[Message("user", "a")]).modalities == ("text",)
