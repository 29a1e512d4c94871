"""A network is a program: it is refused where it could run without end, and stopped where it does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from checkpoints import RANDOM_CODEC
from onnx import TensorProto, helper, numpy_helper

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.codec import Codec
from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.codec.analysis.speech_tokenizer import SpeechTokenizer
from antiphon.codec.checkpoint import onnx_graph
from antiphon.codec.checkpoint.onnx_graph import check_graph
from antiphon.errors import CheckpointError

SAMPLES = np.sin(np.arange(3200) * 0.1).astype(np.float32)
FILE = "speech_tokenizer_v1.onnx"


def constant(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def model(
    nodes: Sequence[Any], constants: Sequence[TensorProto] = (), *, outputs: int = 1
) -> onnx.ModelProto:
    """A network with the inputs of a speech tokenizer."""
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 128, "T"]),
        helper.make_tensor_value_info("length", TensorProto.INT32, [1]),
    ]
    values = [helper.make_tensor_value_info("out", TensorProto.INT32, None)][:outputs]
    graph = helper.make_graph(list(nodes), "g", inputs, values, list(constants))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return made


def save(folder: Path, made: onnx.ModelProto) -> Path:
    (folder / FILE).write_bytes(made.SerializeToString())
    return folder / FILE


def refusal(path: Path) -> str:
    """How a codec's folder is refused, when it is loaded or at the first speech."""
    with pytest.raises(CheckpointError) as caught:
        SpeechTokenizer(path, 64, 1).tokenize(SAMPLES)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_the_networks_that_we_know_pass_and_may_be_folded() -> None:
    for folder in (RANDOM_CODEC, EMBEDDED_CODEC):
        assert check_graph(folder / FILE)


def body() -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.INT32, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.INT32, [1]),
        ],
    )


def loop() -> onnx.ModelProto:
    """2**62 turns."""
    node = helper.make_node("Loop", ["n", "go", "length"], ["out"], body=body())
    return model([node], [constant("n", 2**62), constant("go", True)])


def hidden_loop() -> onnx.ModelProto:
    """A loop in a branch."""
    inner = helper.make_graph(
        [helper.make_node("Loop", ["n", "go", "length"], ["r"], body=body())],
        "branch",
        [],
        [helper.make_tensor_value_info("r", TensorProto.INT32, [1])],
    )
    node = helper.make_node("If", ["go"], ["out"], then_branch=inner, else_branch=inner)
    return model([node], [constant("n", 2**62), constant("go", True)])


def scan() -> onnx.ModelProto:
    node = helper.make_node("Scan", ["length"], ["out"], body=body(), num_scan_inputs=1)
    return model([node])


def function() -> onnx.ModelProto:
    made = model([helper.make_node("f", ["length"], ["out"], domain="own")])
    nodes = [helper.make_node("f", ["a"], ["b"], domain="own")]
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made.functions.append(helper.make_function("own", "f", ["a"], ["b"], nodes, opset))
    made.opset_import.append(helper.make_opsetid("own", 1))
    return made


def external() -> onnx.ModelProto:
    tensor = constant("c", np.ones(4, np.int32))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../../../etc/passwd"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return model([helper.make_node("Add", ["c", "length"], ["out"])], [tensor])


def sparse() -> onnx.ModelProto:
    made = model([helper.make_node("Add", ["c", "length"], ["out"])])
    values = constant("c", np.ones(1, np.int32))
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, constant("i", np.zeros(1, np.int64)), [2**40])
    )
    return made


def deep() -> onnx.ModelProto:
    plain = helper.make_node("Identity", ["length"], ["out"])

    def branch(node: onnx.NodeProto) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("out", TensorProto.INT32, [1])
        return helper.make_graph([node], "branch", [], [out])

    node = plain
    for _ in range(20):
        node = helper.make_node("If", ["go"], ["out"], then_branch=branch(node), else_branch=branch(plain))
    return model([node], [constant("go", True)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (loop, "expected a network without loops, found the operator Loop"),
        (hidden_loop, "expected a network without loops, found the operator Loop"),
        (scan, "expected a network without loops, found the operator Scan"),
        (function, "expected no functions of its own"),
        (external, "expected all tensors in this file, found one in another"),
        (sparse, "expected no sparse tensors"),
        (deep, "expected at most 8 graphs within each other"),
        (
            lambda: model([helper.make_node("Identity", ["length"], ["x"])], outputs=0),
            "found one without outputs",
        ),
        (lambda: model([helper.make_node("NoSuch", ["length"], ["out"])]), "expected an ONNX network: "),
        (
            lambda: model([helper.make_node("SequenceConstruct", ["length"], ["out"])]),
            "expected",
        ),
    ],
)
def test_networks_that_are_refused(tmp_path: Path, make: Any, message: str) -> None:
    assert message in refusal(save(tmp_path, make()))


