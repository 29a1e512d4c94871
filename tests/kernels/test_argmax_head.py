from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from devices import device_of
from torch import Tensor

from antiphon.kernels import Linear, argmax_head, linear

Draw = Callable[..., Tensor]
HeadOf = Callable[[Tensor], Linear]

# (rows, hidden, vocabulary)
SHAPES = [(0, 8, 12), (1, 300, 33), (17, 24, 65), (40, 300, 100)]


@pytest.fixture
def head_of(backend: str) -> HeadOf:
    """A head in the form that the backend reads."""
    return lambda weight: linear(weight, backend="cpp" if backend == "cpp" else "torch")


def best_by_hand(logits: Tensor, top_k: int, among: list[int]) -> list[list[int]]:
    rows: list[list[float]] = logits.tolist()
    return [sorted(among, key=lambda i, row=row: (-row[i], i))[:top_k] for row in rows]  # type: ignore[misc]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.pairwise(shape=SHAPES)
def test_finds_the_largest(
    backend: str,
    device: torch.device,
    head_of: HeadOf,
    shape: tuple[int, int, int],
    randn: Draw,
) -> None:
    rows, size, vocab = shape
    hidden, weight = randn(rows, size).to(device), randn(vocab, size).to(device)
    ids, logits = argmax_head(hidden, head_of(weight), backend=backend)
    exact = hidden.double() @ weight.double().T
    assert ids.dtype == torch.int64
    assert logits.dtype == torch.float32
    assert torch.equal(ids, exact.argmax(-1, keepdim=True))
    torch.testing.assert_close(logits, exact.gather(1, ids).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.best_isa
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.pairwise(top_k=[2, 64, 65], rows=[1, 3])
def test_top_k_in_order(
    backend: str,
    device: torch.device,
    head_of: HeadOf,
    top_k: int,
    rows: int,
    randn: Draw,
) -> None:
    hidden, weight = randn(rows, 40).to(device), randn(70, 40).to(device)
    ids, logits = argmax_head(hidden, head_of(weight), top_k=top_k, backend=backend)
    exact = hidden.double() @ weight.double().T
    assert ids.tolist() == best_by_hand(exact, top_k, list(range(70)))
    torch.testing.assert_close(logits, exact.gather(1, ids).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.best_isa
@pytest.mark.parametrize("top_k", [1, 7])
def test_of_equals_the_lower_id(backend: str, device: torch.device, head_of: HeadOf, top_k: int) -> None:
    """Small integers, so that sums are exact and ties are everywhere."""
    for rows in (2, 18):
        generator = torch.Generator().manual_seed(rows)
        hidden = torch.randint(-1, 2, (rows, 5), generator=generator).float().to(device)
        weight = torch.randint(-1, 2, (200, 5), generator=generator).float().to(device)
        ids, logits = argmax_head(hidden, head_of(weight), top_k=top_k, backend=backend)
        exact = hidden @ weight.T
        assert ids.tolist() == best_by_hand(exact, top_k, list(range(200)))
        assert torch.equal(logits, exact.gather(1, ids))


@pytest.mark.best_isa
@pytest.mark.parametrize("top_k", [1, 3])
def test_only_the_subset_competes(backend: str, device: torch.device, head_of: HeadOf, top_k: int) -> None:
    """In any order; ids are the head's rows, and of equals the lower id comes first."""
    for size in (3, 70):
        generator = torch.Generator().manual_seed(size)
        hidden = torch.randint(-1, 2, (5, 6), generator=generator).float().to(device)
        weight = torch.randint(-1, 2, (100, 6), generator=generator).float().to(device)
        subset = torch.randperm(100, generator=generator)[:size].to(device)
        ids, logits = argmax_head(hidden, head_of(weight), top_k=top_k, subset=subset, backend=backend)
        exact = hidden @ weight.T
        assert ids.tolist() == best_by_hand(exact, top_k, subset.tolist())
        assert torch.equal(logits, exact.gather(1, ids))


@pytest.mark.pairwise(shape=[(5, 300, 500), (200, 24, 1100), (97, 129, 2100)], top_k=[1, 2, 64])
def test_the_logits_of_the_product_to_the_last_bit(
    isa: str, shape: tuple[int, int, int], top_k: int, randn: Draw
) -> None:
    """Whatever the slices of the vocabulary that threads take."""
    rows, size, vocab = shape
    hidden, head = randn(rows, size), linear(randn(vocab, size), backend="cpp")
    logits, expected = head(hidden).sort(dim=-1, descending=True, stable=True)
    ids, found = argmax_head(hidden, head, top_k=top_k, backend="cpp")
    assert torch.equal(found, logits[:, :top_k])
    assert torch.equal(ids, expected[:, :top_k])
    units = torch.cat([torch.arange(vocab // 2, vocab - 1), torch.tensor([3])])
    ids, found = argmax_head(hidden, head, subset=units, backend="cpp")
    assert torch.equal(found, head(hidden)[:, units].amax(-1, keepdim=True))
    assert set(ids.flatten().tolist()) <= set(units.tolist())


def test_hidden_at_a_distance_and_another_kind_of_head(randn: Draw) -> None:
    wide, weight = randn(5, 40), randn(70, 12)
    expected = argmax_head(wide[:, 3:15].contiguous(), linear(weight, backend="torch"), top_k=3)
    for hidden in (wide[:, 3:15], wide[:, 3:15].T.contiguous().T):
        ids, logits = argmax_head(hidden, linear(weight), top_k=3)
        assert torch.equal(ids, expected[0])
        torch.testing.assert_close(logits, expected[1])


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("rows", [1, 3])
def test_parts_of_many_tiles(monkeypatch: pytest.MonkeyPatch, rows: int, randn: Draw) -> None:
    """As for very large vocabularies, where a part is several tiles."""
    monkeypatch.setattr("antiphon.kernels.triton.argmax_head.MAX_PARTS", 3)
    hidden, weight = (x.to(device_of("triton")) for x in (randn(rows, 16), randn(500, 16)))
    ids, _ = argmax_head(hidden, linear(weight, backend="torch"), backend="triton")
    assert ids.tolist() == best_by_hand(hidden.double() @ weight.double().T, 1, list(range(500)))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("where", ["apart", "side by side", "all alike", "backwards"])
@pytest.mark.parametrize(("rows", "top_k"), [(1, 5), (1, 64), (3, 2), (3, 17)])
def test_groups_of_the_likeliest(
    monkeypatch: pytest.MonkeyPatch, rows: int, top_k: int, where: str, randn: Draw
) -> None:
    """More groups of ids than ids that are wanted, or fewer; the likeliest in one group, or in many."""
    monkeypatch.setattr("antiphon.kernels.triton.argmax_head.GROUP", 64)
    hidden, weight = randn(rows, 8), randn(1000, 8)
    if where == "side by side":
        weight[500:540] *= 50
    elif where == "all alike":
        weight[:] = weight[0]
    where_it_runs = "cuda" if torch.cuda.is_available() else "cpu"
    subset = torch.arange(999, -1, -1, device=where_it_runs) if where == "backwards" else None
    head = linear(weight.to(where_it_runs), backend="torch")
    found = argmax_head(hidden.to(where_it_runs), head, top_k=top_k, subset=subset, backend="triton")
    ids, logits = (x.cpu() for x in found)
    exact = hidden.double() @ weight.double().T
    assert ids.tolist() == best_by_hand(exact, top_k, list(range(1000)))
    torch.testing.assert_close(logits, exact.gather(1, ids).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, pytest.param(70, marks=[pytest.mark.slow, pytest.mark.long])])
def test_in_16_bits(dtype: torch.dtype, rows: int, randn: Draw) -> None:
    """The logits of 16-bit numbers are float32: what differs by less than its 16 bits is told apart."""
    hidden, weight = (x.to(device_of("triton"), dtype) for x in (randn(rows, 90), randn(130, 90)))
    ids, logits = argmax_head(hidden, linear(weight, backend="torch"), top_k=3, backend="triton")
    exact = hidden.double() @ weight.double().T
    assert ids.tolist() == best_by_hand(exact, 3, list(range(130)))
    torch.testing.assert_close(logits, exact.gather(1, ids).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.best_isa
def test_strided_input(backend: str, device: torch.device, head_of: HeadOf, randn: Draw) -> None:
    weight = randn(30, 12).to(device)
    wide = randn(4, 26).to(device)
    for hidden in (wide[:, 5:17], wide[:, ::2][:, :12], wide[1:2, 3:15]):
        ids, _ = argmax_head(hidden, head_of(weight), backend=backend)
        assert torch.equal(ids, (hidden.double() @ weight.double().T).argmax(-1, keepdim=True))


@pytest.mark.best_isa
def test_what_is_not_a_number_or_infinite(backend: str, device: torch.device, head_of: HeadOf) -> None:
    """Of a row without numbers any ids come out, of the head's; the other rows are as ever."""
    hidden = torch.tensor([[float("nan"), 0.0], [1.0, 0.0], [-torch.inf, 0.0]], device=device)
    weight = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.5, 0.0]], device=device)
    ids, logits = argmax_head(hidden, head_of(weight), top_k=2, backend=backend)
    assert ((ids >= 0) & (ids < 3)).all()
    assert ids[1].tolist() == [1, 2]
    assert logits[1].tolist() == [2.0, 1.5]


def test_wrong_arguments_are_named(randn: Draw) -> None:
    head = linear(randn(12, 8))
    with pytest.raises(ValueError, match=r"hidden: expected \(rows, 8\), got \(2, 7\)"):
        argmax_head(randn(2, 7), head)
    for top_k in (0, 13, True):
        with pytest.raises(ValueError, match=f"top_k: expected 1 to the 12 that compete, got {top_k}"):
            argmax_head(randn(2, 8), head, top_k=top_k)
    with pytest.raises(ValueError, match="top_k: expected 1 to the 2 that compete, got 3"):
        argmax_head(randn(2, 8), head, top_k=3, subset=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"subset: expected int64 .* got torch.int32 \(1,\)"):
        argmax_head(randn(2, 8), head, subset=torch.tensor([1], dtype=torch.int32))
    for wrong in ([12], [-1], []):
        with pytest.raises(ValueError, match="subset: expected rows of the head, 0 to 11, at least one"):
            argmax_head(randn(2, 8), head, subset=torch.tensor(wrong, dtype=torch.int64))


def test_the_dtype_of_the_head_is_named(randn: Draw) -> None:
    head = linear(randn(12, 8).double(), backend="torch")
    with pytest.raises(ValueError, match=r"hidden: expected torch\.float64 .* got torch\.float32"):
        argmax_head(randn(2, 8), head)
