from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from devices import device_of
from torch import Tensor

from antiphon.kernels import sample
from antiphon.kernels.sample import sample_reference, uniform_reference

Draw = Callable[..., Tensor]

TOLERANCE = 2e-6
"""By how much of the whole likelihood the boundaries of float32 may be off."""


@dataclass
class Settings:
    temperature: list[float]
    top_k: list[int]
    top_p: list[float]
    seeds: list[int]
    positions: list[int]

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        dtypes = {"temperature": torch.float32, "top_p": torch.float32, "top_k": torch.int32}
        return {
            name: torch.tensor(values, dtype=dtypes.get(name, torch.int64), device=device)
            for name, values in vars(self).items()
        }


def same(rows: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 1) -> Settings:
    """Successive picks of one request."""
    return Settings([temperature] * rows, [top_k] * rows, [top_p] * rows, [seed] * rows, list(range(rows)))


def pick(logits: Tensor, settings: Settings, backend: str, device: torch.device) -> list[int]:
    ids = sample(logits.to(device), **settings.tensors(device), backend=backend)
    assert ids.dtype == torch.int64
    picked: list[int] = ids.tolist()
    return picked


def assert_at_the_point(logits: Tensor, settings: Settings, picked: list[int]) -> None:
    """Each id's interval of the distribution holds the row's random number, give or take the tolerance."""
    points = uniform_reference(
        torch.tensor(settings.seeds, dtype=torch.int64), torch.tensor(settings.positions, dtype=torch.int64)
    ).tolist()
    for i, (row, point, token) in enumerate(zip(logits.double(), points, picked, strict=True)):
        temperature, top_p = torch.tensor([settings.temperature[i], settings.top_p[i]]).double().tolist()
        ordered, ids = row.sort(descending=True, stable=True)
        probs = ((ordered - ordered[0]) / temperature).softmax(0)[: settings.top_k[i] or None]
        probs = probs / probs.sum()
        cumulative = torch.nn.functional.pad(probs.cumsum(0), (1, 0))
        # an id at the cut of top-p may be in or out by rounding: whichever way, the picked one must fit
        fits = []
        for slack in (-TOLERANCE, 0.0, TOLERANCE):
            kept = max(1, int((cumulative[:-1] < top_p + slack).sum()))
            at = point * float(cumulative[kept])
            place = int((ids == token).nonzero())
            fits.append(
                place < kept and cumulative[place] - TOLERANCE <= at <= cumulative[place + 1] + TOLERANCE
            )
        assert any(fits), f"row {i}: {token}"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (1, 1.0), (5, 1.0), (0, 0.8), (40, 0.5), (7, 1e-9), (999, 0.0)]
)
def test_the_point_is_in_the_interval(
    backend: str, device: torch.device, top_k: int, top_p: float, randn: Draw
) -> None:
    """Of even distributions and of peaked ones."""
    rows = 6 if backend == "triton" else 60  # its interpreter is slow
    logits = randn(rows, 300) * 3
    settings = replace(same(rows, 1.0, top_k, top_p), temperature=[0.2, 3.0] * (rows // 2))
    assert_at_the_point(logits, settings, pick(logits, settings, backend, device))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (2, 33), (3, 9000)], ids=str)
def test_odd_shapes_and_rows_of_all_kinds(
    backend: str, device: torch.device, shape: tuple[int, int], randn: Draw
) -> None:
    rows = shape[0]
    logits = randn(*shape) * 4
    settings = Settings(
        temperature=[0.5, 0.0, 1.3][:rows],
        top_k=[0, 3, 20][:rows],
        top_p=[0.9, 0.2, 1.0][:rows],
        seeds=[-(2**63), 7, 2**63 - 1][:rows],
        positions=[0, 5, 10**9][:rows],
    )
    picked = pick(logits, settings, backend, device)
    sampled = [i for i in range(rows) if settings.temperature[i]]
    assert_at_the_point(
        logits[sampled],
        Settings(*([values[i] for i in sampled] for values in vars(settings).values())),
        [picked[i] for i in sampled],
    )
    if rows > 1:
        assert picked[1] == logits[1].argmax()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_16_bits(backend: str, device: torch.device, dtype: torch.dtype, randn: Draw) -> None:
    """Logits that are rounded to few numbers: ties are everywhere."""
    logits = (randn(4, 300) * 2).to(dtype)
    settings = same(4, 1.0, 100, 0.7)
    if backend == "cpp":
        with pytest.raises(ValueError, match=f"backend 'cpp' does not take {dtype} on cpu"):
            pick(logits, settings, backend, device)
        return
    assert_at_the_point(logits.float(), settings, pick(logits, settings, backend, device))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("spread", [0.0, 0.3, 20.0])