def test_too_many_operators_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["length", *(f"x{i}" for i in range(20)), "out"]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in pairwise(names)]
    path = save(tmp_path, model(nodes))
    check_graph(path)
    monkeypatch.setattr(onnx_graph, "MAX_NODES", 20)
    assert "expected at most 20 operators, found more" in refusal(path)


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "Tile", "Range"])
def test_memory_has_a_bound(tmp_path: Path, kind: str) -> None:
    """16 GB of units for a fifth of a second of speech."""
    count = 2**32
    one = constant("one", np.ones(1, np.int32))
    nodes = {
        "ConstantOfShape": helper.make_node(
            "ConstantOfShape", ["shape"], ["out"], value=helper.make_tensor("v", TensorProto.INT32, [1], [1])
        ),
        "Expand": helper.make_node("Expand", ["length", "shape"], ["out"]),
        "Tile": helper.make_node("Tile", ["length", "shape"], ["out"]),
        "Range": helper.make_node("Range", ["zero", "many", "step"], ["out"]),
    }
    scalars = [constant(name, np.int32(v)) for name, v in (("zero", 0), ("many", 2**31 - 1), ("step", 1))]
    path = save(tmp_path, model([nodes[kind]], [constant("shape", np.array([count])), one, *scalars]))
    assert "expected a network for inputs of shape" in refusal(path)


def test_more_units_than_speech_has_are_refused(tmp_path: Path) -> None:
    shape = constant("shape", np.array([10_000]))
    path = save(tmp_path, model([helper.make_node("Expand", ["length", "shape"], ["out"])], [shape]))
    assert "expected fewer units than frames (20), found 10000" in refusal(path)


def multiplications(count: int) -> onnx.ModelProto:
    """Of 1024 x 1024 numbers, made from constants alone."""
    ones = helper.make_tensor("v", TensorProto.FLOAT, [1], [1e-3])
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["x0"], value=ones)]
    nodes += [helper.make_node("MatMul", [f"x{i}", "x0"], [f"x{i + 1}"]) for i in range(count)]
    nodes += [
        helper.make_node("ReduceSum", [f"x{count}"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["cast"], to=TensorProto.INT32),
        helper.make_node("Add", ["cast", "length"], ["out"]),
    ]
    return model(nodes, [constant("shape", np.array([1024, 1024]))])


def test_time_has_a_bound(tmp_path: Path) -> None:
    """What is computed from constants is not computed while the file is loaded, when nothing can stop it."""
    path = save(tmp_path, multiplications(300))
    assert not check_graph(path)
    network = OnnxNetwork(path, 1)
    with pytest.raises(
        CheckpointError, match=r"expected a network that takes less than 0\.5 s; it was still running"
    ):
        network.run(np.zeros((1, 128, 4), np.float32), np.array([4], np.int32), max_s=0.5)


def test_small_constants_are_folded(tmp_path: Path) -> None:
    scale, weight = (
        constant("s", np.ones((1000, 1), np.float32)),
        constant("w", np.ones((1000, 1000), np.int8)),
    )
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["m"]),
        helper.make_node("Concat", ["m", "m"], ["c"], axis=0),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("Identity", ["length"], ["out"]),
    ]
    assert check_graph(save(tmp_path, model(nodes, [scale, weight, constant("shape", np.array([-1]))])))
    outer = [helper.make_node("Mul", ["a", "b"], ["m"]), helper.make_node("Identity", ["length"], ["out"])]
    wide, high = np.ones((1, 50_000), np.float32), np.ones((50_000, 1), np.float32)
    assert not check_graph(save(tmp_path, model(outer, [constant("a", wide), constant("b", high)])))


@pytest.mark.parametrize("place", [28, 30, 60, 136])
def test_a_changed_byte_names_the_file(
    folder_copy: Path, capfd: pytest.CaptureFixture[str], place: int
) -> None:
    """Such as one that makes a name no text; the library has nothing to say on the terminal about it."""
    path = folder_copy / FILE
    data = bytearray(path.read_bytes())
    data[place] = 0xD5
    path.write_bytes(data)
    try:
        Codec.from_pretrained(folder_copy, device="cpu").tokenize(SAMPLES, 16000)
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017 (some bytes change nothing)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content",
    [b"\x3a\x80", b"\xff" * 20, b"\x3a\xff\xff\xff\xff\x7f", b"\x0b", b"\x08\x09", b"\x38\x01" * 1000],
)
def test_what_is_no_network_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert "expected an ONNX network" in refusal(tmp_path / FILE)


def test_both_networks_of_a_codec_are_checked(folder_copy: Path) -> None:
    (folder_copy / "campplus.onnx").write_bytes(loop().SerializeToString())
    with pytest.raises(CheckpointError, match=r"campplus\.onnx: .*found the operator Loop"):
        Codec.from_pretrained(folder_copy, device="cpu")
