"""From files to weights: every tensor in its place however it is stored, and every wrong file refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_MODEL
from safetensors.torch import load_file, save_file
from stored_weights import TOWER, assert_equal, flatten, shard, with_tower_outside
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from antiphon.config import ModelConfig, VisionConfig
from antiphon.errors import CheckpointError, ConfigError
from antiphon.kernels import QuantizedWeight, quantize_int8
from antiphon.model.checkpoint import loading
from antiphon.model.checkpoint.folder import LoadFormat, read_config
from antiphon.model.checkpoint.loading import load_weights, resolve_dtype
from antiphon.model.checkpoint.quantizing import saved_bytes
from antiphon.model.checkpoint.tensors import empty_weights, named_tensors, num_bytes, tensor_shapes
from antiphon.model.schemes import INT8_WEIGHT_ONLY
from antiphon.model.weights import LayerWeights, Matrix, OmniWeights

MANIFEST = Path(__file__).parents[2] / "golden" / "manifests" / "stream_omni_8b.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RANDOM_MODEL, tmp_path / "model"))


def load(folder: Path, dtype: torch.dtype = torch.float32, **kwargs: Any) -> OmniWeights:
    return load_weights(folder, read_config(folder), device="cpu", dtype=dtype, **kwargs)


def rewrite(folder: Path, change: dict[str, Tensor], drop: tuple[str, ...] = ()) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.update(change)
    for name in drop:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors")


# --- the released size ----------------------------------------------------------------------------


@pytest.fixture
def released(tmp_path: Path) -> ModelConfig:
    """The configuration of the released 8B model, by way of its files."""
    config = {
        "model_type": "stream_omni_llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "text_vocab_size": 128256,
        "vocab_size": 132352,
        "audio_vocab_size": 4096,
        "num_bottom_audio_layers": 3,
        "num_top_audio_layers": 5,
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
        "mm_hidden_size": 1152,
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": "(1x1),(6x6)",
        "eos_token_id": [128001, 128008, 128009],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = {f"<Audio_{unit}>": 128256 + unit for unit in range(4096)}
    ids |= {"<|begin_of_text|>": 128000, "<|reserved_special_token_0|>": 128002, "<|eot_id|>": 128009}
    Tokenizer(WordLevel(ids, unk_token="<|eot_id|>")).save(str(tmp_path / "tokenizer.json"))
    return read_config(tmp_path, load_format="dummy")


def test_released_names_and_shapes(released: ModelConfig) -> None:
    manifest = {name: tuple(shape) for name, shape in json.loads(MANIFEST.read_text()).items()}
    assert len(manifest) == 815
    assert tensor_shapes(released) == manifest


def test_released_size_on_the_meta_device(released: ModelConfig, tmp_path: Path) -> None:
    weights = load_weights(tmp_path, released, device="meta", dtype=torch.bfloat16, load_format="dummy")
    count = sum(tensor.numel() for _, tensor in flatten(weights))
    post_layernorm = 2 * 1152  # in the file, never read
    assert (
        count
        == sum(torch.Size(s).numel() for s in json.loads(MANIFEST.read_text()).values()) - post_layernorm
    )
    assert round(count / 1e9, 2) == 12.68
    assert num_bytes(weights, released) == 2 * count
    assert all(tensor.is_meta and tensor.dtype == torch.bfloat16 for _, tensor in flatten(weights))


# --- every tensor in its place --------------------------------------------------------------------


def test_every_tensor_is_where_the_model_looks_for_it() -> None:
    weights, file = load(RANDOM_MODEL), load_file(RANDOM_MODEL / "model.safetensors")

    def check(found: object, *names: str) -> None:
        assert isinstance(found, Tensor)
        assert torch.equal(found, torch.cat([file.pop(name) for name in names])), names

    check(weights.embed_tokens, "model.embed_tokens.weight")
    check(weights.norm, "model.norm.weight")
    check(weights.lm_head, "lm_head.weight")
    check(weights.audio_embed_tokens, "model.audio_embed_tokens.weight")
    check(weights.audio_norm, "model.audio_norm.weight")
    check(weights.audio_to_text_proj, "audio_to_text_proj.weight")
    check(weights.top_audio_norm, "model.top_audio_norm.weight")
    check(weights.audio_lm_head, "audio_lm_head.weight")
    check(weights.text_to_audio_proj, "text_to_audio_proj.weight")
    check(weights.image_newline, "model.image_newline")
    check(
        weights.fusion_kv,
        *(f"model.top_audio_layers.{i}.audio_text_attn.{x}_proj.weight" for i in range(5) for x in "kv"),
    )
    for stack, layers in (
        ("layers", weights.layers),
        ("bottom_audio_layers", weights.bottom_layers),
        ("top_audio_layers", weights.top_layers),
    ):
        for i, layer in enumerate(layers):
            name = f"model.{stack}.{i}"
            check(layer.input_norm, f"{name}.input_layernorm.weight")
            check(layer.qkv, *(f"{name}.self_attn.{x}_proj.weight" for x in "qkv"))
            check(layer.o, f"{name}.self_attn.o_proj.weight")
            check(layer.post_norm, f"{name}.post_attention_layernorm.weight")
            check(layer.gate_up, f"{name}.mlp.gate_proj.weight", f"{name}.mlp.up_proj.weight")
            check(layer.down, f"{name}.mlp.down_proj.weight")
            assert (layer.fusion is not None) == (stack == "top_audio_layers")
            if layer.fusion is not None:
                check(layer.fusion.q, f"{name}.audio_text_attn.q_proj.weight")
                check(layer.fusion.o, f"{name}.audio_text_attn.o_proj.weight")

    assert weights.vision is not None
    assert weights.projector is not None
    tower = f"{TOWER}vision_model."
    check(weights.vision.patch_embedding, f"{tower}embeddings.patch_embedding.weight")
    check(weights.vision.patch_embedding_bias, f"{tower}embeddings.patch_embedding.bias")
    check(weights.vision.position_embedding, f"{tower}embeddings.position_embedding.weight")
    assert len(weights.vision.layers) == 2
    for i, vision in enumerate(weights.vision.layers):
        name = f"{tower}encoder.layers.{i}"
        for kind, suffix in (("weight", ""), ("bias", "_bias")):
            check(getattr(vision, f"norm1{suffix}"), f"{name}.layer_norm1.{kind}")
            check(getattr(vision, f"qkv{suffix}"), *(f"{name}.self_attn.{x}_proj.{kind}" for x in "qkv"))
            check(getattr(vision, f"out{suffix}"), f"{name}.self_attn.out_proj.{kind}")
            check(getattr(vision, f"norm2{suffix}"), f"{name}.layer_norm2.{kind}")
            check(getattr(vision, f"fc1{suffix}"), f"{name}.mlp.fc1.{kind}")
            check(getattr(vision, f"fc2{suffix}"), f"{name}.mlp.fc2.{kind}")
    for index, field in ((0, "fc1"), (2, "fc2")):
        check(getattr(weights.projector, field), f"model.mm_projector.{index}.weight")
        check(getattr(weights.projector, f"{field}_bias"), f"model.mm_projector.{index}.bias")
    assert file.keys() == {f"{tower}post_layernorm.weight", f"{tower}post_layernorm.bias"}


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8, "hidden_size": 48},
        {
            "num_key_value_heads": 4,
            "num_hidden_layers": 1,
            "num_bottom_audio_layers": 1,
            "num_top_audio_layers": 2,
        },
        {"num_key_value_heads": 1, "head_dim": 24, "intermediate_size": 100, "vision": None},
        {"mm_patch_merge_type": "flat", "vision": VisionConfig(24, 40, 5, 3, 56, 14)},
    ],
)
def test_other_shapes(folder: Path, change: dict[str, Any]) -> None:
    """What is stored under the names of the table is what is loaded, whatever the geometry."""
    config = replace(read_config(RANDOM_MODEL), **change)
    stored = load_weights(folder, config, device="cpu", dtype=torch.float32, load_format="dummy", seed=3)
    tensors = {name: place.clone() for name, place in named_tensors(stored, config)}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()}.items() <= tensor_shapes(
        config
    ).items()
    save_file(tensors, folder / "model.safetensors")
    assert_equal(load_weights(folder, config, device="cpu", dtype=torch.float32), stored)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits(folder: Path, dtype: torch.dtype) -> None:
    """Loading into 16 bits rounds once; loading from 16 bits is exact."""
    whole = load(RANDOM_MODEL)
    rounded = load(RANDOM_MODEL, dtype)
    for (name, tensor), (_, expected) in zip(flatten(rounded), flatten(whole), strict=True):
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected.to(dtype)), name

    file = load_file(RANDOM_MODEL / "model.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in file.items()}, folder / "model.safetensors")
    assert_equal(load(folder, dtype), rounded)
    for (name, tensor), (_, expected) in zip(flatten(load(folder)), flatten(rounded), strict=True):
        assert torch.equal(tensor, expected.float()), name


@pytest.mark.parametrize("parts", [1, 3])
def test_shards_equal_one_file(folder: Path, parts: int) -> None:
    shard(folder, parts)
    assert_equal(load(folder), load(RANDOM_MODEL))


def test_vision_tower_outside_equals_inside(folder: Path) -> None:
    with_tower_outside(folder)
    assert_equal(load(folder), load(RANDOM_MODEL))


def test_unused_tensors_are_left_alone(folder: Path) -> None:
    layer = {
        name.replace("layers.1.", "layers.2."): tensor.clone()
        for name, tensor in load_file(RANDOM_MODEL / "model.safetensors").items()
        if name.startswith(TOWER) and "layers.1." in name
    }
    rewrite(
        folder,
        {
            **layer,
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
            "model.rotary_emb.inv_freq": torch.ones(8),
            f"{TOWER}vision_model.head.probe": torch.ones(1, 1, 32),
            f"{TOWER}vision_model.embeddings.position_ids": torch.zeros(1, 49, dtype=torch.int64),
        },
        drop=(f"{TOWER}vision_model.post_layernorm.weight",),
    )
    assert_equal(load(folder), load(RANDOM_MODEL))


@pytest.mark.parametrize("drop", [(), ("model.image_newline",)])
def test_flat_merging_has_no_row_separator(folder: Path, drop: tuple[str, ...]) -> None:
    rewrite(folder, {}, drop)
    config = replace(read_config(folder), mm_patch_merge_type="flat")
    weights = load_weights(folder, config, device="cpu", dtype=torch.float32)
    assert weights.image_newline is None


def test_weights_outlive_their_file(folder: Path) -> None:
    """The file is mapped while it is read; what is loaded must not be a view of it."""
    weights = load(folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(b"\xff" * (folder / "model.safetensors").stat().st_size)
    assert_equal(weights, load(RANDOM_MODEL))


# --- wrong files ----------------------------------------------------------------------------------


def test_missing_tensors(folder: Path) -> None:
    rewrite(folder, {}, drop=("model.audio_norm.weight",))
    message = r"model\.safetensors: expected model\.audio_norm\.weight \(64,\), found no such tensor"
    with pytest.raises(CheckpointError, match=message):
        load(folder)
    rewrite(
        folder,
        {},
        drop=tuple(f"model.layers.{i}.mlp.{x}_proj.weight" for i in range(4) for x in ("up", "down")),
    )
    with pytest.raises(
        CheckpointError, match=r"model\.layers\.0\.mlp\.up_proj\.weight .* and 4 more, found no"
    ):
        load(folder)


def test_a_missing_vision_tower(folder: Path) -> None:
    config = read_config(folder)
    with_tower_outside(folder)
    shutil.rmtree(folder / "vision_tower")
    with pytest.raises(
        CheckpointError, match=r"patch_embedding\.weight .* mm_vision_tower of config.json names no"
    ):
        load_weights(folder, config, device="cpu", dtype=torch.float32)


def test_a_vision_tower_outside_is_checked_too(folder: Path) -> None:
    with_tower_outside(folder)
    file = folder / "vision_tower" / "model.safetensors"
    tower = load_file(file)
    name = "vision_model.embeddings.patch_embedding.bias"
    save_file({**tower, name: torch.ones(33)}, file)
    with pytest.raises(
        CheckpointError, match=rf"vision_tower/model\.safetensors: {name}: .*\(32,\), found \(33,\)"
    ):
        load(folder)
    save_file({**tower, "vision_model.encoder.layers.1.gate": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match=r"vision_tower/model\.safetensors: .*layers\.1\.gate \(1,\)"):
        load(folder)


def test_a_vision_tower_without_weights(folder: Path) -> None:
    with_tower_outside(folder)
    (folder / "vision_tower" / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"vision_tower: expected model\.safetensors or .* found neither"
    ):
        load(folder)


def test_unknown_tensors(folder: Path) -> None:
    rewrite(folder, {"model.layers.4.mlp.up_proj.weight": torch.ones(160, 64), "extra.bias": torch.ones(2)})
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    for part in (
        "model.safetensors: expected 177",
        "extra.bias (2,)",
        "model.layers.4.mlp.up_proj.weight (160, 64)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "expected", "found"),
    [
        ("model.layers.2.self_attn.k_proj.weight", torch.ones(64, 64), "(32, 64)", "(64, 64)"),
        ("model.norm.weight", torch.ones(64, 1), "(64,)", "(64, 1)"),
        ("lm_head.weight", torch.ones(512, 32), "(512, 64)", "(512, 32)"),
        (
            f"{TOWER}vision_model.embeddings.position_embedding.weight",
            torch.ones(50, 32),
            "(49, 32)",
            "(50, 32)",
        ),
        ("model.norm.weight", torch.ones(64, dtype=torch.float64), "F32 or F16 or BF16", "F64"),
        ("model.norm.weight", torch.ones(64, dtype=torch.int8), "F32 or F16 or BF16", "I8"),
    ],
)
def test_misshapen_tensors(folder: Path, name: str, tensor: Tensor, expected: str, found: str) -> None:
    rewrite(folder, {name: tensor})
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'model.safetensors'}: {name}: expected ")
    assert expected in message
    assert message.endswith(f"found {found}")


@pytest.mark.parametrize("size", [0, 4, 100, 50_000, -1])
def test_truncated_files(folder: Path, size: int) -> None:
    config, file = read_config(folder), folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected a whole .* found \d+ bytes"):
        load_weights(folder, config, device="cpu", dtype=torch.float32)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected a whole"):
        read_config(folder)


def test_a_file_of_something_else(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a safetensors file at all" * 100)
    with pytest.raises(CheckpointError, match=r"truncated or corrupt"):
        read_config(folder)


def test_wrong_shards(folder: Path) -> None:
    index = shard(folder, 2)
    good = index.read_text()
    weight_map: dict[str, str] = json.loads(good)["weight_map"]
    first, second = sorted(set(weight_map.values()))
    in_first = next(name for name, file in weight_map.items() if file == first)

    def refused(change: object, message: str) -> None:
        index.write_text(json.dumps(change))
        with pytest.raises(CheckpointError, match=message):
            read_config(folder)

    refused(
        {"weight_map": {**weight_map, "gone": first}}, rf"{first}: gone: expected by .*index\.json, found no"
    )
    refused(
        {"weight_map": {**weight_map, in_first: second}},
        rf"{in_first}: found here, but .* puts it .*{second}",
    )
    less = {name: file for name, file in weight_map.items() if name != in_first}
    refused({"weight_map": less}, rf"{first}: {in_first}: found here, but .* puts it in no file")
    refused(
        {"weight_map": {**weight_map, in_first: f"../{first}"}}, rf"{in_first}: expected the name of a file"
    )
    refused({"weight_map": {}}, r"index\.json: weight_map: expected")
    refused({}, r"index\.json: weight_map: expected .*found None")

    index.write_text(good)
    (folder / second).unlink()
    with pytest.raises(CheckpointError, match=rf"{second}: no such file, but .*index\.json puts .* in it"):
        read_config(folder)


def test_no_weights_at_all(folder: Path, tmp_path: Path) -> None:
    config = read_config(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model: expected model\.safetensors or .* found neither"):
        read_config(folder)
    for place in (tmp_path / "nowhere", folder / "config.json"):
        with pytest.raises(CheckpointError, match=r"expected the folder of a checkpoint"):
            load_weights(place, config, device="cpu", dtype=torch.float32)


# --- random weights -------------------------------------------------------------------------------


def plain(matrix: Matrix) -> Tensor:
    assert isinstance(matrix, Tensor)
    return matrix


def test_dummy_weights(tmp_path: Path) -> None:
    config = read_config(RANDOM_MODEL)

    def draw(seed: int) -> OmniWeights:
        return load_weights(
            tmp_path, config, device="cpu", dtype=torch.float32, load_format="dummy", seed=seed
        )

    weights = draw(7)
    assert_equal(draw(7), weights)
    assert not torch.equal(plain(draw(8).fusion_kv), plain(weights.fusion_kv))
    for name, tensor in flatten(weights):
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif "norm" in name:
            assert bool((tensor == 1).all()), name
        else:
            assert len(set(tensor.flatten().tolist())) > 0.9 * tensor.numel(), name
    assert plain(weights.embed_tokens).std().item() == pytest.approx(0.02, rel=0.05)
    assert plain(weights.fusion_kv).mean().item() == pytest.approx(0.0, abs=0.001)


def test_dummy_weights_in_16_bits(tmp_path: Path) -> None:
    weights = load_weights(
        tmp_path, read_config(RANDOM_MODEL), device="cpu", dtype=torch.bfloat16, load_format="dummy", seed=7
    )
    assert all(tensor.dtype == torch.bfloat16 for _, tensor in flatten(weights))
    assert plain(weights.embed_tokens).float().std().item() == pytest.approx(0.02, rel=0.05)


HEADS = ("lm_head", "audio_to_text_proj", "audio_lm_head")
TABLES = ("embed_tokens", "audio_embed_tokens", "text_to_audio_proj", "fusion_kv")


@pytest.mark.parametrize("load_format", ["auto", "dummy"])
def test_quantized_while_it_is_loaded(load_format: LoadFormat) -> None:
    """The matrices of all layers, the heads and the tables, each as it would be once all is loaded."""
    plain, found = (
        load(RANDOM_MODEL, load_format=load_format, quantization=scheme)
        for scheme in (None, INT8_WEIGHT_ONLY)
    )

    def check(whole: object, quantized: object) -> None:
        assert isinstance(whole, Tensor)
        assert isinstance(quantized, QuantizedWeight)
        expected = quantize_int8(whole)
        assert torch.equal(quantized.values, expected.values)
        assert torch.equal(quantized.scales, expected.scales)

    for whole, quantized in zip(layers_of(plain), layers_of(found), strict=True):
        for name in ("qkv", "o", "gate_up", "down"):
            check(getattr(whole, name), getattr(quantized, name))
        assert torch.equal(whole.input_norm, quantized.input_norm)
        assert (whole.fusion is None) == (quantized.fusion is None)
        if whole.fusion is not None and quantized.fusion is not None:
            check(whole.fusion.q, quantized.fusion.q)
            check(whole.fusion.o, quantized.fusion.o)
    for name in (*HEADS, *TABLES):
        check(getattr(plain, name), getattr(found, name))
    assert torch.equal(plain.norm, found.norm)
    assert found.vision is not None


@pytest.mark.parametrize("load_format", ["auto", "dummy"])
def test_on_a_gpu_few_matrices_are_held_in_full(
    load_format: LoadFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix has memory from its first number until it is quantized; the numbers are the same."""
    expected = load(RANDOM_MODEL, load_format=load_format, quantization=INT8_WEIGHT_ONLY)

    def allocate(path: Path, config: ModelConfig, *args: object) -> OmniWeights:
        return empty_weights(config, device="cpu", dtype=torch.float32, matrices="meta")

    monkeypatch.setattr(loading, "_allocate", allocate)
    assert_equal(load(RANDOM_MODEL, load_format=load_format, quantization=INT8_WEIGHT_ONLY), expected)


