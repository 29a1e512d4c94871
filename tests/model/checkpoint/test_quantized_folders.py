"""Checkpoints with int8 weights: written as quantizing at load would make them, and read from others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_MODEL
from golden_cases import cases
from safetensors.torch import load_file, save_file
from stored_weights import assert_equal, shard, with_tower_outside
from torch import Tensor

from antiphon import CheckpointError, Completion, ConfigError, Engine
from antiphon.config import ModelConfig
from antiphon.kernels import QuantizedWeight
from antiphon.model.checkpoint import loading, quantized_folder
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.loading import load_weights, resolve_dtype
from antiphon.model.checkpoint.quantized_folder import write_quantized
from antiphon.model.checkpoint.tensors import empty_weights
from antiphon.model.schemes import INT8, INT8_WEIGHT_ONLY
from antiphon.model.weights import OmniWeights

SMALL = 2**18
"""Bytes of a shard that make several of the small checkpoint."""
ROWS = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
"""The setting of rows that are quantized as they come"""
O_PROJ = "model.layers.1.self_attn.o_proj.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RANDOM_MODEL, tmp_path / "source"))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_quantized(RANDOM_MODEL, tmp_path / "written", INT8_WEIGHT_ONLY)
    return tmp_path / "written"


def load(folder: Path, **kwargs: Any) -> OmniWeights:
    return load_weights(folder, read_config(folder), device="cpu", dtype=torch.float32, **kwargs)


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def alter(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the `quantization_config`."""
    settings = json.loads((folder / "config.json").read_text())
    change(settings["quantization_config"])
    (folder / "config.json").write_text(json.dumps(settings))


def group(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["config_groups"]["group_0"]
    return found


def rows(config: dict[str, Any], **settings: object) -> None:
    group(config)["input_activations"] = ROWS | settings


def answers(folder: Path, **settings: Any) -> list[Completion]:
    with Engine(folder, **settings) as engine:
        return engine.generate([case.request() for case in cases()][:4])


def ids(done: list[Completion]) -> list[tuple[list[int], list[int]]]:
    return [(completion.text_ids, completion.unit_ids) for completion in done]


# --- written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_shard_bytes", [2**40, SMALL, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_folder_loads_as_quantizing_at_load(
    source: Path, tmp_path: Path, dtype: torch.dtype, max_shard_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_folder, "SLICE_ELEMENTS", 1000)
    save_file(
        {name: tensor.to(dtype) for name, tensor in load_file(source / "model.safetensors").items()},
        source / "model.safetensors",
    )
    shard(source, 2)
    target = tmp_path / "target"
    sizes = write_quantized(source, target, INT8_WEIGHT_ONLY, max_shard_bytes=max_shard_bytes)
    found = load(target)
    assert_equal(found, load(source, quantization=INT8_WEIGHT_ONLY))
    assert isinstance(found.layers[0].qkv, QuantizedWeight)
    assert_equal(load(target, quantization=INT8_WEIGHT_ONLY), found)
    assert (target / "model.safetensors").exists() == (max_shard_bytes == 2**40)
    files = list(target.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) == sizes.target < sizes.source
    if max_shard_bytes == SMALL:
        assert len(files) > 3
        assert all(file.stat().st_size < 1.2 * SMALL or len(load_file(file)) == 1 for file in files)
    stays = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert stays["model.embed_tokens.weight"].dtype == dtype
    assert stays[O_PROJ].dtype == torch.int8
    assert stays[f"{O_PROJ}_scale"].shape == (64, 1)
    assert not list(tmp_path.glob(".*"))


