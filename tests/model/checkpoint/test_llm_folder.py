"""The LLM in a folder of its own: a plain Llama, as others read one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoints import RANDOM_MODEL
from random_checkpoint import CheckpointShape, write_checkpoint
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from antiphon import Engine, Request, SamplingParams
from antiphon.assets.embedded import EMBEDDED_MODEL
from antiphon.errors import CheckpointError
from antiphon.model.checkpoint.llm_folder import export_llm
from antiphon.model.checkpoint.quantized_folder import write_quantized
from antiphon.model.schemes import INT8

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}


def tensors_in(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def config_in(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "config.json").read_text())
    return found


def llama_logits(folder: Path, ids: list[int]) -> Tensor:
    """What a Llama computes of these ids, written down again from the folder alone (arXiv 2302.13971)."""
    config, weights = json.loads((folder / "config.json").read_text()), tensors_in(folder)
    heads, kv_heads, size = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    rates = config["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    if scaling := config["rope_scaling"]:
        turns = scaling["original_max_position_embeddings"] * rates / (2 * torch.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        share = ((turns - low) / (high - low)).clamp(0, 1)
        rates = rates * (share + (1 - share) / scaling["factor"])
    angles = torch.arange(len(ids), dtype=torch.float64)[:, None] * rates
    cos, sin = (torch.cat([f(angles)] * 2, 1) for f in (torch.cos, torch.sin))

    def product(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].double().T

    def norm(name: str, x: Tensor) -> Tensor:
        rms = (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).rsqrt()
        scaled: Tensor = x * rms * weights[f"{name}.weight"].double()
        return scaled

    def rotated(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    x = weights["model.embed_tokens.weight"].double()[ids]
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        normed = norm(f"{layer}.input_layernorm", x)
        q, k, v = (
            product(f"{layer}.self_attn.{name}_proj", normed).unflatten(1, (-1, size)).transpose(0, 1)
            for name in "qkv"
        )
        k, v = (part.repeat_interleave(heads // kv_heads, 0) for part in (rotated(k), v))
        scores = rotated(q) @ k.mT / size**0.5
        scores += torch.full_like(scores, -torch.inf).triu(1)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + product(f"{layer}.self_attn.o_proj", mixed)
        normed = norm(f"{layer}.post_attention_layernorm", x)
        gate = torch.nn.functional.silu(product(f"{layer}.mlp.gate_proj", normed))
        x = x + product(f"{layer}.mlp.down_proj", gate * product(f"{layer}.mlp.up_proj", normed))
    logits: Tensor = product("lm_head", norm("model.norm", x))
    return logits


@pytest.mark.parametrize("scaling", [None, LLAMA3], ids=["plain", "llama3"])
def test_as_a_llama_it_says_what_the_engine_says(tmp_path: Path, scaling: dict[str, object] | None) -> None:
    shape = CheckpointShape(
        hidden=36, heads=6, kv_heads=2, head_dim=10, bottom_layers=2, config={"rope_scaling": scaling}
    )
    model = write_checkpoint(tmp_path / "model", shape)
    export_llm(model, tmp_path / "llm")
    with Engine(model) as engine:
        [done] = engine.generate(
            Request("abc", modalities=("text",)), SamplingParams(max_tokens=6, ignore_eos=True)
        )
        ids = list(engine.inputs.process(Request("abc", modalities=("text",))).ids)
    assert len(done.text_ids) == 6
    for picked in done.text_ids:
        assert int(llama_logits(tmp_path / "llm", ids)[-1].argmax()) == picked
        ids.append(picked)


def test_shards_hold_the_same_as_one_file(tmp_path: Path) -> None:
    one = export_llm(RANDOM_MODEL, tmp_path / "one")
    several = export_llm(RANDOM_MODEL, tmp_path / "several", max_shard_bytes=one.num_bytes // 3)
    assert one.num_files == 1 and several.num_files > 2
    index = json.loads((tmp_path / "several" / "model.safetensors.index.json").read_text())
    whole, parts = tensors_in(tmp_path / "one"), tensors_in(tmp_path / "several")
    assert index["weight_map"].keys() == whole.keys() == parts.keys()
    assert index["metadata"]["total_size"] == one.num_bytes == sum(t.nbytes for t in whole.values())
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_packaged_llm_has_its_tokens_and_no_units(tmp_path: Path) -> None:
    export_llm(EMBEDDED_MODEL, tmp_path / "llm")
    config = config_in(tmp_path / "llm")
    rows = len(tensors_in(tmp_path / "llm")["model.embed_tokens.weight"])
    assert config["vocab_size"] == rows and config["model_type"] == "llama"
    tokenizer = Tokenizer.from_file(str(tmp_path / "llm" / "tokenizer.json"))
    before = Tokenizer.from_file(str(EMBEDDED_MODEL / "tokenizer.json"))
    assert tokenizer.get_vocab() == {t: i for t, i in before.get_vocab().items() if i < rows}
    assert tokenizer.token_to_id("<Audio_0>") is None and before.token_to_id("<Audio_0>") is not None
    asked = "What is two plus three?"
    assert tokenizer.encode(asked).ids == before.encode(asked).ids


def test_int8_stays_int8_in_the_ecosystems_terms(tmp_path: Path) -> None:
    write_quantized(RANDOM_MODEL, tmp_path / "int8", INT8, keep=["layers.0.*"])
    export_llm(tmp_path / "int8", tmp_path / "llm")
    tensors = tensors_in(tmp_path / "llm")
    name = "model.layers.1.mlp.down_proj.weight"
    assert tensors[name].dtype == torch.int8 and tensors[f"{name}_scale"].dtype == torch.float32
    assert tensors["model.layers.0.mlp.down_proj.weight"].dtype != torch.int8
    quantization = config_in(tmp_path / "llm")["quantization_config"]
    assert isinstance(quantization, dict) and quantization["quant_method"] == "compressed-tensors"
    modules = {tensor.removesuffix(".weight") for tensor in tensors}
    assert "model.layers.0.mlp.down_proj" in quantization["ignore"]
    assert set(quantization["ignore"]) <= modules


def test_what_is_no_checkpoint_is_refused_and_what_exists_stays(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected the folder of a checkpoint"):
        export_llm(tmp_path / "nothing", tmp_path / "llm")
    (tmp_path / "llm").mkdir()
    with pytest.raises(FileExistsError, match="expected the name of a new folder"):
        export_llm(RANDOM_MODEL, tmp_path / "llm")
    assert not list((tmp_path / "llm").iterdir())