def layers_of(weights: OmniWeights) -> list[LayerWeights]:
    return [*weights.layers, *weights.bottom_layers, *weights.top_layers]


def test_what_quantized_weights_save() -> None:
    """What memory has to hold: bytes and scales for the matrices, the rest in full."""
    config = read_config(RANDOM_MODEL)
    weights = load(RANDOM_MODEL)
    full, saved = num_bytes(weights, config), saved_bytes(weights, config, INT8_WEIGHT_ONLY)
    found = load(RANDOM_MODEL, quantization=INT8_WEIGHT_ONLY)
    matrices = [
        getattr(layer, name) for layer in layers_of(found) for name in ("qkv", "o", "gate_up", "down")
    ]
    matrices += [
        part for layer in found.top_layers if layer.fusion for part in (layer.fusion.q, layer.fusion.o)
    ]
    matrices += [getattr(found, name) for name in (*HEADS, *TABLES)]
    short = sum(m.values.numel() + 4 * len(m.scales) for m in matrices)
    assert full - saved == full - 4 * sum(m.values.numel() for m in matrices) + short


def test_unknown_load_format() -> None:
    with pytest.raises(ConfigError, match="load_format: expected 'auto' or 'dummy', got 'pt'"):
        load(RANDOM_MODEL, load_format="pt")