def test_the_other_files_are_copied(source: Path, written: Path, tmp_path: Path) -> None:
    with_tower_outside(source)
    (source / "README.md").write_text("a note")
    (source / ".git").mkdir()
    (source / "pytorch_model.bin").write_text("the same weights")
    (source / "link").symlink_to(source)
    target = tmp_path / "target"
    write_quantized(source, target, INT8_WEIGHT_ONLY)
    assert {path.name for path in target.iterdir()} == {path.name for path in RANDOM_MODEL.iterdir()} | {
        "README.md"
    }
    for name in ("tokenizer.json", "README.md", "vision_tower/model.safetensors"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert_equal(load(target), load(written))
    settings = json.loads((target / "config.json").read_text())
    quantization = settings.pop("quantization_config")
    assert settings == json.loads((source / "config.json").read_text())
    assert quantization["quant_method"] == "compressed-tensors"
    ignored = quantization["ignore"]
    assert "model.top_audio_layers.0.audio_text_attn.k_proj" in ignored
    assert any("vision_tower" in name for name in ignored)
    assert "lm_head" not in ignored


def test_progress_counts_the_bytes_of_the_source(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    sizes = write_quantized(
        RANDOM_MODEL,
        tmp_path / "target",
        INT8_WEIGHT_ONLY,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (sizes.source, sizes.source)


# --- ended and continued --------------------------------------------------------------------------


class Killed(BaseException):
    pass


def end_after(target: Path, source: Path, num_bytes: int) -> list[Path]:
    """Begins to write, ends, and returns the shards that are there."""

    def progress(done: int, total: int) -> None:
        if done > num_bytes:
            raise Killed

    with pytest.raises(Killed):
        write_quantized(source, target, INT8_WEIGHT_ONLY, max_shard_bytes=SMALL, progress=progress)
    assert not target.exists()
    return sorted(target.parent.glob(".target.antiphon-quantize/folder/*.safetensors"))


def test_a_run_that_was_ended_is_continued(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    kept = end_after(target, source, 2**21)
    before = {path.name: path.stat().st_ino for path in kept}
    assert len(before) > 1
    write_quantized(source, target, INT8_WEIGHT_ONLY, max_shard_bytes=SMALL)
    for name, inode in before.items():
        assert (target / name).stat().st_ino == inode
    assert_equal(load(target), load(source, quantization=INT8_WEIGHT_ONLY))
    assert not list(tmp_path.glob(".*"))


def test_a_source_that_has_changed_is_begun_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    end_after(target, source, 2**21)
    rewrite(source, lambda tensors: tensors.update({"lm_head.weight": torch.ones(512, 64)}))
    write_quantized(source, target, INT8_WEIGHT_ONLY, max_shard_bytes=SMALL)
    assert_equal(load(target), load(source, quantization=INT8_WEIGHT_ONLY))


def test_numbers_that_are_not_finite_leave_nothing(source: Path, tmp_path: Path) -> None:
    rewrite(source, lambda tensors: tensors[O_PROJ].fill_(torch.nan))
    message = rf"model\.safetensors: {O_PROJ}: expected finite numbers, found NaN"
    with pytest.raises(CheckpointError, match=message):
        write_quantized(source, tmp_path / "target", INT8_WEIGHT_ONLY)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# --- what cannot be written -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "file", "other work", "nowhere", "inside"])
def test_refused_targets(source: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.touch()
    elif kind == "other work":
        (tmp_path / ".target.antiphon-quantize").mkdir()
        (tmp_path / ".target.antiphon-quantize" / "notes.txt").touch()
    else:
        target = source / "target" if kind == "inside" else tmp_path / "nowhere" / "target"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"^\S*target\S*: expected "):
        write_quantized(source, target, INT8_WEIGHT_ONLY)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_second_writer_is_refused(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"

    def progress(done: int, total: int) -> None:
        if done == total:
            with pytest.raises(ConfigError, match="expected to be its only writer"):
                write_quantized(source, target, INT8_WEIGHT_ONLY)

    write_quantized(source, target, INT8_WEIGHT_ONLY, progress=progress)
    assert_equal(load(target), load(source, quantization=INT8_WEIGHT_ONLY))


def test_refused_sources(source: Path, written: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"expected a checkpoint that is not quantized, found one in int8"
    ):
        write_quantized(written, tmp_path / "target", INT8_WEIGHT_ONLY)
    rewrite(source, lambda tensors: tensors.pop(O_PROJ))
    with pytest.raises(CheckpointError, match=rf"expected {O_PROJ} \(64, 64\), found no such tensor"):
        write_quantized(source, tmp_path / "target", INT8_WEIGHT_ONLY)
    with pytest.raises(CheckpointError, match="expected the folder of a checkpoint"):
        write_quantized(tmp_path / "nothing", tmp_path / "target", INT8_WEIGHT_ONLY)


# --- read -----------------------------------------------------------------------------------------


def test_an_engine_answers_as_when_it_quantizes(written: Path) -> None:
    expected = answers(RANDOM_MODEL, quantization="int8-weight-only")
    assert ids(answers(written)) == ids(answers(written, quantization="int8-weight-only")) == ids(expected)
    assert answers(written, load_format="dummy")


def test_rows_are_quantized_as_the_folder_says_or_as_one_asks(tmp_path: Path) -> None:
    write_quantized(RANDOM_MODEL, tmp_path / "both", INT8)
    write_quantized(RANDOM_MODEL, tmp_path / "weights", INT8_WEIGHT_ONLY)
    found = {
        (folder, scheme): ids(answers(tmp_path / folder, quantization=scheme))
        for folder in ("both", "weights")
        for scheme in (None, "int8", "int8-weight-only")
    }
    int8, weight_only = (
        ids(answers(RANDOM_MODEL, quantization=name)) for name in ("int8", "int8-weight-only")
    )
    assert int8 != weight_only, "the random model's answers hang on small differences"
    assert found == {
        ("both", None): int8,
        ("both", "int8"): int8,
        ("both", "int8-weight-only"): weight_only,
        ("weights", None): weight_only,
        ("weights", "int8"): int8,
        ("weights", "int8-weight-only"): weight_only,
    }
    both, weights = (load(tmp_path / name) for name in ("both", "weights"))
    assert_equal(both, load(RANDOM_MODEL, quantization=INT8))
    assert isinstance(both.lm_head, QuantizedWeight)
    assert isinstance(weights.lm_head, QuantizedWeight)
    assert (both.lm_head.dynamic, weights.lm_head.dynamic) == (True, False)
    assert answers(tmp_path / "both", load_format="dummy")


def test_on_a_gpu_its_matrices_are_never_held_in_full(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tables and the text side of fusion are, one by one, until they are quantized."""
    expected = load(written)

    def allocate(path: Path, config: ModelConfig, *args: object) -> OmniWeights:
        return empty_weights(config, device="cpu", dtype=torch.float32, matrices="meta")

    monkeypatch.setattr(loading, "_allocate", allocate)
    assert_equal(load(written), expected)


def test_16_bits_beside_int8(written: Path) -> None:
    with Engine(written, dtype="bfloat16") as engine:
        assert engine.model.weights.norm.dtype == torch.bfloat16
        assert engine.generate(cases()[0].request())[0].finish_reason in ("stop", "length")


def test_the_dtype_is_that_of_what_stays(written: Path) -> None:
    rewrite(
        written,
        lambda tensors: tensors.update(
            {
                name: tensor.half()
                for name, tensor in tensors.items()
                if tensor.dtype != torch.int8 and not name.endswith("_scale")
            }
        ),
    )
    assert resolve_dtype("auto", written, "cuda") == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("is_column", [True, False])
def test_the_scales_of_others(written: Path, dtype: torch.dtype, is_column: bool) -> None:
    expected = load(written)

    def change(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("_scale"):
                tensors[name] = (tensor if is_column else tensor.flatten()).to(dtype)

    rewrite(written, change)
    found = load(written).bottom_layers[1].gate_up
    original = expected.bottom_layers[1].gate_up
    assert isinstance(found, QuantizedWeight)
    assert isinstance(original, QuantizedWeight)
    assert torch.equal(found.values, original.values)
    assert torch.equal(found.scales, original.scales.to(dtype).float())


def test_others_may_leave_heads_as_they_are(written: Path) -> None:
    head = load_file(RANDOM_MODEL / "model.safetensors")["lm_head.weight"]

    def change(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = head
        del tensors["lm_head.weight_scale"]

    rewrite(written, change)
    weights = load(written)
    assert isinstance(weights.lm_head, Tensor)
    assert torch.equal(weights.lm_head, head)
    assert isinstance(weights.audio_lm_head, QuantizedWeight)
    assert answers(written)


def test_what_others_record_besides(written: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config |= {"format": "naive-quantized", "version": "0.9.0", "global_compression_ratio": 1.5}
        config |= {"sparsity_config": {}, "transform_config": None, "ignore": ["re:.*vision.*"]}
        weights = group(config)["weights"]
        weights |= {"group_size": -1, "observer": "mse", "scale_dtype": None}
        del weights["symmetric"], weights["dynamic"]
        group(config)["format"] = "int-quantized"

    expected = load(written)
    alter(written, change)
    assert_equal(load(written), expected)


def test_rows_that_others_quantize(written: Path) -> None:
    """As llm-compressor writes them."""

    def change(config: dict[str, Any]) -> None:
        group(config)["input_activations"] = ROWS | {"observer": None, "group_size": -1, "symmetric": True}
        config["config_groups"]["group_1"] = group(config)

    alter(written, change)
    assert isinstance(head := load(written).lm_head, QuantizedWeight)
    assert head.dynamic


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.clear(), ": expected quant_method 'compressed-tensors', found {}"),
        (lambda c: c.update(quant_method="bitsandbytes"), "quant_method: expected 'compressed-tensors'"),
        (lambda c: c.update(format="pack-quantized"), "format: expected 'int-quantized' or 'naive-quant"),
        (lambda c: c.update(quantization_status="frozen"), "quantization_status: expected 'compressed'"),
        (lambda c: c.update(kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme: expected no such key"),
        (lambda c: c.update(config_groups={}), "config_groups: expected an object that is not empty"),
        (lambda c: c.update(config_groups=[4]), "config_groups: expected an object"),
        (lambda c: c.update(config_groups={"a": None}), "config_groups.a: expected an object, found None"),
        (lambda c: group(c).pop("weights"), "group_0.weights: expected an object, found no such key"),
        (lambda c: group(c)["weights"].update(num_bits=4), "weights.num_bits: expected 8 .*, found 4"),
        (lambda c: group(c)["weights"].pop("num_bits"), "weights.num_bits: expected 8, found no such key"),
        (
            lambda c: group(c)["weights"].update(type="float"),
            "weights.type: expected 'int' .*, found 'float'",
        ),
        (
            lambda c: group(c)["weights"].update(strategy="group"),
            "strategy: expected 'channel' .*, found 'gr",
        ),
        (
            lambda c: group(c)["weights"].update(group_size=128),
            "group_size: expected null or -1 .*, found 128",
        ),
        (lambda c: group(c)["weights"].update(symmetric=False), "symmetric: expected True .*, found False"),
        (lambda c: group(c)["weights"].update(actorder="group"), "actorder: expected no such key"),
        (
            lambda c: group(c).update(input_activations=8),
            "input_activations: expected an object or null, found 8",
        ),
        (lambda c: rows(c, num_bits=4), "input_activations.num_bits: expected 8 .*, found 4"),
        (lambda c: rows(c, type="float"), "input_activations.type: expected 'int' .*, found 'float'"),
        (lambda c: rows(c, strategy="tensor"), "activations.strategy: expected 'token' .*, found 'tensor'"),
        (lambda c: rows(c, dynamic=False), "activations.dynamic: expected True .*, found False"),
        (lambda c: rows(c, dynamic="local"), "activations.dynamic: expected True .*, found 'local'"),
        (lambda c: rows(c, symmetric=False), "activations.symmetric: expected True .*, found False"),
        (lambda c: rows(c, group_size=128), "activations.group_size: expected null or -1 .*, found 128"),
        (
            lambda c: c["config_groups"].update(other=group(c) | {"input_activations": ROWS}),
            "config_groups.other.input_activations: expected the same in each group, found {",
        ),
    ],
)
def test_other_schemes_are_refused(
    written: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    alter(written, change)
    with pytest.raises(CheckpointError, match=rf"config\.json: quantization_config\S*{message}") as caught:
        Engine(written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (f"{O_PROJ}_scale", None, r"\(64, 1\), found no such tensor"),
        (f"{O_PROJ}_scale", torch.ones(1), r"expected shape \(64, 1\) or \(64,\), found \(1,\)"),
        (f"{O_PROJ}_scale", torch.ones(1, 64), r"expected shape \(64, 1\) or \(64,\), found \(1, 64\)"),
        (f"{O_PROJ}_scale", torch.ones(64).double(), "expected F32 or F16 or BF16, found F64"),
        (
            f"{O_PROJ}_scale",
            torch.full((64, 1), torch.inf),
            "expected finite numbers in torch.float32, found",
        ),
        (O_PROJ, None, r"expected \S+ \(64, 64\), found no such tensor"),
        (O_PROJ, torch.ones(64, 64), "expected I8, found F32"),
        (O_PROJ, torch.ones(64, 16, dtype=torch.int8), r"expected shape \(64, 64\), found \(64, 16\)"),
        ("model.norm.weight", torch.ones(64, dtype=torch.int8), "expected F32 or F16 or BF16, found I8"),
        ("model.norm.weight_scale", torch.ones(64, 1), "of known names, also found"),
        ("lm_head.weight", torch.ones(512, 64), "also found lm_head.weight_scale"),
    ],
)
def test_wrong_tensors(written: Path, name: str, tensor: Tensor | None, message: str) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor

    rewrite(written, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(written)
    assert str(caught.value).startswith(f"{written / 'model.safetensors'}: ")
    assert name in str(caught.value)


def test_int8_without_the_setting_is_refused(written: Path) -> None:
    settings = json.loads((written / "config.json").read_text())
    del settings["quantization_config"]
    (written / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="also found"):
        load(written)
