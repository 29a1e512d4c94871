"""What `read_config` takes from a checkpoint, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_MODEL
from safetensors.torch import load_file, save_file

from antiphon.config import ModelConfig, RopeScaling, VisionConfig
from antiphon.errors import CheckpointError
from antiphon.model.checkpoint.folder import read_checkpoint, read_config
from antiphon.text.tokenizer import Tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 4096,
}
# What LLaVA-OneVision's training writes into config.json besides what is used.
LLAVA_KEYS = {
    "_name_or_path": "somewhere",
    "add_faster_video": False,
    "add_time_instruction": False,
    "delay_load": True,
    "faster_token_stride": 10,
    "force_sample": False,
    "freeze_mm_mlp_adapter": False,
    "image_crop_resolution": 224,
    "image_split_resolution": None,
    "mm_projector_lr": None,
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": 2,
    "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
    "mm_vision_tower_lr": 2e-06,
    "pos_skipping_range": 4096,
    "temperature": 0.0,
    "tune_mm_mlp_adapter": False,
    "use_pos_skipping": False,
    "vision_tower_pretrained": "",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RANDOM_MODEL, tmp_path / "model"))


def alter(path: Path, change: dict[str, Any], drop: tuple[str, ...] = ()) -> Path:
    values = json.loads(path.read_text())
    values.update(change)
    for name in drop:
        del values[name]
    path.write_text(json.dumps(values))
    return path


def alter_tokens(path: Path, change: Callable[[dict[str, int]], None]) -> None:
    """Change the token to id table of a tokenizer's added tokens and vocabulary."""
    values = json.loads(path.read_text())
    ids = {token["content"]: token["id"] for token in values["added_tokens"]}
    change(ids)
    values["added_tokens"] = sorted(
        ({**values["added_tokens"][0], "content": token, "id": token_id} for token, token_id in ids.items()),
        key=lambda token: token["id"],
    )
    path.write_text(json.dumps(values))


# --- what is read ---------------------------------------------------------------------------------


def test_packaged_checkpoint() -> None:
    assert read_config(RANDOM_MODEL) == ModelConfig(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
        max_position_embeddings=32768,
        text_vocab_size=512,
        vocab_size=576,
        audio_vocab_size=64,
        num_bottom_audio_layers=3,
        num_top_audio_layers=5,
        vision=VisionConfig(32, 64, 3, 4, 224, 32, 3, 1e-6),
        image_aspect_ratio="anyres_max_9",
        image_grid_pinpoints="(1x1),(1x2),(2x1),(2x2),(3x3),(6x6)",
        mm_patch_merge_type="spatial_unpad",
        bos_token_id=384,
        blank_token_id=386,
        eot_token_id=393,
        stop_token_ids=frozenset({385, 392, 393}),
        first_unit_id=512,
        fusion_window=5,
        fusion_lag=3,
        speech_prompt="soft",
    )


def test_harmless_and_switched_off_keys_change_nothing(folder: Path) -> None:
    alter(folder / "config.json", {**LLAVA_KEYS, "unheard_of": None, "also_unheard_of": False})
    assert read_config(folder) == read_config(RANDOM_MODEL)


def test_the_tokenizer_comes_with_the_config(folder: Path) -> None:
    """Its file, which may be large, is read once for both."""
    config, content = read_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    tokenizer = Tokenizer.from_pretrained(folder, content)
    assert config == read_config(RANDOM_MODEL)
    assert tokenizer.encode("Hello") == Tokenizer.from_pretrained(RANDOM_MODEL).encode("Hello")


def test_keys_of_our_own(folder: Path) -> None:
    alter(folder / "config.json", {"fusion_window": 7, "fusion_lag": 2, "speech_prompt": "collapsed"})
    config = read_config(folder)
    assert (config.fusion_window, config.fusion_lag, config.speech_prompt) == (7, 2, "collapsed")


