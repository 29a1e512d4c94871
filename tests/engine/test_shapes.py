"""Checkpoints of odd shapes: the engine answers like a plain implementation of the same model."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from checkpoints import RANDOM_MODEL
from golden_cases import GOLDEN, Case, cases
from odd_worlds import SHAPES, TEXT_LIMIT, Ask, World
from PIL import Image as PilImage
from reference_model import Answer, ReferenceModel
from torch import Tensor

import antiphon
from antiphon import Engine
from antiphon.inputs.chat import DEFAULT_SYSTEM
from antiphon.kernels.registry import backends, cpp_available, ops
from antiphon.sched.request import RequestState

MARGIN = 2e-4
"""The least margin of a choice by the reference: below it, another order of float32 sums could turn it."""
NEAR = 10.0
"""Bound on the relative error of the first logits in 16 bits, in units of the last place."""


class Library:
    """The worlds that tests have asked for so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worlds: dict[str, World] = {}

    def world(self, name: str) -> World:
        if name not in self._worlds:
            self._worlds[name] = World(self._folder / str(len(self._worlds)), SHAPES[name])
        return self._worlds[name]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def packaged() -> ReferenceModel:
    return ReferenceModel(RANDOM_MODEL)


@pytest.fixture(params=SHAPES)
def world(request: pytest.FixtureRequest, library: Library) -> World:
    return library.world(request.param)


@pytest.fixture
def without_extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the C++ extension had not been built."""
    monkeypatch.setitem(sys.modules, "antiphon.kernels._C", None)
    monkeypatch.delattr(antiphon, "_C", raising=False)
    cpp_available.cache_clear()
    assert all("cpp" not in backends(op) for op in ops())
    yield
    monkeypatch.undo()
    cpp_available.cache_clear()


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_reference_gives_the_golden_results(packaged: ReferenceModel, case: Case) -> None:
    pictures = [PilImage.open(GOLDEN / "images" / f"{name}.png") for name in case.data["images"]]
    answer = packaged.answer(
        DEFAULT_SYSTEM,
        [("user", case.data["user"])],
        pictures,
        speaks=case.speaks,
        limit=case.data["max_new_tokens"],
    )
    golden = {name: value for name, value in case.data.items() if hasattr(answer, name)}
    assert {name: getattr(answer, name) for name in golden} == golden


@pytest.mark.slow
@pytest.mark.long
def test_the_worlds_are_eventful(library: Library) -> None:
    """The tests below would mean little if nothing happened in these worlds, or if it hung on rounding."""
    seen: Counter[str] = Counter()
    for world in map(library.world, SHAPES):
        for ask, answer in zip(world.asks, world.answers, strict=True):
            assert answer.margin > MARGIN
            assert len(answer.llm_ids) < TEXT_LIMIT
            seen.update(events(world.model, ask, answer))
    assert {name for name, count in seen.items() if count == 0} == set()


def events(model: ReferenceModel, ask: Ask, answer: Answer) -> dict[str, int]:
    labels, windows, spoken = answer.unit_ctc, answer.visible_text, answer.fusion_ids
    return {
        "a text-only reply ended": not ask.speaks and answer.stopped,
        "speech ended": ask.speaks and answer.stopped,
        "speech went on to its limit": ask.speaks and not answer.stopped,
        "something was picked that is no unit": any(i not in model.units for i in answer.output_ids[:-1]),
        "a unit was heard as a blank": model.blank in labels,
        "a label was heard twice": any(a == b != model.blank for a, b in pairwise(labels)),
        "a label came again behind a blank": any(
            a == c and a != model.blank and b == model.blank
            for a, b, c in zip(labels, labels[1:], labels[2:], strict=False)
        ),
        "a new label brought text": any(a != b for a, b in pairwise(windows)),
        "the text ended before the speech": ask.speaks and model.eot in spoken,
        "a blank closed the text": ask.speaks and not ask.hears and spoken[-1] == model.blank,
        "a window was full": max(windows, default=0) > model.window,
    }


@pytest.mark.slow
@pytest.mark.long
def test_one_after_the_other(world: World) -> None:
    engine = world.engine()
    assert world.differences([engine.generate(ask.request())[0] for ask in world.asks]) == {}


@pytest.mark.slow
@pytest.mark.long
def test_all_at_once_in_little_memory(world: World) -> None:
    engine = world.small_engine()
    done = engine.generate([ask.request() for ask in world.asks])
    assert world.differences(done) == {}
    assert sum(completion.metrics.num_preemptions for completion in done) > 0
    engine.check_integrity()


@pytest.mark.slow
def test_a_picture_behind_a_cached_prefix_does_not_wait_for_the_bottom_layers(library: Library) -> None:
    """It used to look up what they had heard, which is nothing while others use up the budget."""
    world = library.world("window 1, lag 1")  # both tracks have one position per block
    engine = world.engine(block_size=1, max_num_batched_tokens=3)
    names = ["s2s", "s2t", "s2s picture"]
    first, *others = [next(ask for ask in world.asks if ask.name == name) for name in names]
    engine.generate(first.request())
    done = engine.generate([ask.request() for ask in others])
    assert world.differences(done, others) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("without_extension")
@pytest.mark.long
def test_without_the_extension(world: World) -> None:
    done = world.small_engine().generate([ask.request() for ask in world.asks])
    assert world.differences(done) == {}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("without_extension")
def test_golden_requests_without_the_extension() -> None:
    done = Engine(RANDOM_MODEL, device="cpu").generate([case.request() for case in cases()])
    differences = {case.name: case.differences(d) for case, d in zip(cases(), done, strict=True)}
    assert differences == {case.name: [] for case in cases()}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["one kv head, head_dim 12, hidden 60", "bfloat16 shards"])
def test_16_bits_stay_near(library: Library, name: str, dtype: torch.dtype) -> None:
    """Ids may differ, so only the first choice can be compared; the rest must come to its end."""
    world = library.world(name)
    engine = world.engine(dtype=dtype)
    first: dict[str, Tensor] = {}

    def note(name: str, request: RequestState, index: int, rows: Tensor) -> None:
        if name == "logits" and not request.speaks:
            first.setdefault(request.request_id, rows.double())

    engine.runner.tracer = note
    done = engine.generate([replace(ask.request(), request_id=ask.name) for ask in world.asks])
    assert {completion.finish_reason for completion in done} <= {"stop", "length"}
    for ask, answer in zip(world.asks, world.answers, strict=True):
        if not ask.speaks:
            expected = answer.first_logits
            assert expected is not None
            error = (first[ask.name] - expected).norm() / expected.norm()
            assert error < NEAR * torch.finfo(dtype).eps, ask.name