@pytest.mark.parametrize(
    ("dtype", "vocab"),
    [(torch.bfloat16, 700), (torch.float16, 700), (torch.float32, 50), (torch.bfloat16, 64)],
    ids=str,
)
def test_the_same_ids_as_in_pytorch(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, vocab: int, spread: float, randn: Draw
) -> None:
    """Few logits, and many of 16 bits, are weighed in float64, so not even rounding makes a difference. Among
    them are rows of equals, and what cannot be picked."""
    for way in ("counting", "search"):
        monkeypatch.setattr(f"antiphon.kernels.triton.sample_by_{way}.MAX_BLOCK", 256)
    settings = [(t, k, p) for t in (0.4, 2.0) for k in (0, 7, 5000) for p in (1.0, 0.6, 0.0)]
    settings += [(0.0, 7, 0.6), (1.0, 1, 1.0), (1.0, 0, 0.01)]
    rows = len(settings)
    logits = randn(rows, vocab) * spread
    logits[:, 3:9] = -torch.inf
    logits[::3, 11] = torch.nan
    logits[1::3, 13] = -0.0
    logits = logits.to(dtype)
    temperature, top_k, top_p = (list(values) for values in zip(*settings, strict=True))
    chosen = Settings(temperature, top_k, top_p, list(range(rows)), [0] * rows)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = sample_reference(logits, **chosen.tensors(torch.device("cpu"))).tolist()
    assert pick(logits, chosen, "triton", device) == expected


@pytest.mark.slow
def test_of_equals_the_lower_ids(backend: str, device: torch.device) -> None:
    """Top-k and top-p cut through equals: of ten alike four are left, and each is picked in its turn."""
    logits = torch.full((12, 10), 2.0)
    logits[:, 6:] = -0.0
    logits[:, 8] = 0.0  # equal to -0.0
    cut = same(12, 1.0, top_k=4)
    points = uniform_reference(torch.tensor(cut.seeds), torch.tensor(cut.positions))
    assert pick(logits, cut, backend, device) == (points * 4).long().tolist()
    alike = torch.zeros(12, 10)
    alike[:, 3] = -0.0
    cut = same(12, 1.0, top_p=0.35)
    assert pick(alike, cut, backend, device) == (points * 4).long().tolist()


def test_equals_of_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in large vocabularies: the Triton kernel counts on from one block to the next."""
    monkeypatch.setattr("antiphon.kernels.triton.sample_by_search.MAX_BLOCK", 32)
    settings = same(8)
    points = uniform_reference(torch.tensor(settings.seeds), torch.tensor(settings.positions))
    picked = pick(torch.ones(8, 100), settings, "triton", device_of("triton"))
    assert picked == (points * 100).long().tolist()


def test_greedy_is_the_first_of_the_largest(backend: str, device: torch.device) -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [-1.0, -torch.inf, -0.0, 0.0]])
    assert pick(logits, same(2, 0.0), backend, device) == [1, 2]
    assert pick(logits, same(2, 1e-38), backend, device)[0] in (1, 2)


def test_impossible_ids_are_never_picked(backend: str, device: torch.device) -> None:
    logits = torch.full((12, 6), -torch.inf)
    logits[:, [2, 4]] = 1.0
    assert set(pick(logits, same(12, 5.0), backend, device)) == {2, 4}


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 3e38])
def test_extreme_temperatures(backend: str, device: torch.device, temperature: float, randn: Draw) -> None:
    logits = randn(8, 90) * 10
    logits[:, 5] = -torch.inf
    settings = same(8, temperature)
    picked = pick(logits, settings, backend, device)
    if temperature < 1:
        assert picked == logits.argmax(-1).tolist()
    else:
        assert len(set(picked)) > 5, "nearly even"


def test_what_is_not_a_number(backend: str, device: torch.device) -> None:
    nan, inf = torch.nan, torch.inf
    logits = torch.tensor([[nan] * 4, [-inf] * 4, [nan, 0.0, 1.0, 2.0], [0.0, 9.0, 0.0, 0.0]])
    for temperature in (0.0, 1.0):
        picked = pick(logits, same(4, temperature, 2, 0.9), backend, device)
        assert all(0 <= token < 4 for token in picked)
        assert picked[3] == 1
    half = torch.tensor([[nan, 1.0, 1.0]]).expand(12, -1)
    assert set(pick(half, same(12, 1.0, top_k=2), backend, device)) == {1, 2}, "nan is not among the two"


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_batch(backend: str, device: torch.device, randn: Draw) -> None:
    logits = randn(4, 400) * 2
    settings = same(4, 0.9, 50, 0.95, seed=3)
    together = pick(logits, settings, backend, device)
    for i in (0, 3):
        alone = Settings(*([values[i]] for values in vars(settings).values()))
        assert pick(logits[i : i + 1], alone, backend, device) == together[i : i + 1]


def test_rows_of_a_wider_matrix(backend: str, device: torch.device, randn: Draw) -> None:
    wide = randn(3, 64).to(device)
    settings = same(3)
    assert pick(wide[:, 3:40], settings, backend, device) == pick(
        wide[:, 3:40].contiguous(), settings, backend, device
    )


def test_wrong_arguments_are_named() -> None:
    right: dict[str, Any] = {**same(2).tensors(torch.device("cpu"))}
    for logits in (torch.zeros(3), torch.zeros(2, 0)):
        with pytest.raises(ValueError, match=r"logits: expected \(rows, vocab\), vocab not empty"):
            sample(logits, **right)
    for name, value in right.items():
        with pytest.raises(ValueError, match=rf"{name}: expected .* \(2,\) on cpu, got .* \(3,\)"):
            sample(torch.zeros(2, 4), **right | {name: value.new_zeros(3)})
        with pytest.raises(ValueError, match=f"{name}: expected .* got torch.float64"):
            sample(torch.zeros(2, 4), **right | {name: value.double()})
