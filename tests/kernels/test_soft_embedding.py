from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from devices import device_of
from torch import Tensor

from antiphon.kernels import Linear, linear, soft_embedding
from antiphon.kernels.soft_embedding import soft_embedding_reference

Draw = Callable[..., Tensor]
Check = Callable[[Tensor, Tensor, Tensor], None]

# (rows, hidden, vocabulary): 96 rows are mixed at a time; from 33 on, Triton leaves the products to torch
SHAPES = [(0, 8, 12), (1, 1, 1), (1, 6, 33), (7, 40, 100), (95, 16, 31), (97, 24, 65), (200, 33, 7)]


def reference(hidden: Tensor, head: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
    return soft_embedding_reference(hidden, linear(head, backend="torch"), embedding)


def head_for(backend: str, weight: Tensor) -> Linear:
    """A head in the form that the backend reads."""
    return linear(weight, backend="cpp" if backend == "cpp" else "torch")


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_within_the_error_budget(
    backend: str,
    device: torch.device,
    shape: tuple[int, int, int],
    randn: Draw,
    assert_within_budget: Check,
) -> None:
    rows, size, vocab = shape
    numbers = randn(rows, size), randn(vocab, size), randn(vocab, size, seed=1)
    hidden, head, embedding = (x.to(device) for x in numbers)
    found, labels = soft_embedding(hidden, head_for(backend, head), embedding, backend=backend)
    in_pytorch, _ = reference(hidden, head, embedding)
    exact, likeliest = reference(hidden.double(), head.double(), embedding.double())
    assert_within_budget(found, in_pytorch, exact)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, likeliest)


def test_what_it_means(backend: str, device: torch.device) -> None:
    """A sure frame is the embedding of its label; one that wavers between two is their mean."""
    head = torch.eye(5, 8, device=device) * 60
    embedding = torch.arange(40.0, device=device).view(5, 8)
    hidden = torch.zeros(2, 8, device=device)
    hidden[0, 3] = 1.0
    hidden[1, [1, 4]] = 1.0
    mixed, labels = soft_embedding(hidden, head_for(backend, head), embedding, backend=backend)
    torch.testing.assert_close(mixed, torch.stack([embedding[3], (embedding[1] + embedding[4]) / 2]))
    assert labels.tolist() == [3, 1], "the first of equals"


def test_large_logits_do_not_overflow(backend: str, device: torch.device, randn: Draw) -> None:
    numbers = randn(3, 16) * 1e3, randn(40, 16), randn(40, 16, seed=1)
    hidden, head, embedding = (x.to(device) for x in numbers)
    mixed, labels = soft_embedding(hidden, head_for(backend, head), embedding, backend=backend)
    torch.testing.assert_close(mixed, embedding[labels])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (40, 130, 300)], ids=str)
def test_in_16_bits(
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    randn: Draw,
    assert_within_half_budget: Check,
) -> None:
    rows, size, vocab = shape
    numbers = randn(rows, size), randn(vocab, size), randn(vocab, size, seed=1)
    hidden, head, embedding = (x.to(device_of("triton"), dtype) for x in numbers)
    found, labels = soft_embedding(hidden, head_for("triton", head), embedding, backend="triton")
    in_pytorch, _ = reference(hidden, head, embedding)
    exact, likeliest = reference(hidden.double(), head.double(), embedding.double())
    assert_within_half_budget(found, in_pytorch, exact)
    assert torch.equal(labels, likeliest), "whatever the logits round to in 16 bits"


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_of_many_rows_in_parts_of_the_ids(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, randn: Draw
) -> None:
    """As for large vocabularies, where a row's probabilities come from several programs."""
    monkeypatch.setattr("antiphon.kernels.triton.soft_embedding.PART", 64)
    hidden, head = randn(40, 16).to(dtype), randn(500, 16).to(dtype)
    embedding = randn(500, 16, seed=1).to(dtype)
    hidden[:, 0] = 1.0
    head[64:160, 0] = -torch.inf
    where = "cuda" if torch.cuda.is_available() else "cpu"
    on_device = [x.to(where) for x in (hidden, head, embedding)]
    found, labels = soft_embedding(
        on_device[0], head_for("triton", on_device[1]), on_device[2], backend="triton"
    )
    found, labels = found.cpu(), labels.cpu()
    exact, likeliest = reference(hidden.double(), head.double(), embedding.double())
    close = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found.double(), exact, rtol=close, atol=close)
    assert torch.equal(labels, likeliest)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("wanted", [1, 2, 7])