def test_defaults_of_llama_and_of_the_released_model(folder: Path) -> None:
    absent = ("num_key_value_heads", "num_bottom_audio_layers", "num_top_audio_layers")
    alter(folder / "config.json", {}, drop=(*absent, "tokenizer_model_max_length"))
    config = read_config(folder)
    assert (config.num_key_value_heads, config.num_bottom_audio_layers, config.num_top_audio_layers) == (
        4,
        3,
        5,
    )
    assert config.max_position_embeddings == 131072
    alter(folder / "config.json", {"tokenizer_model_max_length": int(1e30)})  # a tokenizer without a limit
    assert read_config(folder).max_position_embeddings == 131072


def test_head_dim_may_differ_from_hidden_size_over_heads(folder: Path) -> None:
    alter(folder / "config.json", {"head_dim": 24, "hidden_size": 70})
    config = read_config(folder)
    assert (config.head_dim, config.q_size, config.kv_size) == (24, 96, 48)


@pytest.mark.parametrize(
    ("change", "drop", "theta", "scaling"),
    [
        ({"rope_scaling": None}, (), 500000.0, None),
        ({}, ("rope_scaling",), 500000.0, None),
        ({"rope_scaling": {"rope_type": "default"}}, (), 500000.0, None),
        ({"rope_scaling": LLAMA3}, (), 500000.0, RopeScaling(32.0, 1.0, 4.0, 4096)),
        (
            {"rope_scaling": {"type": "llama3", **{k: v for k, v in LLAMA3.items() if k != "rope_type"}}},
            (),
            500000.0,
            RopeScaling(32.0, 1.0, 4.0, 4096),
        ),
        # transformers 5
        (
            {"rope_parameters": {"rope_theta": 10000.0, **LLAMA3}},
            ("rope_scaling", "rope_theta"),
            10000.0,
            RopeScaling(32.0, 1.0, 4.0, 4096),
        ),
        (
            {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
            ("rope_scaling", "rope_theta"),
            10000.0,
            None,
        ),
    ],
)
def test_rotary_embedding(
    folder: Path, change: dict[str, Any], drop: tuple[str, ...], theta: float, scaling: RopeScaling | None
) -> None:
    alter(folder / "config.json", change, drop)
    config = read_config(folder)
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


def test_stop_ids(folder: Path) -> None:
    alter(folder / "generation_config.json", {"eos_token_id": 385})
    assert read_config(folder).stop_token_ids == {385}
    alter(folder / "generation_config.json", {"eos_token_id": None})
    alter(folder / "config.json", {"eos_token_id": [393]})
    assert read_config(folder).stop_token_ids == {393}
    (folder / "generation_config.json").unlink()
    assert read_config(folder).stop_token_ids == {393}
    alter(folder / "config.json", {}, drop=("eos_token_id",))
    with pytest.raises(CheckpointError, match=r"config\.json: eos_token_id: .* found no such key"):
        read_config(folder)


# --- rows of the tables ---------------------------------------------------------------------------


def grow(folder: Path, rows: dict[str, int]) -> None:
    """Give tables of the weight file this many rows."""
    tensors = load_file(folder / "model.safetensors")
    for name, count in rows.items():
        tensors[name] = torch.zeros(count, 64)
    save_file(tensors, folder / "model.safetensors")


def tables(text: int, speech: int) -> dict[str, int]:
    return {
        **dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight", "audio_to_text_proj.weight"), text),
        **dict.fromkeys(
            ("model.audio_embed_tokens.weight", "audio_lm_head.weight", "text_to_audio_proj.weight"), speech
        ),
    }


@pytest.mark.parametrize(("text", "speech"), [(512, 576), (576, 576), (576, 640)])
def test_a_text_vocabulary_may_include_the_units(folder: Path, text: int, speech: int) -> None:
    grow(folder, tables(text, speech))
    config = read_config(folder)
    assert (config.text_vocab_size, config.vocab_size, config.first_unit_id) == (text, speech, 512)
    # without a weight file the sizes are those of the config
    dummy = read_config(folder, load_format="dummy")
    assert (dummy.text_vocab_size, dummy.vocab_size) == (512, 576)


def test_without_text_vocab_size_all_tables_have_vocab_size_rows(folder: Path) -> None:
    alter(folder / "config.json", {}, drop=("text_vocab_size",))
    grow(folder, tables(576, 576))
    config = read_config(folder)
    assert (config.text_vocab_size, config.vocab_size) == (576, 576)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (tables(500, 576), r"model\.embed_tokens\.weight: expected 512 or 576 rows, found shape \(500, 64\)"),
        (tables(512, 640), r"model\.audio_embed_tokens\.weight: expected 576 rows, found shape \(640, 64\)"),
        ({"lm_head.weight": 576}, r"lm_head\.weight: expected 512 rows, found shape \(576, 64\)"),
        (
            {**tables(576, 640), "audio_lm_head.weight": 576},
            r"audio_lm_head\.weight: expected 640 rows, found shape \(576, 64\)",
        ),
    ],
)
def test_tables_that_do_not_fit_together(folder: Path, rows: dict[str, int], message: str) -> None:
    grow(folder, rows)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {message}"):
        read_config(folder)


