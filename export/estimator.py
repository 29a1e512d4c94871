"""The velocity estimator as an ONNX graph: the function of `codec.flow.unet.UNet`, written with nothing but
products, sums, softmax and means.

Attention is a product, a softmax and a product: ONNX's Attention operator fails in some builders. Products
are taken in float32, float16, bfloat16 or int8; norms, softmax, activations and the residual stream are
float32, which is what keeps float16 free of overflows. The graph says so itself, in Cast and QuantizeLinear,
as strongly typed networks require it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.flow.unet import (
    TIME_SCALE,
    Block,
    GeluProjection,
    Resample,
    ResNet,
    Stage,
    Transformer,
    UNet,
    frequencies,
)
from antiphon.export.graph import GraphWriter, Shape, element_type
from antiphon.export.int8 import QKV, quantized

if TYPE_CHECKING:
    import onnx

__all__ = ["estimator_model"]

HIDDEN = -1e9
"""Added to the scores of padding, whose share in the softmax is then exactly zero. Infinity would give NaN in
a row without a valid frame."""
LAST = 2**63 - 1
"""The end of a slice that goes on to the end"""


def estimator_model(
    unet: UNet,
    inputs: Sequence[str],
    output: str,
    *,
    opset: int,
    dtype: torch.dtype = torch.float32,
    scales: Mapping[str, float] | None = None,
) -> onnx.ModelProto:
    """Velocity at (x, t), for a ragged batch; a row comes out as it would alone.

    inputs: names, in this order, of
        x (batch, 80, frames),
        mask (batch, 1, frames), 1 on valid frames, which come first, and 0 on padding,
        mu (batch, 80, frames), t (batch,), speaker (batch, 80), prompt (batch, 80, frames),
        all float32. The output is (batch, 80, frames), 0 on padding.
    dtype: that of the products. scales: of the inputs of those layers whose products are taken in int8, by
    the layer's name (see `int8.layers`).
    """
    writer = _Estimator(unet, dtype, scales or {})
    velocity = writer.write(*inputs)
    mel: Shape = ("batch", MEL_BANDS, "frames")
    row: Shape = ("batch", MEL_BANDS)
    shapes: Sequence[Shape] = (mel, ("batch", 1, "frames"), mel, ("batch",), row, mel)
    given = dict(zip(inputs, shapes, strict=True))
    return writer.graph.model("velocity", given, {output: (velocity, mel)}, opset)


@dataclass(frozen=True)
class _Level:
    """What is known about the frames at one of the two rates."""

    mask: str
    """(batch, 1, frames)"""
    of_groups: str
    """The same as (batch, 1, 1, frames)"""
    count: str
    """(batch, 1, 1, 1): valid frames"""
    hidden: str
    """(batch, 1, 1, frames), to be added to scores"""


class _Estimator:
    def __init__(self, unet: UNet, dtype: torch.dtype, scales: Mapping[str, float]) -> None:
        self.unet = unet
        self.dtype = dtype
        self.scales = scales
        self.graph = GraphWriter()
        self._paths = {module: path for path, module in unet.named_modules()}

    def write(self, x: str, mask: str, mu: str, t: str, speaker: str, prompt: str) -> str:
        op, unet = self.graph.op, self.unet
        # Times the mask: on each frame, and nothing on padding.
        on_each = op("Mul", op("Unsqueeze", speaker, self._numbers(2)), mask)
        x = op("Concat", x, mu, on_each, prompt, axis=1)
        stages = [
            stage
            for part in (unet.down_blocks, unet.mid_blocks, unet.up_blocks)
            for stage in part
            if isinstance(stage, Stage)
        ]
        biases = dict(zip(stages, self._time_biases(t, stages), strict=True))
        whole = self._level(mask)
        half = self._level(op("Slice", mask, *map(self._numbers, (0, LAST, 2, 2))))
        skips = []
        for stage, at in zip(stages[:2], (whole, half), strict=True):
            x = self._stage(stage, x, biases[stage], at)
            skips.append(x)
            x = self._conv(stage[2], x, at)
        for stage in stages[2:-2]:
            x = self._stage(stage, x, biases[stage], half)
        for stage, at in zip(stages[-2:], (half, whole), strict=True):
            x = op("Concat", self._as_long_as(x, at), skips.pop(), axis=1)
            x = self._stage(stage, x, biases[stage], at)
            x = self._conv(stage[2], x, at)
        x = self._block(unet.final_block, self._as_long_as(x, whole), whole)
        return op("Mul", self._conv(unet.final_proj, x, whole), mask)

    def _as_long_as(self, x: str, at: _Level) -> str:
        """If the number of frames is odd, the transposed convolution returns one too many."""
        frames = self.graph.op("Shape", at.mask, start=2, end=3)
        return self.graph.op("Slice", x, self._numbers(0), frames, self._numbers(2))

    def _level(self, mask: str) -> _Level:
        op = self.graph.op
        of_groups = op("Unsqueeze", mask, self._numbers(1))
        hidden = op("Mul", op("Sub", self._number(1), of_groups), self._number(HIDDEN))
        return _Level(mask, of_groups, op("ReduceSum", of_groups, self._numbers(3)), hidden)

    def _time_biases(self, t: str, stages: Sequence[Stage]) -> list[str]:
        """(batch, channels, 1) for each stage: a few numbers, computed once a step, in float32."""
        op, mlp = self.graph.op, self.unet.time_mlp
        scaled = op("Mul", op("Unsqueeze", t, self._numbers(1)), self._number(TIME_SCALE))
        angles = op("Mul", scaled, self.graph.constant(frequencies(self.unet.params).tolist()))
        x = op("Concat", op("Sin", angles), op("Cos", angles), axis=1)
        x = self._linear32("time_mlp.linear_1", mlp["linear_1"], x)
        x = self._linear32("time_mlp.linear_2", mlp["linear_2"], op("Mul", x, op("Sigmoid", x)))
        layers = [resnet.mlp[1] for stage in stages if isinstance(resnet := stage[0], ResNet)]
        weight, bias = (torch.cat([self._stored(layer, of) for layer in layers]) for of in ("weight", "bias"))
        x = self._gemm("time_bias", weight, bias, op("Mish", x))
        sizes = self.graph.constant([stage.out_channels for stage in stages], torch.int64)
        x = op("Unsqueeze", x, self._numbers(2))
        return self.graph.split(len(stages), "Split", x, sizes, axis=1)

    def _linear32(self, name: str, layer: nn.Module, x: str) -> str:
        assert isinstance(layer, nn.Linear), "time_mlp is built of these"
        return self._gemm(name, layer.weight, layer.bias, x)

    def _gemm(self, name: str, weight: Tensor, bias: Tensor, x: str) -> str:
        stored = [
            self.graph.weight(f"{name}.{of}", value) for of, value in (("weight", weight), ("bias", bias))
        ]
        return self.graph.op("Gemm", x, *stored, transB=1)

    def _stage(self, stage: Stage, x: str, time_bias: str, at: _Level) -> str:
        op = self.graph.op
        resnet, transformers = stage[0], stage[1]
        assert isinstance(resnet, ResNet), "place 0 is built as a ResNet"
        h = op("Add", self._block(resnet.block1, x, at), time_bias)
        x = op("Add", self._block(resnet.block2, h, at), self._conv(resnet.res_conv, x, at))
        x = op("Transpose", x, perm=[0, 2, 1])
        for transformer in transformers.children():
            assert isinstance(transformer, Transformer), "place 1 is built of them"
            with self.graph.within(self._paths[transformer]):
                x = self._transformer(transformer, x, at)
        return op("Transpose", x, perm=[0, 2, 1])

    def _block(self, block: Block, x: str, at: _Level) -> str:
        """Its values on padding mean nothing; all that follows masks them or hides them."""
        conv, norm = block.block
        assert isinstance(norm, nn.GroupNorm), "block.1 is built as a GroupNorm"
        h = self._conv(conv, x, at)
        op, groups, both = self.graph.op, norm.num_groups, self._numbers(2, 3)
        wide = norm.num_channels // groups
        with self.graph.within(self._paths[norm]):
            h = op("Reshape", h, self._numbers(0, groups, wide, -1))
            count = op("Mul", at.count, self._number(wide))
            mean = op("Div", op("ReduceSum", op("Mul", h, at.of_groups), both), count)
            centred = op("Sub", h, mean)
            own = op("Mul", centred, at.of_groups)
            variance = op("Div", op("ReduceSum", op("Mul", own, own), both), count)
            spread = op("Sqrt", op("Add", variance, self._number(norm.eps)))
            h = op("Reshape", op("Div", centred, spread), self._numbers(0, norm.num_channels, -1))
            weight, bias = (self._stored(norm, of)[:, None] for of in ("weight", "bias"))
            path = self._paths[norm]
            h = op("Mul", h, self.graph.weight(f"{path}.weight", weight))
            h = op("Add", h, self.graph.weight(f"{path}.bias", bias))
            return op("Mish", h)

    def _transformer(self, transformer: Transformer, x: str, at: _Level) -> str:
        op = self.graph.op
        x = op("Add", x, self._attention(transformer, self._norm(transformer.norm1, x), at))
        project, _, back = transformer.ff.net
        assert isinstance(project, GeluProjection), "place 0 is built as one"
        h = self._linear(project.proj, self._norm(transformer.norm3, x))
        # The exact GELU; opset 18 has no operator for it.
        erf = op("Erf", op("Div", h, self._number(2**0.5)))
        h = op("Mul", op("Mul", h, op("Add", erf, self._number(1))), self._number(0.5))
        return op("Add", x, self._linear(back, h))

    def _attention(self, transformer: Transformer, x: str, at: _Level) -> str:
        op, attention = self.graph.op, transformer.attn1
        heads = attention.num_heads
        weight = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])
        size = len(weight) // (3 * heads)
        qkv = self._product(f"{self._paths[attention]}.{QKV}", weight, None, x)
        parts = self.graph.split(3, "Split", qkv, axis=2, num_outputs=3)
        q, k, v = (op("Reshape", part, self._numbers(0, 0, heads, size)) for part in parts)
        q = op("Mul", op("Transpose", q, perm=[0, 2, 1, 3]), self.graph.constant(size**-0.5, self.dtype))
        scores = self._wide(op("MatMul", q, op("Transpose", k, perm=[0, 2, 3, 1])))
        shares = self._narrow(op("Softmax", op("Add", scores, at.hidden), axis=-1))
        mixed = op("MatMul", shares, op("Transpose", v, perm=[0, 2, 1, 3]))
        mixed = op("Reshape", op("Transpose", mixed, perm=[0, 2, 1, 3]), self._numbers(0, 0, heads * size))
        return self._linear(attention.to_out[0], mixed)

    def _norm(self, norm: nn.LayerNorm, x: str) -> str:
        path = self._paths[norm]
        stored = [self.graph.weight(f"{path}.{of}", self._stored(norm, of)) for of in ("weight", "bias")]
        with self.graph.within(path.rpartition(".")[2]):
            return self.graph.op("LayerNormalization", x, *stored, axis=-1, epsilon=norm.eps)

    def _stored(self, module: nn.Module, name: str) -> Tensor:
        value = getattr(module, name)
        assert isinstance(value, Tensor), f"{name} is a parameter"
        return value

    def _linear(self, layer: nn.Module, x: str) -> str:
        assert isinstance(layer, nn.Linear), "built as one"
        return self._wide(self._product(self._paths[layer], layer.weight, layer.bias, x))

    def _conv(self, layer: nn.Module, x: str, at: _Level) -> str:
        """Of valid frames, to float32; its values on padding mean nothing."""
        conv = layer.conv if isinstance(layer, Resample) else layer
        assert isinstance(conv, nn.Conv1d | nn.ConvTranspose1d), "built as one of these"
        is_doubling = isinstance(conv, nn.ConvTranspose1d)
        assert conv.bias is not None, "no convolution of the estimator is without"
        path = self._paths[conv]
        with self.graph.within(path):
            x = self.graph.op("Mul", x, at.mask)
            # TensorRT-RTX's builder fails on a transposed convolution in bfloat16.
            dtype = torch.float32 if is_doubling and self.dtype == torch.bfloat16 else self.dtype
            x, weight = self._operands(path, x, conv.weight, int(is_doubling), dtype)
            bias = self.graph.weight(f"{path}.bias", self._in_products(path, conv.bias, dtype))
            out = self.graph.op(
                "ConvTranspose" if is_doubling else "Conv",
                x,
                weight,
                bias,
                kernel_shape=list(conv.kernel_size),
                strides=list(conv.stride),
                pads=2 * list(conv.padding),
            )
            return self._wide(out) if dtype == self.dtype else out

    def _product(self, path: str, weight: Tensor, bias: Tensor | None, x: str) -> str:
        """x (batch, frames, in) times weight (out, in), in the type of the product"""
        with self.graph.within(path):
            out = self.graph.op("MatMul", *self._operands(path, x, weight.T, 1, self.dtype))
            if bias is None:
                return out
            added = self.graph.weight(f"{path}.bias", self._in_products(path, bias, self.dtype))
            return self.graph.op("Add", out, added)

    def _operands(self, path: str, x: str, weight: Tensor, axis: int, dtype: torch.dtype) -> tuple[str, str]:
        """What is multiplied, in the type of the product. axis: of the weight's output channels."""
        name = f"{path}.weight"
        if path not in self.scales:
            return self._cast(x, dtype), self.graph.weight(name, weight.to(dtype))
        scale, zero = self.graph.constant(self.scales[path]), self.graph.constant(0, torch.int8)
        whole, scales = quantized(weight, axis)
        stored = self.graph.weight(name, whole), self.graph.weight(f"{name}_scale", scales)
        zeros = self.graph.constant([0] * len(scales), torch.int8)
        x = self.graph.op("QuantizeLinear", x, scale, zero)
        x = self.graph.op("DequantizeLinear", x, scale, zero)
        return x, self.graph.op("DequantizeLinear", *stored, zeros, axis=axis)

    def _in_products(self, path: str, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """Sums of int8 products are float32."""
        return bias if path in self.scales else bias.to(dtype)

    def _narrow(self, x: str) -> str:
        return self._cast(x, self.dtype)

    def _wide(self, x: str) -> str:
        return x if self.dtype == torch.float32 else self.graph.op("Cast", x, to=element_type(torch.float32))

    def _cast(self, x: str, dtype: torch.dtype) -> str:
        """What is float32 if products are."""
        return x if dtype == torch.float32 else self.graph.op("Cast", x, to=element_type(dtype))

    def _number(self, value: float) -> str:
        return self.graph.constant(value)

    def _numbers(self, *values: int) -> str:
        return self.graph.constant(values, torch.int64)