def test_parts_of_many_tiles(monkeypatch: pytest.MonkeyPatch, wanted: int, randn: Draw) -> None:
    """As for large vocabularies, where each part of the ids is many tiles, the last one fewer."""
    monkeypatch.setattr("antiphon.kernels.triton.soft_embedding.WANTED_PROGRAMS", wanted)
    numbers = randn(3, 16), randn(500, 16), randn(500, 16, seed=1)
    hidden, head, embedding = (x.to(device_of("triton")) for x in numbers)
    found, _ = soft_embedding(hidden, head_for("triton", head), embedding, backend="triton")
    torch.testing.assert_close(found, reference(hidden, head, embedding)[0])


def test_impossible_ids_weigh_nothing(backend: str, device: torch.device, randn: Draw) -> None:
    """A stretch of ids without any likelihood, longer than a tile of the kernels, and the rest."""
    head, embedding = torch.zeros(200, 4), randn(200, 4)
    head[:150, 0] = -torch.inf
    hidden = torch.tensor([[1.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    tensors = [x.to(device) for x in (hidden, head, embedding)]
    mixed, labels = soft_embedding(tensors[0], head_for(backend, tensors[1]), tensors[2], backend=backend)
    torch.testing.assert_close(mixed.cpu(), embedding[150:].mean(0).expand(2, -1))
    assert labels.tolist() == [150, 150]


def test_strided_input(backend: str, device: torch.device, randn: Draw) -> None:
    wide, head = randn(6, 30).to(device), randn(40, 13).to(device)
    embedding = randn(40, 26, seed=1).to(device)[:, 13:]
    expected, _ = reference(wide[:, 3:16], head, embedding)
    for hidden in (wide[:, 3:16], wide[:, 3:16].T.contiguous().T):
        mixed, _ = soft_embedding(hidden, head_for(backend, head), embedding, backend=backend)
        torch.testing.assert_close(mixed, expected)


def test_a_row_does_not_depend_on_its_batch(isa: str, randn: Draw) -> None:
    hidden, embedding = randn(250, 24), randn(300, 24, seed=1)
    head = linear(randn(300, 24), backend="cpp")
    whole, labels = soft_embedding(hidden, head, embedding, backend="cpp")
    for start, end in [(0, 1), (95, 98), (10, 211)]:
        mixed, some = soft_embedding(hidden[start:end], head, embedding, backend="cpp")
        assert torch.equal(mixed, whole[start:end])
        assert torch.equal(some, labels[start:end])


def test_wrong_arguments_are_named(backend: str, randn: Draw) -> None:
    head = head_for(backend, randn(12, 8))
    with pytest.raises(ValueError, match=r"hidden: expected \(rows, 8\), got \(2, 7\)"):
        soft_embedding(randn(2, 7), head, randn(12, 8), backend=backend)
    with pytest.raises(ValueError, match=r"embedding: expected torch.float32 \(12, 8\), got .* \(11, 8\)"):
        soft_embedding(randn(2, 8), head, randn(11, 8), backend=backend)
    with pytest.raises(ValueError, match=r"embedding: expected torch.float32 \(12, 8\), got torch.float64"):
        soft_embedding(randn(2, 8), head, randn(12, 8).double(), backend=backend)