# --- pictures -------------------------------------------------------------------------------------


def test_without_a_vision_tower_no_pictures(folder: Path) -> None:
    for drop in ((), ("mm_vision_tower", "mm_hidden_size", "image_aspect_ratio", "mm_patch_merge_type")):
        alter(folder / "config.json", {"mm_vision_tower": None}, drop)
        assert read_config(folder).vision is None


def test_without_a_folder_the_tower_is_so400m(folder: Path) -> None:
    alter(
        folder / "config.json",
        {"mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_hidden_size": 1152},
    )
    vision = read_config(folder).vision
    assert vision is not None
    assert vision == VisionConfig()
    assert (vision.hidden_size, vision.num_kept_layers, vision.side) == (1152, 26, 27)
    alter(folder / "config.json", {"mm_hidden_size": 768})
    with pytest.raises(CheckpointError, match=r"mm_hidden_size: expected .*1152\), found 768"):
        read_config(folder)


def test_the_config_of_a_whole_siglip_holds_that_of_its_tower(folder: Path) -> None:
    path = folder / "vision_tower" / "config.json"
    path.write_text(
        json.dumps(
            {
                "model_type": "siglip",
                "text_config": {"hidden_size": 1152},
                "vision_config": {
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 4,
                    "image_size": 224,
                    "patch_size": 32,
                    "model_type": "siglip_vision_model",
                },
            }
        )
    )
    assert read_config(folder).vision == read_config(RANDOM_MODEL).vision


@pytest.mark.parametrize(
    ("change", "ratio", "merge", "pinpoints"),
    [
        ({"image_aspect_ratio": "anyres"}, "anyres", "spatial_unpad", None),
        ({"image_aspect_ratio": "anyres_max_4"}, "anyres_max_4", "spatial_unpad", None),
        ({"mm_patch_merge_type": "flat"}, "anyres_max_9", "flat", None),
        ({"mm_patch_merge_type": None}, "anyres_max_9", "flat", None),
        (
            {"image_grid_pinpoints": [[224, 448], [448, 224]]},
            "anyres_max_9",
            "spatial_unpad",
            ((224, 448), (448, 224)),
        ),
        (
            {"image_grid_pinpoints": "[(224, 448), (448, 224)]"},
            "anyres_max_9",
            "spatial_unpad",
            ((224, 448), (448, 224)),
        ),
    ],
)
def test_tiles(folder: Path, change: dict[str, Any], ratio: str, merge: str, pinpoints: object) -> None:
    alter(folder / "config.json", change)
    config = read_config(folder)
    assert (config.image_aspect_ratio, config.mm_patch_merge_type) == (ratio, merge)
    assert config.image_grid_pinpoints == (pinpoints or "(1x1),(1x2),(2x1),(2x2),(3x3),(6x6)")


