"""The graph that is written is the estimator's function, in each precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.flow.unet import UNet
from antiphon.export.estimator import estimator_model
from antiphon.export.flow import NAMES
from antiphon.export.int8 import layers
from antiphon.export.rounded import rounded, rounded_copy
from antiphon.export.sources import FlowSource

FRAMES = (26, 13, 1)
HALF, BRAIN = torch.float16, torch.bfloat16


def drawn(frames: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The inputs of the network, with padding that must not matter."""
    generator = torch.Generator().manual_seed(0)
    rows, longest = len(frames), max(frames)
    x, mu, prompt = torch.randn(3, rows, 80, longest, generator=generator).unbind()
    mask = (torch.arange(longest) < torch.tensor(frames)[:, None])[:, None].float()
    t, speaker = torch.rand(rows, generator=generator), torch.randn(rows, 80, generator=generator)
    return x, mask, mu, t, speaker, prompt


def alone(unet: UNet, given: tuple[Tensor, ...], i: int, frames: int) -> Tensor:
    x, _, mu, t, speaker, prompt = (part[i : i + 1] for part in given)
    on_each = speaker[:, :, None].expand(-1, -1, frames)
    parts = [x[..., :frames], mu[..., :frames], on_each, prompt[..., :frames]]
    velocity: Tensor = unet(torch.cat(parts, dim=1), unet.time_bias(t)[0])
    return velocity[0]


def written(unet: UNet, dtype: torch.dtype = torch.float32, **scales: Any) -> onnx.ModelProto:
    opset = 22 if dtype == BRAIN else 18
    model = estimator_model(unet, NAMES.inputs, NAMES.output, opset=opset, dtype=dtype, **scales)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, given: tuple[Tensor, ...]) -> Tensor:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"], enable_fallback=0
    )
    feeds = {name: part.numpy() for name, part in zip(NAMES.inputs, given, strict=True)}
    return torch.from_numpy(session.run(None, feeds)[0])


@pytest.fixture(params=["golden", "odd"])
def unet(
    request: pytest.FixtureRequest,
    source: FlowSource,
    odd_flow_params: FlowParams,
    randomized: Callable[[nn.Module], Any],
) -> UNet:
    if request.param == "golden":
        return source.estimator
    made: UNet = randomized(UNet(odd_flow_params.estimator))
    return made


@pytest.mark.parametrize(
    ("dtype", "least", "most"), [(torch.float32, 0, 1e-5), (HALF, 1e-4, 5e-3), (BRAIN, 1e-3, 4e-2)]
)
def test_rows_of_a_padded_batch_are_those_of_the_estimator(
    unet: UNet, dtype: torch.dtype, least: float, most: float
) -> None:
    """In 16 bits by the rounded copy, which is off by more than nothing."""
    given = drawn(FRAMES)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    model = written(unet, dtype)
    with torch.inference_mode():
        found = run(model if dtype == torch.float32 else rounded(model), given)
        for i, frames in enumerate(FRAMES):
            expected = alone(unet, given, i, frames)
            error = (found[i, :, :frames] - expected).abs().max() / expected.abs().max()
            assert least <= error < most
            assert not found[i, :, frames:].any()
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_a_row_without_a_frame_leaves_the_others_alone(source: FlowSource) -> None:
    x, mask, *rest = drawn((26, 26))
    model = written(source.estimator)
    both = run(model, (x, mask, *rest))
    mask[1] = 0
    assert torch.equal(run(model, (x, mask, *rest))[0], both[0])


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_halves_of_products_alone(source: FlowSource, dtype: torch.dtype) -> None:
    """Norms and softmax read and write float32, as a strongly typed network would compute them. A transposed
    convolution in bfloat16 is one that TensorRT-RTX cannot build."""
    model = onnx.shape_inference.infer_shapes(written(source.estimator, dtype), data_prop=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.name: onnx.TensorProto.FLOAT for value in (*model.graph.input, *model.graph.output)}
    single = onnx.TensorProto.FLOAT
    narrow = onnx.TensorProto.FLOAT16 if dtype == HALF else onnx.TensorProto.BFLOAT16
    for node in model.graph.node:
        ends = {kinds[name] for name in (*node.input[:2], *node.output)}
        if node.op_type in ("Softmax", "LayerNormalization", "Mish", "Erf", "Gemm", "Sqrt"):
            assert ends == {single}, node.name
        if node.op_type in ("Conv", "MatMul"):
            assert ends == {narrow}, node.name
        if node.op_type == "ConvTranspose":
            assert ends == {narrow if dtype == HALF else single}


def test_names_of_nodes_say_where_they_belong(source: FlowSource) -> None:
    model = written(source.estimator)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "mid_blocks.1.1.0/mid_blocks.1.1.0.attn1.to_qkv/MatMul" in names
    assert all(tensor.name in dict(source.estimator.named_parameters()) for tensor in large(model))


def large(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Weights that are stored as they are in the checkpoint."""
    return [
        tensor
        for tensor in model.graph.initializer
        if len(tensor.dims) > 1
        and not tensor.name.endswith(("to_qkv.weight", "time_bias.weight"))
        and not tensor.name.startswith("constant.")
    ]


def test_int8_is_where_scales_are(source: FlowSource) -> None:
    """Static, symmetric, a scale for each output channel; biases are float32, not quantized."""
    names = list(layers(source.estimator))
    model = written(source.estimator, scales=dict.fromkeys(names[3:], 0.2))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    assert stored[f"{names[0]}.weight"].data_type == onnx.TensorProto.FLOAT
    for name in names[3:]:
        weight = stored[f"{name}.weight"]
        assert weight.data_type == onnx.TensorProto.INT8
        channels = weight.dims[0] if len(weight.dims) == 3 else weight.dims[1]
        assert list(stored[f"{name}.weight_scale"].dims) == [channels]
        if f"{name}.bias" in stored:
            assert stored[f"{name}.bias"].data_type == onnx.TensorProto.FLOAT
    zeros = {node.input[2] for node in model.graph.node if node.op_type.endswith("eLinear")}
    assert all(not onnx.numpy_helper.to_array(stored[name]).any() for name in zeros)
    given = drawn(FRAMES)
    with torch.inference_mode():
        found, expected = run(model, given)[0], alone(source.estimator, given, 0, FRAMES[0])
    assert 1e-4 < (found - expected).norm() / expected.norm() < 0.2


def test_a_rounded_copy_overflows_where_float16_does(source: FlowSource, tmp_path: Path) -> None:
    """ONNX Runtime's own float16 on a CPU computes in float32, and hides it."""
    x, *rest = drawn((26,))
    model = written(source.estimator, HALF)
    model.metadata_props.add(key="a", value="b")
    onnx.save(model, tmp_path / "flow.onnx")
    (tmp_path / "copy").mkdir()
    path = rounded_copy(tmp_path / "flow.onnx", tmp_path / "copy")
    assert path is not None and path == tmp_path / "copy" / "flow.onnx"
    copy = onnx.load(path)
    assert ("a", "b") in [(prop.key, prop.value) for prop in copy.metadata_props]
    assert run(copy, (x, *rest)).isfinite().all()
    assert not run(copy, (x * 1e6, *rest)).isfinite().all()
    onnx.save(written(source.estimator), tmp_path / "flow.onnx")
    assert rounded_copy(tmp_path / "flow.onnx", tmp_path / "copy") is None
