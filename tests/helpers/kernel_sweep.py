"""Wrong arguments for every kernel, tried in child processes and compared with the reference.

A case changes one argument of a right call. Children report as they go, so a crash names its case and costs
no other.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antiphon import kernels
from antiphon.kernels import AttentionBatch, DecoderGeometry, DecoderLayer, FusionBatch

__all__ = ["Case", "cases", "outcomes"]

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Op:
    make: Callable[[], Arguments]
    call: Callable[..., object]
    """Takes the arguments and `backend`. Its result is compared, and so are all arguments afterwards."""
    used_up: frozenset[str] = frozenset()
    """Arguments that an op may leave in any state."""


@dataclass(frozen=True)
class Case:
    op: str
    argument: str
    change: str

    def __str__(self) -> str:
        return f"{self.op}: {self.argument} {self.change}"


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def _int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def _table() -> Tensor:
    return kernels.rope_table(kernels.inverse_frequencies(16, 1e4, None), 64)


def _attention() -> Arguments:
    return {
        "key_cache": _randn(6, 4, 2, 16),
        "value_cache": _randn(6, 4, 2, 16) + 1,
        "positions": _int32(0, 1, 2, 7),
        "slot_mapping": torch.tensor([0, 1, 2, 15]),
        "cu_seqlens_q": _int32(0, 3, 4),
        "context_lens": _int32(3, 8),
        "block_table": torch.tensor([[0, 1], [2, 3]], dtype=torch.int32),
    }


def _int8_attention() -> Arguments:
    bytes_ = {"key_cache": _int8(6, 4, 2, 16), "value_cache": _int8(6, 4, 2, 16)}
    scales = {"key_scales": _randn(6, 2, 4).abs(), "value_scales": _randn(6, 2, 4).abs() + 1}
    return _attention() | bytes_ | scales


def _int8(*shape: int) -> Tensor:
    return (_randn(*shape) * 50).clamp(-127, 127).to(torch.int8)


BATCH = ("positions", "slot_mapping", "cu_seqlens_q", "context_lens", "block_table")


def _split(arguments: Arguments) -> tuple[AttentionBatch, Arguments]:
    rest = dict(arguments)
    if "key_scales" in rest:
        for name in ("key", "value"):
            numbers, scales = rest[f"{name}_cache"], rest.pop(f"{name}_scales")
            rest[f"{name}_cache"] = kernels.QuantizedCache(numbers, scales)
    return AttentionBatch(**{name: rest.pop(name) for name in BATCH}), rest


def _paged_attention(backend: str | None, **arguments: Any) -> object:
    batch, rest = _split(arguments)
    return kernels.paged_attention(batch=batch, backend=backend, **rest)


def _rope_cache_write(backend: str | None, **arguments: Any) -> object:
    batch, rest = _split(arguments)
    return kernels.rope_cache_write(batch=batch, backend=backend, **rest)


def _linear(backend: str | None, weight: Any, x: Any, residual: Any) -> object:
    return kernels.linear(weight, backend=backend)(x, residual)


def _int8_linear(default: str) -> Callable[..., object]:
    """The product by `default`, where the reference is not asked for."""

    def call(backend: str | None, values: Any, scales: Any, dynamic: Any, x: Any, residual: Any) -> object:
        weight = kernels.QuantizedWeight(values, scales, dynamic)
        return kernels.linear(weight, backend=backend or default)(x, residual)

    return call


def _int8_weight() -> Arguments:
    return {"values": _int8(64, 64), "scales": _randn(64).abs() / 8, "dynamic": True}


def _with_int8_head(op: Callable[..., object]) -> Callable[..., object]:
    def call(backend: str | None, values: Any, scales: Any, dynamic: Any, **rest: Any) -> object:
        head = kernels.linear(kernels.QuantizedWeight(values, scales, dynamic), backend=backend)
        return op(head=head, backend=backend, **rest)

    return call


def _int8_soft_embedding(head: Any, backend: str | None, hidden: Any, table: Any, lengths: Any) -> object:
    embedding = kernels.QuantizedWeight(table, lengths)
    return kernels.soft_embedding(hidden, head, embedding, backend=backend)


def _with_head(op: Callable[..., object]) -> Callable[..., object]:
    """Makes the head from its weight; if the weight is no tensor, it is itself passed as the head."""

    def call(backend: str | None, weight: Any, **rest: Any) -> object:
        head = kernels.linear(weight, backend=backend) if isinstance(weight, Tensor) else weight
        return op(head=head, backend=backend, **rest)

    return call


def _norm_feed_forward(backend: str | None, x: Any, attended: Any, **weights: Any) -> object:
    return kernels.norm_feed_forward(x, attended, kernels.FeedForward(**weights), backend=backend)


def _decoder(backend: str | None, **arguments: Any) -> object:
    batch, rest = _split(arguments)

    def product(outputs: int, inputs: int) -> Any:
        return kernels.linear(_randn(outputs, inputs) / 8, backend=backend)

    layers = [
        DecoderLayer(
            input_norm=rest["input_norm"],
            qkv=product(128, 32),
            o=product(32, 64),
            post_norm=rest["input_norm"],
            gate_up=product(96, 32),
            down=product(32, 48),
            fusion_q=product(64, 32),
            fusion_o=product(32, 64),
        )
        for _ in range(2)
    ]
    run = kernels.decoder_layers(
        layers, rest["final_norm"], DecoderGeometry(4, 2, 16, 1e-5), rest["cos_sin"], backend=backend
    )
    keys, values = rest["key_cache"], rest["value_cache"]
    if isinstance(keys, Tensor) and isinstance(values, Tensor) and keys.dim() and values.dim():
        caches = list(zip(keys.unbind(0), values.unbind(0), strict=False))
    else:
        caches = [(keys, values)] * 2
    fusion = FusionBatch(
        rest["fusion_tokens"],
        rest["fusion_rows"],
        rest["num_valid"],
        rest["fusion_positions"],
        rest["windows"],
    )
    return run(rest["x"], batch, caches, fusion, rest["wanted"])


OPS: dict[str, Op] = {
    "argmax": Op(lambda: {"logits": _randn(4, 70)}, kernels.argmax),
    "argmax_head": Op(
        lambda: {
            "hidden": _randn(5, 64),
            "weight": _randn(70, 64),
            "top_k": 3,
            "subset": torch.arange(0, 70, 3),
        },
        _with_head(kernels.argmax_head),
    ),
    "ctc_collapse": Op(
        lambda: {
            "labels": _int32(1, 1, 0, 2, 2, 1, 0),
            "cu_seqlens": _int32(0, 3, 7),
            "blank": 0,
            "prev": _int32(-1, 2),
        },
        kernels.ctc_collapse,
    ),
    "fusion_attention": Op(
        lambda: {
            "q": _randn(3, 4, 16),
            "k": _randn(7, 6, 4, 16),
            "v": _randn(7, 6, 4, 16) + 1,
            "num_valid": _int32(0, 4, 6),
            "positions": _int32(5, 6, 7),
            "rope": _table(),
            "rows": torch.tensor([0, 3, 6]),
        },
        kernels.fusion_attention,
    ),
    "fusion_cache_write": Op(
        lambda: {
            "kv": _randn(3, 2, 2, 64),
            "slots": torch.tensor([0, 7, 20]),
            "positions": _int32(1, 2, 3),
            "cos_sin": _table(),
            "cache": torch.zeros(9, 6, 2, 2, 64),
            "head_dim": 16,
        },
        kernels.fusion_cache_write,
    ),
    "linear": Op(
        lambda: {"weight": _randn(64, 64), "x": _randn(5, 64), "residual": _randn(5, 64) + 1}, _linear
    ),
    **{
        f"linear of int8 rows by {name}": Op(
            lambda: _int8_weight() | {"x": _randn(5, 64), "residual": _randn(5, 64) + 1}, _int8_linear(name)
        )
        for name in kernels.backends("linear")
        if name != "torch"
    },
    "argmax_head of int8 rows": Op(
        lambda: _int8_weight() | {"hidden": _randn(5, 64), "top_k": 3, "subset": torch.arange(0, 64, 3)},
        _with_int8_head(kernels.argmax_head),
    ),
    "soft_embedding of int8 rows": Op(
        lambda: (
            _int8_weight()
            | {"hidden": _randn(5, 64), "table": _int8(64, 64), "lengths": _randn(64).abs() / 9}
        ),
        _with_int8_head(_int8_soft_embedding),
    ),
    "masked_conv": Op(
        lambda: {
            "x": _randn(2, 5, 8),
            "weight": _randn(3, 6, 8),
            "bias": _randn(6),
            "lengths": _int32(5, 3),
            "stride": 1,
            "mask_output": True,
        },
        kernels.masked_conv,
    ),
    "masked_group_norm": Op(
        lambda: {
            "x": _randn(2, 8, 5),
            "weight": _randn(8),
            "bias": _randn(8) + 1,
            "num_groups": 4,
            "eps": 1e-5,
            "mask": torch.ones(2, 1, 5),
            "shift": _randn(8) + 2,
            "residual": _randn(2, 8, 5) + 1,
        },
        kernels.masked_group_norm,
    ),
    "normal_rows": Op(
        lambda: {
            "seeds": torch.tensor([5, -7]),
            "first_rows": torch.tensor([0, -3]),
            "stream": 2,
            "num_rows": 3,
            "width": 6,
        },
        kernels.normal_rows,
    ),
    "norm_attention": Op(
        lambda: {
            "x": _randn(2, 5, 8),
            "norm_weight": _randn(8),
            "norm_bias": _randn(8) + 1,
            "eps": 1e-5,
            "weight": _randn(36, 8),
            "num_heads": 3,
            "lengths": _int32(5, 3),
        },
        kernels.norm_attention,
    ),
    "norm_feed_forward": Op(
        lambda: {
            "x": _randn(2, 5, 8),
            "attended": _randn(2, 5, 12),
            "out_weight": _randn(8, 12),
            "out_bias": _randn(8),
            "norm_weight": _randn(8) + 1,
            "norm_bias": _randn(8) + 2,
            "up_weight": _randn(16, 8),
            "up_bias": _randn(16),
            "down_weight": _randn(8, 16),
            "down_bias": _randn(8) + 3,
            "eps": 1e-5,
        },
        _norm_feed_forward,
    ),
    "paged_attention": Op(
        lambda: {"q": _randn(4, 4, 16), "scale": 0.25} | _attention(),
        _paged_attention,
    ),
    "paged_attention in int8": Op(
        lambda: {"q": _randn(4, 4, 16), "scale": 0.25} | _int8_attention(),
        _paged_attention,
    ),
    "rms_norm": Op(lambda: {"x": _randn(6, 64), "weight": _randn(64), "eps": 1e-5}, kernels.rms_norm),
    "rms_norm_residual": Op(
        lambda: {"x": _randn(6, 64), "residual": _randn(6, 64) + 1, "weight": _randn(64), "eps": 1e-5},
        kernels.rms_norm_residual,
    ),
    "rope_cache_write": Op(
        lambda: {"qkv": _randn(4, 128), "cos_sin": _table(), "num_heads": 4} | _attention(),
        _rope_cache_write,
        frozenset({"qkv"}),
    ),
    "rope_cache_write in int8": Op(
        lambda: {"qkv": _randn(4, 128), "cos_sin": _table(), "num_heads": 4} | _int8_attention(),
        _rope_cache_write,
        frozenset({"qkv"}),
    ),
    "sample": Op(
        lambda: {
            "logits": _randn(3, 70),
            "temperature": torch.tensor([0.0, 0.7, 1.0]),
            "top_k": _int32(0, 5, 0),
            "top_p": torch.tensor([1.0, 0.9, 0.5]),
            "seeds": torch.tensor([1, 2, 3]),
            "positions": torch.tensor([0, 5, 9]),
        },
        kernels.sample,
    ),
    "silu_mul": Op(lambda: {"gate_up": _randn(4, 72)}, kernels.silu_mul),
    "snake": Op(lambda: {"x": _randn(2, 5, 9), "alpha": _randn(5).abs() + 0.1}, kernels.snake),
    "soft_embedding": Op(
        lambda: {"hidden": _randn(5, 64), "weight": _randn(70, 64) / 8, "embedding": _randn(70, 64)},
        _with_head(kernels.soft_embedding),
    ),
    "decoder_layers": Op(
        lambda: {
            **_attention(),
            "x": _randn(4, 32),
            "key_cache": torch.zeros(2, 6, 4, 2, 16),
            "value_cache": torch.zeros(2, 6, 4, 2, 16),
            "input_norm": _randn(32),
            "final_norm": _randn(32),
            "cos_sin": _table(),
            "fusion_tokens": torch.tensor([1, 3]),
            "fusion_rows": torch.tensor([0, 2]),
            "num_valid": _int32(3, 0),
            "fusion_positions": _int32(1, 7),
            "windows": _randn(3, 5, 2, 2, 64),
            "wanted": torch.tensor([0, 3]),
        },
        _decoder,
        frozenset({"x"}),
    ),
}


# --- changes --------------------------------------------------------------------------------------


def _spread(t: Tensor, dim: int) -> Tensor:
    """The same numbers, with another number after each along a dimension."""
    shape = [2 * n if i == dim else n for i, n in enumerate(t.shape)]
    wide = torch.full(shape, 3, dtype=t.dtype)
    view: Tensor = wide.unflatten(dim, (-1, 2)).select(dim + 1, 0)
    view.copy_(t)
    return view


def _cast(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda t: t.to(dtype)


def _filled(value: float) -> Callable[[Tensor], Tensor]:
    def change(t: Tensor) -> Tensor:
        if not t.is_floating_point() and not -(2**63) <= value < 2**63:
            raise NotImplementedError
        kept = t.clone()
        kept.view(-1)[-1] = value
        return kept

    return change


def _freed(t: Tensor) -> Tensor:
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "is None": lambda t: None,
    "is a list": lambda t: t.tolist(),
    "is numpy's": lambda t: t.numpy(),
    "is 3": lambda t: 3,
    "is a string": lambda t: "tensor",
    **{f"in {dtype}": _cast(dtype) for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8,
        torch.bool, torch.complex64,
    )},
    "on meta": lambda t: t.to("meta"),
    "one short": lambda t: t[:-1].clone(),
    "one more": lambda t: torch.cat([t, t[:1]]),
    "without rows": lambda t: t[:0].clone(),
    "twice": lambda t: torch.cat([t, t]),
    "first alone": lambda t: t[0].clone(),
    "in a batch": lambda t: t[None],
    "with a last dimension": lambda t: t[..., None],
    "columns short": lambda t: t[..., :-1].clone(),
    "without columns": lambda t: t[..., :0].clone(),
    "flat": lambda t: t.flatten(),
    "a scalar": lambda t: t.flatten()[0],
    "empty": lambda t: t.new_empty(0),
    "transposed in memory": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "swapped in memory": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "transposed": lambda t: t.transpose(0, -1),
    "spread along rows": lambda t: _spread(t, 0),
    "spread along columns": lambda t: _spread(t, t.dim() - 1),
    "behind others": lambda t: torch.cat([t.flatten()[:3], t.flatten()])[3:].view(t.shape),
    "its first row, expanded": lambda t: t[:1].expand_as(t),
    "one number, expanded": lambda t: t.flatten()[:1].expand(t.numel()).as_strided(t.shape, (0,) * t.dim()),
    "with overlapping rows": lambda t: t.as_strided(t.shape, (1,) * t.dim()),
    "negated lazily": lambda t: torch.ops.aten._neg_view(t.neg()),
    "sparse": lambda t: t.to_sparse(),
    "nested": lambda t: torch.nested.as_nested_tensor([t, t]),
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.quint8),
    "with a gradient": lambda t: t.clone().requires_grad_(),
    "a parameter": lambda t: torch.nn.Parameter(t.clone(), requires_grad=False),
    "freed": _freed,
    "reversed": lambda t: t.flip(0),
    "all equal": lambda t: t.flatten()[:1].expand_as(t.flatten()).reshape(t.shape).clone(),
    "zeros": torch.zeros_like,
    "all nan": lambda t: torch.full_like(t, torch.nan),
    "all -inf": lambda t: torch.full_like(t, -torch.inf),
    **{f"ends in {value}": _filled(value) for value in (
        torch.nan, torch.inf, -torch.inf, 1e38, -1e38, -1, -2, 6, 24, 70, 10**6, 2**30, 2**31 - 1, -(2**31),
        2**40, 2**63 - 1, -(2**63),
    )},
}  # fmt: skip

SCALARS: tuple[object, ...] = (
    None, "3", [], True, -1, 0, 1, 2.5, 7, 10**6, 2**31, 2**40, 2**70, -(2**70),
    torch.nan, torch.inf, -torch.inf, 1e300, np.int64(2), np.float32(0.5), np.float64(torch.nan),
)  # fmt: skip


LEFT_OUT = {
    # The reference multiplies what a query does not see by zero.
    ("paged_attention", "value_cache", "all -inf"),
    ("paged_attention in int8", "value_scales", "all -inf"),
    # The reference widens a row first, which is infinite then.
    *(("soft_embedding of int8 rows", "lengths", f"ends in {sign}1e+38") for sign in ("", "-")),
    # There would be no layers to pass on.
    ("decoder_layers", "key_cache", "freed"),
    ("decoder_layers", "value_cache", "freed"),
}


def cases() -> list[Case]:
    found = []
    for op, spec in OPS.items():
        arguments = spec.make()
        for name, value in arguments.items():
            if op.endswith("in int8") and not name.startswith(("key_", "value_")):
                continue  # as for the other cache
            if isinstance(value, Tensor):
                changes = [*CHANGES, *_shared(arguments, name)]
            else:
                changes = [str(i) for i in range(len(SCALARS))]
            found += [Case(op, name, change) for change in changes if (op, name, change) not in LEFT_OUT]
        found += [Case(op, name, "misspelt") for name in ("backend",)]
    return found


def _shared(arguments: Arguments, name: str) -> Iterator[str]:
    """Names the changes that share memory with another argument."""
    for other, value in arguments.items():
        if isinstance(value, Tensor) and other != name and value.dtype == arguments[name].dtype:
            yield f"shares with {other}"


def _changed(case: Case) -> Arguments:
    arguments = OPS[case.op].make()
    if case.argument == "backend":
        return arguments
    value = arguments[case.argument]
    if not isinstance(value, Tensor):
        arguments[case.argument] = SCALARS[int(case.change)]
    elif case.change in CHANGES:
        arguments[case.argument] = CHANGES[case.change](value)
    else:
        other = arguments[case.change.removeprefix("shares with ")]
        small, large = sorted((value, other), key=Tensor.numel)
        memory = large.flatten().clone()
        shared = {id(small): memory[: small.numel()].view(small.shape), id(large): memory.view(large.shape)}
        for key, tensor in arguments.items():
            if id(tensor) in shared:
                arguments[key] = shared[id(tensor)]
    return arguments


# --- running --------------------------------------------------------------------------------------


def _run(case: Case, backend: object) -> tuple[str, Any]:
    """-> "refused" or "raised", and the message; or "done", and the result with the arguments as they are
    afterwards."""
    op, arguments = OPS[case.op], _changed(case)
    with torch.no_grad() if case.change != "with a gradient" else torch.enable_grad():
        try:
            out = op.call(backend=backend, **arguments)
        except (ValueError, MemoryError) as error:
            is_line = "\n" not in str(error) and 0 < len(str(error)) < 300
            return ("refused", str(error)) if is_line else ("raised", f"a message like {str(error)[:300]!r}")
        except Exception as error:  # noqa: BLE001
            return "raised", f"{type(error).__name__}: {str(error)[:150]}"
    left = [value for name, value in arguments.items() if name not in op.used_up and _is_readable(value)]
    return "done", [out, left]


def _is_readable(value: object) -> bool:
    if not isinstance(value, Tensor) or value.is_nested or value.layout is not torch.strided:
        return False
    return not value.is_quantized and (value.device.type == "meta" or value.data_ptr() != 0)


def _flat(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach()]
    return [t for part in value for t in _flat(part)] if isinstance(value, (tuple, list)) else []


def _same(found: object, expected: object) -> bool:
    pairs = list(zip(_flat(found), _flat(expected), strict=True))
    for own, right in pairs:
        if own.shape != right.shape or own.dtype != right.dtype or own.device != right.device:
            return False
        if own.device.type == "meta":
            continue
        scale = (
            float(right.double().nan_to_num(0, 0, 0).abs().max())
            if own.is_floating_point() and own.numel()
            else 1
        )
        if not torch.allclose(
            own.double(), right.double(), rtol=1e-3, atol=1e-4 * max(1.0, scale), equal_nan=True
        ):
            return False
    return True


def judge(case: Case) -> str:
    try:
        _changed(case)
    except (RuntimeError, IndexError, NotImplementedError):  # no such tensor can be made
        return "impossible"
    if case.change == "misspelt":
        return _run(case, ["torch"])[0]
    kind, found = _run(case, None)
    if kind != "done":
        return kind if kind == "refused" else f"raised {found}"
    reference, expected = _run(case, "torch")
    if reference != "done":
        return f"other: the reference {reference} {expected}"
    return "same" if _same(found, expected) else "other"


def _work(todo: Sequence[Case], pipe: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for case in todo:
        signal.alarm(20)
        try:
            verdict = judge(case)
        except BaseException as error:  # noqa: BLE001
            verdict = f"the sweep itself: {error!r}"
        os.write(pipe, (json.dumps(verdict) + "\n").encode())


def outcomes(todo: Sequence[Case]) -> dict[Case, str]:
    """For each case: "refused", "same" or "impossible"; or what is wrong: "other", "raised ...",
    "signal ...", "exit ..."."""
    found: dict[Case, str] = {}
    left = list(todo)
    while left:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                faulthandler.disable()  # a signal is an outcome here, and reported as one
                os.close(reading)
                _work(left, writing)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as lines:
            verdicts = [json.loads(line) for line in lines]
        status = os.waitpid(child, 0)[1]
        found.update(zip(left, verdicts, strict=False))
        left = left[len(verdicts) :]
        if os.WIFSIGNALED(status) and left:
            found[left.pop(0)] = f"signal {os.WTERMSIG(status)}"
        elif left:
            found[left.pop(0)] = f"exit {os.WEXITSTATUS(status)}"
    return found


def main() -> None:
    """Runs all cases, or with the argument "triton" those of its interpreter, which take long; writes the
    verdict of each case that is wrong, and how many there are of each right kind."""
    torch.set_num_threads(1)
    in_triton = sys.argv[1:] == ["triton"]
    found = outcomes([case for case in cases() if case.op.endswith(" by triton") == in_triton])
    wrong = {str(case): verdict for case, verdict in found.items() if verdict not in RIGHT}
    counts = {verdict: sum(v == verdict for v in found.values()) for verdict in RIGHT}
    sys.stdout.write(json.dumps({"wrong": wrong, "counts": counts}))


RIGHT = ("refused", "same", "impossible")

if __name__ == "__main__":
    main()
