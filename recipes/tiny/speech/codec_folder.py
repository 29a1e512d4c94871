"""Writes the codec folder in CosyVoice's format, as the runtime reads it, its weights in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from stages import Run
from torch import Tensor, nn
from training import save_atomically

from speech.codec_params import VOICE, recipe_text
from speech.train_flow import new_flow, speaker_embedding
from speech.train_units import load_trained
from speech.train_vocoder import load_into, new_vocoder
from speech.unit_encoder import UnitEncoder, unit_numbers

if TYPE_CHECKING:
    from antiphon.codec.codec import Codec

__all__ = ["export", "load_codec"]

FOLDER = "codec"
VOCODERS = ("vocoder-tuned", "vocoder", "pitch")
"""The first that is there goes into the folder. With the pitch alone it makes noise, but the flow works."""
MIN_HALVED = 64
"""Smaller constants stay as they are."""


class Tokenizer(nn.Module):
    """What the ONNX file computes: features (1, 128, frames) and their number to unit numbers (1, units)."""

    def __init__(self, encoder: UnitEncoder) -> None:
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
    _export_tokenizer(load_trained(arguments.work / "units").encoder, folder / "speech_tokenizer_v1.onnx")
    flow = new_flow()
    load_into(flow, arguments.work / "flow")
    save_atomically(_halved(flow), folder / "flow.pt")
    hift = new_vocoder()
    used = next(name for name in VOCODERS if (arguments.work / name / "state.pt").is_file())
    load_into(hift.f0_predictor if used == "pitch" else hift, arguments.work / used)
    save_atomically(_halved(hift), folder / "hift.pt")
    save_atomically({VOICE: {"embedding": speaker_embedding()[None]}}, folder / "spk2info.pt")
    for path in sorted(folder.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", flush=True)
    print(f"vocoder: {used}; voices: {load_codec(arguments.work).voices}", flush=True)


def _halved(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().half() for name, tensor in module.state_dict().items()}


def _export_tokenizer(encoder: UnitEncoder, path: Path) -> None:
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
    _halve_constants(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _halve_constants(model: onnx.ModelProto) -> None:
    """Stores float32 constants as float16, each with a cast behind it, which a loader folds away."""
    casts = []
    for constant in model.graph.initializer:
        if constant.data_type != onnx.TensorProto.FLOAT or np.prod(constant.dims) < MIN_HALVED:
            continue
        name = constant.name
        halved = numpy_helper.from_array(numpy_helper.to_array(constant).astype(np.float16), name + "_half")
        constant.CopyFrom(halved)
        casts.append(onnx.helper.make_node("Cast", [name + "_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
