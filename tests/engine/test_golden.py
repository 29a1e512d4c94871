"""The golden requests, exactly."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from checkpoints import RANDOM_MODEL
from golden_cases import GOLDEN, Case, cases
from safetensors.torch import load_file
from torch import Tensor

from antiphon import Engine
from antiphon.sched.request import RequestState

TOLERANCE = 1e-4


class Trace:
    """What passed through the runner, by request."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[int, Tensor]] = defaultdict(dict)

    def __call__(self, name: str, request: RequestState, first: int, rows: Tensor) -> None:
        for i, row in enumerate(rows if rows.dim() == 2 else rows[None]):
            self.rows[request.request_id, name][first + i] = row.clone().cpu()

    def stacked(self, request_id: str, name: str) -> Tensor:
        rows = self.rows[request_id, name]
        assert sorted(rows) == list(range(len(rows))), f"{name} has gaps"
        return torch.stack([rows[i] for i in sorted(rows)])


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(RANDOM_MODEL, enable_prefix_caching=False)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_ids_and_tensors_alone(engine: Engine, case: Case) -> None:
    golden = load_file(GOLDEN / "tensors.safetensors")
    trace = Trace()
    engine.runner.tracer = trace
    done = engine.generate(case.request(case.name))[0]
    engine.runner.tracer = None
    assert case.differences(done) == []

    def close(name: str, found: Tensor) -> None:
        expected = golden[f"{case.name}.{name}"]
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)

    logits = trace.stacked(case.name, "logits")
    close("logits_first", logits[0])
    close("logits_last", logits[-1])
    if case.speaks:
        close("top_hidden", trace.stacked(case.name, "top_hidden"))
    if f"{case.name}.bottom_hidden" in golden:
        prompt = len(golden[f"{case.name}.bottom_hidden"])
        close("bottom_hidden", trace.stacked(case.name, "bottom_hidden")[:prompt])


def test_all_at_once(engine: Engine) -> None:
    done = engine.generate([case.request() for case in cases()])
    assert {c.name: c.differences(d) for c, d in zip(cases(), done, strict=True)} == {
        c.name: [] for c in cases()
    }
    engine.check_integrity()


def test_labels_and_windows_of_every_unit(engine: Engine) -> None:
    for case in cases():
        if not case.speaks:
            continue
        engine.add_request(case.request())
        state = engine.scheduler.waiting[-1]
        while engine.has_unfinished():
            engine.step()
        assert state.speaking is not None
        assert state.speaking.unit_labels == case.data["unit_ctc"]
        assert state.speaking.visible[: len(state.unit_ids)] == case.data["visible_text"]
