"""Modules that are left out of a quantization, at load and in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_MODEL
from safetensors.torch import load_file, save_file
from stored_weights import assert_equal
from torch import Tensor

from antiphon import ConfigError, Engine, Request, SamplingParams
from antiphon.config import ModelConfig
from antiphon.errors import CheckpointError
from antiphon.kernels import QuantizedWeight
from antiphon.model.checkpoint import loading
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.loading import load_weights
from antiphon.model.checkpoint.quantized_folder import write_quantized
from antiphon.model.checkpoint.quantizing import kept_names, matrix_groups
from antiphon.model.checkpoint.tensors import empty_weights
from antiphon.model.schemes import INT8
from antiphon.model.weights import OmniWeights

KEEP = ("lm_head", "top_audio_layers.0.*", "model.layers.1.self_attn.k_proj")


def load(folder: Path, **options: Any) -> OmniWeights:
    return load_weights(folder, read_config(folder), device="cpu", dtype=torch.float32, **options)


def test_which_modules_patterns_name() -> None:
    config = read_config(RANDOM_MODEL)
    assert kept_names(config, []) == frozenset()
    assert kept_names(config, ["lm_head"]) == {"lm_head.weight"}
    assert kept_names(config, ["*lm_head"]) == {"lm_head.weight", "audio_lm_head.weight"}
    assert kept_names(config, ["model.layers.0.mlp.up_proj"]) == {
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
    }, "what is stored together stays together"
    layers = kept_names(config, ["layers.0.*"])
    assert all(name.startswith("model.layers.0.") for name in layers), "a pattern begins after a dot"
    assert len(layers) == 7
    everything = kept_names(config, ["*"])
    assert everything == {name for group in matrix_groups(config) for name in group}
    assert kept_names(config, ["*"], in_files=True) < everything


@pytest.mark.parametrize("pattern", ["lm_hed", "norm", "vision_tower.*", "LM_HEAD"])
def test_a_pattern_that_names_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=f"got '{pattern[:5]}"):
        kept_names(read_config(RANDOM_MODEL), [pattern])


def test_at_load() -> None:
    full, found = load(RANDOM_MODEL), load(RANDOM_MODEL, quantization=INT8, keep=KEEP)
    assert isinstance(found.lm_head, Tensor)
    assert torch.equal(found.lm_head, as_tensor(full.lm_head))
    top, other = found.top_layers[0], found.top_layers[1]
    assert isinstance(top.down, Tensor)
    assert isinstance(other.down, QuantizedWeight)
    assert isinstance(found.fusion_kv, Tensor), "it has a part of each top layer"
    assert isinstance(found.layers[1].qkv, Tensor)
    assert isinstance(found.layers[1].o, QuantizedWeight)
    assert isinstance(found.audio_lm_head, QuantizedWeight)


def test_on_a_gpu_as_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, what stays as it is has no memory either until its numbers come."""
    target = tmp_path / "int8"
    write_quantized(RANDOM_MODEL, target, INT8, keep=KEEP[:2])
    expected = load(RANDOM_MODEL, quantization=INT8, keep=KEEP), load(target)

    def allocate(path: Path, config: ModelConfig, *args: object) -> OmniWeights:
        return empty_weights(config, device="cpu", dtype=torch.float32, matrices="meta")

    monkeypatch.setattr(loading, "_allocate", allocate)
    found = load(RANDOM_MODEL, quantization=INT8, keep=KEEP), load(target)
    assert isinstance(found[1].top_layers[0].down, Tensor)
    assert isinstance(found[1].top_layers[1].down, QuantizedWeight)
    assert_equal(found[0], expected[0])
    assert_equal(found[1], expected[1])


def as_tensor(matrix: object) -> Tensor:
    assert isinstance(matrix, Tensor)
    return matrix


def test_a_folder_says_so_and_is_loaded_alike(tmp_path: Path) -> None:
    keep = ("lm_head", "layers.1.*", "bottom_audio_layers.0.self_attn.o_proj")
    target = tmp_path / "int8"
    write_quantized(RANDOM_MODEL, target, INT8, keep=keep)
    ignored = json.loads((target / "config.json").read_text("utf-8"))["quantization_config"]["ignore"]
    assert {"lm_head", "model.layers.1.self_attn.k_proj", "model.layers.1.mlp.down_proj"} <= {*ignored}
    assert "model.layers.0.mlp.down_proj" not in ignored
    assert_equal(load(target), load(RANDOM_MODEL, quantization=INT8, keep=keep))


def test_what_a_folder_does_not_say_is_refused(tmp_path: Path) -> None:
    """A matrix in full that `ignore` does not name; one of three that are stored together."""
    target = tmp_path / "int8"
    write_quantized(RANDOM_MODEL, target, INT8)
    whole, name = load_file(RANDOM_MODEL / "model.safetensors"), "model.layers.0.self_attn.q_proj"
    tensors = load_file(target / "model.safetensors")
    tensors[f"{name}.weight"] = whole[f"{name}.weight"]
    del tensors[f"{name}.weight_scale"]
    save_file(tensors, target / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.q_proj"):
        load(target)
    for ignored in ([name], ["re:.*q_proj"]):
        config = json.loads((target / "config.json").read_text("utf-8"))
        config["quantization_config"]["ignore"] = ignored
        (target / "config.json").write_text(json.dumps(config), "utf-8")
        with pytest.raises(
            CheckpointError, match=r"q_proj.weight: expected I8 like .*k_proj.weight, found F32"
        ):
            load(target)


def test_regular_expressions_of_others_leave_it_to_the_tensors(tmp_path: Path) -> None:
    target = tmp_path / "int8"
    write_quantized(RANDOM_MODEL, target, INT8, keep=["layers.1.*"])
    expected = load(target)
    config = json.loads((target / "config.json").read_text("utf-8"))
    config["quantization_config"]["ignore"] = ["re:(a*)*b", "lm_head"]
    (target / "config.json").write_text(json.dumps(config), "utf-8")
    assert_equal(load(target), expected)


def test_an_engine_keeps_modules(tmp_path: Path) -> None:
    """With all of them kept it answers as it does in float32; of a folder that is quantized, only what its
    files hold in full can stay so."""
    request = Request("abc", modalities=("text",), sampling_params=SamplingParams(max_tokens=12))
    with Engine(RANDOM_MODEL) as engine:
        (expected,) = engine.generate(request)
    with Engine(RANDOM_MODEL, quantization="int8", quantization_keep=["*"]) as engine:
        (found,) = engine.generate(request)
    assert found.text_ids == expected.text_ids
    target = tmp_path / "int8"
    write_quantized(RANDOM_MODEL, target, INT8)
    Engine(target, quantization_keep=("embed_tokens",)).close()
    with pytest.raises(
        ConfigError, match=r"expected modules that are not in int8 already in .*, got lm_head"
    ):
        Engine(target, quantization_keep=("lm_head",))
