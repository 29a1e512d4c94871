"""Checkpoints are data of unknown origin: each is loaded, or refused in bounded time and memory."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_MODEL
from safetensors.torch import load_file, save_file

from antiphon.errors import CheckpointError
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.loading import load_weights
from antiphon.model.weights import OmniWeights

TOWER = "model.vision_tower.vision_tower."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RANDOM_MODEL, tmp_path / "model"))


def alter(path: Path, **change: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def load(folder: Path) -> OmniWeights:
    return load_weights(folder, read_config(folder), device="cpu", dtype=torch.float32)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 800
    return message


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_grid_pinpoints", "(1x1),(99999x99999)"),
        ("image_grid_pinpoints", "(1x1),(2x2)," * 2000),
        ("image_grid_pinpoints", "(1x1),(" + "9" * 5000 + "x1)"),
        ("image_grid_pinpoints", "(1x1),(" + "9" * 3000 + "x1)"),
        ("image_grid_pinpoints", "(1x1),(17x16)"),
        ("image_grid_pinpoints", "[" * 100_000),
        ("image_grid_pinpoints", "[" * 4000),
        ("image_grid_pinpoints", [[448_000, 448_000]]),
        ("image_grid_pinpoints", [[224, 224 * 257]]),
        ("image_grid_pinpoints", [[10**400 * 224, 224]]),
        ("image_grid_pinpoints", [[224, 448]] * 2000),
        ("image_aspect_ratio", "anyres_max_" + "9" * 5000),
        ("image_aspect_ratio", "anyres_max_" + "9" * 7),
        ("mm_patch_merge_type", "flat" * 100_000),
        ("mm_vision_tower", "A" * 100_000),
        ("fusion_window", 2**20),
        ("fusion_window", 65),
        ("fusion_lag", 2**20),
        ("max_position_embeddings", 1),
        ("tokenizer_model_max_length", 2),
        ("num_hidden_layers", 10**6),
        ("num_top_audio_layers", 1025),
        ("vocab_size", 2**63),
        ("audio_vocab_size", 10**400),
        ("rms_norm_eps", 1e300),
        ("unknown" * 100_000, ["x" * 10**5] * 10),
    ],
)
def test_values_without_end_are_refused_by_name(folder: Path, key: str, value: Any) -> None:
    alter(folder / "config.json", **{key: value})
    message = refusal(folder)
    assert f"config.json: {key[:50]}" in message.replace("'", "")


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_size", 8192), ("patch_size", 1), ("hidden_size", 2**20 + 1), ("layer_norm_eps", 2.0)],
)
def test_towers_without_end_are_refused_by_name(folder: Path, key: str, value: Any) -> None:
    alter(folder / "vision_tower" / "config.json", **{key: value})
    assert "vision_tower/config.json: " in refusal(folder)


def test_sizes_that_the_files_do_not_have_cost_no_memory(folder: Path) -> None:
    """1,000 layers of a width of a million would be 2**60 bytes."""
    alter(
        folder / "config.json",
        hidden_size=2**20,
        intermediate_size=2**20,
        num_hidden_layers=1000,
        head_dim=1024,
        num_attention_heads=1024,
        num_key_value_heads=1024,
    )
    assert "model.safetensors: " in refusal(folder)


@pytest.mark.parametrize("load_format", ["auto", "dummy"])
def test_more_weights_than_memory_are_refused_before_they_are_taken(folder: Path, load_format: Any) -> None:
    alter(folder / "config.json", hidden_size=2**19, head_dim=16, num_hidden_layers=1000)
    config = read_config(folder, load_format=load_format)
    with pytest.raises(CheckpointError, match="expected"):
        load_weights(folder, config, device="cpu", dtype=torch.float32, load_format=load_format)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["model.norm.weight", f"{TOWER}vision_model.encoder.layers.0.mlp.fc1.bias"])
def test_numbers_that_are_not_finite_are_refused(folder: Path, name: str, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].flatten()[-1] = value
    save_file(tensors, folder / "model.safetensors")
    message = rf"model\.safetensors: {name}: expected finite numbers in torch\.float32, found NaN or infinity"
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_numbers_beyond_the_final_dtype_are_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = 1e30
    save_file(tensors, folder / "model.safetensors")
    config = read_config(folder)
    load_weights(folder, config, device="cpu", dtype=torch.bfloat16)
    with pytest.raises(
        CheckpointError, match=r"model\.norm\.weight: expected finite numbers in torch\.float16"
    ):
        load_weights(folder, config, device="cpu", dtype=torch.float16)


# --- the vision tower -----------------------------------------------------------------------------


def with_tower_in(folder: Path, place: Path) -> None:
    """Move the weights and the config of the vision tower into a folder."""
    tensors = load_file(folder / "model.safetensors")
    tower = {name.removeprefix(TOWER): tensors.pop(name) for name in list(tensors) if name.startswith(TOWER)}
    save_file(tensors, folder / "model.safetensors")
    place.parent.mkdir(parents=True, exist_ok=True)
    (folder / "vision_tower").rename(place)
    save_file(tower, place / "model.safetensors")


@pytest.mark.parametrize("name", ["../other", "vision/../../other", "..", "./../other"])
def test_a_tower_outside_of_the_checkpoint_is_not_read(folder: Path, name: str) -> None:
    with_tower_in(folder, folder.parent / "other")
    alter(folder / "config.json", mm_vision_tower=name)
    assert "mm_vision_tower: expected the name of a folder inside the checkpoint" in refusal(folder)


def test_a_tower_at_an_absolute_path_elsewhere_is_not_read_but_asked_for(folder: Path) -> None:
    with_tower_in(folder, folder.parent / "siglip")
    alter(folder / "config.json", mm_vision_tower=str(folder.parent / "siglip"))
    message = refusal(folder)
    assert f"put the vision tower that mm_vision_tower names into {folder / 'siglip'}" in message
    shutil.copytree(folder.parent / "siglip", folder / "siglip")
    load(folder)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("google/siglip-so400m-patch14-384", "siglip-so400m-patch14-384"),
        ("google/siglip-so400m-patch14-384", "google/siglip-so400m-patch14-384"),
        ("/data/models/siglip/", "siglip"),
        ("C:\\models\\siglip", "siglip"),
        ("./siglip", "siglip"),
    ],
)
def test_names_of_towers_as_trainers_leave_them(folder: Path, name: str, place: str) -> None:
    with_tower_in(folder, folder / place)
    alter(folder / "config.json", mm_vision_tower=name)
    assert read_config(folder).vision == read_config(RANDOM_MODEL).vision
    load(folder)


def test_an_absolute_path_into_the_checkpoint_is_followed(folder: Path) -> None:
    with_tower_in(folder, folder / "parts" / "tower")
    alter(folder / "config.json", mm_vision_tower=str(folder / "parts" / "tower"))
    load(folder)


@pytest.mark.parametrize("name", ["google/siglip-so400m-patch14-384", "/data/siglip-so400m-patch14-384"])
def test_of_a_tower_whose_config_is_not_here_the_released_one_is_assumed(folder: Path, name: str) -> None:
    alter(folder / "config.json", mm_vision_tower=name, mm_hidden_size=1152)
    vision = read_config(folder).vision
    assert vision is not None
    assert vision.hidden_size == 1152
    alter(folder / "config.json", mm_hidden_size=32)
    place = folder / "siglip-so400m-patch14-384"
    assert f"put the vision tower that mm_vision_tower names into {place}" in refusal(folder)


# --- safetensors ----------------------------------------------------------------------------------


def write_header(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(shape: Any, begin: int, end: int, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12), None),  # they overlap
        ({"a": entry([2], 0, 8)}, bytes(12), None),  # more than is named
        ({"a": entry([2**40], 0, 2**42)}, bytes(8), None),  # less than is named
        ({"a": entry([-2], 0, 8)}, bytes(8), None),
        ({"a": entry([2**60] * 2, 0, 8)}, bytes(8), None),
        ({"a": entry([1] * 1000 + [2], 0, 8)}, bytes(8), None),
        ({"a": entry("2", 0, 8)}, bytes(8), None),
        ({"a": entry([2], 0, 8, "F99")}, bytes(8), None),
        ({"a": entry([2], 0, 8, 5)}, bytes(8), None),
        ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), None),
        ({"a": [1, 2]}, bytes(8), None),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2 + b"}", bytes(4), None),
        (b"[" * 10_000, b"", None),
        (b"{}", b"", 2**63),
        (b"{}", b"", 100_000_000),
        (b"{}", b"", 0),
        (b"\xff" * 100, b"", None),
    ],
)
def test_headers_of_safetensors(folder: Path, header: Any, data: bytes, length: int | None) -> None:
    write_header(folder / "model.safetensors", header, data, length)
    assert "model.safetensors: " in refusal(folder)


def test_a_name_that_stands_twice_is_refused(folder: Path) -> None:
    one = b'"model.norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    write_header(folder / "model.safetensors", b"{" + one + b"," + one + b"}", bytes(4))
    assert "a key appears twice: 'model.norm.weight'" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.float64, torch.complex64])
def test_other_dtypes_are_refused_by_name(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(dtype)
    save_file(tensors, folder / "model.safetensors")
    assert "model.norm.weight: expected F32 or F16 or BF16, found" in refusal(folder)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "..", "", "a/b", "a\\b", "a\0b", 5, None]
)
def test_an_index_names_files_of_its_own_folder_only(folder: Path, file: Any) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.norm.weight: expected the name of a file, found" in refusal(folder)


def test_names_of_any_length_make_no_long_errors(folder: Path) -> None:
    long = "model." + "x" * 10**6
    write_header(folder / "model.safetensors", {long: entry([2], 0, 8)}, bytes(8))
    refusal(folder)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {long: "y" * 200 + ".safetensors"}}))
    refusal(folder)
    index.write_text(json.dumps({"weight_map": [long]}))
    refusal(folder)


@pytest.mark.parametrize("name", ["model-00001-of-00004.safetensors", "pytorch_model.bin", "x.incomplete"])
def test_what_is_there_instead_is_named(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"x")
    expected = (
        rf"expected model\.safetensors or model\.safetensors\.index\.json, found neither \(but {name}\)"
    )
    with pytest.raises(CheckpointError, match=expected):
        read_config(folder)


def test_a_shard_that_is_a_git_lfs_pointer_is_named_as_such(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    shard = folder / "model-00001-of-00001.safetensors"
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    index = {"weight_map": {"model.norm.weight": shard.name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    message = refusal(folder)
    assert str(shard) in message
    assert "git lfs pull" in message


# --- through the engine ---------------------------------------------------------------------------

ENGINE = """
import resource, sys
from antiphon import CheckpointError, Engine
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for folder in sys.argv[1:]:
    try:
        Engine(folder, device="cpu", progress=False, kv_cache_bytes=16 << 20)
        print("loaded")
    except CheckpointError as error:
        print("refused", str(error)[:100])
"""


@pytest.mark.slow
@pytest.mark.long
def test_the_engine_survives_them(tmp_path: Path) -> None:
    """In one process, whose memory is bounded: what is refused leaves it able to load what is whole."""
    changes: list[dict[str, Any]] = [
        {"image_grid_pinpoints": "(1x1),(99999x99999)"},
        {"fusion_window": 2**20},
        {"max_position_embeddings": 1},
        {"mm_vision_tower": "../other"},
        {"num_hidden_layers": 1000},
        {},
    ]
    folders = []
    for number, change in enumerate(changes):
        folders.append(shutil.copytree(RANDOM_MODEL, tmp_path / str(number)))
        alter(folders[-1] / "config.json", **change)
    command = [sys.executable, "-c", ENGINE, *map(str, folders)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["refused"] * 5 + ["loaded"]
