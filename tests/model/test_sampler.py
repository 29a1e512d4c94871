from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from antiphon.kernels import linear
from antiphon.kernels.sample import uniform_reference
from antiphon.model.sampler import pick, pick_from_head
from antiphon.types import SamplingParams


def uniform(seed: int, position: int) -> float:
    return float(uniform_reference(torch.tensor(seed), torch.tensor(position)))


def logits(rows: int, vocab: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def drawn(row: Tensor, params: SamplingParams, count: int, seed: int = 1) -> list[int]:
    """`count` picks from the same logits, one after the other in a request."""
    return pick(row.expand(count, -1), [params] * count, [seed] * count, list(range(count)))


def kept_by_hand(row: list[float], params: SamplingParams) -> list[tuple[int, float]]:
    """(id, probability) of those that may be picked, likeliest first."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    weights = [math.exp((row[i] - row[order[0]]) / params.temperature) for i in order]
    if params.top_k:
        order, weights = order[: params.top_k], weights[: params.top_k]
    total, before, kept = sum(weights), 0.0, []
    for i, weight in zip(order, weights, strict=True):
        if before >= params.top_p:
            break
        kept.append((i, weight / total))
        before += weight / total
    return kept


def pick_by_hand(row: list[float], params: SamplingParams, point: float) -> int:
    kept = kept_by_hand(row, params)
    point *= sum(probability for _, probability in kept)
    for i, probability in kept:
        point -= probability
        if point < 0:
            return i
    return kept[-1][0]


# --- greedy ---------------------------------------------------------------------------------------


def test_greedy_takes_the_likeliest() -> None:
    rows = logits(5, 100)
    assert pick(rows, [SamplingParams()] * 5, [0] * 5, [0] * 5) == rows.argmax(-1).tolist()


def test_the_first_of_equals() -> None:
    rows = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    assert pick(rows, [SamplingParams()], [0], [0]) == [1]
    assert pick(rows, [SamplingParams(temperature=1.0, top_k=1)], [0], [0]) == [1]


def test_greedy_needs_no_seed_and_no_top_p() -> None:
    rows = logits(1, 50)
    params = SamplingParams(temperature=0.0, top_p=0.1, top_k=3, seed=5)
    assert pick(rows, [params], [9], [7]) == [int(rows.argmax())]


# --- sampling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e-3])
def test_a_low_temperature_is_greedy(temperature: float) -> None:
    row = logits(1, 200)
    assert set(drawn(row, SamplingParams(temperature=temperature), 50)) == {int(row.argmax())}


def test_a_high_temperature_is_uniform() -> None:
    picked = drawn(logits(1, 10), SamplingParams(temperature=1e6), 5000)
    counts = torch.bincount(torch.tensor(picked), minlength=10)
    assert counts.min() > 400
    assert counts.max() < 600


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 4, 1000])
def test_equals_sampling_by_hand(temperature: float, top_p: float, top_k: int) -> None:
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k)
    rows = logits(40, 30)
    found = pick(rows, [params] * 40, [3] * 40, list(range(40)))
    points = [uniform(3, position) for position in range(40)]
    expected = [pick_by_hand(row, params, u) for row, u in zip(rows.double().tolist(), points, strict=True)]
    assert found == expected


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (0, 0.7), (5, 0.5), (1, 1.0), (0, 1e-9)])
def test_nothing_outside_the_set_and_all_within(top_k: int, top_p: float) -> None:
    row = logits(1, 12, seed=4) / 3
    params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p)
    kept = {i for i, _ in kept_by_hand(row[0].double().tolist(), params)}
    assert set(drawn(row, params, 2000)) == kept


def test_top_p_counts_what_top_k_has_left() -> None:
    """Half of the two that are left is the first of them, though it is a fifth of all."""
    row = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2]]).log()
    assert set(drawn(row, SamplingParams(temperature=1.0, top_k=2, top_p=0.5), 100)) == {0}
    assert set(drawn(row, SamplingParams(temperature=1.0, top_k=2, top_p=0.51), 100)) == {0, 1}


def test_frequencies_are_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.1])
    count = 8000
    picked = drawn(probabilities.log()[None], SamplingParams(temperature=1.0), count)
    found = torch.bincount(torch.tensor(picked), minlength=4) / count
    # four standard deviations
    assert ((found - probabilities).abs() < 4 * (probabilities * (1 - probabilities) / count).sqrt()).all()


def test_impossible_ids_are_never_picked() -> None:
    row = torch.full((1, 6), -math.inf)
    row[0, [2, 4]] = 1.0
    assert set(drawn(row, SamplingParams(temperature=5.0), 200)) == {2, 4}


def test_a_row_does_not_depend_on_its_batch() -> None:
    """Greedy and sampled rows of all kinds, together, alone and in another order."""
    rows = logits(8, 300)
    params = [
        SamplingParams(),
        SamplingParams(temperature=0.7),
        SamplingParams(temperature=1.5, top_k=5),
        SamplingParams(temperature=1.0, top_p=0.4),
        SamplingParams(),
        SamplingParams(temperature=3.0, top_k=50, top_p=0.9),
        SamplingParams(temperature=1e-9),
        SamplingParams(temperature=1.0),
    ]
    seeds, positions = [5, 5, 6, 7, 8, 9, 10, 2**40], [0, 1, 1, 3, 4, 500, 6, 7]
    together = pick(rows, params, seeds, positions)
    for i in range(8):
        assert pick(rows[i : i + 1], [params[i]], [seeds[i]], [positions[i]]) == together[i : i + 1]
    turned = pick(rows.flip(0), params[::-1], seeds[::-1], positions[::-1])
    assert turned == together[::-1]


@pytest.mark.parametrize(
    ("dtype", "kept", "backend"),
    [
        (torch.float32, torch.float32, None),
        (torch.float32, torch.bfloat16, None),  # widened, as on a CPU
        (torch.bfloat16, torch.bfloat16, "torch"),
    ],
    ids=["float32", "widened", "bfloat16"],
)
@pytest.mark.parametrize("vocab", [5, 700])
@pytest.mark.parametrize("top_ks", [[1], [3], [2, 20, 64], [5, 64, 65], [0, 7]], ids=str)
def test_from_a_head_as_from_its_logits(
    top_ks: list[int], vocab: int, dtype: torch.dtype, kept: torch.dtype, backend: str | None
) -> None:
    """Greedy rows, rows of few likeliest and rows that need all logits, in one batch and alone."""
    head = linear(logits(vocab, 48, seed=1).to(kept), backend=backend)
    states = logits(60, 48).to(dtype) / 9
    params = [
        SamplingParams(temperature=i % 3 * 0.8, top_k=top_ks[i % len(top_ks)], top_p=(1.0, 0.8)[i % 2])
        for i in range(60)
    ]
    seeds, positions = list(range(60)), list(range(100, 160))
    found = pick_from_head(states, head, params, seeds, positions)
    assert found == pick(head(states), params, seeds, positions)
    for i in (1, 2, 3):
        alone = pick_from_head(states[i : i + 1], head, [params[i]], [seeds[i]], [positions[i]])
        if dtype == torch.float32:  # a row of 16 bits may round differently alone
            assert alone == found[i : i + 1]


def test_16_bit_logits() -> None:
    rows = logits(20, 50).bfloat16()
    params = [SamplingParams(temperature=1.0, top_p=0.9)] * 20
    found = pick(rows, params, [1] * 20, list(range(20)))
    assert found == pick(rows.float(), params, [1] * 20, list(range(20)))


def test_no_rows() -> None:
    assert pick(torch.empty(0, 5), [], [], []) == []
    assert pick_from_head(torch.empty(0, 5), linear(torch.ones(4, 5)), [], [], []) == []


# --- the random numbers ---------------------------------------------------------------------------


def test_uniform_is_a_function_for_ever() -> None:
    """The same seed gives the same reply on every machine, and in later versions."""
    assert [uniform(0, 0), uniform(0, 1), uniform(1, 0), uniform(-1, 7)] == [
        0.6524484863740322,
        0.7012121095215252,
        0.3662420901697574,
        0.567655079718085,
    ]


@pytest.mark.slow
def test_uniform_is_in_the_unit_interval_and_even() -> None:
    numbers = torch.tensor([[uniform(seed, position) for position in range(200)] for seed in range(50)])
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    assert numbers.unique().numel() > 9990
    counts = torch.histc(numbers, bins=10, min=0.0, max=1.0)
    assert counts.min() > 850
    assert counts.max() < 1150
    neighbours = torch.corrcoef(torch.stack([numbers[:-1].flatten(), numbers[1:].flatten()]))[0, 1]
    following = torch.corrcoef(torch.stack([numbers[:, :-1].flatten(), numbers[:, 1:].flatten()]))[0, 1]
    assert abs(neighbours) < 0.05, "seeds one after the other have nothing in common"
    assert abs(following) < 0.05, "nor have positions"


def test_any_integer_is_a_seed() -> None:
    """Seeds that agree in their last 64 bits are the same."""
    params, row = SamplingParams(temperature=1.0), logits(1, 30)

    def picks(seed: int) -> list[int]:
        return [pick(row, [params], [seed], [position])[0] for position in range(20)]

    assert picks(-1) == picks(2**64 - 1) == picks(2**100 - 1)
    assert picks(0) == picks(-(2**70))
    assert len({tuple(picks(seed)) for seed in (-1, 0, 1, 2**63)}) == 4