def test_padded_pictures_need_no_grids(folder: Path) -> None:
    alter(folder / "config.json", {"image_aspect_ratio": "pad"}, drop=("image_grid_pinpoints",))
    assert read_config(folder).image_aspect_ratio == "pad"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"image_mean": [0.48, 0.46, 0.41]}, "image_mean"),
        ({"image_std": [0.27, 0.26, 0.28]}, "image_std"),
        ({"hidden_size": 30}, "hidden_size"),
        ({"patch_size": 448}, "patch_size"),
        ({"num_hidden_layers": 1}, "num_hidden_layers"),
        ({"num_channels": 1}, "num_channels"),
        ({"layer_norm_eps": 0}, "layer_norm_eps"),
        ({"model_type": "clip_vision_model"}, "model_type"),
        ({"num_registers": 4}, "num_registers"),
    ],
)
def test_vision_towers_that_are_refused(folder: Path, change: dict[str, Any], key: str) -> None:
    alter(folder / "vision_tower" / "config.json", change)
    with pytest.raises(CheckpointError, match=rf"vision_tower/config\.json: {key}: expected .*found"):
        read_config(folder)


@pytest.mark.parametrize("place", [".", "vision_tower"])
def test_preprocessing_with_other_colours_is_refused(folder: Path, place: str) -> None:
    (folder / place / "preprocessor_config.json").write_text('{"image_mean": [0.48, 0.46, 0.41]}')
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: image_mean: .*found \[0\.48"):
        read_config(folder)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        # of another kind
        ("model_type", "llama"),
        # out of range, or of another type
        ("hidden_size", 0),
        ("hidden_size", "64"),
        ("hidden_size", True),
        ("hidden_size", 10**30),
        ("num_hidden_layers", 10**9),
        ("hidden_size", 66),  # no multiple of the heads
        ("num_key_value_heads", 3),
        ("head_dim", 15),
        ("num_hidden_layers", 2.5),
        ("rms_norm_eps", -1e-5),
        ("rms_norm_eps", float("inf")),
        ("rms_norm_eps", 10**400),
        ("text_vocab_size", 1000),
        ("num_top_audio_layers", 0),
        ("tokenizer_model_max_length", -1),
        ("fusion_window", 0),
        ("fusion_lag", "3"),
        ("speech_prompt", "hard"),
        ("mm_hidden_size", 64),
        ("eos_token_id", "no id"),
        # implemented in one way only
        ("attention_bias", True),
        ("mlp_bias", True),
        ("tie_word_embeddings", True),
        ("hidden_act", "gelu"),
        ("pretraining_tp", 2),
        ("sliding_window", 4096),
        ("quantization_config", {"bits": 4}),
        ("mm_projector_type", "linear"),
        ("mm_vision_select_layer", -1),
        ("mm_vision_select_feature", "cls_patch"),
        ("mm_resampler_type", "perceiver"),
        ("mm_use_im_start_end", True),
        ("mm_newline_position", "grid"),
        ("image_aspect_ratio", "square"),
        ("image_aspect_ratio", "anyres_max_0"),
        ("image_aspect_ratio", None),
        ("mm_patch_merge_type", "spatial"),
        ("mm_patch_merge_type", "maxpool2x2"),
        ("image_grid_pinpoints", "everything"),
        ("image_grid_pinpoints", "(3x3),(1x1)"),
        ("image_grid_pinpoints", [[224, 300]]),
        ("image_grid_pinpoints", []),
        ("image_grid_pinpoints", None),
        # unknown
        ("logit_softcapping", 30.0),
        ("use_qk_norm", True),
        ("router", {"experts": 8}),
    ],
)
def test_refused_settings(folder: Path, key: str, value: object) -> None:
    alter(folder / "config.json", {key: value})
    if key == "eos_token_id":
        (folder / "generation_config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        read_config(folder)
    found = f"found {value!r}" if value != 10**400 else "found an integer of 1329 bits"
    assert f"{folder / 'config.json'}: {key}: expected " in str(caught.value)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling.type"),
        ({"rope_scaling": "llama3"}, "rope_scaling"),
        ({"rope_scaling": {**LLAMA3, "factor": "8"}}, "rope_scaling.factor"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "rope_scaling.high_freq_factor"),
        ({"rope_scaling": {**LLAMA3, "attention_factor": 2.0}}, "rope_scaling.attention_factor"),
        ({"rope_scaling": {**LLAMA3, "rope_theta": 1.0}}, "rope_scaling.rope_theta"),
        ({"rope_parameters": {"rope_theta": 1.0}}, "rope_parameters"),
    ],
)
def test_refused_rotary_embeddings(folder: Path, change: dict[str, Any], key: str) -> None:
    alter(folder / "config.json", change)
    with pytest.raises(CheckpointError, match=rf"config\.json: {key}: expected .*found"):
        read_config(folder)