# --- dtype and progress ---------------------------------------------------------------------------


def test_resolve_dtype(folder: Path) -> None:
    assert resolve_dtype("auto", folder, "cpu") == torch.float32
    assert resolve_dtype("auto", folder, "cuda") == torch.float32
    file = load_file(folder / "model.safetensors")
    half = {name: t.to(torch.float16) if t.dim() > 1 else t for name, t in file.items()}
    save_file(half, folder / "model.safetensors")
    assert resolve_dtype("auto", folder, "cuda:1") == torch.float16
    assert resolve_dtype("auto", folder, torch.device("cpu")) == torch.float32
    assert (
        resolve_dtype("auto", folder, "cuda", load_format="dummy") == torch.float32
    )  # torch_dtype of the config
    assert resolve_dtype("bfloat16", folder, "cpu") == torch.bfloat16
    assert resolve_dtype(torch.float16, folder, "cpu") == torch.float16
    for wrong in ("int8", "half", torch.float64, torch.int8):
        with pytest.raises(
            ConfigError, match="dtype: expected 'auto' or one of float32, bfloat16, float16, got"
        ):
            resolve_dtype(wrong, folder, "cpu")
    save_file({"tensor": torch.ones(3, dtype=torch.int8)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected tensors of F32 or F16 or BF16, found I8"):
        resolve_dtype("auto", folder, "cuda")


def test_progress_adds_up_to_the_whole(folder: Path) -> None:
    shard(folder, 2)
    reports: list[tuple[int, int]] = []
    weights = load(folder, torch.bfloat16, progress=lambda done, total: reports.append((done, total)))
    total = num_bytes(weights, read_config(folder))
    assert {whole for _, whole in reports} == {total}
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})
    assert reports[-1] == (total, total)


def test_progress_bar(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load(RANDOM_MODEL, progress=True)
    assert capfd.readouterr() == ("", "")  # over before it would be worth showing
    monkeypatch.setattr(loading, "BAR_AFTER_S", 0.0)
    load(RANDOM_MODEL, progress=True)
    assert capfd.readouterr() == ("", "")  # a log file is no place for a bar
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    load(RANDOM_MODEL, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "loading weights" in err


def test_empty_weights_take_the_given_dtype_and_device() -> None:
    weights = empty_weights(read_config(RANDOM_MODEL), device="meta", dtype=torch.float16)
    assert all(tensor.is_meta and tensor.dtype == torch.float16 for _, tensor in flatten(weights))
