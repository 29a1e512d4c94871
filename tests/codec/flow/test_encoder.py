from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.flow import encoder as encoder_module
from antiphon.codec.flow.encoder import Encoder, RelativeAttention, position_table
from antiphon.codec.layers.padding import frame_mask

Fill = Callable[[nn.Module], Any]


def naive_attention(layer: RelativeAttention, x: Tensor) -> Tensor:
    """a[i, j] = ((q_i + u) k_j + (q_i + v) p_{i-j}) / sqrt(head_dim), entry by entry."""
    n, channels = x.shape
    dim = channels // layer.num_heads
    table = layer.linear_pos(position_table(n, channels, x.device))
    out = torch.empty_like(x)
    for h in range(layer.num_heads):
        head = slice(h * dim, (h + 1) * dim)
        q, k, v = (part(x)[:, head] for part in (layer.linear_q, layer.linear_k, layer.linear_v))
        logits = torch.empty(n, n)
        for i in range(n):
            for j in range(n):
                position = table[n - 1 - (i - j), head]
                logits[i, j] = (q[i] + layer.pos_bias_u[h]) @ k[j] + (q[i] + layer.pos_bias_v[h]) @ position
        out[:, head] = (logits / dim**0.5).softmax(dim=-1) @ v
    found: Tensor = layer.linear_out(out)
    return found


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("query_block", [1, 3, 512])
def test_relative_attention_is_the_formula(
    randomized: Fill, monkeypatch: pytest.MonkeyPatch, n: int, query_block: int
) -> None:
    monkeypatch.setattr(encoder_module, "QUERY_BLOCK", query_block)
    layer = randomized(RelativeAttention(12, 2))
    x = torch.randn(n, 12, generator=torch.Generator().manual_seed(0))
    found = layer(x[None], position_table(n, 12, x.device), None)[0]
    torch.testing.assert_close(found, naive_attention(layer, x), rtol=1e-5, atol=1e-6)


def test_position_table() -> None:
    table = position_table(3, 8, torch.device("cpu"))
    assert table.shape == (5, 8)
    torch.testing.assert_close(table[2], torch.tensor([0.0, 1, 0, 1, 0, 1, 0, 1]))
    torch.testing.assert_close(
        table[0, :2],
        torch.tensor([2.0, 2.0]).sin() * torch.tensor([1.0, 0]) + torch.tensor([0, torch.tensor(2.0).cos()]),
    )


def test_padded_rows_equal_single_rows(odd_flow_params: FlowParams, randomized: Fill) -> None:
    encoder = randomized(Encoder(odd_flow_params.encoder))
    generator = torch.Generator().manual_seed(0)
    lengths = (1, 6, 9)
    x = torch.randn(3, 9, 48, generator=generator)
    found = encoder(x, frame_mask(lengths, x.device))
    for row, own, n in zip(found, x, lengths, strict=True):
        torch.testing.assert_close(row[:n], encoder(own[None, :n])[0], rtol=1e-5, atol=1e-5)