@pytest.mark.parametrize(
    "key",
    ["model_type", "hidden_size", "num_attention_heads", "vocab_size", "audio_vocab_size", "rope_theta"],
)
def test_missing_settings(folder: Path, key: str) -> None:
    alter(folder / "config.json", {}, drop=(key,))
    with pytest.raises(CheckpointError, match=rf"config\.json: {key}: expected .*found no such key"):
        read_config(folder)


@pytest.mark.parametrize(
    "token", ["<|begin_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>", "<Audio_0>"]
)
def test_missing_tokens(folder: Path, token: str) -> None:
    def rename(ids: dict[str, int]) -> None:
        ids["<renamed>"] = ids.pop(token)

    alter_tokens(folder / "tokenizer.json", rename)
    with pytest.raises(CheckpointError) as caught:
        read_config(folder)
    assert f"{folder / 'tokenizer.json'}: {token}: expected" in str(caught.value)


def test_units_out_of_order(folder: Path) -> None:
    def swap(ids: dict[str, int]) -> None:
        ids["<Audio_3>"], ids["<Audio_4>"] = ids["<Audio_4>"], ids["<Audio_3>"]

    alter_tokens(folder / "tokenizer.json", swap)
    with pytest.raises(CheckpointError, match=r"<Audio_3>: expected id 515 .*found 516"):
        read_config(folder)


def test_ids_outside_the_tables(folder: Path) -> None:
    alter(folder / "generation_config.json", {"eos_token_id": [393, 512]})
    with pytest.raises(
        CheckpointError, match=r"generation_config\.json: eos_token_id: .*512 rows.*found \[393, 512\]"
    ):
        read_config(folder)

    alter(folder / "config.json", {"text_vocab_size": 390})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: <\|eot_id\|>: .*390 rows.*found 393"):
        read_config(folder, load_format="dummy")
    alter(folder / "config.json", {"text_vocab_size": 512, "vocab_size": 560})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: <Audio_63>: .*560 rows.*found 575"):
        read_config(folder, load_format="dummy")


# --- files ----------------------------------------------------------------------------------------


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: expected the folder of a checkpoint, found nothing"):
        read_config(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file: expected the folder of a checkpoint, found a file"):
        read_config(tmp_path / "file")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_files_that_are_missing_or_corrupt(folder: Path, name: str) -> None:
    for content in (b"{", b"\xff\xfe\x00", b"[]", b""):
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name}: (expected|not valid JSON)"):
            read_config(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: no such file"):
        read_config(folder)


def test_a_corrupt_generation_config_is_not_passed_over(folder: Path) -> None:
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: not valid JSON"):
        read_config(folder)
