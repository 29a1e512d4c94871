"""Writes the codec folder in CosyVoice's format, as the runtime reads it, its weights in half precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from antiphon.codec.hift.hift import NUM_BINS, Hift
from antiphon_tiny.speech.codec_params import VOICE, recipe_text
from antiphon_tiny.speech.ears import Ears
from antiphon_tiny.speech.train_ears import load_ears
from antiphon_tiny.speech.train_flow import new_flow, speaker_embedding
from antiphon_tiny.speech.train_vocoder import load_into, new_vocoder
from antiphon_tiny.speech.unit_encoder import unit_numbers
from antiphon_tiny.stages import Run
from antiphon_tiny.training import save_atomically

if TYPE_CHECKING:
    from antiphon.codec.codec import Codec

__all__ = ["GAIN", "export", "load_codec", "louder"]

FOLDER = "codec"
VOCODERS = ("vocoder-tuned", "vocoder", "pitch")
"""The first that is there goes into the folder. With the pitch alone it makes noise, but the flow works."""
GAIN = 2.2
"""What is said is this much louder than what the vocoder learned from: 100 replies are then at -20 dBFS
(median), as speech usually is, and their peaks at most at -2."""
MIN_HALVED = 64
"""Smaller constants stay as they are."""


class Tokenizer(nn.Module):
    """What the ONNX file computes: features (1, 128, frames) and their number to unit numbers (1, units)."""

    def __init__(self, encoder: Ears) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, feats: Tensor, feats_length: Tensor) -> Tensor:
        return unit_numbers(self.encoder(feats, feats_length))


def load_codec(work: Path) -> Codec:
    from antiphon.codec.codec import Codec

    return Codec.from_pretrained(work / FOLDER, device="cpu")


def export(arguments: Run) -> None:
    folder = arguments.folder(FOLDER)
    (folder / "cosyvoice.yaml").write_text(recipe_text())
    _export_tokenizer(load_ears(arguments.work), folder / "speech_tokenizer_v1.onnx")
    flow = new_flow()
    load_into(flow, arguments.work / "flow")
    save_atomically(_halved(flow), folder / "flow.pt")
    hift = new_vocoder()
    used = next(name for name in VOCODERS if (arguments.work / name / "state.pt").is_file())
    load_into(hift.f0_predictor if used == "pitch" else hift, arguments.work / used)
    save_atomically(_halved(louder(hift)), folder / "hift.pt")
    save_atomically({VOICE: {"embedding": speaker_embedding()[None]}}, folder / "spk2info.pt")
    for path in sorted(folder.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", flush=True)
    print(f"vocoder: {used}; voices: {load_codec(arguments.work).voices}", flush=True)


def louder(hift: Hift) -> Hift:
    """`GAIN` times as loud, sample by sample: the waveform is linear in the magnitudes of its short spectra,
    which are exponentials of the first outputs of the last convolution."""
    assert hift.conv_post.bias is not None, "conv_post has a bias"
    with torch.no_grad():
        hift.conv_post.bias[:NUM_BINS] += math.log(GAIN)
    return hift


def _halved(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().half() for name, tensor in module.state_dict().items()}


def _export_tokenizer(encoder: Ears, path: Path) -> None:
    example = (torch.zeros(1, 128, 203), torch.tensor([203], dtype=torch.int32))
    program = torch.onnx.export(
        Tokenizer(encoder).eval(),
        example,
        input_names=["feats", "feats_length"],
        output_names=["indices"],
        dynamic_shapes={"feats": {2: torch.export.Dim("frames", min=2, max=3000)}, "feats_length": {}},
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None, "the exporter gives a program"
    model = program.model_proto
    _shrink_constants(model)
    _drop_traces(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _drop_traces(model: onnx.ModelProto) -> None:
    """The exporter notes for each node from which lines of which files it comes, with their folders."""
    graph = model.graph
    for parts in (graph.node, graph.value_info, graph.input, graph.output, graph.initializer):
        for part in parts:
            del part.metadata_props[:]


def _shrink_constants(model: onnx.ModelProto) -> None:
    """Stores float32 matrices as int8 with a scale for each column, or row, and other constants as float16.
    What makes them float32 again stands behind each, and a loader folds it away."""
    graph, nodes, added = model.graph, [], []
    for constant in graph.initializer:
        if constant.data_type != onnx.TensorProto.FLOAT or np.prod(constant.dims) < MIN_HALVED:
            continue
        name, values = constant.name, numpy_helper.to_array(constant)
        if values.ndim == 2 and min(values.shape) > 1 and "bands" not in name:
            scale = np.abs(values).max(0, keepdims=True) / 127 + 1e-12
            constant.CopyFrom(
                numpy_helper.from_array(np.round(values / scale).astype(np.int8), name + "_int8")
            )
            added.append(numpy_helper.from_array(scale.astype(np.float32), name + "_scale"))
            nodes += [
                onnx.helper.make_node("Cast", [name + "_int8"], [name + "_wide"], to=onnx.TensorProto.FLOAT),
                onnx.helper.make_node("Mul", [name + "_wide", name + "_scale"], [name]),
            ]
        else:
            constant.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + "_half"))
            nodes.append(onnx.helper.make_node("Cast", [name + "_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added)
